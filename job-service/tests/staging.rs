//! Artifacts: staged by content, checked, handed out to their job only.

mod support;

use std::collections::BTreeMap;

use ferrobeam_job_service::artifacts::{ContentHash, Retrieval, RetrievalGrants, Store, TOKEN_HEADER};
use ferrobeam_proto::job::artifact_request_wrapper::Request as Question;
use ferrobeam_proto::job::artifact_response_wrapper::Response as Answer;
use ferrobeam_proto::job::artifact_retrieval_service_server::ArtifactRetrievalService;
use ferrobeam_proto::job::{
    ArtifactResponseWrapper, GetArtifactRequest, GetArtifactResponse, ResolveArtifactsResponse,
};
use ferrobeam_proto::pipeline as pb;
use prost::Message;
use support::*;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

fn artifact(path: &str, sha256: &str, staged_name: &str) -> pb::ArtifactInformation {
    let payload = pb::ArtifactFilePayload { path: path.into(), sha256: sha256.into() };
    let role = pb::ArtifactStagingToRolePayload { staged_name: staged_name.into() };
    pb::ArtifactInformation {
        type_urn: "beam:artifact:type:file:v1".into(),
        type_payload: payload.encode_to_vec().into(),
        role_urn: "beam:artifact:role:staging_to:v1".into(),
        role_payload: role.encode_to_vec().into(),
    }
}

fn needing(artifacts: Vec<pb::ArtifactInformation>) -> pb::Pipeline {
    par_do(pb::Environment { dependencies: artifacts, ..external("localhost:1") })
}

/// A client that stages: what it has by path, what it puts in place of what it is asked to resolve, what it was asked.
#[derive(Default)]
struct Client {
    files: BTreeMap<&'static str, Vec<u8>>,
    replacements: Option<Vec<pb::ArtifactInformation>>,
    asked: Vec<String>,
    /// Leaves when asked for this file.
    leaves_at: Option<&'static str>,
}

impl Client {
    fn with(files: &[(&'static str, &[u8])]) -> Client {
        Client { files: files.iter().map(|(path, content)| (*path, content.to_vec())).collect(), ..Client::default() }
    }

    /// Answers every question until the service has no more.
    async fn stage(&mut self, staging: &mut Staging, token: &str) -> Result<(), Status> {
        let (answers, outgoing) = mpsc::channel(4);
        let send = |response, is_last| {
            let answers = answers.clone();
            let answer = ArtifactResponseWrapper { staging_token: String::new(), is_last, response };
            async move { answers.send(answer).await.map_err(|_| Status::cancelled("the stream is gone")) }
        };
        answers
            .send(ArtifactResponseWrapper { staging_token: token.into(), ..Default::default() })
            .await
            .expect("room");
        let mut questions =
            staging.reverse_artifact_retrieval_service(ReceiverStream::new(outgoing)).await?.into_inner();
        while let Some(question) = questions.next().await {
            match question?.request.expect("a question") {
                Question::ResolveArtifact(resolve) => {
                    let replacements = self.replacements.clone().unwrap_or(resolve.artifacts);
                    let resolved = ResolveArtifactsResponse { replacements };
                    send(Some(Answer::ResolveArtifactResponse(resolved)), false).await?;
                }
                Question::GetArtifact(get) => {
                    let wanted = get.artifact.expect("an artifact");
                    let file = pb::ArtifactFilePayload::decode(wanted.type_payload).expect("a file");
                    self.asked.push(file.path.clone());
                    if self.leaves_at == Some(file.path.as_str()) {
                        return Ok(());
                    }
                    let content = &self.files[file.path.as_str()];
                    for piece in content.chunks(100_000) {
                        let data = piece.to_vec().into();
                        send(Some(Answer::GetArtifactResponse(GetArtifactResponse { data })), false).await?;
                    }
                    send(Some(Answer::GetArtifactResponse(GetArtifactResponse::default())), true).await?;
                }
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_once_is_not_asked_for_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let (service, mut jobs) =
        serve(ferrobeam_job_service::ServiceConfig { artifacts_dir: Some(dir.path().join("artifacts")), ..config() })
            .await;
    let mut staging = staging(&service).await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 7) as u8).collect();
    let hash = ContentHash::of(&content);
    let wanted = || {
        needing(vec![
            artifact("/big", &hash.to_string(), "lib/big.jar"),
            artifact("/empty", "", "empty"),
            artifact("/big", &hash.to_string(), "again.jar"),
        ])
    };
    let prepared = prepare(&mut jobs, wanted()).await.expect("good names");
    let refused = run(&mut jobs, &prepared.preparation_id).await.expect_err("not staged");
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let mut client = Client::with(&[("/big", &content), ("/empty", b"")]);
    client.stage(&mut staging, &prepared.staging_session_token).await.expect("staged");
    assert_eq!(client.asked, ["/big", "/empty"]);
    let mut kept: Vec<_> = std::fs::read_dir(dir.path().join("artifacts"))
        .expect("it is there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("text"))
        .collect();
    kept.sort();
    let mut expected = vec![hash.to_string(), ContentHash::of(b"").to_string()];
    expected.sort();
    assert_eq!(kept, expected);

    let again = prepare(&mut jobs, wanted()).await.expect("good names");
    let mut client = Client::with(&[("/empty", b"")]);
    client.stage(&mut staging, &again.staging_session_token).await.expect("staged");
    assert_eq!(client.asked, ["/empty"]);
    run(&mut jobs, &again.preparation_id).await.expect("staged");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_never_leave_their_folder() {
    let (service, mut jobs) = serve(config()).await;
    let mut staging = staging(&service).await;
    let refused = prepare(&mut jobs, needing(vec![artifact("/x", "", "../../outside")])).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("../../outside"), "{}", refused.message());

    // Nor when the name comes only with the resolved artifact.
    let prepared = prepare(&mut jobs, needing(vec![artifact("/x", "", "inside")])).await.expect("a good name");
    let mut client = Client::with(&[("/x", b"x")]);
    client.replacements = Some(vec![artifact("/x", "", "/tmp/outside")]);
    let refused = client.stage(&mut staging, &prepared.staging_session_token).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("/tmp/outside"), "{}", refused.message());
    assert_eq!(client.asked, [""; 0]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_was_announced_is_refused_and_may_be_staged_again() {
    let (service, mut jobs) = serve(config()).await;
    let mut staging = staging(&service).await;
    let hash = ContentHash::of(b"right").to_string();
    let prepared = prepare(&mut jobs, needing(vec![artifact("/x", &hash, "x")])).await.expect("a good name");
    let token = &prepared.staging_session_token;
    let refused = Client::with(&[("/x", b"wrong")]).stage(&mut staging, token).await.expect_err("refused");
    assert_eq!(refused.code(), Code::DataLoss);
    assert!(refused.message().contains(&hash), "{}", refused.message());
    let refused = run(&mut jobs, &prepared.preparation_id).await.expect_err("not staged");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    Client::with(&[("/x", b"right")]).stage(&mut staging, token).await.expect("staged");
    run(&mut jobs, &prepared.preparation_id).await.expect("staged");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_has_staged_nothing() {
    let (service, mut jobs) = serve(config()).await;
    let mut staging = staging(&service).await;
    let prepared =
        prepare(&mut jobs, needing(vec![artifact("/a", "", "a"), artifact("/b", "", "b")])).await.expect("good names");
    let mut client = Client { leaves_at: Some("/b"), ..Client::with(&[("/a", b"a")]) };
    client.stage(&mut staging, &prepared.staging_session_token).await.expect("it left by itself");
    let refused = run(&mut jobs, &prepared.preparation_id).await.expect_err("not staged");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let unknown = Client::default().stage(&mut staging, "none such").await.expect_err("refused");
    assert_eq!(unknown.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_artifacts_of_its_job_and_no_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("it can be made");
    let put = |content: &[u8]| {
        let mut upload = store.upload().expect("started");
        upload.write(content).expect("written");
        upload.finish(None).expect("kept")
    };
    let (mine, yours) = (put(&vec![7; 2_500_000]), put(b"yours"));
    let grants = std::sync::Arc::new(RetrievalGrants::default());
    grants.grant("my token", [mine].into());
    let retrieval = Retrieval::new(store.clone(), grants.clone());
    let get = async |token: Option<&'static str>, artifact: pb::ArtifactInformation| {
        let mut request = tonic::Request::new(GetArtifactRequest { artifact: Some(artifact) });
        if let Some(token) = token {
            request.metadata_mut().insert(TOKEN_HEADER, tonic::metadata::MetadataValue::from_static(token));
        }
        let mut pieces = retrieval.get_artifact(request).await?.into_inner();
        let mut content = Vec::new();
        while let Some(piece) = pieces.next().await {
            content.extend_from_slice(&piece?.data);
        }
        Ok::<_, Status>(content)
    };
    let named = |hash: ContentHash| artifact("", &hash.to_string(), "x");
    assert_eq!(get(Some("my token"), named(mine)).await.expect("mine"), vec![7; 2_500_000]);
    let code = |result: Result<Vec<u8>, Status>| result.expect_err("refused").code();
    assert_eq!(code(get(Some("my token"), named(yours)).await), Code::NotFound);
    assert_eq!(code(get(Some("your token"), named(yours)).await), Code::PermissionDenied);
    assert_eq!(code(get(None, named(mine)).await), Code::Unauthenticated);
    assert_eq!(code(get(Some("my token"), artifact("/etc/passwd", "", "x")).await), Code::Unimplemented);
    assert_eq!(code(get(Some("my token"), artifact("x", "../../etc/passwd", "x")).await), Code::Unimplemented);
    grants.revoke("my token");
    assert_eq!(code(get(Some("my token"), named(mine)).await), Code::PermissionDenied);
}
