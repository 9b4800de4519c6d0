//! Running many tests at once: a queue, and lanes that take from it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process;
use crate::report::{Outcome, Verdict};
use crate::suites::{Driver, Suite};

/// How long a driver may take to load its SDK on a busy machine.
const LOADING: Duration = Duration::from_secs(180);
/// How much longer than a test's time limit we wait for the driver to report on it itself.
const GRACE: Duration = Duration::from_secs(3);
/// How long a driver may take to end once it has no more tests.
const LEAVING: Duration = Duration::from_secs(10);

/// Tests that look at what a whole process shares, and so run while nothing else runs in theirs: this one watches the
/// root logger, which every harness that starts or ends sets anew.
const ALONE: [&str; 1] = ["org.apache.beam.sdk.SdkHarnessEnvironmentTest#testLogging"];

/// A line of a resident driver's answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    name: String,
    verdict: Option<Verdict>,
    #[serde(default)]
    ms: u64,
    #[serde(default)]
    why: String,
}

struct Work<'a> {
    suite: Suite,
    tests: Mutex<VecDeque<String>>,
    timeout: Duration,
    logs: &'a Path,
    done: Sender<Outcome>,
}

impl Work<'_> {
    fn take(&self) -> Option<String> {
        self.tests.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The next test for a process that has some in hand: of a class none of whose tests it runs now, because tests of a
    /// class may share static fields; of those, of the class with most tests left, so that none is left for the end.
    fn take_beside(&self, in_hand: &[(String, Instant)]) -> Option<String> {
        if in_hand.iter().any(|(name, _)| alone(name)) {
            return None;
        }
        let mut tests = self.tests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (at, name) in tests.iter().enumerate() {
            if alone(name) {
                match in_hand {
                    [] => return tests.remove(at),
                    _ => continue,
                }
            }
            left.entry(class(name)).or_insert((0, at)).0 += 1;
        }
        for (name, _) in in_hand {
            left.remove(class(name));
        }
        let (_, at) = left.into_values().max_by_key(|(count, at)| (*count, Reverse(*at)))?;
        tests.remove(at)
    }

    fn end(&self, name: String, verdict: Verdict, took: Duration, why: String) {
        // The receiver lives as long as the scope that runs the lanes.
        let _ = self.done.send(Outcome { suite: self.suite, name, verdict, took, why });
    }
}

fn alone(name: &str) -> bool {
    ALONE.contains(&name)
}

/// The class of a test, where its name tells one; else the test itself.
fn class(name: &str) -> &str {
    name.split_once('#').map_or(name, |(class, _)| class)
}

/// Runs the tests, calling `seen` as each ends, and returns all outcomes.
pub(crate) fn run(
    suite: Suite,
    tests: Vec<String>,
    driver: &Driver,
    timeout: Duration,
    logs: &Path,
    mut seen: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let (done, ended) = mpsc::channel();
    let count = tests.len();
    // First what runs alone: nothing of other tests lingers in the process then.
    let (mut tests, others): (Vec<String>, Vec<String>) = tests.into_iter().partition(|name| alone(name));
    tests.extend(others);
    let work = Work { suite, tests: Mutex::new(tests.into()), timeout, logs, done };
    let mut outcomes = Vec::with_capacity(count);
    thread::scope(|scope| -> Result<()> {
        let work = &work;
        let mut lanes = Vec::new();
        match driver {
            Driver::Resident { command, slots, processes } => {
                for lane in 0..(*processes).min(count) {
                    lanes.push(scope.spawn(move || resident(work, command.as_ref(), *slots, lane)));
                }
            }
            Driver::Each { command, lanes: width } => {
                for _ in 0..(*width).min(count) {
                    lanes.push(scope.spawn(move || each(work, command.as_ref())));
                }
            }
        }
        while outcomes.len() < count {
            match ended.recv_timeout(Duration::from_secs(1)) {
                Ok(outcome) => {
                    seen(&outcome);
                    outcomes.push(outcome);
                }
                Err(_) if lanes.iter().all(|lane| lane.is_finished()) && outcomes.len() < count => {
                    // The lanes could not go on; why is in their results. What they sent is still in the channel.
                    for outcome in ended.try_iter() {
                        seen(&outcome);
                        outcomes.push(outcome);
                    }
                    break;
                }
                Err(_) => {}
            }
        }
        for lane in lanes {
            match lane.join() {
                Ok(result) => result?,
                Err(_) => bail!("a lane of the {} suite panicked", suite.name()),
            }
        }
        Ok(())
    })?;
    if outcomes.len() < count {
        bail!("only {} of {count} tests of the {} suite were run", outcomes.len(), suite.name());
    }
    Ok(outcomes)
}

/// A driver process and its answers.
struct Resident {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<Answer>,
}

impl Resident {
    fn start(work: &Work<'_>, command: &dyn Fn() -> Command, lane: usize) -> Result<Self> {
        let log = work.logs.join(format!("{}-{lane}.log", work.suite.name()));
        let errors = OpenOptions::new().create(true).append(true).open(&log).context("cannot write a lane's log")?;
        let mut command = command();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let orders = child.stdin.take();
        let output = child.stdout.take().context("a driver without stdout")?;
        let (send, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // What is no answer was printed by a test past the driver: it says nothing about a verdict.
                let Ok(answer) = serde_json::from_str(&line) else { continue };
                if send.send(answer).is_err() {
                    return;
                }
            }
        });
        let mut resident = Self { child, orders, answers };
        match resident.answers.recv_timeout(LOADING) {
            Ok(answer) if answer.ready => Ok(resident),
            _ => {
                let status = resident.end();
                bail!("the {} driver did not start ({status}): see {}", work.suite.name(), log.display())
            }
        }
    }

    fn order(&mut self, line: &str) {
        // A driver that cannot be written to has died, which its closed answers tell.
        if let Some(orders) = &mut self.orders {
            let _ = writeln!(orders, "{line}").and_then(|()| orders.flush());
        }
    }

    /// Ends the process, gently at first, and says how it ended.
    fn leave(&mut self) {
        self.orders = None;
        if !matches!(process::wait(&mut self.child, LEAVING), Ok(Some(_))) {
            self.end();
        }
    }

    fn end(&mut self) -> String {
        let _ = self.child.kill();
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.end();
    }
}

fn resident(work: &Work<'_>, command: &dyn Fn() -> Command, slots: usize, lane: usize) -> Result<()> {
    let mut waiting = work.take();
    while waiting.is_some() {
        let mut driver = Resident::start(work, command, lane)?;
        let mut in_hand: Vec<(String, Instant)> = Vec::new();
        loop {
            while in_hand.len() < slots {
                let Some(name) = waiting.take().or_else(|| work.take_beside(&in_hand)) else { break };
                driver.order(&name);
                in_hand.push((name, Instant::now()));
            }
            let Some(oldest) = in_hand.iter().map(|(_, since)| *since).min() else {
                driver.leave();
                break;
            };
            let limit = (oldest + work.timeout + GRACE).saturating_duration_since(Instant::now());
            match driver.answers.recv_timeout(limit) {
                Ok(Answer { name, verdict: Some(verdict), ms, why, .. }) => {
                    if let Some(at) = in_hand.iter().position(|(n, _)| *n == name) {
                        in_hand.swap_remove(at);
                        work.end(name, verdict, Duration::from_millis(ms), why);
                    }
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let late = |since: &Instant| since.elapsed() >= work.timeout + GRACE;
                    for (name, since) in in_hand.extract_if(.., |(_, since)| late(since)) {
                        driver.order(&format!("cancel {name}"));
                        work.end(name, Verdict::Hang, since.elapsed(), "its time was up".into());
                    }
                    if slots == 1 {
                        break; // It is stuck in the test, and takes no orders.
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = driver.end();
                    for (name, since) in in_hand.drain(..) {
                        work.end(name, Verdict::Fail, since.elapsed(), format!("its driver died: {status}"));
                    }
                    break;
                }
            }
        }
        waiting = work.take();
    }
    Ok(())
}

fn each(work: &Work<'_>, command: &dyn Fn(&str) -> Command) -> Result<()> {
    while let Some(name) = work.take() {
        let path = work.logs.join(format!("{}-{name}.log", work.suite.name()));
        let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = command(&name);
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stderr(log.try_clone().context("cannot share a test's log")?)
            .stdout(log)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let ended = process::wait(&mut child, work.timeout + GRACE)?;
        let took = start.elapsed();
        if ended.is_none() {
            child.kill().context("cannot end a test")?;
            child.wait().context("cannot wait for a test")?;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).context("cannot read a test's log")?).into_owned();
        let (verdict, why) = judge(&text, ended.map(|status| status.success()));
        work.end(name, verdict, took, why);
    }
    Ok(())
}

/// The verdict of a process of Go's test runner, by its log and its success (`None`: it had to be killed).
fn judge(log: &str, success: Option<bool>) -> (Verdict, String) {
    match success {
        None => (Verdict::Hang, "its time was up".into()),
        Some(true) if log.contains("--- SKIP: ") => (Verdict::Skip, String::new()),
        Some(true) if log.contains("--- PASS: ") => (Verdict::Pass, String::new()),
        Some(true) => (Verdict::Fail, "it ended well and ran nothing".into()),
        Some(false) if log.contains("panic: test timed out") => (Verdict::Hang, "its time was up".into()),
        Some(false) => {
            let telling = ["panic: ", "fatal error: ", "_test.go:"];
            let line = log.lines().find(|line| telling.iter().any(|t| line.contains(t)));
            (Verdict::Fail, line.or_else(|| log.lines().last()).unwrap_or("it died silently").trim().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A driver in shell: passes what begins with `ok`, dies of `die`, and never answers `hang`.
    fn shell() -> Command {
        let script = r#"echo '{"ready": true}'; while read -r name; do case $name in
            ok*) echo "noise"; echo "{\"name\": \"$name\", \"verdict\": \"PASS\", \"ms\": 1}";;
            die) exit 3;;
            cancel*) ;;
            hang) [ "$STUCK" = 1 ] && exec sleep 600;;
        esac; done"#;
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn verdicts(driver: Driver, names: &[&str]) -> BTreeMap<String, Verdict> {
        let logs = std::env::temp_dir().join(format!("lanes-{}-{:?}", std::process::id(), thread::current().id()));
        fs::create_dir_all(&logs).expect("a folder for logs");
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let outcomes = run(Suite::Python, names, &driver, Duration::from_secs(7), &logs, |_| {});
        fs::remove_dir_all(logs).expect("the folder was made");
        outcomes.expect("every test is run").into_iter().map(|o| (o.name, o.verdict)).collect()
    }

    #[test]
    fn a_driver_that_dies_or_hangs_costs_only_its_test() {
        let stuck = || {
            let mut command = shell();
            command.env("STUCK", "1");
            command
        };
        let driver = Driver::Resident { command: Box::new(stuck), slots: 1, processes: 2 };
        let found = verdicts(driver, &["ok1", "hang", "ok2", "die", "ok3"]);
        let expected = [
            ("ok1", Verdict::Pass),
            ("hang", Verdict::Hang),
            ("ok2", Verdict::Pass),
            ("die", Verdict::Fail),
            ("ok3", Verdict::Pass),
        ];
        assert_eq!(found, expected.map(|(name, verdict)| (name.to_owned(), verdict)).into());
    }

    #[test]
    fn a_driver_with_many_slots_goes_on_past_a_hang() {
        let driver = Driver::Resident { command: Box::new(shell), slots: 2, processes: 1 };
        let found = verdicts(driver, &["hang", "ok1", "ok2", "ok3"]);
        assert_eq!(found.values().filter(|v| **v == Verdict::Pass).count(), 3);
        assert_eq!(found["hang"], Verdict::Hang);
    }

    #[test]
    fn tests_of_a_class_do_not_run_at_once() {
        let (done, _ended) = mpsc::channel();
        let tests = ["a#1", "b#1", "b#2", "c"].map(str::to_owned).into();
        let logs = std::env::temp_dir();
        let work = Work { suite: Suite::Java, tests: Mutex::new(tests), timeout: Duration::ZERO, logs: &logs, done };
        let mut in_hand = Vec::new();
        for expected in ["b#1", "a#1", "c"] {
            let taken = work.take_beside(&in_hand);
            assert_eq!(taken.as_deref(), Some(expected));
            in_hand.extend(taken.map(|name| (name, Instant::now())));
        }
        assert_eq!(work.take_beside(&in_hand), None);
        in_hand.remove(0);
        assert_eq!(work.take_beside(&in_hand).as_deref(), Some("b#2"));
    }

    #[test]
    fn what_runs_alone_has_its_process_for_itself() {
        let (done, _ended) = mpsc::channel();
        let tests = ["a#1", ALONE[0], "b#1"].map(str::to_owned).into();
        let logs = std::env::temp_dir();
        let work = Work { suite: Suite::Java, tests: Mutex::new(tests), timeout: Duration::ZERO, logs: &logs, done };
        let beside = |name: &str| [(name.to_owned(), Instant::now())];
        assert_eq!(work.take_beside(&beside("c#1")).as_deref(), Some("a#1"));
        assert_eq!(work.take_beside(&[]).as_deref(), Some(ALONE[0]));
        assert_eq!(work.take_beside(&beside(ALONE[0])), None);
        assert_eq!(work.take_beside(&[]).as_deref(), Some("b#1"));
    }

    #[test]
    fn a_driver_that_never_starts_is_an_error() {
        let driver = Driver::Resident { command: Box::new(|| Command::new("false")), slots: 1, processes: 1 };
        let logs = std::env::temp_dir();
        let error = run(Suite::BadInput, vec!["a".into()], &driver, Duration::from_secs(1), &logs, |_| {});
        assert!(error.expect_err("nothing ran").to_string().contains("did not start"));
    }

    #[test]
    fn go_test_runs_are_judged_by_log_and_exit() {
        assert_eq!(judge("--- PASS: TestA (0.1s)\nPASS", Some(true)).0, Verdict::Pass);
        assert_eq!(judge("--- SKIP: TestA (0.1s)\nPASS", Some(true)).0, Verdict::Skip);
        assert_eq!(judge("testing: warning: no tests to run\nPASS", Some(true)).0, Verdict::Fail);
        assert_eq!(judge("panic: test timed out after 60s", Some(false)).0, Verdict::Hang);
        assert_eq!(judge("x\n  a_test.go:7: boom\nFAIL", Some(false)), (Verdict::Fail, "a_test.go:7: boom".into()));
        assert_eq!(judge("", None).0, Verdict::Hang);
    }
}
