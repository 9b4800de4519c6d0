//! Moving batches between workers: by key, evenly, or one copy to every process.
//!
//! Routing is two operators: one that makes a batch for each target, and whatever receives them over
//! [`super::edge::exchange`]. With one worker the first is left out.

use std::rc::Rc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::edge::{Edge, Output, exchange};
use super::run::Reporter;
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementError};
use crate::state::{key_group, worker_of};
use crate::time::Moment;

/// How batches are spread over the workers.
pub(crate) enum Route {
    /// Equal encoded keys of `KV` elements go to the same worker.
    ByKey(ElementCoder),
    /// Every worker gets about as many elements.
    Evenly,
    /// One copy to the first worker of every process, of `workers` each.
    ToEveryProcess { processes: usize, workers: usize },
}

/// Adds the operator that addresses batches. The receiver must read the result with [`exchange`].
pub(crate) fn address<'scope>(
    scope: Scope<'scope, Moment>,
    name: &str,
    input: Edge<'scope>,
    route: Route,
    reporter: Rc<Reporter>,
) -> Edge<'scope> {
    let (peers, index) = (scope.peers(), scope.index());
    if peers == 1 {
        return input;
    }
    let mut builder = OperatorBuilder::new(format!("{name}/Route"), scope);
    let mut input = builder.new_input(input, Pipeline);
    let (mut output, stream) = Output::new(&mut builder);
    builder.set_notify_for(0, timely::progress::operate::FrontierInterest::Never);
    let name = name.to_string();
    builder.build(move |_capabilities| {
        let mut parts: Vec<BatchBuilder> = (0..peers).map(|_| BatchBuilder::default()).collect();
        let mut next = index;
        let mut failed = Vec::new();
        move |_frontiers| {
            input.for_each(|capability, batch| {
                let batch = std::mem::take(batch);
                match &route {
                    Route::ByKey(coder) => {
                        if let Err(error) = by_key(coder, &batch, &mut parts) {
                            reporter.malformed(&name, &error);
                            // Kept for good: nothing downstream may take what is missing for the end of input.
                            failed.push(capability.retain_stamp(0));
                            return;
                        }
                        for (target, part) in parts.iter_mut().enumerate() {
                            output.forward(&capability, part.finish().to(target));
                        }
                    }
                    Route::Evenly => {
                        let share = batch.len().div_ceil(peers);
                        let mut rest = batch;
                        while !rest.is_empty() {
                            let tail = rest.split_off(share);
                            output.forward(&capability, rest.to(next % peers));
                            rest = tail;
                            next += 1;
                        }
                    }
                    Route::ToEveryProcess { processes, workers } => {
                        for process in 0..*processes {
                            output.forward(&capability, batch.clone().to(process * workers));
                        }
                    }
                }
            });
        }
    });
    stream
}

fn by_key(coder: &ElementCoder, batch: &Batch, parts: &mut [BatchBuilder]) -> Result<(), ElementError> {
    for element in batch.elements() {
        let view = coder.parse(element)?;
        let (key, _) = coder.value.key_value(view.value)?;
        let target = worker_of(key_group(key), parts.len());
        parts[target].push(element, view.timestamp);
    }
    Ok(())
}

/// Redistribute: moves elements and changes nothing in them.
pub(crate) fn redistribute<'scope>(
    scope: Scope<'scope, Moment>,
    name: &str,
    input: Edge<'scope>,
    route: Route,
    reporter: Rc<Reporter>,
) -> Edge<'scope> {
    if scope.peers() == 1 {
        return input;
    }
    let addressed = address(scope, name, input, route, reporter);
    let mut builder = OperatorBuilder::new(name.to_string(), scope);
    let mut input = builder.new_input(addressed, exchange());
    let (mut output, stream) = Output::new(&mut builder);
    builder.set_notify_for(0, timely::progress::operate::FrontierInterest::Never);
    builder.build(move |_capabilities| {
        move |_frontiers| input.for_each(|capability, batch| output.forward(&capability, std::mem::take(batch)))
    });
    stream
}
