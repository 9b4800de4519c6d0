//! Worker pools that somebody else runs (`BeamFnExternalWorkerPool`): LOOPBACK, sidecars.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrobeam_proto::fn_execution::beam_fn_external_worker_pool_client::BeamFnExternalWorkerPoolClient;
use ferrobeam_proto::fn_execution::{StartWorkerRequest, StopWorkerRequest};
use ferrobeam_proto::pipeline::ApiServiceDescriptor;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::error::chain;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(20);
/// The pause between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// A worker that a pool started for us.
#[derive(Debug)]
pub(crate) struct External {
    pool: BeamFnExternalWorkerPoolClient<Channel>,
    worker_id: String,
}

/// Asks the pool at `address` for a worker. A pool that does not listen yet is waited for until `patience` is over.
pub(crate) async fn start(
    address: &str,
    params: &BTreeMap<String, String>,
    worker_id: &str,
    services: &ApiServiceDescriptor,
    patience: Duration,
) -> Result<External, String> {
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| format!("its worker pool address {address:?} is none: {error}"))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true);
    let deadline = Instant::now() + patience;
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(error) if Instant::now() + PAUSE >= deadline => {
                return Err(format!(
                    "its worker pool at {address} cannot be reached ({}): is the program that submitted the \
                     pipeline, or the worker pool, still running and reachable from this machine?",
                    chain(&error)
                ));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let mut pool = BeamFnExternalWorkerPoolClient::new(channel);
    let request = StartWorkerRequest {
        worker_id: worker_id.to_owned(),
        control_endpoint: Some(services.clone()),
        logging_endpoint: Some(services.clone()),
        artifact_endpoint: Some(services.clone()),
        provision_endpoint: Some(services.clone()),
        params: params.clone(),
    };
    let response = match tokio::time::timeout(CALL, pool.start_worker(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(format!("its worker pool at {address} failed to start a worker: {status}")),
        Err(_) => {
            return Err(format!(
                "its worker pool at {address} did not answer a request to start a worker within {} s",
                CALL.as_secs()
            ));
        }
    };
    if response.error.is_empty() {
        Ok(External { pool, worker_id: worker_id.to_owned() })
    } else {
        Err(format!("its worker pool at {address} refused to start a worker: {}", response.error))
    }
}

impl External {
    /// Tells the pool that the worker is not needed any more. Best effort: the pool may be gone.
    pub(crate) async fn stop(mut self, grace: Duration) {
        let request = StopWorkerRequest { worker_id: self.worker_id };
        match tokio::time::timeout(grace, self.pool.stop_worker(request)).await {
            Ok(Ok(response)) if response.get_ref().error.is_empty() => {}
            other => tracing::debug!(?other, "a worker pool did not stop a worker"),
        }
    }
}
