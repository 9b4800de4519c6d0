//! Jobs that lose a process and are run again.

mod support;

use std::collections::BTreeSet;

use ferrobeam_job_service::Service;

use ferrobeam_proto::job::{CancelJobRequest, GetJobMetricsRequest};
use rustix::process::{Pid, Signal, kill_process};
use support::harness::{Pool, Told};
use support::*;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).expect("an id"), Signal::KILL).expect("it runs");
}

/// The value of the counter that says how many values were made, once there is one.
async fn made(client: &mut Jobs, job_id: &str) -> i64 {
    loop {
        let request = GetJobMetricsRequest { job_id: job_id.into() };
        let metrics = client.get_job_metrics(request).await.expect("a known job").into_inner().metrics;
        let committed = metrics.unwrap_or_default().committed;
        let counter = committed.iter().find(|info| info.labels.get("NAME").is_some_and(|name| name == "made"));
        if let Some(counter) = counter {
            assert_eq!(counter.payload.len(), 1, "{counter:?}");
            return i64::from(counter.payload[0]);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A job of `processes` loses one when its first half is done and its second half under way.
async fn lose_one(processes: usize) {
    let mut pool = Pool::start().await;
    let mut config = config();
    config.supervisor.processes = processes.try_into().expect("not zero");
    config.supervisor.workers = 1.try_into().expect("not zero");
    // All places are taken: the next attempt waits for those of the last.
    config.capacity = processes;
    let (service, mut client) = serve(config).await;
    let job = submit_with_retries(&mut client, pool.pipeline(100), 3).await;

    let mut lost = BTreeSet::new();
    let mut held = false;
    while lost.len() < processes || !held {
        match pool.next().await {
            Told::Started(worker) => assert!(lost.insert(worker)),
            Told::Holds(..) => held = true,
            Told::Stopped(worker) => panic!("{worker} is stopped"),
        }
    }
    assert_eq!(made(&mut client, &job).await, 100);
    let before = job_processes(&service);
    assert_eq!(before.len(), processes);
    kill(before[processes - 1]);
    pool.open.send_replace(true);

    let said = said(&mut client, &job).await;
    let states: Vec<&str> = said.iter().filter(|line| !line.contains(": ")).map(String::as_str).collect();
    assert_eq!(states, ["STOPPED", "STARTING", "RUNNING", "DONE"], "{said:?}");
    let again = said.iter().find(|line| line.contains("run again")).expect("it is said");
    assert!(again.starts_with("JOB_MESSAGE_WARNING") && again.contains("signal 9"), "{again}");
    assert!(again.contains("restart 1 of 3") && again.contains("from its start"), "{again}");
    assert!(!said.iter().any(|line| line.starts_with("JOB_MESSAGE_ERROR")), "{said:?}");

    // The second attempt had workers of its own, and all of the output, once.
    assert_eq!(made(&mut client, &job).await, 100);
    let (mut workers, mut values) = (BTreeSet::new(), Vec::new());
    while let Ok(told) = pool.told.try_recv() {
        match told {
            Told::Started(worker) => assert!(!lost.contains(&worker) && workers.insert(worker)),
            Told::Holds(worker, held) if workers.contains(&worker) => values.extend(held),
            Told::Holds(..) => {}
            Told::Stopped(worker) => {
                assert!(lost.contains(&worker) || workers.contains(&worker), "{worker}");
            }
        }
    }
    assert_eq!(workers.len(), processes);
    values.sort_by_key(|value| value.parse::<u8>().expect("a number"));
    assert_eq!(values, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_lost_its_process_is_done_all_the_same() {
    lose_one(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_lost_one_of_its_processes_is_done_all_the_same() {
    lose_one(2).await;
}

/// Kills the one process of the job as soon as it asks for a worker, so many times.
fn kill_at_work(service: &Service, silent: &Silent, times: usize) {
    let mut calls = Vec::new();
    for _ in 0..times {
        calls.push(silent.called());
        let [pid] = job_processes(service)[..] else { panic!("one process") };
        kill(pid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_keeps_losing_its_process_fails_with_all_of_that() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let job = submit_with_retries(&mut client, silent.pipeline(), 2).await;
    kill_at_work(&service, &silent, 3);
    let said = said(&mut client, &job).await;
    let [.., error, state] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(state, "FAILED");
    assert!(error.starts_with("JOB_MESSAGE_ERROR") && error.contains("attempt 3 of 3"), "{error}");
    for attempt in ["attempt 1: ", "attempt 2: "] {
        assert!(error.contains(attempt), "{error}");
    }
    assert_eq!(error.matches("signal 9").count(), 3, "{error}");
    assert_eq!(said.iter().filter(|line| line.contains("The job is run again")).count(), 2);
    assert!(job_processes(&service).is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_run_again_is_cancelled_like_any_other() {
    let silent = Silent::new();
    let (service, mut client) = serve(config()).await;
    let job = submit_with_retries(&mut client, silent.pipeline(), 9).await;
    kill_at_work(&service, &silent, 1);
    let _called = silent.called();
    client.cancel(CancelJobRequest { job_id: job.clone() }).await.expect("a known job");
    let said = said(&mut client, &job).await;
    assert_eq!(said.last().map(String::as_str), Some("CANCELLED"), "{said:?}");
    assert!(job_processes(&service).is_empty());
    service.stop().await;
}

/// Checkpoint after checkpoint, and at the end nothing of them is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_checkpoints_is_done_and_leaves_none() {
    let pool = Pool::start().await;
    let storage = tempfile::tempdir().expect("a folder");
    let mut config = config();
    config.checkpoint_storage = Some(format!("file://{}", storage.path().display()));
    let (service, mut client) = serve(config).await;
    let prepared = prepare_with(&mut client, pool.pipeline(3), text("checkpointing_interval", "10"))
        .await
        .expect("a good pipeline");
    let job = run(&mut client, &prepared.preparation_id).await.expect("prepared");
    pool.open.send_replace(true);
    let said = said(&mut client, &job).await;
    assert_eq!(said.last().map(String::as_str), Some("DONE"), "{said:?}");
    let mut left = Vec::new();
    let mut folders = vec![storage.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            // What the service keeps of the job itself.
            if path.ends_with(".service") {
                continue;
            }
            if path.is_dir() { folders.push(path) } else { left.push(path) }
        }
    }
    assert!(left.is_empty(), "{left:?}");
    service.stop().await;
}
