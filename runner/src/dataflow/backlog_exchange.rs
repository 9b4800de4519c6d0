//! Tells the processes of a job which operators of each have enough to do, for back-pressure ([`super::flow`]).
//!
//! The first worker of a process tells all of them, in one element: its index, then for each node the first epoch in which
//! the limit is reached, eight bytes each, big endian. It tells whenever that has changed, and lets go when nothing is left
//! in the whole dataflow. That it stands at the watermark [`NOTHING_MORE`] says that it is no work of any epoch.

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::edge::{Output, exchange};
use super::flow::{Backlogs, ROOM, Shape};
use super::quiescence::End;
use super::route::{self, Route};
use super::run::Reporter;
use crate::element::Batch;
use crate::time::{Moment, NOTHING_MORE, Timestamp};

/// Builds the exchange on one worker. It is to be told how far everything else is.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    backlogs: &Arc<Backlogs>,
    shape: Shape,
    reporter: Rc<Reporter>,
) -> End {
    let Shape { processes, workers } = shape;
    let mut builder = OperatorBuilder::new("Backlogs".into(), scope);
    let (mut output, told) = Output::new(&mut builder);
    let address = builder.operator_info().address;
    let (process, first) = (scope.index() / workers, scope.index().is_multiple_of(workers));
    if first {
        backlogs.on_news(scope.worker().sync_activator_for(address.to_vec()));
    }
    let end = End::new(scope.activator_for(address));
    let over = end.over();
    let mine = Arc::clone(backlogs);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop().filter(|_| first);
        let mut last = vec![ROOM; mine.all().len()];
        move |_frontiers| {
            if over.get() {
                capability = None;
            }
            let Some(held) = &mut capability else { return };
            let moment = Moment { epoch: 0, watermark: NOTHING_MORE };
            if *held.time() != moment {
                held.downgrade(&moment);
            }
            let now: Vec<u64> = mine.all().iter().map(|backlog| backlog.full_from()).collect();
            if now != last {
                output.give(held, encode(process, &now));
                last = now;
            }
        }
    });
    let told = route::address(scope, "Backlogs", told, Route::ToEveryProcess { processes, workers }, reporter);
    let mut builder = OperatorBuilder::new("Backlogs/Take".into(), scope);
    let mut input = builder.new_input(told, exchange());
    let backlogs = Arc::clone(backlogs);
    builder.build(move |_capabilities| {
        move |_frontiers| {
            input.for_each(|_, batch| {
                for (sender, nodes) in batch.elements().filter_map(decode) {
                    if sender != process {
                        backlogs
                            .all()
                            .iter()
                            .zip(nodes)
                            .for_each(|(backlog, full_from)| backlog.told(sender, full_from));
                    }
                }
            });
        }
    });
    end
}

fn encode(process: usize, nodes: &[u64]) -> Batch {
    let words = std::iter::once(process as u64).chain(nodes.iter().copied());
    let bytes: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
    let end = bytes.len() as u32;
    Batch::new(bytes.into(), [end], Timestamp::MIN)
}

fn decode(element: &[u8]) -> Option<(usize, impl Iterator<Item = u64>)> {
    let mut words = element.chunks_exact(8).filter_map(|word| word.first_chunk()).map(|word| u64::from_be_bytes(*word));
    Some((words.next()? as usize, words))
}
