//! Side inputs: a collection gathered into one table per process, and the barrier that says how far it has come.
//!
//! Each process has one table, filled by its first worker from a copy of every batch. The operator's output never
//! carries data; its frontier is the barrier. A Timely frontier speaks for all workers, so when it has passed a moment
//! every process's table has what came before. The table of a bounded collection is frozen, and read, once the barrier's
//! frontier is empty; others are read while they grow ([`super::Gate`]).

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;

use super::super::alarm::Alarm;
use super::super::edge::{Edge, Output, exchange, moment};
use super::super::queue::EpochInput;
use super::super::route::{self, Route};
use super::super::run::Reporter;
use crate::checkpoint::{Frozen, PartHead, Saver};
use crate::clock::Clock;
use crate::element::Batch;
use crate::memory::Budget;
use crate::side_input::{GrowingError, GrowingTable, SideInputTable};
use crate::state::StoreError;
use crate::time::{self, Moment, Timestamp};

/// Fills `table` from `input`; the result is the barrier.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    name: &str,
    input: Edge<'scope>,
    table: Arc<SideInputTable>,
    (processes, workers): (usize, usize),
    reporter: Rc<Reporter>,
) -> Edge<'scope> {
    let copies = route::address(scope, name, input, Route::ToEveryProcess { processes, workers }, Rc::clone(&reporter));
    let mut builder = OperatorBuilder::new(format!("{name}/Materialise"), scope);
    let mut input = builder.new_input(copies, exchange());
    let (_output, barrier) = Output::new(&mut builder);
    let fills = scope.index().is_multiple_of(workers);
    let name = name.to_string();
    builder.build(move |capabilities| {
        let mut capabilities: CapabilitySet<_> = capabilities.into_iter().collect();
        let (mut failed, mut frozen) = (false, false);
        move |frontiers| {
            input.for_each(|_, batch| {
                if let Err(error) = table.append(batch) {
                    reporter.storage(&name, &error);
                    failed = true;
                }
            });
            let frontier = frontiers[0].frontier();
            if time::watermark(frontier).is_none() && !frozen && fills && !failed {
                frozen = true;
                if let Err(error) = table.freeze() {
                    reporter.storage(&name, &error);
                    failed = true;
                }
            }
            // After a failure the barrier stays closed: nobody may read a table that lacks elements. Otherwise it goes
            // with the input, so that nothing here keeps an epoch open.
            if !failed {
                capabilities.downgrade(frontier.iter());
            }
        }
    });
    barrier
}

/// A table that is read while it grows, and how it is filled.
pub(crate) struct Growth {
    pub(crate) table: Arc<GrowingTable>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) budget: Budget,
    /// Saves it, on one worker of the job.
    pub(crate) saver: Option<Saver>,
    /// What its part says of itself.
    pub(crate) head: PartHead,
    /// The epoch that the job starts in.
    pub(crate) first_epoch: u64,
    /// What comes in an epoch is shown in it, and not before: a checkpoint must have nothing of later ones.
    pub(crate) by_epoch: bool,
}

/// Fills a table that is read while it grows, from `input`; the result is the barrier.
pub(crate) fn grow<'scope>(
    scope: Scope<'scope, Moment>,
    name: &str,
    input: Edge<'scope>,
    growth: Growth,
    (processes, workers): (usize, usize),
    reporter: Rc<Reporter>,
) -> Edge<'scope> {
    let copies = route::address(scope, name, input, Route::ToEveryProcess { processes, workers }, Rc::clone(&reporter));
    let mut builder = OperatorBuilder::new(format!("{name}/Materialise"), scope);
    let mut input = builder.new_input(copies, exchange());
    let (_output, barrier) = Output::new(&mut builder);
    let alarm = Alarm::new(scope.activator_for(builder.operator_info().address));
    let fills = scope.index().is_multiple_of(workers);
    let name = name.to_string();
    let mut filler = Filler { epoch: growth.first_epoch, later: EpochInput::new(&growth.budget), growth, alarm, fills };
    builder.build_reschedule(move |capabilities| {
        let mut capabilities: CapabilitySet<_> = capabilities.into_iter().collect();
        let mut failed = false;
        move |frontiers| {
            let mut done = Ok(());
            input.for_each(|capability, batch| {
                if done.is_ok()
                    && let Some(moment) = moment(capability.stamp())
                {
                    done = filler.take(moment, std::mem::take(batch));
                }
            });
            let frontier = frontiers[0].frontier();
            if !failed && done.is_ok() {
                done = filler.advance(frontier);
            }
            if let Err(error) = done {
                failed = true;
                match error {
                    Fault::Growing(GrowingError::Element(error)) => reporter.malformed(&name, &error),
                    Fault::Growing(GrowingError::Store(error)) | Fault::Store(error) => {
                        reporter.storage(&name, &std::io::Error::other(error));
                    }
                    Fault::Storage(error) => reporter.storage(&name, &error),
                }
            }
            // After a failure the barrier stays where it is: nobody may read a table that lacks elements.
            if !failed {
                let held = filler.later.moments();
                let mut held: Antichain<Moment> = held.collect();
                held.extend(frontier.iter().copied());
                capabilities.downgrade(held.iter());
            }
            !capabilities.is_empty()
        }
    });
    barrier
}

/// Why a table cannot be filled.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Growing(#[from] GrowingError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] std::io::Error),
}

struct Filler {
    growth: Growth,
    /// The epoch whose elements are in the table, and those before.
    epoch: u64,
    /// Elements of later epochs.
    later: EpochInput,
    alarm: Alarm,
    /// This worker fills its process's table.
    fills: bool,
}

impl Filler {
    fn take(&mut self, moment: Moment, batch: Batch) -> Result<(), Fault> {
        if self.growth.by_epoch && moment.epoch > self.epoch {
            return Ok(self.later.push(moment, batch)?);
        }
        Ok(self.growth.table.append(&batch, self.growth.clock.now())?)
    }

    /// Moves the table's time on, epoch by epoch.
    fn advance(&mut self, frontier: AntichainRef<Moment>) -> Result<(), Fault> {
        loop {
            let Growth { table, clock, .. } = &self.growth;
            while let Some(taken) = self.later.take(self.epoch, usize::MAX, 1)? {
                for batch in taken.batches {
                    table.append(&batch, clock.now())?;
                }
            }
            if self.fills {
                // Before the barrier moves, because the clock may move with the epoch.
                let later = self.later.least_watermark().map(Timestamp);
                let watermark = time::watermark(frontier).into_iter().chain(later).min();
                if let Some(again) = table.advance(watermark, clock.now())?
                    && let Some(wait) = clock.wait(again)
                {
                    self.alarm.set(wait);
                }
            }
            let Some(next) = self.later.next(self.epoch, frontier) else { return Ok(()) };
            if let Some(saver) = &self.growth.saver
                && let Some(border) = saver.border(self.epoch, next)
            {
                let store = Some(table.freeze()?);
                border.save(self.growth.head.clone(), Frozen { store, carried: None });
            }
            self.epoch = next;
        }
    }
}
