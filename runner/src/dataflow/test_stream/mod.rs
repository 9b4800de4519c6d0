//! TestStream: the source whose events are played one by one, each when all effects of the one before are over.
//!
//! One operator on the job's first worker plays every TestStream of the plan. An event is played in an epoch of its own:
//! what it emits has that epoch, then all outputs step to the next one. Once nothing in the whole dataflow is left of
//! the older epoch ([`super::quiescence`] tells), its effects are over, on every worker of every process, and the next
//! event may come. The first epoch is nobody's event: it is over when the bounded branches beside the TestStream are. A
//! source without an end beside it goes with the epochs, and is no event's effect: what it has left to do is work of the
//! next epoch.
//! Several TestStreams share the epochs: each plays one event in a turn, in the plan's order.
//!
//! Processing time. That the clock moves on is told to every process by an output of the operator, whose elements are
//! the milliseconds to add; [`build_clock`] adds them. This takes two epochs: in the first the clocks move, and those
//! operators that have timers due fire them before they leave the second.
//!
//! The end. After the last event the watermarks move to the end of time, and when that is over the clock does too, so
//! that processing-time timers that are still pending fire. In this order, as a pipeline that just ends would do (and as
//! Beam's Prism does): a trigger on processing time that was not reached must not fire before the window's last pane,
//! while a timer that was set must not be lost. Only then the outputs close.
//!
//! A rejected alternative: operators that count what is in flight and report it. Progress tracking does that already.

mod player;
mod service;

#[cfg(test)]
mod proof;
#[cfg(test)]
mod proof_timers;
#[cfg(test)]
mod proof_windows;

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::Job;
use super::edge::{Edge, Output, exchange};
use super::quiescence::Quiescence;
use super::route::{self, Route};
use super::run::Reporter;
use crate::clock::TestClock;
use crate::plan::{CollectionId, Node};
use crate::time::Moment;

use player::{Player, Port, Stream};
use service::Events;
pub use service::{TestEventService, TestEventSink};

/// What the sources give.
pub(crate) struct Sources<'scope> {
    /// Every output of every TestStream.
    pub(crate) outputs: Vec<(CollectionId, Edge<'scope>)>,
    /// Carries no data: to be a part of every other source, so that they go with the epochs.
    pub(crate) epochs: Edge<'scope>,
    /// Carries no data; the clocks of all processes have moved as far as its frontier says.
    pub(crate) clocks: Edge<'scope>,
    /// To be told how far the whole dataflow is.
    pub(crate) quiescence: Quiescence,
}

/// Builds the source of all TestStreams of the job's plan.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    job: &Job,
    clock: Arc<TestClock>,
    shape: (usize, usize),
    reporter: Rc<Reporter>,
) -> Sources<'scope> {
    let mut builder = OperatorBuilder::new("TestStream".into(), scope);
    let address = builder.operator_info().address;
    let (ticks, ticking) = Output::new(&mut builder);
    let (roots, epochs) = Output::new(&mut builder);
    let mine = scope.index() == 0;
    let mut outputs = Vec::new();
    let mut streams = Vec::new();
    for node in &job.plan.nodes {
        let Node::TestStream { name, events, outputs: tags } = node else { continue };
        let mut ports = Vec::new();
        for (tag, collection) in tags {
            let (output, edge) = Output::new(&mut builder);
            ports.push((tag.clone(), Port::new(output)));
            outputs.push((*collection, edge));
        }
        let tags = tags.iter().map(|(tag, _)| tag.clone()).collect();
        let wake = scope.worker().sync_activator_for(address.to_vec());
        let events = if mine { Events::open(events, tags, &*job.test_events, wake) } else { Events::default() };
        streams.push(Stream::new(name.clone(), events, ports));
    }
    if mine {
        let wake = scope.worker().sync_activator_for(address.to_vec());
        // Fails only when the worker is gone.
        job.drain.on_request(move || {
            let _ = wake.activate();
        });
    }
    let quiescence = Quiescence::new(scope.activator_for(address));
    let drain = job.drain.clone();
    let mut player =
        Player::new(Port::new(ticks), Port::of_epochs(roots), streams, quiescence.clone(), Rc::clone(&reporter));
    builder.build(move |capabilities| {
        if mine {
            player.begin(capabilities);
        }
        move |_frontiers| player.visit(drain.requested())
    });
    Sources { outputs, epochs, clocks: build_clock(scope, ticking, clock, shape, reporter), quiescence }
}

/// Moves the clock of every process by the milliseconds that come in.
fn build_clock<'scope>(
    scope: Scope<'scope, Moment>,
    ticks: Edge<'scope>,
    clock: Arc<TestClock>,
    (processes, workers): (usize, usize),
    reporter: Rc<Reporter>,
) -> Edge<'scope> {
    let ticks = route::address(scope, "TestStream", ticks, Route::ToEveryProcess { processes, workers }, reporter);
    let mut builder = OperatorBuilder::new("TestStream/Clock".into(), scope);
    let mut input = builder.new_input(ticks, exchange());
    let (_output, done) = Output::new(&mut builder);
    builder.build(move |_capabilities| {
        move |_frontiers| {
            input.for_each(|_, batch| {
                for tick in batch.elements().filter_map(|tick| tick.first_chunk()) {
                    clock.advance(i64::from_be_bytes(*tick));
                }
            });
        }
    });
    done
}
