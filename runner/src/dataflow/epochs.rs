//! The source of epochs in a job that takes checkpoints.
//!
//! One operator a worker stands at the epoch that was named last ([`Checkpoints::begin`]), and its stream is a part of
//! every source's: so whatever a source's own input has come to, everything behind it sees which epoch it is in. It stands
//! at the watermark [`NOTHING_MORE`], and holds no element back.
//!
//! When all edges stand at that watermark, on all workers, nothing is left that an epoch could be about: it lets go, and
//! the dataflow completes.

use std::cell::Cell;
use std::rc::Rc;

use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::edge::{Edge, Output};
use super::quiescence::Watcher;
use crate::checkpoint::Checkpoints;
use crate::time::{self, Moment, NOTHING_MORE};

/// What the operator gives.
pub(crate) struct Epochs<'scope> {
    /// Carries no data.
    pub(crate) edge: Edge<'scope>,
    /// To be told how far everything is.
    pub(crate) end: End,
}

/// Says when everything is over.
pub(crate) struct End {
    over: Rc<Cell<bool>>,
    source: Activator,
}

impl Watcher for End {
    fn see(&mut self, everything: AntichainRef<'_, Moment>) {
        if time::watermark(everything).is_none() && !self.over.replace(true) {
            self.source.activate();
        }
    }
}

/// Builds the source of epochs on one worker.
pub(crate) fn build<'scope>(scope: Scope<'scope, Moment>, checkpoints: &Checkpoints) -> Epochs<'scope> {
    let mut builder = OperatorBuilder::new("Epochs".into(), scope);
    let (_output, edge) = Output::new(&mut builder);
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    checkpoints.on_change(move || {
        // Fails only when the worker is gone.
        let _ = wake.activate();
    });
    let over = Rc::new(Cell::new(false));
    let end = End { over: Rc::clone(&over), source: scope.activator_for(address) };
    let checkpoints = checkpoints.clone();
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        move |_frontiers| {
            if over.get() {
                capability = None;
            }
            if let Some(held) = &mut capability {
                let moment = Moment { epoch: checkpoints.epoch(), watermark: NOTHING_MORE };
                if *held.time() != moment {
                    held.downgrade(&moment);
                }
            }
        }
    });
    Epochs { edge, end }
}
