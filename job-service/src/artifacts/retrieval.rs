//! `ArtifactRetrievalService`: hands a job's artifacts to whoever shows the job's retrieval token.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::sync::{Arc, PoisonError, RwLock};

use ferrobeam_proto::job::artifact_retrieval_service_server::ArtifactRetrievalService;
use ferrobeam_proto::job::{
    GetArtifactRequest, GetArtifactResponse, ResolveArtifactsRequest, ResolveArtifactsResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::staging::content_of;
use super::{ContentHash, Store};

/// The metadata entry that holds the retrieval token.
pub const TOKEN_HEADER: &str = "ferrobeam-retrieval-token";

const PIECE: usize = 1 << 20;

/// Which token may read what. Tokens are random and looked up whole; a job that ended has none.
#[derive(Debug, Default)]
pub struct RetrievalGrants(RwLock<HashMap<String, Arc<BTreeSet<ContentHash>>>>);

impl RetrievalGrants {
    /// Lets whoever shows `token` read `contents`.
    pub fn grant(&self, token: &str, contents: BTreeSet<ContentHash>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), Arc::new(contents));
    }

    /// Ends it.
    pub fn revoke(&self, token: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    fn of(&self, metadata: &MetadataMap) -> Result<Arc<BTreeSet<ContentHash>>, Status> {
        let token = metadata.get(TOKEN_HEADER).and_then(|t| t.to_str().ok());
        let token = token.ok_or_else(|| Status::unauthenticated(format!("the metadata has no {TOKEN_HEADER}")))?;
        let grants = self.0.read().unwrap_or_else(PoisonError::into_inner);
        grants.get(token).cloned().ok_or_else(|| Status::permission_denied("the retrieval token opens no job"))
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Retrieval {
    store: Store,
    grants: Arc<RetrievalGrants>,
}

impl Retrieval {
    /// Serves `store` within `grants`.
    pub fn new(store: Store, grants: Arc<RetrievalGrants>) -> Retrieval {
        Retrieval { store, grants }
    }
}

#[tonic::async_trait]
impl ArtifactRetrievalService for Retrieval {
    async fn resolve_artifacts(
        &self,
        request: Request<ResolveArtifactsRequest>,
    ) -> Result<Response<ResolveArtifactsResponse>, Status> {
        self.grants.of(request.metadata())?;
        Ok(Response::new(ResolveArtifactsResponse { replacements: request.into_inner().artifacts }))
    }

    type GetArtifactStream = ReceiverStream<Result<GetArtifactResponse, Status>>;

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let contents = self.grants.of(request.metadata())?;
        let artifact = request.into_inner().artifact.unwrap_or_default();
        let hash = content_of(&artifact).ok_or_else(|| {
            Status::unimplemented(format!(
                "an artifact of type {:?} is not served: ask for the ones that the environment names",
                artifact.type_urn
            ))
        })?;
        if !contents.contains(&hash) {
            return Err(Status::not_found(format!("this job has no artifact {hash}")));
        }
        let mut file = self.store.open_content(hash).map_err(|e| Status::internal(e.to_string()))?;
        let (pieces, stream) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut data = Vec::with_capacity(PIECE);
                let piece = match file.by_ref().take(PIECE as u64).read_to_end(&mut data) {
                    Ok(0) => break,
                    Ok(_) => Ok(GetArtifactResponse { data: data.into() }),
                    Err(error) => Err(Status::internal(format!("reading the artifact {hash}: {error}"))),
                };
                // The reader may leave at any time.
                if pieces.blocking_send(piece).is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
