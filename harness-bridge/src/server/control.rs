//! `BeamFnControl`: instructions out, responses in, and the bundle descriptors.

use std::sync::Arc;

use ferrobeam_proto::fn_execution::beam_fn_control_server::BeamFnControl;
use ferrobeam_proto::fn_execution::{
    GetProcessBundleDescriptorRequest, InstructionRequest, InstructionResponse, ProcessBundleDescriptor,
};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Outbound;
use crate::harness::Harness;
use crate::shared::Shared;

pub(super) struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Control {
        Control { shared }
    }
}

#[tonic::async_trait]
impl BeamFnControl for Control {
    type ControlStream = Outbound<InstructionRequest>;

    async fn control(
        &self,
        request: Request<Streaming<InstructionResponse>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let harness = self.shared.harnesses.caller(request.metadata())?;
        let user_agent = request.metadata().get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let Some(instructions) = harness.connect(user_agent) else {
            return Err(Status::already_exists(format!(
                "{harness} has had its control stream: a harness that starts again needs a new id"
            )));
        };
        self.shared.tasks.spawn(read(harness, request.into_inner()));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(instructions).map(Ok))))
    }

    async fn get_process_bundle_descriptor(
        &self,
        request: Request<GetProcessBundleDescriptorRequest>,
    ) -> Result<Response<ProcessBundleDescriptor>, Status> {
        let id = request.into_inner().process_bundle_descriptor_id;
        match self.shared.stages_by_descriptor.get(&id) {
            Some(stage) => Ok(Response::new(stage.descriptor.clone())),
            None => Err(Status::not_found(format!("this job has no bundle descriptor {id:?}"))),
        }
    }
}

async fn read(harness: Arc<Harness>, mut responses: Streaming<InstructionResponse>) {
    let why = loop {
        match responses.message().await {
            Ok(Some(response)) => {
                let id = response.instruction_id.clone();
                if !harness.respond(response) {
                    break format!("it responded to an instruction {id:?} that it was not given or had responded to");
                }
            }
            Ok(None) => break "it ended its control stream".into(),
            Err(status) => break format!("its control stream broke: {}", status.message()),
        }
    };
    harness.disconnected(why);
}
