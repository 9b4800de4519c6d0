//! An agent with programs that are not job processes: every end is reported once, and says how.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ferrobeam_job_service::agent::{Agent, AgentConfig, Ended, LEASE, Order, ProcessName};
use ferrobeam_job_service::job::{Generation, JobId};
use tokio::sync::mpsc;

fn script(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("program");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

fn name(index: u32) -> ProcessName {
    ProcessName { job: JobId::named("job"), generation: Generation(1), index }
}

/// Starts process 0 of an agent of `program`, and returns its end. `kill` orders that end.
async fn end(program: PathBuf, work_root: &Path, spares: usize, kill: bool) -> String {
    let config = AgentConfig {
        program,
        service: "http://localhost:1".into(),
        host: "127.0.0.1".into(),
        work_root: work_root.to_owned(),
        spares,
        lease: LEASE,
    };
    let (orders, taken) = mpsc::unbounded_channel();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let agent = tokio::spawn(Agent::new(config).run(taken, ended));
    let start = Order::Start { process: name(0), token: "token".into(), processes: 1 };
    orders.send(start).expect("it takes orders");
    if kill {
        orders.send(Order::Kill(name(0))).expect("it takes orders");
    }
    let Ended { process, how } = ends.recv().await.expect("an end");
    assert_eq!(process, name(0));
    drop(orders);
    agent.await.expect("no panic");
    assert!(ends.recv().await.is_none(), "ended twice");
    how
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_and_the_exit_code_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let work = dir.path().join("work");
    std::fs::create_dir(&work).expect("made");
    let program = script(dir.path(), "head -c 5 > /dev/null; echo it hurts >&2; exit 3");
    let how = end(program, &work, 0, false).await;
    assert!(how.contains("exit code 3") && how.contains("it hurts"), "{how}");
    assert_eq!(std::fs::read_dir(&work).expect("it is there").count(), 0, "its folder stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_an_end_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let how = end(dir.path().join("none"), dir.path(), 1, false).await;
    assert!(how.contains("cannot be started") && how.contains("none"), "{how}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_ends_when_it_is_ordered_to() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = script(dir.path(), "exec sleep 1000");
    for spares in [0, 2] {
        let how = end(program.clone(), dir.path(), spares, true).await;
        assert!(how.contains("signal 9"), "{how}");
    }
}
