//! The artifacts of a job as its processes see them: read from the job service.

use ferrobeam_harness_bridge::{ArtifactBytes, ArtifactError, ArtifactSource};
use ferrobeam_proto::job::artifact_retrieval_service_client::ArtifactRetrievalServiceClient;
use ferrobeam_proto::job::{GetArtifactRequest, ResolveArtifactsRequest};
use ferrobeam_proto::pipeline::ArtifactInformation;
use tokio_stream::StreamExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::TOKEN_HEADER;

/// Reads from the job service with a job's token.
#[derive(Clone, Debug)]
pub struct RemoteArtifacts {
    client: ArtifactRetrievalServiceClient<Channel>,
    token: MetadataValue<Ascii>,
}

impl RemoteArtifacts {
    /// Over `channel`, which leads to the job service.
    pub fn new(channel: Channel, token: &str) -> Result<RemoteArtifacts, ArtifactError> {
        let token = token.parse().map_err(|_| ArtifactError::Unsupported("the retrieval token is not text".into()))?;
        let client = ArtifactRetrievalServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(RemoteArtifacts { client, token })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(TOKEN_HEADER, self.token.clone());
        request
    }
}

#[tonic::async_trait]
impl ArtifactSource for RemoteArtifacts {
    async fn resolve(
        &self,
        artifacts: Vec<ArtifactInformation>,
        preferred_urns: Vec<String>,
    ) -> Result<Vec<ArtifactInformation>, ArtifactError> {
        let request = self.request(ResolveArtifactsRequest { artifacts, preferred_urns });
        let resolved = self.client.clone().resolve_artifacts(request).await.map_err(error)?;
        Ok(resolved.into_inner().replacements)
    }

    async fn open(&self, artifact: ArtifactInformation) -> Result<ArtifactBytes, ArtifactError> {
        let request = self.request(GetArtifactRequest { artifact: Some(artifact) });
        let pieces = self.client.clone().get_artifact(request).await.map_err(error)?.into_inner();
        Ok(Box::pin(pieces.map(|piece| piece.map(|p| p.data).map_err(error))))
    }
}

fn error(status: Status) -> ArtifactError {
    let message = status.message().to_owned();
    match status.code() {
        Code::NotFound => ArtifactError::NotFound(message),
        Code::Unimplemented => ArtifactError::Unsupported(message),
        _ => ArtifactError::Storage(message),
    }
}
