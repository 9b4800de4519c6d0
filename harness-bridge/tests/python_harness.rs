//! Bundles on real Python SDK harnesses: started as processes, and by worker pools.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferrobeam_harness_bridge::{Bridge, BridgeError, Severity};
use ferrobeam_proto::pipeline::{AnyOfEnvironmentPayload, DockerPayload, Environment};
use ferrobeam_proto::urns::standard_environments::{ANYOF, DOCKER};
use ferrobeam_runner::executor::{BundleDone, Fault};
use ferrobeam_runner::time::Timestamp;
use prost::Message;
use prost_types::value::Kind;
use support::*;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A Python that has apache-beam.
fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// What Beam's pool of processes starts is the `python` that comes first here.
fn path() -> OsString {
    let own = Path::new(&python()).parent().map(Path::to_owned);
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&inherited))).unwrap()
}

fn python_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// The folder with the bundle descriptors that Beam's Python SDK made.
fn descriptors() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let made = std::process::Command::new(python())
                .arg(python_file("stages.py"))
                .arg(folder.path())
                .output()
                .expect("python3 with apache_beam is needed");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            folder
        })
        .path()
}

fn stages(names: &[&str]) -> Vec<TestStage> {
    let read = |name: &str, ending: &str| std::fs::read(descriptors().join(format!("{name}.{ending}"))).unwrap();
    let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
    let bytes = |line: &str| line.as_bytes().chunks(2).map(byte).collect();
    names
        .iter()
        .map(|name| TestStage {
            name: (*name).to_owned(),
            descriptor: read(name, "descriptor"),
            elements: String::from_utf8(read(name, "elements")).unwrap().lines().map(bytes).collect(),
            timers: String::from_utf8(read(name, "timers")).unwrap().lines().map(str::to_owned).collect(),
            side_inputs: String::from_utf8(read(name, "side_inputs")).unwrap().lines().map(str::to_owned).collect(),
        })
        .collect()
}

fn boot(folder: &Path) -> Environment {
    let command = format!("exec {} {} \"$@\"", python(), python_file("boot.py").display());
    process(&script(folder, "boot", &command))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_process_runs_bundles() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Arc::new(Collected::default());
    let names = ["upper", "join", "count", "fail", "log", "grow", "wait", "join", "finalize"];
    let [upper, join, count, fail, log, grow, wait, join_again, finalize] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    let plan = plan(&boot(folder.path()), stages(&names));
    let mut config = config(plan, logs.clone(), folder.path());
    let cache = prost_types::Value { kind: Some(Kind::StringValue("100".into())) };
    config.options.fields.insert("beam:option:max_cache_memory_usage_mb:v1".into(), cache);
    let bridge = Bridge::start(config).await.unwrap();

    // The artifact came through, in more than one message.
    let fetched = logs.wait_for(|entry| entry.message.starts_with("artifact of")).await;
    assert_eq!(fetched.message, format!("artifact of {ARTIFACT} bytes aaaaa"));

    let done = run(&bridge, upper, &[b"a", b"b", b"c"]).await.unwrap();
    assert_eq!(emitted(done), [b"A", b"B", b"C"]);
    assert!(emitted(run(&bridge, upper, &[]).await.unwrap()).is_empty());

    // A side input comes in pages.
    let side = Arc::new(SideInputs { values: vec![b"x".to_vec(), b"y".to_vec()], ..Default::default() });
    let done = run_with(&bridge, join, side.clone(), &[b"a", b"b"]).await.unwrap();
    assert_eq!(emitted(done), [b"a:x,y", b"b:x,y"]);
    let asked = side.asked.lock().unwrap().len();
    assert!(asked >= 2, "{asked} requests for two pages");
    // One that fits a page is cached by the harness, so that the next bundle asks for nothing.
    let side = Arc::new(SideInputs { values: vec![b"z".to_vec()], ..Default::default() });
    let done = run_with(&bridge, join_again, side.clone(), &[b"a"]).await.unwrap();
    assert_eq!(emitted(done), [b"a:z"]);
    let never = Arc::new(SideInputs::default());
    let done = run_with(&bridge, join_again, never.clone(), &[b"b"]).await.unwrap();
    assert_eq!(emitted(done), [b"b:z"]);
    assert!(never.asked.lock().unwrap().is_empty());

    let done = run(&bridge, count, &[b"a", b"b", b"c"]).await.unwrap();
    let counter = done.metrics.iter().find(|metric| metric.labels.get("NAME").is_some_and(|name| name == "seen"));
    let counter = counter.expect("the user's counter is among the metrics");
    assert_eq!((counter.urn.as_str(), &counter.payload[..]), ("beam:metric:user:sum_int64:v1", &[3][..]));
    assert_eq!(counter.labels["PTRANSFORM"], "step");

    // The user's exception comes with its stack trace first, and the harness is none the worse.
    let error = run(&bridge, fail, &[b"fine", b"fail"]).await.unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::User, true));
    assert!(error.message.starts_with("Traceback"), "{error}");
    assert!(error.message.contains("ValueError: the element told the stage to fail"), "{error}");
    assert!(error.message.contains("stage fail"), "{error}");
    assert_eq!(emitted(run(&bridge, fail, &[b"fine"]).await.unwrap()), [b"fine"]);

    let entry = async { logs.wait_for(|entry| entry.message == "saw something").await };
    run(&bridge, log, &[b"something"]).await.unwrap();
    let entry = entry.await;
    assert_eq!(entry.severity, Severity::Warn);
    assert_eq!((entry.environment.as_str(), entry.stage.as_str()), ("python", "log"));
    assert_eq!((entry.transform.as_str(), entry.transform_name.as_str()), ("step", "user's log"));

    // Callbacks run when the bundle is said to be durable; what they raise is told and no more.
    for name in ["first", "fail"] {
        let done = run(&bridge, finalize, &[name.as_bytes()]).await.unwrap();
        let saw = format!("saw {name}");
        assert!(logs.entries().iter().all(|entry| entry.message != saw));
        done.requires_finalization.unwrap().finalize();
        logs.wait_for(|entry| entry.message == saw).await;
    }
    let told = logs.wait_for(|entry| entry.message.contains("exception from finalization")).await;
    assert!(told.message.contains("told the stage to fail"), "{}", told.message);

    // Outputs past what is held in memory, and an input past any default message size.
    let large = vec![b'z'; 3 << 20];
    let done = run(&bridge, grow, &[&large]).await.unwrap();
    let grown = emitted(done);
    assert_eq!(grown.len(), 64);
    assert!(grown.iter().all(|value| *value == large));

    // A bundle that takes long is seen running, and asked for its metrics.
    let go = folder.path().join("go");
    let (mut bundle, outcome) = open(&bridge, wait, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[go.display().to_string().as_bytes()]);
    bundle.close();
    loop {
        let running = bridge.running();
        if running.first().is_some_and(|bundle| !bundle.metrics.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let harness = bridge.harnesses().pop().unwrap();
    let status = bridge.status(&harness).await.unwrap();
    assert!(status.contains("ACTIVE PROCESSING BUNDLES") || status.contains("THREAD"), "{status}");
    std::fs::write(&go, "").unwrap();
    outcome.await.unwrap().unwrap();
    assert!(bridge.running().is_empty());

    // Given up before its input was complete: the harness goes on.
    let (mut bundle, outcome) = open(&bridge, upper, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"a"]);
    drop(bundle);
    let error = outcome.await.unwrap().unwrap_err();
    assert!(error.message.contains("abandoned"), "{error}");
    assert_eq!(emitted(run(&bridge, upper, &[b"a"]).await.unwrap()), [b"A"]);

    bridge.shutdown().await;
    let error = run(&bridge, upper, &[b"a"]).await.unwrap_err();
    assert!(error.message.contains("shutting down"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_code_keeps_state_and_sets_timers() {
    let folder = tempfile::tempdir().unwrap();
    let bridge =
        Bridge::start(config(plan(&boot(folder.path()), stages(&["remember"])), Arc::default(), folder.path()))
            .await
            .unwrap();
    let cells = Arc::new(Cells::default());
    let run = async |pairs: &[(&[u8], &[u8])], fired: &[Timer]| {
        let (mut bundle, outcome) = open(&bridge, 0, cells.clone());
        push_pairs(&mut *bundle, pairs);
        for timer in fired {
            bundle.push_timers(0, timer.encode());
        }
        bundle.close();
        outcome.await.unwrap().unwrap()
    };
    let timer = |key: &[u8], fires| Timer { key: key.into(), tag: b"tag".into(), fires };

    let done = run(&[(b"k", b"x"), (b"l", b"yy"), (b"k", b"zzz")], &[]).await;
    // The families are `fire` and `other`.
    let read = |family| {
        let batches = done.timers.iter().filter(|batch| batch.family == family);
        batches.flat_map(|batch| Timer::read(&batch.timers)).collect::<Vec<_>>()
    };
    let [k, l] = [timer(b"k", Some(7000)), timer(b"l", Some(7000))];
    assert_eq!(read(0), [k.clone(), l.clone(), k.clone()]);
    let cleared = |key: &[u8]| Timer { key: key.into(), tag: b"".into(), fires: None };
    assert_eq!(read(1), [cleared(b"k"), cleared(b"l"), cleared(b"k")]);
    assert!(emitted(done).is_empty());

    let done = run(&[], &[l, k.clone()]).await;
    assert!(done.timers.is_empty());
    assert_eq!(emitted(done), [&b"l tag yy yy"[..], b"k tag x,zzz x,zzz"]);

    // Elements before timers, in one bundle. The cell is cleared and written again in one go.
    let done = run(&[(b"k", b"forget")], &[k]).await;
    assert_eq!(emitted(done), [&b"k tag forget zzz,forget"[..]]);
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_cached_while_bundles_of_a_part_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(plan(&boot(folder.path()), stages(&["remember"])), Arc::default(), folder.path());
    let cache = prost_types::Value { kind: Some(Kind::StringValue("100".into())) };
    config.options.fields.insert("beam:option:max_cache_memory_usage_mb:v1".into(), cache);
    let bridge = Bridge::start(config).await.unwrap();
    let cells = Arc::new(Cells::default());
    let run = async |partition, value: &[u8], family| {
        let (mut bundle, outcome) = open_part(&bridge, 0, Some(partition), cells.clone());
        push_pairs(&mut *bundle, &[(b"k", value)]);
        let timer = Timer { key: b"k".into(), tag: b"".into(), fires: Some(0) };
        bundle.push_timers(family, timer.encode());
        bundle.close();
        outcome.await.unwrap().map(|done| (emitted(done).concat(), cells.read.load(Ordering::Relaxed)))
    };
    let (fire, fail) = (0, 1);
    assert_eq!(run(0, b"a", fire).await.unwrap(), (b"k  a a".to_vec(), 1));
    assert_eq!(run(0, b"bb", fire).await.unwrap(), (b"k  a,bb a,bb".to_vec(), 1), "the harness knows the cell");
    // Another part would see other keys; it must not trust what was cached for this one.
    assert_eq!(run(1, b"ccc", fire).await.unwrap(), (b"k  a,bb,ccc a,bb,ccc".to_vec(), 2));
    // What a failed bundle wrote is not kept, but the harness may have cached it.
    run(0, b"dddd", fail).await.unwrap_err();
    let (_, read) = run(0, b"eeeee", fire).await.unwrap();
    assert_eq!(read, 3);
    bridge.shutdown().await;
}

/// Runs a bundle of encoded elements.
async fn run_encoded(bridge: &Bridge, elements: &[&[u8]]) -> BundleDone {
    let (mut bundle, outcome) = open(bridge, 0, Arc::new(SideInputs::default()));
    push_encoded(&mut *bundle, elements);
    bundle.close();
    outcome.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splittable_elements_pause_and_are_split() {
    let folder = tempfile::tempdir().unwrap();
    let stage = stages(&["positions"]);
    let given = stage[0].elements.clone();
    let [slow, pause, last] = &given[..] else { panic!("{given:?}") };
    let bridge = Bridge::start(config(plan(&boot(folder.path()), stage), Arc::default(), folder.path())).await.unwrap();
    let positions = |name: &str, range: std::ops::Range<u32>| -> Vec<Vec<u8>> {
        range.map(|position| format!("{name} {position}").into_bytes()).collect()
    };

    // Left by its own will.
    let mut done = run_encoded(&bridge, &[pause, last]).await;
    let [rest] = &std::mem::take(&mut done.residuals)[..] else { panic!("{done:?}") };
    // Python says how much of the pause remains.
    assert!(rest.delay <= Duration::from_millis(1500) && rest.delay > Duration::from_millis(500), "{:?}", rest.delay);
    assert_eq!(rest.hold, Some(Timestamp(5000)));
    assert_eq!(emitted(done), [positions("pause", 0..3), positions("last", 0..2)].concat());
    let done = run_encoded(&bridge, &[&rest.element]).await;
    assert!(done.residuals.is_empty());
    assert_eq!(emitted(done), positions("pause", 3..6));

    // Split while it runs: what it has not reached comes back, and so does the element behind it.
    let (mut bundle, mut splits, mut outcome) = open_splittable(&bridge, 0);
    push_encoded(&mut *bundle, &[last, slow, last]);
    bundle.close();
    let done = loop {
        bundle.split(0.0);
        match tokio::time::timeout(Duration::from_millis(20), &mut outcome).await {
            Ok(outcome) => break outcome.unwrap().unwrap(),
            Err(_) => continue,
        }
    };
    assert!(done.residuals.is_empty(), "{done:?}");
    let split = splits.try_recv().unwrap();
    assert_eq!((split.whole, split.rest, split.parts.len(), split.residuals.len()), (1, 2, 1, 1), "{split:?}");
    splits.try_recv().unwrap_err();
    let mut seen = emitted(done);
    let name = descriptors().join("go").display().to_string();
    assert!(seen.len() < 300, "it was split");
    std::fs::write(&name, "").unwrap();
    // Run again, the bundle would do what it had kept, and that is what it did.
    let done = run_encoded(&bridge, &[last, &split.parts[0]]).await;
    assert!(done.residuals.is_empty());
    assert_eq!(emitted(done), seen);
    let done = run_encoded(&bridge, &[&split.residuals[0].element, last]).await;
    assert!(done.residuals.is_empty());
    seen.extend(emitted(done));
    let mut expected = [positions("last", 0..2), positions(&name, 0..300), positions("last", 0..2)].concat();
    seen.sort();
    expected.sort();
    assert!(seen == expected, "nothing is lost and nothing comes twice");
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bundles_at_once_keep_their_outputs_apart() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&boot(folder.path()), stages(&["upper", "grow"]));
    let mut config = config(plan, Arc::default(), folder.path());
    config.sdk_worker_parallelism = Some(2);
    let bridge = Bridge::start(config).await.unwrap();
    let runs = (0..60u32).map(|n| {
        let value = format!("value-{n}");
        let bridge = &bridge;
        async move {
            let done = run(bridge, n % 2, &[value.as_bytes()]).await.unwrap();
            let expected = if n % 2 == 0 { vec![value.to_uppercase()] } else { vec![value; 64] };
            assert_eq!(emitted(done), expected.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    });
    let mut all = Vec::new();
    for run in runs {
        all.push(Box::pin(run));
    }
    while !all.is_empty() {
        // All are polled, whichever is done first.
        std::future::poll_fn(|context| {
            all.retain_mut(|run| run.as_mut().poll(context).is_pending());
            if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_harness_that_dies_is_replaced_and_says_how_it_died() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&boot(folder.path()), stages(&["die", "leave"]));
    let mut config = config(plan, Arc::default(), folder.path());
    config.restarts = 1;
    let bridge = Bridge::start(config).await.unwrap();
    let first = bridge.harnesses();

    let error = run(&bridge, 0, &[b"die"]).await.unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Environment, true));
    assert!(error.message.contains("signal: 9"), "{error}");
    assert_eq!(emitted(run(&bridge, 0, &[b"live"]).await.unwrap()), [b"live"]);
    assert_ne!(bridge.harnesses(), first, "the replacement has an id of its own");

    let error = run(&bridge, 1, &[b"leave"]).await.unwrap_err();
    assert!(error.message.contains("exit status: 7"), "{error}");
    assert!(error.message.contains("leaving with a word"), "{error}");

    // One restart may come to nothing, the second may not.
    assert!(run(&bridge, 0, &[b"die"]).await.unwrap_err().retry);
    let error = loop {
        let error = run(&bridge, 0, &[b"die"]).await.unwrap_err();
        if !error.retry {
            break error;
        }
    };
    assert_eq!(error.fault, Fault::Environment);
    assert!(error.message.contains("environment python"), "{error}");
    assert!(error.message.contains("in a row"), "{error}");
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_bundles_end_with_the_bridge() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&boot(folder.path()), stages(&["wait"]));
    let mut config = config(plan, Arc::default(), folder.path());
    config.stop_timeout = Duration::from_millis(200);
    let bridge = Bridge::start(config).await.unwrap();
    let (mut bundle, outcome) = open(&bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"/no/such/file"]);
    bundle.close();
    while bridge.running().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bridge.shutdown().await;
    outcome.await.unwrap().unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_started_and_removed_through_the_docker_command() {
    let folder = tempfile::tempdir().unwrap();
    boot(folder.path());
    // Stands in for the command of docker, which needs a daemon: a container is a process beside it.
    let command = r#"
here=$(dirname "$0")
echo "$*" >> "$here/calls"
case $1 in
run) while [ "$1" != image ]; do shift; done; shift; "$here/boot" "$@" & echo $! > "$here/container"; wait ;;
rm) kill -9 $(cat "$here/container") ;;
esac"#;
    let docker = script(folder.path(), "docker", command);
    let payload = DockerPayload { container_image: "image".into() };
    let environment = Environment { urn: DOCKER.into(), payload: payload.encode_to_vec().into(), ..Default::default() };
    let mut config = config(plan(&environment, stages(&["upper"])), Arc::default(), folder.path());
    config.docker_command = docker.display().to_string();
    let bridge = Bridge::start(config).await.unwrap();
    assert_eq!(emitted(run(&bridge, 0, &[b"a"]).await.unwrap()), [b"A"]);
    let harness = bridge.harnesses().pop().unwrap();
    let endpoint = bridge.endpoint().to_owned();
    bridge.shutdown().await;
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    let [run, remove] = calls.lines().collect::<Vec<_>>()[..] else { panic!("{calls}") };
    let name = format!("ferrobeam-{harness}");
    let expected = format!(
        "run --network=host --name {name} --rm image --id={harness} --provision_endpoint={endpoint} \
         --logging_endpoint={endpoint} --artifact_endpoint={endpoint} --control_endpoint={endpoint}"
    );
    assert_eq!(run, expected);
    assert_eq!(remove, format!("rm --force {name}"));
}

struct WorkerPool {
    child: Child,
    address: String,
}

/// Starts Beam's own worker pool.
async fn worker_pool(kind: &str) -> WorkerPool {
    let mut child = Command::new(python())
        .arg(python_file("pool.py"))
        .arg(kind)
        .env("PATH", path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.next_line().await.unwrap().expect("the pool prints its address");
    WorkerPool { child, address }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_pools_start_harnesses() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["threads", "processes"] {
        let pool = worker_pool(kind).await;
        for _ in 0..2 {
            let plan = plan(&external(&pool.address), stages(&["upper"]));
            let bridge = Bridge::start(config(plan, Arc::default(), folder.path())).await.unwrap();
            assert_eq!(emitted(run(&bridge, 0, &[b"a"]).await.unwrap()), [b"A"]);
            bridge.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_pool_that_goes_away_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = worker_pool("threads").await;
    let plan = plan(&external(&pool.address), stages(&["wait"]));
    let mut config = config(plan, Arc::default(), folder.path());
    config.restarts = 0;
    let bridge = Bridge::start(config).await.unwrap();
    let (mut bundle, outcome) = open(&bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"/no/such/file"]);
    bundle.close();
    while bridge.running().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pool.child.kill().await.unwrap();
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Environment, true));
    let error = run(&bridge, 0, &[b"x"]).await.unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Environment, false));
    assert!(error.message.contains(&pool.address), "{error}");
    bridge.shutdown().await;
}

async fn start_error(environment: &Environment, folder: &Path, start_timeout: Duration) -> BridgeError {
    let mut config = config(plan(environment, stages(&["upper"])), Arc::default(), folder);
    config.start_timeout = start_timeout;
    config.restarts = 0;
    let error = Bridge::start(config).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Environment);
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_that_does_not_come_is_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let minute = Duration::from_secs(60);

    let pid_file = folder.path().join("pid");
    let mute = format!("echo $$ > {}; echo still here; sleep 1000", pid_file.display());
    let mute = process(&script(folder.path(), "mute", &mute));
    let error = start_error(&mute, folder.path(), Duration::from_millis(700)).await.to_string();
    assert!(error.contains("environment python: PROCESS"), "{error}");
    assert!(error.contains("control stream"), "{error}");
    assert!(error.contains("within 0.7 s"), "{error}");
    assert!(error.contains("still here"), "{error}");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the process {pid} was left behind");

    let failing = process(&script(folder.path(), "failing", "echo cannot do it >&2; exit 3"));
    let error = start_error(&failing, folder.path(), minute).await.to_string();
    assert!(error.contains("exit status: 3"), "{error}");
    assert!(error.contains("cannot do it"), "{error}");

    let missing = process(Path::new("/no/such/boot"));
    let error = start_error(&missing, folder.path(), minute).await.to_string();
    assert!(error.contains("/no/such/boot cannot be run"), "{error}");

    let unreachable = external("localhost:1");
    let error = start_error(&unreachable, folder.path(), Duration::from_millis(300)).await.to_string();
    assert!(error.contains("localhost:1 cannot be reached"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_environments_one_that_works_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let docker = DockerPayload { container_image: "image".into() };
    let docker = Environment { urn: DOCKER.into(), payload: docker.encode_to_vec().into(), ..Default::default() };
    let payload = AnyOfEnvironmentPayload { environments: vec![docker, external("localhost:1"), boot(folder.path())] };
    let any = Environment { urn: ANYOF.into(), payload: payload.encode_to_vec().into(), ..Default::default() };
    let bridge = Bridge::start(config(plan(&any, stages(&["upper"])), Arc::default(), folder.path())).await.unwrap();
    assert_eq!(emitted(run(&bridge, 0, &[b"a"]).await.unwrap()), [b"A"]);
    bridge.shutdown().await;
}
