//! The one kind of edge: streams of [`Batch`] at [`Moment`]s, and the pact that delivers a batch to the worker it names.

use timely::communication::Push;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::{Antichain, Stamp};

use crate::element::Batch;
use crate::time::Moment;

/// A collection inside the dataflow.
pub(crate) type Edge<'scope> = Stream<'scope, Moment, Batch>;

/// Delivers each batch whole to [`Batch::target`]. Operators that route make one batch for each worker, because a pact
/// must not change how many records there are.
pub(crate) struct ToTarget;

impl Distributor<Batch> for ToTarget {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        batch: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let target = batch.target() % pushers.len();
        Message::push_at(batch, stamp.clone(), &mut pushers[target]);
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _stamp: &Stamp<T>, _pushers: &mut [P]) {}
}

/// The pact that goes with [`ToTarget`].
pub(crate) fn exchange() -> DistributorPact<fn(usize) -> ToTarget> {
    DistributorPact(|_peers| ToTarget)
}

/// One output of an operator.
pub(crate) struct Output(OutputBuilder<Moment, NoopBuilder<Batch>>);

impl Output {
    /// Adds an output to an operator that is being built.
    pub(crate) fn new<'scope>(builder: &mut OperatorBuilder<'scope, Moment>) -> (Output, Edge<'scope>) {
        let (output, stream) = builder.new_output();
        (Output(OutputBuilder::from(output)), stream)
    }

    /// Adds an output that only the operator's first input leads to: the others carry no data, and hold it back in nothing.
    pub(crate) fn of_first<'scope>(builder: &mut OperatorBuilder<'scope, Moment>) -> (Output, Edge<'scope>) {
        let (output, stream) = builder.new_output_connection([(0, Antichain::from_elem(()))]);
        (Output(OutputBuilder::from(output)), stream)
    }

    /// Sends a batch at a capability of this output.
    pub(crate) fn give(&mut self, capability: &Capability<Moment>, mut batch: Batch) {
        if !batch.is_empty() {
            self.0.activate().session_with_builder(capability).give_container(&mut batch);
        }
    }

    /// Sends a batch at the moment of an input message, from within that message's visit.
    pub(crate) fn forward(&mut self, capability: &InputCapability<Moment>, mut batch: Batch) {
        if !batch.is_empty() {
            self.0.activate().session_with_builder(capability).give_container(&mut batch);
        }
    }
}

/// The moment that work caused by a message must be held at. All our messages carry one moment; for a stamp of several
/// the least in order of epoch is a moment that the operator may hold.
pub(crate) fn moment(stamp: &Stamp<Moment>) -> Option<Moment> {
    stamp.iter().min().copied()
}
