//! Job processes and agents: who is let in, what happens when one is lost, that nothing stays behind.

mod support;

use std::path::PathBuf;

use ferrobeam_job_service::agent::{AgentConfig, LEASE};
use ferrobeam_job_service::control::v1::control_client::ControlClient;
use ferrobeam_job_service::control::v1::{self, agent_report, process_report};
use ferrobeam_job_service::control::{JoinError, join};
use ferrobeam_proto::job::CancelJobRequest;
use ferrobeam_proto::job::job_state::Enum as State;
use rustix::process::{Pid, Signal, kill_process};
use support::*;
use tokio::sync::oneshot;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_fails_its_job_and_no_other() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let lost = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let processes = job_processes(&service);
    assert_eq!(processes.len(), 1);
    let pid = Pid::from_raw(processes[0] as i32).expect("an id");
    kill_process(pid, Signal::KILL).expect("it runs");
    let said = said(&mut client, &lost).await;
    let [.., error, state] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(state, "FAILED");
    assert!(error.starts_with("JOB_MESSAGE_ERROR") && error.contains("signal 9"), "{error}");
    assert!(job_processes(&service).is_empty());
    let next = submit(&mut client, impulse()).await;
    assert_eq!(states(&mut client, &next).await.last(), Some(&State::Done));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_process_ends_the_others_of_its_job() {
    let silent = Silent::new();
    let mut config = config();
    config.supervisor.processes = 3.try_into().expect("not zero");
    let (service, mut client) = serve(config).await;
    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let processes = job_processes(&service);
    assert_eq!(processes.len(), 3);
    kill_process(Pid::from_raw(processes[1] as i32).expect("an id"), Signal::KILL).expect("it runs");
    let said = said(&mut client, &job).await;
    let error = said.iter().find(|line| line.starts_with("JOB_MESSAGE_ERROR")).expect("a reason");
    assert!(error.contains("of the job's 3"), "{error}");
    assert!(job_processes(&service).is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_run_one_job() {
    let mut config = config();
    config.supervisor.processes = 3.try_into().expect("not zero");
    config.supervisor.workers = 2.try_into().expect("not zero");
    config.spares = 1;
    let (service, mut client) = serve(config).await;
    for _ in 0..3 {
        let job = submit(&mut client, impulse()).await;
        let said = said(&mut client, &job).await;
        assert_eq!(said, ["STOPPED", "STARTING", "RUNNING", "DONE"]);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_leaves_nothing() {
    let silent = Silent::new();
    let temp = tempfile::tempdir().expect("a folder");
    let (service, mut client) =
        serve(ferrobeam_job_service::ServiceConfig { temp_dir: Some(temp.path().to_owned()), spares: 2, ..config() })
            .await;
    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let url = service.job_address();
    let record = service.jobs().get(&ferrobeam_job_service::job::JobId::named(job)).expect("it runs");
    service.stop().await;
    assert_eq!(record.state().0, ferrobeam_job_service::job::State::Cancelled);
    assert!(is_empty(temp.path()));
    let (other, _) = serve(config()).await;
    assert_ne!(other.job_address(), url);
    assert!(job_processes(&other).is_empty());
    other.stop().await;
}

/// The command of a harness that never connects, and that starts a process of its own in another process group.
struct Harness {
    _dir: tempfile::TempDir,
    command: PathBuf,
    fifo: PathBuf,
}

impl Harness {
    fn new() -> Harness {
        let dir = tempfile::tempdir().expect("a folder");
        let (command, fifo) = (dir.path().join("harness"), dir.path().join("pid"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("it runs").success());
        let script = format!("#!/bin/sh\nset -m\nsleep 1000 &\necho $$ $! > {}\nsleep 1000\n", fifo.display());
        // Not by this process: what a test beside this one starts would have the file open for writing for a moment, and
        // a file that is cannot be run.
        let write = "printf %s \"$1\" > \"$0\" && chmod +x \"$0\"";
        let written = std::process::Command::new("sh").args(["-c", write]).arg(&command).arg(script).status();
        assert!(written.expect("it runs").success());
        Harness { _dir: dir, command, fifo }
    }

    /// The ids of the harness and of its child, when it has started.
    async fn started(&self) -> Vec<u32> {
        let fifo = self.fifo.clone();
        let started = tokio::task::spawn_blocking(move || std::fs::read_to_string(fifo)).await.expect("no panic");
        let ids = started.expect("it says its id");
        ids.split_whitespace().map(|id| id.parse().expect("a number")).collect()
    }
}

/// Whether a process is there, and more than its exit code.
fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim().starts_with(['Z', 'X']))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_no_process_of_its_environment() {
    let harness = Harness::new();
    let (service, mut client) = serve(config()).await;
    let job = submit(&mut client, par_do(process(&harness.command))).await;
    let started = harness.started().await;
    client.cancel(CancelJobRequest { job_id: job.clone() }).await.expect("a known job");
    assert_eq!(states(&mut client, &job).await.last(), Some(&State::Cancelled));
    assert!(!runs(started[0]));
    // It left its harness's process group, and is no business of ours.
    let child = Pid::from_raw(started[1] as i32).expect("an id");
    let _ = kill_process(child, Signal::KILL);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_process_that_is_killed_leaves_no_process_of_its_environment() {
    let harness = Harness::new();
    let (service, mut client) = serve(config()).await;
    let job = submit(&mut client, par_do(process(&harness.command))).await;
    let started = harness.started().await;
    assert_eq!((started.len(), runs(started[0]), runs(started[1])), (2, true, true));
    let [job_process] = job_processes(&service)[..] else { panic!("one process") };
    kill_process(Pid::from_raw(job_process as i32).expect("an id"), Signal::KILL).expect("it runs");
    assert_eq!(states(&mut client, &job).await.last(), Some(&State::Failed));
    assert_eq!((runs(started[0]), runs(started[1])), (false, false));
    service.stop().await;
}

/// Says hello as a job process, and returns how that was taken.
async fn attach(
    service: &ferrobeam_job_service::Service,
    job: &str,
    generation: u64,
    index: u32,
    token: &str,
) -> Result<(), tonic::Status> {
    let mut control = ControlClient::new(channel(service.job_address()).await);
    let process = v1::ProcessName { job_id: job.into(), generation, index };
    let hello = v1::ProcessHello { process: Some(process), token: token.into(), cluster_address: String::new() };
    let report = v1::ProcessReport { report: Some(process_report::Report::Hello(hello)) };
    control.attach(tokio_stream::iter([report])).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_processes_of_the_present_generation_attach() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    let stale = attach(&service, &job, 0, 0, "token").await.expect_err("stale");
    assert_eq!(stale.code(), Code::FailedPrecondition);
    assert!(stale.message().contains("stale"), "{}", stale.message());
    for (job, generation) in [(job.as_str(), 1), (job.as_str(), 2), ("none such", 1)] {
        let refused = attach(&service, job, generation, 0, "guessed").await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{}", refused.message());
    }
    // None of that disturbed the job.
    reaches(&mut client, &job, State::Starting).await;
    assert_eq!(job_processes(&service).len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_on_agents_that_join_and_fail_with_them() {
    let silent = Silent::new();
    let (service, mut client) = serve(ferrobeam_job_service::ServiceConfig { capacity: 0, ..config() }).await;
    let waiting = submit(&mut client, impulse()).await;

    let work_root = tempfile::tempdir().expect("a folder");
    let agent = AgentConfig {
        program: env!("CARGO_BIN_EXE_ferrobeam").into(),
        service: format!("http://{}", service.job_address()),
        host: "127.0.0.1".into(),
        work_root: work_root.path().to_owned(),
        spares: 0,
        lease: LEASE,
    };
    let (joined, has_joined) = oneshot::channel();
    let running = tokio::spawn(join(agent, 4, String::new(), move || joined.send(()).expect("the test waits")));
    has_joined.await.expect("it joins");
    let said_meanwhile = said(&mut client, &waiting).await;
    assert!(said_meanwhile.iter().any(|line| line.contains("ferrobeam worker --join")), "{said_meanwhile:?}");
    assert_eq!(said_meanwhile.last().map(String::as_str), Some("DONE"));

    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    running.abort();
    let said = said(&mut client, &job).await;
    assert!(said.iter().any(|line| line.contains("agent") && line.contains("gone")), "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("FAILED"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_checked_before_they_join() {
    let (service, _) =
        serve(ferrobeam_job_service::ServiceConfig { join_token: Some("the token".into()), ..config() }).await;
    let work_root = tempfile::tempdir().expect("a folder");
    let agent = AgentConfig {
        program: env!("CARGO_BIN_EXE_ferrobeam").into(),
        service: format!("http://{}", service.job_address()),
        host: "127.0.0.1".into(),
        work_root: work_root.path().to_owned(),
        spares: 0,
        lease: LEASE,
    };
    let refused = join(agent, 4, "another".into(), || panic!("it must not join")).await.expect_err("refused");
    assert!(matches!(&refused, JoinError::Refused { message, .. } if message.contains("join token")), "{refused}");

    let mut control = ControlClient::new(channel(service.job_address()).await);
    let hello = v1::AgentHello {
        join_token: "the token".into(),
        capacity: 1,
        host: "h".into(),
        version: "0.0.0-of-yesterday".into(),
    };
    let report = v1::AgentReport { report: Some(agent_report::Report::Hello(hello)) };
    let refused = control.join(tokio_stream::iter([report])).await.expect_err("another version");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("0.0.0-of-yesterday"), "{}", refused.message());
    service.stop().await;
}
