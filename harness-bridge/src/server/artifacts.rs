//! `ArtifactRetrievalService`: the job's files, from wherever the job process has them.

use std::sync::Arc;

use bytes::Bytes;
use ferrobeam_proto::job::artifact_retrieval_service_server::ArtifactRetrievalService;
use ferrobeam_proto::job::{
    GetArtifactRequest, GetArtifactResponse, ResolveArtifactsRequest, ResolveArtifactsResponse,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Outbound;
use crate::config::{ArtifactBytes, ArtifactError};
use crate::shared::Shared;

/// Bytes in one message: the containers' boot programs take no more than four mebibytes.
const MESSAGE: usize = 1 << 20;

pub(super) struct Artifacts {
    shared: Arc<Shared>,
}

impl Artifacts {
    pub(super) fn new(shared: Arc<Shared>) -> Artifacts {
        Artifacts { shared }
    }
}

#[tonic::async_trait]
impl ArtifactRetrievalService for Artifacts {
    async fn resolve_artifacts(
        &self,
        request: Request<ResolveArtifactsRequest>,
    ) -> Result<Response<ResolveArtifactsResponse>, Status> {
        let request = request.into_inner();
        let replacements =
            self.shared.config.artifacts.resolve(request.artifacts, request.preferred_urns).await.map_err(status)?;
        Ok(Response::new(ResolveArtifactsResponse { replacements }))
    }

    type GetArtifactStream = Outbound<GetArtifactResponse>;

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let Some(artifact) = request.into_inner().artifact else {
            return Err(Status::invalid_argument("the request names no artifact"));
        };
        let bytes = self.shared.config.artifacts.open(artifact).await.map_err(status)?;
        let (messages, outbound) = mpsc::channel(2);
        self.shared.tasks.spawn(send(bytes, messages));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }
}

async fn send(mut bytes: ArtifactBytes, messages: mpsc::Sender<Result<GetArtifactResponse, Status>>) {
    while let Some(piece) = bytes.next().await {
        match piece {
            Ok(mut piece) => {
                while !piece.is_empty() {
                    let data: Bytes = piece.split_to(piece.len().min(MESSAGE));
                    if messages.send(Ok(GetArtifactResponse { data })).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                // Whoever asked may be gone.
                let _ = messages.send(Err(status(error))).await;
                return;
            }
        }
    }
}

fn status(error: ArtifactError) -> Status {
    match error {
        ArtifactError::NotFound(_) => Status::not_found(error.to_string()),
        ArtifactError::Unsupported(_) => Status::invalid_argument(error.to_string()),
        ArtifactError::Storage(_) => Status::internal(error.to_string()),
    }
}
