//! The Job API over a real connection: the right status for every call that comes at the wrong time, and streams that
//! replay.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrobeam_proto::job::job_state::Enum as State;
use ferrobeam_proto::job::{
    CancelJobRequest, DescribePipelineOptionsRequest, DrainJobRequest, GetJobMetricsRequest, GetJobPipelineRequest,
    GetJobStateRequest, GetJobsRequest, JobMessagesRequest, PrepareJobRequest, RunJobRequest,
};
use support::*;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_done_and_late_clients_see_all_of_it() {
    let (service, mut client) = serve(config()).await;
    let job = submit(&mut client, impulse()).await;
    let expected = [State::Stopped, State::Starting, State::Running, State::Done];
    assert_eq!(states(&mut client, &job).await, expected);
    // After its end, and again.
    for _ in 0..2 {
        assert_eq!(states(&mut client, &job).await, expected);
        assert_eq!(said(&mut client, &job).await, ["STOPPED", "STARTING", "RUNNING", "DONE"]);
    }
    let pipeline = client.get_pipeline(GetJobPipelineRequest { job_id: job.clone() }).await.expect("kept");
    assert_eq!(pipeline.into_inner().pipeline, Some(impulse()));
    let metrics = client.get_job_metrics(GetJobMetricsRequest { job_id: job.clone() }).await.expect("kept");
    assert!(metrics.into_inner().metrics.is_some());
    let listed = client.get_jobs(GetJobsRequest {}).await.expect("a list").into_inner().job_info;
    let listed: Vec<_> =
        listed.iter().map(|info| (info.job_id.as_str(), info.job_name.as_str(), info.state())).collect();
    assert_eq!(listed, [(job.as_str(), "test", State::Done)]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_are_not_found() {
    let (service, mut client) = serve(config()).await;
    let prepared = prepare(&mut client, impulse()).await.expect("a good pipeline");
    // A preparation's id is no job's id: Python asks for streams with it and goes on without them.
    for job_id in ["none such".to_owned(), String::new(), prepared.preparation_id] {
        let id = || job_id.clone();
        let state = client.get_state(GetJobStateRequest { job_id: id() }).await.map(|_| ());
        let cancel = client.cancel(CancelJobRequest { job_id: id() }).await.map(|_| ());
        let drain = client.drain(DrainJobRequest { job_id: id() }).await.map(|_| ());
        let pipeline = client.get_pipeline(GetJobPipelineRequest { job_id: id() }).await.map(|_| ());
        let metrics = client.get_job_metrics(GetJobMetricsRequest { job_id: id() }).await.map(|_| ());
        let states = client.get_state_stream(GetJobStateRequest { job_id: id() }).await.map(|_| ());
        let messages = client.get_message_stream(JobMessagesRequest { job_id: id() }).await.map(|_| ());
        for answer in [state, cancel, drain, pipeline, metrics, states, messages] {
            let status = answer.expect_err("there is no such job");
            assert_eq!(status.code(), Code::NotFound);
            assert!(status.message().contains(&format!("{job_id:?}")), "{}", status.message());
        }
    }
    let status = run(&mut client, "none such").await.expect_err("never prepared");
    assert_eq!(status.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_runs_once_for_each_time_it_is_prepared() {
    let (service, client) = serve(config()).await;
    let prepared = prepare(&mut client.clone(), impulse()).await.expect("a good pipeline");
    // All at once: exactly one gets the job.
    let results = Arc::new(Mutex::new(Vec::new()));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut client, id, results) = (client.clone(), prepared.preparation_id.clone(), results.clone());
        callers.spawn(async move {
            let result = run(&mut client, &id).await;
            results.lock().expect("no panic").push(result);
        });
    }
    callers.join_all().await;
    let results = std::mem::take(&mut *results.lock().expect("no panic"));
    let (ran, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let job = ran.into_iter().next().expect("one ran").expect("one ran");
    assert_eq!(refused.len(), 7);
    for status in refused.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::AlreadyExists);
        assert!(status.message().contains(&job), "{}", status.message());
    }
    assert_eq!(states(&mut client.clone(), &job).await.last(), Some(&State::Done));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_submission_is_said_when_it_is_prepared() {
    let (service, mut client) = serve(config()).await;
    let mut unknown = impulse();
    let transforms = &mut unknown.components.as_mut().expect("it has some").transforms;
    let impulse_spec = transforms.get_mut("impulse").and_then(|t| t.spec.as_mut()).expect("it is there");
    impulse_spec.urn = "beam:transform:of_another_world:v1".into();
    let refused = prepare(&mut client, unknown).await.expect_err("an unknown transform");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("beam:transform:of_another_world:v1"), "{}", refused.message());

    let savepoint = text("savepoint_path", "s3://somewhere");
    let refused = prepare_with(&mut client, impulse(), savepoint).await.expect_err("not supported");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("savepoint_path"), "{}", refused.message());

    let nothing = client.prepare(PrepareJobRequest::default()).await.expect_err("no pipeline");
    assert_eq!(nothing.code(), Code::InvalidArgument);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_described_and_remarked_upon() {
    let (service, mut client) = serve(config()).await;
    let described = client.describe_pipeline_options(DescribePipelineOptionsRequest {}).await.expect("a description");
    let names: Vec<String> = described.into_inner().options.into_iter().map(|option| option.name).collect();
    assert!(names.iter().any(|name| name == "checkpointing_interval") && names.iter().any(|n| n == "parallelism"));
    let options = text("object_reuse", "true");
    let prepared = prepare_with(&mut client, impulse(), options).await.expect("a remark is no refusal");
    let job = run(&mut client, &prepared.preparation_id).await.expect("prepared");
    let said = said(&mut client, &job).await;
    let warned = said.iter().find(|line| line.contains("object_reuse")).expect("it is said");
    assert!(warned.contains("has no effect"), "{warned}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_name_is_the_one_in_the_options() {
    let (service, mut client) = serve(config()).await;
    let prepared = prepare_with(&mut client, impulse(), text("job_name", "Word Count")).await.expect("good");
    let job = run(&mut client, &prepared.preparation_id).await.expect("prepared");
    assert!(job.starts_with("word-count-"), "{job}");
    states(&mut client, &job).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_without_a_name_get_names_that_differ() {
    let (service, mut client) = serve(config()).await;
    for number in 1..3 {
        let request = PrepareJobRequest { pipeline: Some(impulse()), job_name: "job".into(), ..Default::default() };
        let prepared = client.prepare(request).await.expect("good").into_inner();
        let job = run(&mut client, &prepared.preparation_id).await.expect("prepared");
        assert!(job.starts_with(&format!("impulse-{number}-")), "{job}");
        states(&mut client, &job).await;
    }
    let listed = client.get_jobs(GetJobsRequest {}).await.expect("an answer").into_inner().job_info;
    let names: Vec<String> = listed.into_iter().map(|job| job.job_name).collect();
    assert_eq!(names, ["Impulse-1", "Impulse-2"]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_is_seen_at_once_and_leaves_no_process() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let answer = client.cancel(CancelJobRequest { job_id: job.clone() }).await.expect("a known job").into_inner();
    assert_eq!(answer.state(), State::Cancelling);
    let expected = [State::Stopped, State::Starting, State::Cancelling, State::Cancelled];
    assert_eq!(states(&mut client, &job).await, expected);
    assert!(job_processes(&service).is_empty());
    // A job that has ended stays as it is.
    let answer = client.cancel(CancelJobRequest { job_id: job.clone() }).await.expect("a known job").into_inner();
    assert_eq!(answer.state(), State::Cancelled);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_can_be_drained_before_it_runs() {
    let silent = Silent::new();
    let mut config = config();
    config.supervisor.max_running_jobs = 1;
    let (service, mut client) = serve(config).await;
    let first = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let waiting = submit(&mut client, impulse()).await;
    // Asked twice, it answers the same.
    for _ in 0..2 {
        assert_eq!(drain(&mut client, &waiting).await, Ok(State::Draining));
    }
    client.cancel(CancelJobRequest { job_id: first }).await.expect("a known job");
    let expected = [State::Stopped, State::Starting, State::Draining, State::Drained];
    assert_eq!(states(&mut client, &waiting).await, expected);
    let said = said(&mut client, &waiting).await;
    assert_eq!(said.iter().filter(|line| line.contains("being drained")).count(), 1, "{said:?}");
    assert_eq!(drain(&mut client, &waiting).await, Ok(State::Drained));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_or_has_ended_is_not_drained() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let done = submit(&mut client, impulse()).await;
    reaches(&mut client, &done, State::Done).await;
    assert_eq!(drain(&mut client, &done).await, Ok(State::Done));

    let cancelled = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    client.cancel(CancelJobRequest { job_id: cancelled.clone() }).await.expect("a known job");
    // Unless the end came first.
    let late = drain(&mut client, &cancelled).await;
    assert!(matches!(late, Ok(State::Cancelled) | Err(Code::FailedPrecondition)), "{late:?}");
    assert_eq!(states(&mut client, &cancelled).await.last(), Some(&State::Cancelled));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_drains_can_be_cancelled() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    assert_eq!(drain(&mut client, &job).await, Ok(State::Draining));
    client.cancel(CancelJobRequest { job_id: job.clone() }).await.expect("a known job");
    let expected = [State::Stopped, State::Starting, State::Draining, State::Cancelling, State::Cancelled];
    assert_eq!(states(&mut client, &job).await, expected);
    assert!(job_processes(&service).is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javas_client_is_told_that_a_drained_job_is_done() {
    let silent = Silent::new();
    let mut config = config();
    config.supervisor.max_running_jobs = 1;
    let (service, mut client) = serve(config).await;
    let first = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let job = submit(&mut client, impulse()).await;
    assert_eq!(drain(&mut client, &job).await, Ok(State::Draining));
    client.cancel(CancelJobRequest { job_id: first }).await.expect("a known job");
    reaches(&mut client, &job, State::Drained).await;
    let poll = from_java(GetJobStateRequest { job_id: job.clone() });
    assert_eq!(client.get_state(poll).await.expect("a known job").into_inner().state(), State::Done);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javas_client_that_waits_is_answered_when_the_job_ends_and_one_that_asks_at_once() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let mut other = jobs(&service).await;
    // On a machine so busy that the call comes long after the job's start it is not known for one that waits.
    for attempt in 1.. {
        let prepared = prepare(&mut client, silent.pipeline()).await.expect("a good pipeline");
        let request = RunJobRequest { preparation_id: prepared.preparation_id, ..Default::default() };
        let job_id = client.run(from_java(request)).await.expect("prepared").into_inner().job_id;
        let ask = || from_java(GetJobStateRequest { job_id: job_id.clone() });
        let (mut waiter, wait) = (client.clone(), ask());
        let waits =
            tokio::spawn(async move { waiter.get_state(wait).await.expect("a known job").into_inner().state() });
        // The job goes nowhere, so an answer that waited for its end would not come.
        let asked = other.get_state(ask()).await.expect("a known job").into_inner().state();
        assert_eq!(asked, State::Starting);
        let _called = silent.called();
        client.cancel(CancelJobRequest { job_id }).await.expect("a known job");
        if waits.await.expect("no panic") == State::Cancelled {
            break;
        }
        assert!(attempt < 10, "who waits is not held");
    }
    service.stop().await;
}

/// A request as Java's client sends it.
fn from_java<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("user-agent", "grpc-java-netty/1.69.0".parse().expect("text"));
    request.set_timeout(Duration::from_secs(60));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_beyond_the_limit_wait_their_turn() {
    let silent = Silent::new();
    let mut config = config();
    config.supervisor.max_running_jobs = 1;
    let (service, mut client) = serve(config).await;
    let first = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let second = submit(&mut client, impulse()).await;
    let third = submit(&mut client, impulse()).await;
    // One that waits can be cancelled.
    client.cancel(CancelJobRequest { job_id: third.clone() }).await.expect("a known job");
    assert_eq!(states(&mut client, &third).await.last(), Some(&State::Cancelled));
    let waiting = client.get_state(GetJobStateRequest { job_id: second.clone() }).await.expect("a known job");
    assert_eq!(waiting.into_inner().state(), State::Starting);
    client.cancel(CancelJobRequest { job_id: first }).await.expect("a known job");
    assert_eq!(states(&mut client, &second).await.last(), Some(&State::Done));
    service.stop().await;
}
