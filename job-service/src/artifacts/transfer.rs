//! `ArtifactStagingService`: asks the client for what its pipeline needs and the store has not.
//!
//! One question is open at a time, as the protocol wants. Pieces go to disk as they come: memory holds a few of them,
//! however large the file. The stream ends well only when everything is here, so a client that saw it end may run.

use std::sync::Arc;

use bytes::Bytes;
use ferrobeam_proto::job::artifact_request_wrapper::Request as Question;
use ferrobeam_proto::job::artifact_response_wrapper::Response as Answer;
use ferrobeam_proto::job::artifact_staging_service_server::ArtifactStagingService;
use ferrobeam_proto::job::{
    ArtifactRequestWrapper, ArtifactResponseWrapper, GetArtifactRequest, ResolveArtifactsRequest,
};
use ferrobeam_proto::pipeline::{ArtifactFilePayload, ArtifactInformation, ArtifactUrlPayload, EmbeddedFilePayload};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::staging::{TYPE_EMBEDDED, TYPE_FILE, TYPE_URL, as_content, check_role};
use super::{ContentHash, EnvironmentArtifacts, Staged, Staging, Store, StoreError};
use crate::job::Jobs;

/// Pieces on their way to disk, per file: a client's are a megabyte or two.
const PIECES: usize = 4;

/// See the module.
#[derive(Clone, Debug)]
pub struct StagingService {
    jobs: Arc<Jobs>,
    store: Store,
}

impl StagingService {
    /// Stages into `store` for the preparations of `jobs`.
    pub fn new(jobs: Arc<Jobs>, store: Store) -> StagingService {
        StagingService { jobs, store }
    }
}

#[tonic::async_trait]
impl ArtifactStagingService for StagingService {
    type ReverseArtifactRetrievalServiceStream = ReceiverStream<Result<ArtifactRequestWrapper, Status>>;

    async fn reverse_artifact_retrieval_service(
        &self,
        request: Request<Streaming<ArtifactResponseWrapper>>,
    ) -> Result<Response<Self::ReverseArtifactRetrievalServiceStream>, Status> {
        let mut answers = request.into_inner();
        let (questions, stream) = mpsc::channel(1);
        let this = self.clone();
        // The token comes on the request stream, and some clients send it only once they have the response's headers.
        tokio::spawn(async move {
            let ended = async {
                let staging = this.greet(&mut answers).await?;
                Conversation { store: this.store.clone(), answers, questions: questions.clone() }.stage(&staging).await
            };
            if let Err(status) = ended.await {
                // The client left; nobody is there to be told.
                let _ = questions.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl StagingService {
    async fn greet(&self, answers: &mut Streaming<ArtifactResponseWrapper>) -> Result<Arc<Staging>, Status> {
        let first = answers.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream ended before its staging token"))?;
        self.jobs.staging(&first.staging_token).ok_or_else(|| {
            Status::not_found("the staging token belongs to no prepared pipeline: use the one that Prepare returned")
        })
    }
}

struct Conversation {
    store: Store,
    answers: Streaming<ArtifactResponseWrapper>,
    questions: mpsc::Sender<Result<ArtifactRequestWrapper, Status>>,
}

impl Conversation {
    async fn stage(mut self, staging: &Staging) -> Result<(), Status> {
        let mut staged = Staged::default();
        for set in staging.wanted() {
            let resolved = self.resolve(set).await?;
            let mut artifacts = Vec::with_capacity(resolved.len());
            for artifact in &resolved {
                check_role(&set.environment, artifact).map_err(|e| Status::invalid_argument(e.to_string()))?;
                let hash = self.obtain(artifact).await?;
                staged.contents.insert(hash);
                artifacts.push(as_content(artifact, hash));
            }
            staged.environments.push(EnvironmentArtifacts { artifacts, ..set.clone() });
        }
        staging.complete(staged);
        Ok(())
    }

    async fn ask(&self, question: Question) -> Result<(), Status> {
        let question = ArtifactRequestWrapper { request: Some(question) };
        self.questions.send(Ok(question)).await.map_err(|_| Status::cancelled("the client left while staging"))
    }

    async fn answer(&mut self) -> Result<ArtifactResponseWrapper, Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::aborted("the client ended the stream before everything was staged"))
    }

    async fn resolve(&mut self, set: &EnvironmentArtifacts) -> Result<Vec<ArtifactInformation>, Status> {
        self.ask(Question::ResolveArtifact(ResolveArtifactsRequest {
            artifacts: set.artifacts.clone(),
            preferred_urns: vec![TYPE_FILE.to_owned()],
        }))
        .await?;
        match self.answer().await?.response {
            Some(Answer::ResolveArtifactResponse(resolved)) => Ok(resolved.replacements),
            _ => Err(Status::invalid_argument("the client did not answer what it was asked: to resolve artifacts")),
        }
    }

    /// Has the content in the store when it returns.
    async fn obtain(&mut self, artifact: &ArtifactInformation) -> Result<ContentHash, Status> {
        let announced = announced(artifact)?;
        if let Some(hash) = announced.filter(|hash| self.store.has(*hash)) {
            return Ok(hash);
        }
        let (pieces, incoming) = mpsc::channel(PIECES);
        let store = self.store.clone();
        let written = tokio::task::spawn_blocking(move || write(&store, incoming, announced));
        let sent = self.send_pieces(artifact, &pieces).await;
        // A writer that was not told that the content is whole keeps nothing.
        if sent.is_ok() {
            let _ = pieces.send(Piece::Last).await;
        }
        drop(pieces);
        let written = written.await.map_err(|e| Status::internal(format!("writing an artifact: {e}")))?;
        match (sent, written) {
            (Ok(()) | Err(Interrupted::Writer), Ok(Some(hash))) => Ok(hash),
            (Err(Interrupted::Client(status)), _) => Err(status),
            (_, Err(error @ StoreError::Mismatch { .. })) => Err(Status::data_loss(error.to_string())),
            (_, Err(error @ StoreError::Io { .. })) => Err(Status::resource_exhausted(error.to_string())),
            (_, Ok(None)) => Err(Status::internal("an artifact was not written to its end")),
        }
    }

    async fn send_pieces(
        &mut self,
        artifact: &ArtifactInformation,
        to: &mpsc::Sender<Piece>,
    ) -> Result<(), Interrupted> {
        if artifact.type_urn == TYPE_EMBEDDED {
            let payload = EmbeddedFilePayload::decode(artifact.type_payload.clone())
                .map_err(|e| Status::invalid_argument(format!("an embedded artifact: {e}")))?;
            return to.send(Piece::Data(payload.data)).await.map_err(|_| Interrupted::Writer);
        }
        self.ask(Question::GetArtifact(GetArtifactRequest { artifact: Some(artifact.clone()) })).await?;
        loop {
            let answer = self.answer().await?;
            let Some(Answer::GetArtifactResponse(piece)) = answer.response else {
                let wrong = "the client did not answer what it was asked: to send an artifact";
                return Err(Status::invalid_argument(wrong).into());
            };
            if !piece.data.is_empty() {
                to.send(Piece::Data(piece.data)).await.map_err(|_| Interrupted::Writer)?;
            }
            if answer.is_last {
                return Ok(());
            }
        }
    }
}

enum Piece {
    Data(Bytes),
    Last,
}

/// Why the pieces of a file stopped coming.
enum Interrupted {
    Client(Status),
    /// The writer gave up, and says why.
    Writer,
}

impl From<Status> for Interrupted {
    fn from(status: Status) -> Self {
        Interrupted::Client(status)
    }
}

/// Writes until the last piece; `None` when it never came.
fn write(
    store: &Store,
    mut pieces: mpsc::Receiver<Piece>,
    announced: Option<ContentHash>,
) -> Result<Option<ContentHash>, StoreError> {
    let mut upload = store.upload()?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Data(data) => upload.write(&data)?,
            Piece::Last => return upload.finish(announced).map(Some),
        }
    }
    Ok(None)
}

/// The hash that the client names, if it names one.
fn announced(artifact: &ArtifactInformation) -> Result<Option<ContentHash>, Status> {
    let payload = artifact.type_payload.clone();
    let hash = match artifact.type_urn.as_str() {
        TYPE_FILE => ArtifactFilePayload::decode(payload).map(|p| p.sha256),
        TYPE_URL => ArtifactUrlPayload::decode(payload).map(|p| p.sha256),
        TYPE_EMBEDDED => {
            return EmbeddedFilePayload::decode(payload)
                .map(|p| Some(ContentHash::of(&p.data)))
                .map_err(|e| Status::invalid_argument(format!("an embedded artifact: {e}")));
        }
        _ => return Ok(None),
    };
    let hash = hash.map_err(|e| Status::invalid_argument(format!("an artifact of type {}: {e}", artifact.type_urn)))?;
    if hash.is_empty() {
        return Ok(None);
    }
    let parsed = ContentHash::parse(&hash);
    parsed.map(Some).ok_or_else(|| Status::invalid_argument(format!("{hash:?} is not a SHA-256 in hexadecimal")))
}
