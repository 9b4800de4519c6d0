//! The grouping in a dataflow: epochs, the watermark, the clock, and room.

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::operators::Capability;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::Means;
use super::Trouble;
use super::engine::{Dropped, Engine, Progress, Room};
use super::intake::{Intake, Question};
use crate::checkpoint::{Frozen, PartHead, Saver};
use crate::clock::Clock;
use crate::dataflow::JobObserver;
use crate::dataflow::alarm::Alarm;
use crate::dataflow::edge::Output;
use crate::dataflow::flow::{Flow, VISIT_LIMIT};
use crate::dataflow::group::Grouping;
use crate::dataflow::links::Links;
use crate::dataflow::merge::{Merged, WindowMerges};
use crate::dataflow::queue::EpochInput;
use crate::dataflow::run::Reporter;
use crate::element::Batch;
use crate::metrics::Metric;
use crate::time::{self, Moment, Timestamp};

/// Namespace and name of the counters of dropped elements, as Beam's own runners have them.
const LATE: (&str, &str) = ("org.apache.beam.runners.core.LateDataDroppingDoFnRunner", "droppedDueToLateness");
const CLOSED: (&str, &str) = ("org.apache.beam.runners.core.ReduceFnRunner", "droppedDueToClosedWindow");

/// See the module.
pub(super) struct WindowedOperator {
    name: String,
    engine: Engine,
    merges: Option<WindowMerges>,
    /// The batch that is taken in.
    intake: Option<Intake>,
    /// What the SDK is asked about its next part.
    asking: Option<Vec<Question>>,
    /// Input that waits, by epoch.
    input: EpochInput,
    /// The epoch that is worked on.
    epoch: u64,
    sink: Sink,
    clock: Arc<dyn Clock>,
    alarm: Alarm,
    /// What every part of it says of itself.
    head: PartHead,
    saver: Saver,
    observer: Arc<dyn JobObserver>,
    reporter: Rc<Reporter>,
    failed: bool,
}

/// The way out.
struct Sink {
    output: Output,
    /// At the epoch that is worked on and the output watermark; `None` once all is over.
    capability: Option<Capability<Moment>>,
    flow: Flow,
    activator: Activator,
    /// Bytes taken in and sent in this visit.
    moved: usize,
}

impl Room for Sink {
    fn has_room(&mut self) -> bool {
        if self.capability.as_ref().is_some_and(|capability| !self.flow.has_room(capability.time().epoch)) {
            return false;
        }
        if self.moved > VISIT_LIMIT {
            self.activator.activate();
            return false;
        }
        true
    }

    fn give(&mut self, batch: Batch) {
        self.moved += batch.data().len();
        if let Some(capability) = &self.capability {
            self.output.give(capability, batch);
        }
    }
}

impl WindowedOperator {
    pub(super) fn new(
        grouping: Grouping,
        engine: Engine,
        head: PartHead,
        Means { clock, observer, .. }: Means,
        output: Output,
        activator: Activator,
        links: Links,
    ) -> WindowedOperator {
        let Links { flow, reporter, saver } = links;
        WindowedOperator {
            name: grouping.name,
            engine,
            merges: None,
            intake: None,
            asking: None,
            input: EpochInput::new(&grouping.budget),
            epoch: saver.first_epoch(),
            alarm: Alarm::new(activator.clone()),
            sink: Sink { output, capability: None, flow, activator, moved: 0 },
            clock,
            head,
            saver,
            observer,
            reporter,
            failed: false,
        }
    }

    /// With what asks the SDK which windows merge.
    pub(super) fn merging(self, merges: Option<WindowMerges>) -> WindowedOperator {
        WindowedOperator { merges, ..self }
    }

    /// Takes the capability that the operator starts with.
    pub(super) fn begin(&mut self, capability: Option<Capability<Moment>>) {
        self.sink.capability = capability;
    }

    /// Takes a batch of input.
    pub(super) fn enqueue(&mut self, moment: Moment, batch: Batch) {
        if let Err(error) = self.input.push(moment, batch) {
            self.fail(&error.into());
        }
    }

    /// One activation. True while the operator is not finished.
    pub(super) fn visit(&mut self, frontier: AntichainRef<Moment>) -> bool {
        if !self.failed
            && self.sink.capability.is_some()
            && let Err(trouble) = self.work(frontier)
        {
            self.fail(&trouble);
        }
        self.sink.capability.is_some()
    }

    /// Capabilities stay where they are: nothing downstream may take silence for the end of input.
    pub(super) fn fail(&mut self, trouble: &Trouble) {
        self.failed = true;
        match trouble {
            Trouble::Store(error) => self.reporter.storage(&self.name, &std::io::Error::other(error.to_string())),
            Trouble::Malformed(error) => self.reporter.malformed(&self.name, error),
            Trouble::Storage(error) => self.reporter.storage(&self.name, error),
            Trouble::Reported => {}
        }
    }

    fn work(&mut self, frontier: AntichainRef<Moment>) -> Result<(), Trouble> {
        self.sink.moved = 0;
        let progress = self.advance(frontier);
        let last = self.engine.panes.finish();
        self.sink.give(last);
        self.count();
        self.sink.flow.update(self.input.fresh_bytes());
        if progress? == Progress::Paused {
            return Ok(());
        }
        if frontier.is_empty() {
            self.sink.capability = None;
            return Ok(());
        }
        self.engine.follow();
        self.hold();
        self.set_alarm()
    }

    /// Does all that can be done now.
    fn advance(&mut self, frontier: AntichainRef<Moment>) -> Result<Progress, Trouble> {
        loop {
            let now = self.clock.now();
            if !self.answered(now)? || self.engine.fire_touched(now, &mut self.sink)? == Progress::Paused {
                return Ok(Progress::Paused);
            }
            if self.intake.is_some() || self.input.has(self.epoch) {
                if !self.sink.has_room() {
                    return Ok(Progress::Paused);
                }
                self.take(now)?;
                continue;
            }
            // Before the next epoch: what the watermark ends in one belongs to it. It is past nothing that waits. And
            // before the clock: a window that has ended fires on time.
            self.engine.watermark = self.engine.watermark.max(self.reached(frontier));
            if self.engine.wake_by_watermark(now, &mut self.sink)? == Progress::Paused {
                return Ok(Progress::Paused);
            }
            if self.engine.wake_by_clock(now, &mut self.sink)? == Progress::Paused {
                return Ok(Progress::Paused);
            }
            let Some(next) = self.input.next(self.epoch, frontier) else { return Ok(Progress::Done) };
            let last = self.engine.panes.finish();
            self.sink.give(last);
            self.engine.follow();
            self.step(next)?;
            self.hold();
        }
    }

    /// Steps to the next epoch: nothing that belongs to this one is left.
    fn step(&mut self, next: u64) -> Result<(), Trouble> {
        if let Some(border) = self.saver.border(self.epoch, next) {
            let (watermark, output) = (self.engine.watermark.0, self.engine.output.0);
            let store = Some(self.engine.windows.freeze()?);
            border.save(PartHead { watermark, output, ..self.head.clone() }, Frozen { store, carried: None });
        }
        self.epoch = next;
        Ok(())
    }

    /// Takes in the next part of the batch at hand, or of the next one, or asks the SDK about its windows first.
    fn take(&mut self, now: Timestamp) -> Result<(), Trouble> {
        if self.intake.is_none() {
            self.intake = self.next_batch()?.map(Intake::new);
        }
        let Some(intake) = &self.intake else { return Ok(()) };
        let questions = self.engine.questions(intake)?;
        match &mut self.merges {
            Some(merges) if !questions.is_empty() => {
                let windows = questions.iter().map(Question::windows).collect();
                merges.ask(Moment::new(self.epoch, self.engine.output), windows);
                self.asking = Some(questions);
                Ok(())
            }
            _ => {
                let mut answers = Vec::with_capacity(questions.len());
                for question in questions {
                    let merged = question.sessions()?;
                    answers.push((question, merged));
                }
                self.take_answered(answers, now)
            }
        }
    }

    fn take_answered(&mut self, answers: Vec<(Question, Merged)>, now: Timestamp) -> Result<(), Trouble> {
        let Some(intake) = &mut self.intake else { return Ok(()) };
        self.engine.take(intake, answers, now)?;
        if intake.is_over() {
            self.intake = None;
        }
        Ok(())
    }

    /// The next batch of the epoch.
    fn next_batch(&mut self) -> Result<Option<Batch>, Trouble> {
        // One byte is reached by any batch.
        let taken = self.input.take(self.epoch, usize::MAX, 1)?;
        let batch = taken.and_then(|taken| taken.batches.into_iter().next());
        self.sink.moved += batch.as_ref().map_or(0, |batch| batch.data().len());
        Ok(batch)
    }

    /// Takes in what the SDK was asked about. False while there is no answer.
    fn answered(&mut self, now: Timestamp) -> Result<bool, Trouble> {
        let (Some(merges), Some(_)) = (&mut self.merges, &self.asking) else { return Ok(true) };
        let Some(answers) = merges.poll().map_err(|error| error.map_or(Trouble::Reported, Trouble::Malformed))? else {
            return Ok(false);
        };
        if let Some(questions) = self.asking.take() {
            self.take_answered(questions.into_iter().zip(answers).collect(), now)?;
        }
        Ok(true)
    }

    /// How far the watermark is: what comes, and what waits for its epoch, may be as old as this.
    fn reached(&self, frontier: AntichainRef<Moment>) -> Timestamp {
        let waiting = self.input.least_watermark().map(Timestamp);
        time::watermark(frontier).into_iter().chain(waiting).min().unwrap_or(Timestamp(i64::MAX))
    }

    /// Moves the capability to where the next output may be.
    fn hold(&mut self) {
        let moment = Moment::new(self.epoch, self.engine.output);
        if let Some(capability) = &mut self.sink.capability
            && *capability.time() != moment
        {
            capability.downgrade(&moment);
        }
    }

    /// Sees to it that the operator is activated when a window is due.
    fn set_alarm(&mut self) -> Result<(), Trouble> {
        let Some(due) = self.engine.windows.next_due()? else { return Ok(()) };
        let Some(wait) = self.clock.wait(due) else { return Ok(()) };
        self.alarm.set(wait);
        Ok(())
    }

    /// Tells the job of elements that were dropped.
    fn count(&mut self) {
        let Dropped { late, closed } = std::mem::take(&mut self.engine.dropped);
        for (count, (namespace, name)) in [(late, LATE), (closed, CLOSED)] {
            if count > 0 {
                self.observer.counted(self.epoch, Metric::counter(&self.name, namespace, name, count));
            }
        }
    }
}
