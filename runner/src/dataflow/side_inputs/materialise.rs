//! Side inputs: a collection gathered into one table per process, and the barrier that says how far it has come.
//!
//! Each process has one table, filled by its first worker from a copy of every batch. The operator's output never
//! carries data; its frontier is the barrier. A Timely frontier speaks for all workers, so when it has passed a moment
//! every process's table has what came before. The table of a bounded collection is frozen, and read, once the barrier's
//! frontier is empty; others are read while they grow ([`super::Gate`]).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::Scope;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::super::edge::{Edge, Output, exchange};
use super::super::route::{self, Route};
use super::super::run::Reporter;
use crate::clock::Clock;
use crate::side_input::{GrowingError, GrowingTable, SideInputTable};
use crate::time::{self, Moment};

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
        let mut failed = false;
        move |frontiers| {
            input.for_each(|_, batch| {
                if let Err(error) = table.append(batch) {
                    reporter.storage(&name, &error);
                    failed = true;
                }
            });
            let frontier = frontiers[0].frontier();
            if frontier.is_empty()
                && !capabilities.is_empty()
                && fills
                && !failed
                && let Err(error) = table.freeze()
            {
                reporter.storage(&name, &error);
                failed = true;
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

/// Fills a `table` that is read while it grows, from `input`; the result is the barrier.
pub(crate) fn grow<'scope>(
    scope: Scope<'scope, Moment>,
    name: &str,
    input: Edge<'scope>,
    (table, clock): (Arc<GrowingTable>, Arc<dyn Clock>),
    (processes, workers): (usize, usize),
    reporter: Rc<Reporter>,
) -> Edge<'scope> {
    let copies = route::address(scope, name, input, Route::ToEveryProcess { processes, workers }, Rc::clone(&reporter));
    let mut builder = OperatorBuilder::new(format!("{name}/Materialise"), scope);
    let mut input = builder.new_input(copies, exchange());
    let (_output, barrier) = Output::new(&mut builder);
    let activator = scope.activator_for(builder.operator_info().address);
    let fills = scope.index().is_multiple_of(workers);
    let name = name.to_string();
    builder.build_reschedule(move |capabilities| {
        let mut capabilities: CapabilitySet<_> = capabilities.into_iter().collect();
        let mut failed = false;
        move |frontiers| {
            let mut done = Ok(());
            input.for_each(|_, batch| {
                if done.is_ok() {
                    done = table.append(batch, clock.now());
                }
            });
            let frontier = frontiers[0].frontier();
            if fills && !failed && done.is_ok() {
                // Before the barrier moves, because the clock may move with the epoch.
                done = table.advance(time::watermark(frontier), clock.now()).map(|again| {
                    if let Some(wait) = again.and_then(|again| clock.wait(again)) {
                        activator.activate_after(wait.max(Duration::from_millis(1)));
                    }
                });
            }
            if let Err(error) = done {
                failed = true;
                match error {
                    GrowingError::Store(error) => reporter.storage(&name, &std::io::Error::other(error)),
                    GrowingError::Element(error) => reporter.malformed(&name, &error),
                }
            }
            // After a failure the barrier stays where it is: nobody may read a table that lacks elements.
            if !failed {
                capabilities.downgrade(frontier.iter());
            }
            !capabilities.is_empty()
        }
    });
    barrier
}
