//! `BeamFnWorkerStatus`: what a harness is doing, for those who look into a job that hangs.

use std::sync::Arc;

use ferrobeam_proto::fn_execution::beam_fn_worker_status_server::BeamFnWorkerStatus;
use ferrobeam_proto::fn_execution::{WorkerStatusRequest, WorkerStatusResponse};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Outbound;
use crate::shared::Shared;

pub(super) struct WorkerStatus {
    shared: Arc<Shared>,
}

impl WorkerStatus {
    pub(super) fn new(shared: Arc<Shared>) -> WorkerStatus {
        WorkerStatus { shared }
    }
}

#[tonic::async_trait]
impl BeamFnWorkerStatus for WorkerStatus {
    type WorkerStatusStream = Outbound<WorkerStatusRequest>;

    async fn worker_status(
        &self,
        request: Request<Streaming<WorkerStatusResponse>>,
    ) -> Result<Response<Self::WorkerStatusStream>, Status> {
        let harness = self.shared.harnesses.caller(request.metadata())?;
        let questions = harness.connect_status();
        let mut answers = request.into_inner();
        self.shared.tasks.spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let status = if answer.error.is_empty() { Ok(answer.status_info) } else { Err(answer.error) };
                harness.status_came(&answer.id, status);
            }
            harness.status_ended();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(questions).map(Ok))))
    }
}
