//! The services that harnesses dial, all on one port.
//!
//! Each call names its harness in the metadata `worker_id`. Streams are read by tasks of the bridge; whatever a harness
//! sends that no harness should send ends that harness and nothing else.

mod artifacts;
mod control;
mod data;
mod logging;
mod provision;
mod state;
mod status;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ferrobeam_proto::fn_execution::beam_fn_control_server::BeamFnControlServer;
use ferrobeam_proto::fn_execution::beam_fn_data_server::BeamFnDataServer;
use ferrobeam_proto::fn_execution::beam_fn_logging_server::BeamFnLoggingServer;
use ferrobeam_proto::fn_execution::beam_fn_state_server::BeamFnStateServer;
use ferrobeam_proto::fn_execution::beam_fn_worker_status_server::BeamFnWorkerStatusServer;
use ferrobeam_proto::fn_execution::provision_service_server::ProvisionServiceServer;
use ferrobeam_proto::job::artifact_retrieval_service_server::ArtifactRetrievalServiceServer;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::Status;
use tonic::transport::server::{Server, TcpIncoming};

use crate::shared::Shared;

/// What one stream may have in flight before its reader has caught up.
const STREAM_WINDOW: u32 = 8 << 20;
/// The same for all streams of a connection: large, so that a stream that waits never holds up another.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// The largest HTTP/2 frame taken.
const FRAME: u32 = 1 << 20;
/// A peer that vanished without a word is noticed after the sum of these.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60));

/// What a server sends.
type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Opens the port.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves until the bridge's tasks are shut down.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    // Elements and pages of state may be of any size, so messages are not limited; what a harness sends spills.
    macro_rules! unlimited {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
        };
    }
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(unlimited!(BeamFnControlServer, control::Control::new(shared.clone())))
        .add_service(unlimited!(BeamFnDataServer, data::Data::new(shared.clone())))
        .add_service(unlimited!(BeamFnStateServer, state::State::new(shared.clone())))
        .add_service(unlimited!(BeamFnLoggingServer, logging::Logging::new(shared.clone())))
        .add_service(unlimited!(BeamFnWorkerStatusServer, status::WorkerStatus::new(shared.clone())))
        .add_service(unlimited!(ProvisionServiceServer, provision::Provision::new(shared.clone())))
        .add_service(unlimited!(ArtifactRetrievalServiceServer, artifacts::Artifacts::new(shared)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the servers for SDK harnesses stopped");
    }
}
