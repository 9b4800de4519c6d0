//! GroupByKey over unbounded input: the values of a key and window are kept in a store, and come out when the window's
//! trigger says so.
//!
//! The parts: [`record`] and [`windows`] are what is kept, [`intake`] takes elements in and merges windows, [`engine`]
//! decides what fires, [`panes`] writes panes, and [`operator`] is all of it in a dataflow: epochs, watermark, clock and
//! room. Only the last knows of Timely.
//!
//! # Time
//!
//! The operator goes by the watermark that it has worked off, not by the one that its input has reached: what came is
//! taken in first, then the windows are woken that the watermark has passed, and only then does its output follow. So
//! nothing is late because of when the operator was scheduled, and the pane of a window that has just ended leaves while
//! the output watermark still allows it to be on time.
//!
//! Elements that come on time hold the output watermark at the timestamp of the pane that they will be in. What is late
//! holds nothing; its pane gets the window's end for a timestamp, which may be late downstream too. It is never late
//! beyond what the window allows, because the output watermark waits for the windows that expire.
//!
//! When both have moved on, the watermark goes before the clock: a pane of synchronized processing time leaves with what
//! was sent upstream at the same moment, and the last pane of an upstream window comes with the watermark that ends it.
//!
//! Work of an epoch is done in it: input of later epochs waits, and the operator steps on when its input has, nothing is
//! left to do and the clock shows nothing that is due. Windows stay open across epochs; what they hold moves along.
//!
//! # Merging
//!
//! Windows merge when an element comes that brings a new one, as in Beam's own runners. Sessions are merged here. For
//! other windows the SDK is asked; meanwhile all else waits, because the watermark may not pass what it is about to
//! say. (Letting other keys go on would need a watermark for every key.)

mod engine;
mod intake;
mod operator;
mod panes;
mod record;
mod wakes;
mod windows;

#[cfg(test)]
mod proof;
#[cfg(test)]
mod transcripts;

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::JobObserver;
use super::edge::{Edge, Output, exchange, moment};
use super::group::Grouping;
use super::links::Links;
use super::merge::WindowMerges;
use super::restore::Parts;
use super::route::{self, Route};
use crate::checkpoint::{PartHead, PartKind, Saver};
use crate::clock::Clock;
use crate::element::{ElementCoder, ElementError};
use crate::state::{MemoryStore, StoreError, Stores};
use crate::time::Moment;
use crate::windowing::Windowing;

use engine::Engine;
use operator::WindowedOperator;

/// What a windowed grouping needs besides a [`Grouping`].
pub(crate) struct Means {
    pub(crate) stores: Stores,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn JobObserver>,
}

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Malformed(#[from] ElementError),
    #[error(transparent)]
    Storage(#[from] std::io::Error),
    #[error("it was reported already")]
    Reported,
}

/// Builds the grouping. `merges` makes what asks the SDK, for custom merging windows.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    grouping: Grouping,
    means: Means,
    input: Edge<'scope>,
    merges: impl FnOnce(Rc<[usize]>) -> Option<WindowMerges>,
    links: Links,
) -> Edge<'scope> {
    let by_key = Route::ByKey(grouping.input.clone());
    let routed = route::address(scope, &grouping.name, input, by_key, Rc::clone(&links.reporter));
    let mut builder = OperatorBuilder::new(grouping.name.clone(), scope);
    let mut input = builder.new_input(routed, exchange());
    let (output, stream) = Output::new(&mut builder);
    let address = builder.operator_info().address;
    let merges = merges(Rc::clone(&address));
    let flow = links.flow.waking(scope.worker().sync_activator_for(address.to_vec()));
    let links = Links { flow, ..links };
    let head = PartHead { form: form(&grouping.input, &grouping.windowing), ..PartHead::of(PartKind::Grouping) };
    // Every worker builds its operators, come what may.
    let (engine, trouble) = match engine(&grouping, &means, &head, &links.saver) {
        Ok(engine) => (engine, None),
        Err(trouble) => (Engine::new(&grouping, Box::<MemoryStore>::default(), 0), Some(trouble)),
    };
    let activator = scope.activator_for(address);
    let operator = WindowedOperator::new(grouping, engine, head, means, output, activator, links);
    let mut operator = operator.merging(merges);
    if let Some(trouble) = trouble {
        operator.fail(&trouble);
    }
    builder.build_reschedule(move |mut capabilities| {
        operator.begin(capabilities.pop());
        move |frontiers| {
            input.for_each(|capability, batch| {
                if let Some(moment) = moment(capability.stamp()) {
                    operator.enqueue(moment, std::mem::take(batch));
                }
            });
            operator.visit(frontiers[0].frontier())
        }
    });
    stream
}

/// What the state of a grouping is written for: of another form it is not read.
pub(crate) fn form(input: &ElementCoder, windowing: &Windowing) -> String {
    format!("{}, in {windowing}{}", input.value, windowing.firing())
}

/// The engine on the store that the job starts with.
fn engine(grouping: &Grouping, means: &Means, head: &PartHead, saver: &Saver) -> Result<Engine, Trouble> {
    let name = format!("group-{}", saver.shard());
    let settling = means.clock.settling();
    let parts = Parts::of(saver, head)?;
    let store = parts.open(&means.stores, &name, record::group_of, None)?;
    let mut engine = Engine::new(grouping, store, settling);
    engine.windows.take_over()?;
    (engine.watermark, engine.output) = (parts.least_watermark(), parts.least_output());
    Ok(engine)
}
