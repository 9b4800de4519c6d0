//! The source of epochs in a job that takes checkpoints.
//!
//! One operator a worker stands at the epoch that was named last ([`Checkpoints::begin`]), and its stream is a part of
//! every source's: so whatever a source's own input has come to, everything behind it sees which epoch it is in. It stands
//! at the watermark [`NOTHING_MORE`], and holds no element back.
//!
//! When all edges stand at that watermark, on all workers, nothing is left that an epoch could be about: it lets go, and
//! the dataflow completes.

use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::edge::{Edge, Output};
use super::quiescence::End;
use crate::checkpoint::Checkpoints;
use crate::time::{Moment, NOTHING_MORE};

/// What the operator gives.
pub(crate) struct Epochs<'scope> {
    /// Carries no data.
    pub(crate) edge: Edge<'scope>,
    /// To be told how far everything is.
    pub(crate) end: End,
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
    let end = End::new(scope.activator_for(address));
    let over = end.over();
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
