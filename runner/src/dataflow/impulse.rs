//! Impulse: one empty element in the global window, emitted by the job's first worker.

use std::sync::Arc;

use bytes::Bytes;
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::edge::{Edge, Output};
use crate::element::Batch;
use crate::time::{Moment, Timestamp};

/// Builds the source. In a job that starts from a checkpoint it has `fired` already.
pub(crate) fn build<'scope>(scope: Scope<'scope, Moment>, fired: bool) -> Edge<'scope> {
    let mut builder = OperatorBuilder::new("Impulse".into(), scope);
    let (mut output, stream) = Output::new(&mut builder);
    let mine = scope.index() == 0 && !fired;
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        move |_frontiers| {
            if let Some(capability) = capability.take().filter(|_| mine) {
                output.give(&capability, impulse());
            }
        }
    });
    stream
}

/// Timestamp, one global window, no firing, and a byte string of length 0.
fn impulse() -> Batch {
    let mut element = Timestamp::MIN.to_wire().to_vec();
    element.extend_from_slice(&[0, 0, 0, 1, 0x0f, 0]);
    let end = element.len() as u32;
    Batch::new(Bytes::from(element), Arc::from([end]), Timestamp::MIN)
}
