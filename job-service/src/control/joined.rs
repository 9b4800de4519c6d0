//! An agent on another machine: joins a service and works for it until either goes.

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::v1::control_client::ControlClient;
use super::{convert, leased, v1};
use crate::agent::{Agent, AgentConfig};

/// Why an agent no longer works for its service.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The service cannot be reached.
    #[error("cannot reach the job service at {address}: {source}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// It does not want the agent.
    #[error("the job service at {address} refused: {message}")]
    Refused {
        /// Where it is.
        address: String,
        /// What it said.
        message: String,
    },
    /// It is gone, or has given no sign of life for as long as the lease.
    #[error("the job service at {address} is gone, or does not answer")]
    Gone {
        /// Where it was.
        address: String,
    },
}

/// Offers this machine to the service of `config` until the service is gone. `joined` runs once it has accepted.
pub async fn join(
    config: AgentConfig,
    capacity: u32,
    join_token: String,
    joined: impl FnOnce(),
) -> Result<(), JoinError> {
    let address = config.service.clone();
    let unreachable = |source| JoinError::Unreachable { address: address.clone(), source };
    let endpoint = leased(Endpoint::from_shared(address.clone()).map_err(unreachable)?, config.lease);
    let channel: Channel = endpoint.connect().await.map_err(unreachable)?;
    let (reports, outgoing) = mpsc::channel(64);
    let hello = v1::AgentHello {
        join_token,
        capacity,
        host: config.host.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let report = |report| v1::AgentReport { report: Some(report) };
    let gone = || JoinError::Gone { address: address.clone() };
    reports.send(report(v1::agent_report::Report::Hello(hello))).await.map_err(|_| gone())?;
    let answer = ControlClient::new(channel).join(ReceiverStream::new(outgoing)).await;
    let refused =
        |status: tonic::Status| JoinError::Refused { address: address.clone(), message: status.message().to_owned() };
    let mut incoming = answer.map_err(refused)?.into_inner();
    joined();

    let (orders, taken) = mpsc::unbounded_channel();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let agent = tokio::spawn(Agent::new(config).run(taken, ended));
    let reporting = tokio::spawn(async move {
        while let Some(end) = ends.recv().await {
            let end: crate::agent::Ended = end;
            let end = v1::ProcessEnded { process: Some(end.process.into()), how: end.how };
            if reports.send(report(v1::agent_report::Report::Ended(end))).await.is_err() {
                break;
            }
        }
    });
    while let Some(Ok(order)) = incoming.next().await {
        let Some(order) = convert::order(order) else { continue };
        if orders.send(order).is_err() {
            break;
        }
    }
    // Without orders the agent ends its processes and then itself.
    drop(orders);
    let _ = agent.await;
    reporting.abort();
    Err(gone())
}
