//! Side inputs: a collection gathered into one table per process, and the barrier that says it is whole.
//!
//! Each process has one table, filled by its first worker from a copy of every batch. The operator's output never
//! carries data; its frontier is the barrier. A Timely frontier speaks for all workers, so when it is empty every
//! process has frozen its table.

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::edge::{Edge, Output, exchange};
use super::route::{self, Route};
use super::run::Reporter;
use crate::side_input::SideInputTable;
use crate::time::Moment;

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
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        let mut failed = false;
        move |frontiers| {
            input.for_each(|_, batch| {
                if let Err(error) = table.append(batch) {
                    reporter.storage(&name, &error);
                    failed = true;
                }
            });
            // After a failure the barrier stays closed: nobody may read a table that lacks elements.
            if frontiers[0].is_empty() && capability.is_some() && !failed {
                if fills && let Err(error) = table.freeze() {
                    reporter.storage(&name, &error);
                    failed = true;
                    return;
                }
                capability = None;
            }
        }
    });
    barrier
}
