//! Saved state of jobs: what there is, whether it fits a pipeline, and running a job again from it.

mod support;

use ferrobeam_job_service::control::v1::savepoints_client::SavepointsClient;
use ferrobeam_job_service::control::v1::{ListRequest, RestoreRequest, SavedState, SavepointRequest};
use ferrobeam_job_service::{Service, ServiceConfig};
use ferrobeam_proto::job::CancelJobRequest;
use ferrobeam_proto::job::job_state::Enum as State;
use ferrobeam_proto::pipeline as pb;
use support::harness::{Pool, Told};
use support::*;
use tonic::Code;
use tonic::transport::Channel;

const VALUES: usize = 10;

type Savepoints = SavepointsClient<Channel>;

fn config_on(storage: &tempfile::TempDir) -> ServiceConfig {
    ServiceConfig { checkpoint_storage: Some(format!("file://{}", storage.path().display())), ..config() }
}

async fn savepoints(service: &Service) -> Savepoints {
    SavepointsClient::new(channel(service.job_address()).await)
}

async fn list(client: &mut Savepoints, job: &str) -> Vec<SavedState> {
    client.list(ListRequest { job_id: job.into() }).await.expect("a known job").into_inner().saved
}

/// All values that workers hold, once as many are held as there are.
async fn held(pool: &mut Pool) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < VALUES {
        if let Told::Holds(_, values) = pool.next().await {
            all.extend(values);
        }
    }
    all.sort();
    all
}

/// A running job that takes no checkpoint by itself, and holds all values.
async fn running(client: &mut Jobs, pool: &mut Pool) -> String {
    let options = text("checkpointing_interval", "3600000");
    let prepared = prepare_with(client, pool.pipeline(VALUES), options).await.expect("a good pipeline");
    let job = run(client, &prepared.preparation_id).await.expect("prepared");
    reaches(client, &job, State::Running).await;
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_again_from_its_savepoint() {
    let storage = tempfile::tempdir().expect("a folder");
    let mut pool = Pool::start().await;
    let (service, mut client) = serve(config_on(&storage)).await;
    let mut saving = savepoints(&service).await;
    let job = running(&mut client, &mut pool).await;
    let values = held(&mut pool).await;
    let restore = |job: &str| RestoreRequest {
        job_id: job.into(),
        path: String::new(),
        options: [("parallelism".to_owned(), "2".to_owned())].into(),
    };
    assert_eq!(list(&mut saving, &job).await, []);
    let refused = saving.restore(restore(&job)).await.expect_err("it runs");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("cancel it or let it drain first"), "{refused}");

    let path =
        saving.take(SavepointRequest { job_id: job.clone(), stop: false }).await.expect("saved").into_inner().path;
    let there = list(&mut saving, &job).await;
    assert_eq!(there.iter().map(|saved| (&saved.path, saved.is_savepoint)).collect::<Vec<_>>(), [(&path, true)]);
    assert!(there[0].bytes > 0 && there[0].workers > 0 && there[0].created_millis > 0, "{there:?}");
    client.cancel(CancelJobRequest { job_id: job.clone() }).await.expect("it runs");
    assert_eq!(states(&mut client, &job).await.last(), Some(&State::Cancelled));
    assert_eq!(list(&mut saving, &job).await, there);

    let again = saving.restore(restore(&job)).await.expect("it has ended").into_inner().job_id;
    assert_ne!(again, job);
    // What was under way is under way again, and nothing else: the values are not made a second time.
    assert_eq!(held(&mut pool).await, values);
    pool.open.send_replace(true);
    let said = said(&mut client, &again).await;
    assert_eq!(said.last().map(String::as_str), Some("DONE"), "{said:?}");
    assert!(said.iter().any(|line| line.contains("goes on from checkpoint") && line.contains(&job)), "{said:?}");
    while let Ok(told) = pool.told.try_recv() {
        assert!(!matches!(told, Told::Holds(..)), "{told:?}");
    }
    let refused = saving.restore(restore(&again)).await.expect_err("it left nothing");
    assert!(refused.message().contains("left no saved state"), "{refused}");
    service.stop().await;
}

fn renamed(mut pipeline: pb::Pipeline, from: &str, to: &str) -> pb::Pipeline {
    let components = pipeline.components.as_mut().expect("some");
    components.transforms.get_mut(from).expect("it is there").unique_name = to.into();
    pipeline
}

/// What a service says that runs nothing.
async fn checked(client: &mut Jobs, pipeline: pb::Pipeline, options: prost_types::Struct) -> (String, String) {
    let prepared = prepare_with(client, pipeline, options).await.expect("a good pipeline");
    let job = run(client, &prepared.preparation_id).await.expect("prepared");
    let mut said = said(client, &job).await;
    (said.pop().expect("an end"), said.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_checked_and_nothing_runs() {
    let storage = tempfile::tempdir().expect("a folder");
    let mut pool = Pool::start().await;
    let (service, mut client) = serve(config_on(&storage)).await;
    let job = running(&mut client, &mut pool).await;
    held(&mut pool).await;
    let mut saving = savepoints(&service).await;
    let path =
        saving.take(SavepointRequest { job_id: job.clone(), stop: false }).await.expect("saved").into_inner().path;

    // Without a machine nothing could run.
    let mut config = ServiceConfig { capacity: 0, ..config() };
    config.supervisor.check_against = Some(path);
    let (checking, mut asked) = serve(config).await;
    let nothing = prost_types::Struct::default;
    let (end, said) = checked(&mut asked, pool.pipeline(VALUES), nothing()).await;
    assert_eq!(end, "DONE", "{said}");
    assert!(said.contains("goes on with what was saved:\n  stage hold"), "{said}");
    let changed = || renamed(pool.pipeline(VALUES), "hold", "keep");
    let (end, said) = checked(&mut asked, changed(), nothing()).await;
    assert_eq!(end, "FAILED", "{said}");
    assert!(
        said.contains("- stage hold: the pipeline has it no more") && said.contains("transform_name_mapping"),
        "{said}"
    );
    let (end, said) = checked(&mut asked, changed(), text("transform_name_mapping", r#"{"hold": "keep"}"#)).await;
    assert_eq!(end, "DONE", "{said}");
    assert!(said.contains("stage keep"), "{said}");
    let (end, said) = checked(&mut asked, changed(), text("transform_name_mapping", r#"{"hald": "keep"}"#)).await;
    assert_eq!(end, "FAILED", "{said}");
    assert!(said.contains("transforms are renamed that the checkpoint does not have: hald"), "{said}");
    let (end, said) = checked(&mut asked, changed(), text("allow_non_restored_state", "true")).await;
    assert_eq!(end, "DONE", "{said}");
    assert!(said.contains("was saved, and would be dropped:\n  stage hold"), "{said}");
    checking.stop().await;
    // The job that was looked at runs on.
    pool.open.send_replace(true);
    assert_eq!(states(&mut client, &job).await.last(), Some(&State::Done));
    service.stop().await;
}
