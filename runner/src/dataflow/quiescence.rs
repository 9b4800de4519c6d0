//! Tells a source how far the whole dataflow is: the oldest epoch of which anything may still happen, anywhere.
//!
//! The frontier that Timely shows one worker speaks for all workers of all processes, so one operator that has every
//! edge for an input sees the whole. An operator whose outputs are no edges of the plan gives one that carries no data.

use std::cell::Cell;
use std::rc::Rc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::edge::Edge;
use crate::time::{self, Moment};

/// What the source sees.
#[derive(Clone)]
pub(crate) struct Quiescence {
    reached: Rc<Cell<u64>>,
    source: Activator,
}

impl Quiescence {
    /// For a source on the same worker, to be activated when the dataflow has got further.
    pub(crate) fn new(source: Activator) -> Quiescence {
        Quiescence { reached: Rc::default(), source }
    }

    /// All effects of older epochs are over.
    pub(crate) fn reached(&self) -> u64 {
        self.reached.get()
    }
}

impl Watcher for Quiescence {
    fn see(&mut self, everything: AntichainRef<'_, Moment>) {
        // Empty means that the source, too, has come to its end.
        if let Some(epoch) = time::epoch(everything)
            && epoch > self.reached()
        {
            self.reached.set(epoch);
            self.source.activate();
        }
    }
}

/// For an operator that is about no work of its own: whether nothing is left but what stands at
/// [`time::NOTHING_MORE`], on all workers, so that it may let go.
pub(crate) struct End {
    over: Rc<Cell<bool>>,
    source: Activator,
}

impl End {
    /// For an operator on the same worker, to be activated then.
    pub(crate) fn new(source: Activator) -> End {
        End { over: Rc::default(), source }
    }

    /// True once it may let go.
    pub(crate) fn over(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.over)
    }
}

impl Watcher for End {
    fn see(&mut self, everything: AntichainRef<'_, Moment>) {
        if time::watermark(everything).is_none() && !self.over.replace(true) {
            self.source.activate();
        }
    }
}

/// Is told how far everything is.
pub(crate) trait Watcher: 'static {
    /// The frontier of all edges together has changed.
    fn see(&mut self, everything: AntichainRef<'_, Moment>);
}

/// Builds what watches `edges`, which must be those of all operators.
pub(crate) fn watch<'scope>(
    scope: Scope<'scope, Moment>,
    edges: Vec<Edge<'scope>>,
    mut watchers: Vec<Box<dyn Watcher>>,
) {
    let everything = scope.concatenate(edges);
    let mut builder = OperatorBuilder::new("Quiescence".into(), scope);
    let mut input = builder.new_input(everything, Pipeline);
    builder.build(move |_capabilities| {
        move |frontiers| {
            input.for_each(|_, _| {});
            watchers.iter_mut().for_each(|watcher| watcher.see(frontiers[0].frontier()));
        }
    });
}
