//! The service's end: lets agents join and job processes attach.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::v1;
use super::v1::control_server::Control;
use crate::agent::Ended;
use crate::job::same_secret;
use crate::supervisor::{AttachRefused, Supervisor};

/// See the module.
#[derive(Debug)]
pub struct ControlService {
    supervisor: Arc<Supervisor>,
    join_token: Option<String>,
}

impl ControlService {
    /// Without a `join_token`, only agents on this machine may join.
    pub fn new(supervisor: Arc<Supervisor>, join_token: Option<String>) -> ControlService {
        ControlService { supervisor, join_token }
    }

    fn check(&self, hello: &v1::AgentHello, from: Option<IpAddr>) -> Result<(), Status> {
        if hello.version != env!("CARGO_PKG_VERSION") {
            return Err(Status::failed_precondition(format!(
                "the agent is of version {} and the service of version {}: use the same",
                hello.version,
                env!("CARGO_PKG_VERSION")
            )));
        }
        match &self.join_token {
            Some(token) if same_secret(token.as_bytes(), hello.join_token.as_bytes()) => Ok(()),
            Some(_) => Err(Status::permission_denied("the join token is not the service's")),
            None if from.is_some_and(|ip| ip.to_canonical().is_loopback()) => Ok(()),
            None => Err(Status::permission_denied(
                "the service takes no agents from other machines: start it with --join-token, and the agent too",
            )),
        }
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for ControlService {
    type JoinStream = Replies<v1::AgentOrder>;

    async fn join(&self, request: Request<Streaming<v1::AgentReport>>) -> Result<Response<Self::JoinStream>, Status> {
        let from = request.remote_addr().map(|address| address.ip());
        let mut reports = request.into_inner();
        let first = reports.message().await?.and_then(|report| report.report);
        let Some(v1::agent_report::Report::Hello(hello)) = first else {
            return Err(Status::invalid_argument("an agent has to say first who it is"));
        };
        self.check(&hello, from)?;
        let (orders, taken) = mpsc::unbounded_channel();
        let agents = Arc::clone(self.supervisor.agents());
        let id = agents.join(hello.host.clone(), hello.capacity as usize, orders);
        tracing::info!(host = %hello.host, capacity = hello.capacity, "an agent joined");
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                if let Some(v1::agent_report::Report::Ended(v1::ProcessEnded { process: Some(process), how })) =
                    report.report
                {
                    agents.ended(id, Ended { process: process.into(), how });
                }
            }
            agents.leave(id);
            tracing::info!(host = %hello.host, "an agent left");
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(taken).map(|order| Ok(order.into())))))
    }

    type AttachStream = Replies<v1::ProcessOrder>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::ProcessReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.and_then(|report| report.report);
        let Some(v1::process_report::Report::Hello(v1::ProcessHello {
            process: Some(process),
            token,
            cluster_address,
        })) = first
        else {
            return Err(Status::invalid_argument("a job process has to say first which it is"));
        };
        let (attachment, mut taken) =
            self.supervisor.attach(process.into(), &token, cluster_address).map_err(|error| {
                let message = error.to_string();
                match error {
                    AttachRefused::Unexpected(_) => Status::permission_denied(message),
                    AttachRefused::Stale { .. } => Status::failed_precondition(message),
                    AttachRefused::Index(_) => Status::invalid_argument(message),
                }
            })?;
        let (orders, stream) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // The response ends when all that the process reported is taken: then it may go.
            loop {
                tokio::select! {
                    report = reports.message() => match report {
                        Ok(Some(report)) => {
                            if let Some(report) = report.report {
                                attachment.report(report);
                            }
                        }
                        Ok(None) | Err(_) => break,
                    },
                    Some(order) = taken.recv() => {
                        if orders.send(Ok(order)).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(stream))))
    }
}
