//! A service that goes, and the one that goes on with its jobs.

mod support;

use std::time::Duration;

use ferrobeam_job_service::{Service, ServiceConfig};
use ferrobeam_proto::job::{CancelJobRequest, GetJobsRequest};
use support::harness::{Pool, Told};
use support::*;

fn config_on(storage: &tempfile::TempDir) -> ServiceConfig {
    ServiceConfig { checkpoint_storage: Some(format!("file://{}", storage.path().display())), ..config() }
}

async fn ids(client: &mut Jobs) -> Vec<String> {
    let jobs = client.get_jobs(GetJobsRequest {}).await.expect("it answers").into_inner().job_info;
    jobs.into_iter().map(|job| job.job_id).collect()
}

/// The number of the term of who leads.
fn newest_term(storage: &tempfile::TempDir) -> u64 {
    let entries = std::fs::read_dir(storage.path().join(".service/terms")).expect("somebody leads");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    names.filter_map(|name| name.to_str()?.parse::<u64>().ok()).max().expect("somebody leads")
}

fn states_of(said: &[String]) -> Vec<&str> {
    said.iter().filter(|line| !line.contains(": ")).map(String::as_str).collect()
}

/// A running job, whose second half waits to be opened.
async fn running(client: &mut Jobs, pool: &mut Pool, retries: u32) -> String {
    let job = submit_with_retries(client, pool.pipeline(10), retries).await;
    while !matches!(pool.next().await, Told::Holds(..)) {}
    reaches(client, &job, State::Running).await;
    job
}

use ferrobeam_proto::job::job_state::Enum as State;

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_ended_are_told_of_as_before() {
    let storage = tempfile::tempdir().expect("a folder");
    let (service, mut client) = serve(config_on(&storage)).await;
    let done = submit(&mut client, impulse()).await;
    let before = said(&mut client, &done).await;
    assert_eq!(states_of(&before), ["STOPPED", "STARTING", "RUNNING", "DONE"]);
    service.stop().await;

    let (service, mut client) = serve(config_on(&storage)).await;
    assert_eq!(ids(&mut client).await, std::slice::from_ref(&done));
    assert_eq!(said(&mut client, &done).await, before);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_its_turn_runs_later() {
    let storage = tempfile::tempdir().expect("a folder");
    // Without a machine, no job begins.
    let (service, mut client) = serve(ServiceConfig { capacity: 0, ..config_on(&storage) }).await;
    let (first, second) = (submit(&mut client, impulse()).await, submit(&mut client, impulse()).await);
    service.stop().await;

    let (service, mut client) = serve(config_on(&storage)).await;
    assert_eq!(ids(&mut client).await, [first.clone(), second.clone()]);
    for job in [first, second] {
        let said = said(&mut client, &job).await;
        assert_eq!(states_of(&said), ["STOPPED", "STARTING", "RUNNING", "DONE"], "{said:?}");
        assert!(said.iter().any(|line| line.contains("this one goes on with it")), "{said:?}");
    }
    service.stop().await;
}

/// A running job without checkpoints, as the next service leaves it.
async fn interrupted(retries: u32) -> Vec<String> {
    let storage = tempfile::tempdir().expect("a folder");
    let mut pool = Pool::start().await;
    let (service, mut client) = serve(config_on(&storage)).await;
    let job = running(&mut client, &mut pool, retries).await;
    service.stop().await;
    pool.open.send_replace(true);
    let (service, mut client) = serve(config_on(&storage)).await;
    let said = said(&mut client, &job).await;
    service.stop().await;
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_checkpoints_runs_again_if_it_asked_for_that() {
    let said = interrupted(1).await;
    assert_eq!(states_of(&said), ["STOPPED", "STARTING", "RUNNING", "DONE"], "{said:?}");
    assert!(said.iter().any(|line| line.contains("run again from its start")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_checkpoints_fails_if_it_did_not() {
    let said = interrupted(0).await;
    assert_eq!(states_of(&said), ["STOPPED", "STARTING", "RUNNING", "FAILED"], "{said:?}");
    let why = said.iter().find(|line| line.starts_with("JOB_MESSAGE_ERROR")).expect("it is said");
    assert!(why.contains("the service that ran the job is gone"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_being_cancelled_is_cancelled() {
    let storage = tempfile::tempdir().expect("a folder");
    let mut pool = Pool::start().await;
    let (service, mut client) = serve(config_on(&storage)).await;
    let job = running(&mut client, &mut pool, 5).await;
    // Its worker holds it: the answer comes before the end.
    client.cancel(CancelJobRequest { job_id: job.clone() }).await.expect("it runs");
    service.stop().await;
    let (service, mut client) = serve(config_on(&storage)).await;
    let states = states(&mut client, &job).await;
    assert_eq!(states[states.len() - 2..], [State::Cancelling, State::Cancelled]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_services_one_waits_and_goes_on_with_the_jobs_of_the_other() {
    let storage = tempfile::tempdir().expect("a folder");
    let config = || ServiceConfig { term: Duration::from_secs(2), ..config_on(&storage) };
    let (first, mut client) = serve(config()).await;
    let job = submit(&mut client, impulse()).await;
    let before = said(&mut client, &job).await;
    let second = tokio::spawn(Service::start(config()));
    // The first renews its term four times in the time that the second would wait if it heard nothing.
    let begun = newest_term(&storage);
    while newest_term(&storage) < begun + 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!second.is_finished(), "two lead");
    first.stop().await;
    let second = tokio::time::timeout(PATIENCE, second).await.expect("it leads").expect("no panic").expect("it serves");
    let mut client = jobs(&second).await;
    assert_eq!(said(&mut client, &job).await, before);
    second.stop().await;
}

/// One whose place was taken while it slept says so, and what it is told then changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_replaced_says_so_and_leaves_the_jobs() {
    let storage = tempfile::tempdir().expect("a folder");
    let mut pool = Pool::start().await;
    let (first, mut client) = serve(config_on(&storage)).await;
    let job = running(&mut client, &mut pool, 3).await;
    // What the next one does: it takes the number that the first one wants next.
    let mut taken = false;
    while !taken {
        let next = storage.path().join(format!(".service/terms/{:020}", newest_term(&storage) + 1));
        taken = std::fs::File::create_new(next).is_ok();
    }
    let why = tokio::time::timeout(PATIENCE, first.replaced()).await.expect("it notices");
    assert!(why.contains("another service"), "{why}");
    first.stop().await;
    pool.open.send_replace(true);
    let (second, mut client) = serve(ServiceConfig { term: Duration::from_secs(1), ..config_on(&storage) }).await;
    let states = states(&mut client, &job).await;
    assert_eq!(states, [State::Stopped, State::Starting, State::Running, State::Done]);
    second.stop().await;
}
