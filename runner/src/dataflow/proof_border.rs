//! What is open while checkpoints come: an element may wait for another though a border lies between them, no checkpoint
//! waits for an open bundle, what goes over a border counts once, and bounded sources still run side by side.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::proof_restore::{Note, Notes, Saved, Told, take_checkpoints};
use super::*;
use crate::checkpoint::Restore;
use crate::element::{Batch, Outputs, WireCoder, encode_windowed_value};
use crate::executor::{Bundle, BundleDone, BundleError, Completion, OpenBundle, Residual, Split, SplitSink};
use crate::plan::{CollectionId, Node, Stage};
use crate::time::Timestamp;

const MAKE: u32 = 0;
const WORK: u32 = 1;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A number, or the numbers from the first on and before the second, as the stages pass them on.
fn numbers(from: u16, to: u16) -> Vec<u8> {
    let mut element = Vec::new();
    let value = [&[4][..], &from.to_be_bytes(), &to.to_be_bytes()].concat();
    encode_windowed_value(&mut element, Timestamp::MIN, &[&[]], &[0x0f], &value);
    element
}

fn read(element: &[u8]) -> (u16, u16) {
    let number = |at: usize| u16::from_be_bytes([element[element.len() - at], element[element.len() - at + 1]]);
    (number(4), number(2))
}

/// What the stage in the middle does.
#[derive(Clone, Copy)]
enum Case {
    /// The first of so many elements waits for the others, which may be split off, and fails once.
    WaitsForOthers(u16),
    /// Waits until checkpoint 3 is durable, cannot be split, and dies then, if it is told to.
    WaitsForCheckpoints { dies: bool },
    /// Reads so many numbers, which may be split, slowly.
    Reads(u16),
}

#[derive(Default)]
struct Seen {
    elements: BTreeSet<u16>,
    failed: bool,
    open: usize,
    most_open: usize,
}

#[derive(Clone)]
struct User {
    case: Case,
    checkpoints: Checkpoints,
    notes: Notes,
    seen: Arc<Mutex<Seen>>,
}

/// What a bundle of the stage in the middle is at. Of elements: the index of one; of a source: a number.
struct Progress {
    at: u16,
    end: u16,
}

struct Open {
    stage: u32,
    user: User,
    input: Vec<Batch>,
    progress: Arc<Mutex<Progress>>,
    splits: SplitSink,
    end: Option<(Outputs, Completion)>,
}

impl StageExecutor for User {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        Box::new(Open {
            stage: request.stage.0,
            user: self.clone(),
            input: Vec::new(),
            progress: Arc::new(Mutex::new(Progress { at: 0, end: 0 })),
            splits: request.splits,
            end: Some((request.outputs, request.completion)),
        })
    }

    fn bundles_in_flight(&self, _stage: StageId) -> usize {
        2
    }
}

impl Bundle for Open {
    fn push(&mut self, batch: Batch) {
        self.input.push(batch);
    }

    fn push_timers(&mut self, _family: usize, _timers: Bytes) {}

    fn split(&mut self, fraction: f64) {
        let mut progress = self.progress.lock().unwrap();
        let left = progress.end.saturating_sub(progress.at + 1);
        if left == 0 || self.stage != WORK {
            return;
        }
        let end = progress.at + 1 + (f64::from(left) * fraction) as u16;
        match self.user.case {
            Case::WaitsForCheckpoints { .. } => {}
            Case::WaitsForOthers(_) => {
                let (whole, rest) = (usize::from(end), usize::from(end));
                (self.splits)(Split { whole, parts: vec![], residuals: vec![], rest });
                progress.end = end;
            }
            Case::Reads(_) => {
                // The only element, as far as it is still this bundle's.
                let (from, _) = read(self.input[0].elements().next().unwrap());
                let to = progress.end;
                let residual = Residual { element: numbers(end, to).into(), delay: Duration::ZERO, hold: None };
                let parts = vec![numbers(from, end).into()];
                (self.splits)(Split { whole: 0, parts, residuals: vec![residual], rest: 1 });
                progress.end = end;
            }
        }
    }

    fn close(&mut self) {
        let (outputs, completion) = self.end.take().unwrap();
        let (stage, user, input) = (self.stage, self.user.clone(), self.input.clone());
        let elements: Vec<(u16, u16)> = input.iter().flat_map(|batch| batch.elements().map(read)).collect();
        let progress = Arc::clone(&self.progress);
        // As far as a split may ask at once.
        *progress.lock().unwrap() = match (stage, user.case) {
            (WORK, Case::Reads(_)) => Progress { at: elements[0].0, end: elements[0].1 },
            _ => Progress { at: 0, end: elements.len() as u16 },
        };
        std::thread::spawn(move || completion(user.run(stage, &elements, &progress, outputs)));
    }
}

impl User {
    fn run(
        &self,
        stage: u32,
        elements: &[(u16, u16)],
        progress: &Mutex<Progress>,
        mut outputs: Outputs,
    ) -> Result<BundleDone, BundleError> {
        let (mut data, mut lines) = (Vec::new(), Vec::new());
        match (stage, self.case) {
            (MAKE, Case::WaitsForOthers(count)) => (0..count).for_each(|n| data.extend(numbers(n, n + 1))),
            (MAKE, Case::WaitsForCheckpoints { .. }) => data.extend(numbers(0, 1)),
            (MAKE, Case::Reads(count)) => data.extend(numbers(0, count)),
            (WORK, Case::Reads(_)) => {
                self.change(|seen| {
                    seen.open += 1;
                    seen.most_open = seen.most_open.max(seen.open);
                });
                loop {
                    let at = progress.lock().unwrap().at;
                    data.extend(numbers(at, at + 1));
                    std::thread::sleep(Duration::from_millis(5));
                    let mut progress = progress.lock().unwrap();
                    progress.at += 1;
                    if progress.at >= progress.end {
                        break;
                    }
                }
                self.change(|seen| seen.open -= 1);
            }
            (WORK, _) => loop {
                let at = progress.lock().unwrap().at;
                let (number, _) = elements[usize::from(at)];
                self.work(number)?;
                data.extend(numbers(number, number + 1));
                let mut progress = progress.lock().unwrap();
                progress.at += 1;
                if progress.at >= progress.end {
                    break;
                }
            },
            _ => lines.extend(elements.iter().map(|(number, _)| number.to_string())),
        }
        if !data.is_empty() {
            outputs.push(0, data.into()).unwrap();
        }
        outputs.finish().unwrap();
        let note = Note { lines, notes: Arc::clone(&self.notes) };
        Ok(BundleDone {
            outputs,
            residuals: vec![],
            timers: vec![],
            metrics: vec![],
            requires_finalization: Some(Arc::new(note)),
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap())
    }

    fn work(&self, number: u16) -> Result<(), BundleError> {
        let failure = |message: &str, retry| BundleError {
            fault: Fault::User,
            retry,
            message: message.into(),
            environment: None,
        };
        let wait = |done: &dyn Fn() -> bool| {
            let began = Instant::now();
            while !done() {
                if began.elapsed() > LONG {
                    return Err(failure("what was waited for never came", false));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        match self.case {
            Case::WaitsForOthers(count) if number == 0 => {
                wait(&|| self.change(|seen| seen.elements.len() == usize::from(count) - 1))?;
                if !self.change(|seen| std::mem::replace(&mut seen.failed, true)) {
                    return Err(failure("this is to happen once", true));
                }
            }
            Case::WaitsForCheckpoints { dies } => {
                wait(&|| self.checkpoints.durable() >= 3)?;
                if dies {
                    return Err(failure("the process died", false));
                }
            }
            _ => self.change(|seen| {
                seen.elements.insert(number);
            }),
        }
        Ok(())
    }
}

fn plan(case: Case) -> Plan {
    let collection = |name: &str| proof::collection(name, WireCoder::Prefixed);
    let stage = |name: &str, input: u32, outputs: &[u32]| Stage {
        transforms: vec![(name.into(), format!("My/{name}"))],
        ..proof::stage(name, input, outputs)
    };
    Plan {
        collections: ["impulse", "made", "worked"].map(collection).to_vec(),
        nodes: vec![
            Node::Impulse { output: CollectionId(0) },
            Node::Stage(StageId(MAKE)),
            Node::Stage(StageId(WORK)),
            Node::Stage(StageId(2)),
        ],
        stages: vec![
            stage("make", 0, &[1]),
            Stage { splittable: matches!(case, Case::Reads(_)), ..stage("work", 1, &[2]) },
            stage("note", 2, &[]),
        ],
        environments: vec![],
    }
}

/// Runs the job, with one checkpoint after the other: gives the last, if it died, and how many bundles of the stage in the
/// middle were open at once.
fn live(case: Case, from: Option<&Saved>, notes: &Notes, dir: &Path) -> (Option<Saved>, usize) {
    let folders = |saved: &Saved| saved.parts.iter().map(|part| part.folder.clone()).collect::<Vec<_>>();
    let restore = from.map(|from| Restore::read(from.epoch, folders(from)).unwrap());
    let (tell, told) = crossbeam_channel::unbounded();
    let checkpoints = Checkpoints::new(1, restore, Arc::new(Told(tell))).unwrap();
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let user = User { case, checkpoints: checkpoints.clone(), notes: Arc::clone(notes), seen: Arc::clone(&seen) };
    let nothing: Arc<proof::Logic> = Arc::new(|_, _, _| {});
    let plain = proof::job(plan(case), nothing, 0, 64 << 20, dir);
    let settings = Settings {
        carry_over_after: Duration::from_millis(50),
        max_bundle_time: Duration::from_millis(20),
        ..plain.settings.clone()
    };
    let job = Job { executor: Arc::new(user), settings, checkpoints: checkpoints.clone(), ..plain };
    let (end, ended) = crossbeam_channel::bounded(1);
    let life = std::thread::spawn(move || {
        let outcome = run(job, Topology::single(1));
        let _ = end.send(());
        outcome
    });
    let first = from.map_or(0, |from| from.epoch);
    let last = take_checkpoints(&checkpoints, &told, &ended, first, &tempfile::tempdir_in(dir).unwrap().keep());
    let most_open = seen.lock().unwrap().most_open;
    match life.join().unwrap() {
        Ok(()) => (None, most_open),
        Err(failure) if failure.message.starts_with("the process died") => (last, most_open),
        Err(failure) => panic!("{failure}"),
    }
}

fn check(notes: &Notes, count: u16) {
    let expected = (0..count).map(|number| (number.to_string(), 1)).collect();
    assert_eq!(*notes.lock().unwrap(), expected);
}

/// More than run side by side, so that slots alone are not what helps.
#[test]
fn an_element_may_wait_for_others_that_come_behind_a_border() {
    let (dir, notes) = (tempfile::tempdir().unwrap(), Notes::default());
    assert!(live(Case::WaitsForOthers(100), None, &notes, dir.path()).0.is_none());
    check(&notes, 100);
}

/// Also what of it was saved counts once, whether it goes on or is begun again.
#[test]
fn no_checkpoint_waits_for_an_open_bundle() {
    let (dir, notes) = (tempfile::tempdir().unwrap(), Notes::default());
    assert!(live(Case::WaitsForCheckpoints { dies: false }, None, &notes, dir.path()).0.is_none());
    check(&notes, 1);
    notes.lock().unwrap().clear();
    let (saved, _) = live(Case::WaitsForCheckpoints { dies: true }, None, &notes, dir.path());
    check(&notes, 0);
    assert!(live(Case::WaitsForCheckpoints { dies: false }, saved.as_ref(), &notes, dir.path()).0.is_none());
    check(&notes, 1);
}

/// Though no bundle ever gets as old as one that is asked for half where there are no checkpoints.
#[test]
fn a_bounded_source_is_spread_though_borders_come_often() {
    let (dir, notes) = (tempfile::tempdir().unwrap(), Notes::default());
    let (_, most_open) = live(Case::Reads(600), None, &notes, dir.path());
    check(&notes, 600);
    assert!(most_open > 1, "one after the other");
}
