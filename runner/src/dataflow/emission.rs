//! What a stage operator has to send on, and the capabilities it sends it at.
//!
//! Output of finished bundles waits while those behind have enough to do ([`super::flow`]). Until it is sent, and for as
//! long as the operator says that more may come, the capabilities stay at the least such moments; so the watermark and
//! the epoch of every output are exactly those of what may still come.
//!
//! While much waits, the operator opens no bundle ([`Emissions::is_full`]): what is made and not sent is at most the limit
//! and what the bundles give that were open then, in memory or on disk, whatever the ratio of a fast source to a slow
//! stage.

use std::collections::VecDeque;
use std::io;

use timely::dataflow::operators::CapabilitySet;
use timely::progress::Antichain;
use timely::scheduling::Activator;

use super::edge::Output;
use super::flow::{EpochBytes, Flow, VISIT_LIMIT};
use crate::element::{Outputs, SpillQueue};
use crate::time::Moment;

/// Bytes of finished output that may wait before no bundle is opened any more.
const WAITING_BYTES: usize = 16 << 20;
/// Finished bundles whose output may wait; each has a file where it did not fit in memory.
const WAITING_BUNDLES: usize = 32;

/// See the module.
pub(crate) struct Emissions {
    outputs: Vec<Output>,
    capabilities: Vec<CapabilitySet<Moment>>,
    /// What `capabilities` stand at.
    held: Antichain<Moment>,
    /// Oldest first.
    waiting: VecDeque<Emission>,
    /// Bytes of `waiting`.
    bytes: usize,
    flow: Flow,
    activator: Activator,
}

struct Emission {
    moment: Moment,
    ports: Vec<SpillQueue>,
}

impl Emissions {
    pub(crate) fn new(outputs: Vec<Output>, flow: Flow, activator: Activator) -> Emissions {
        Emissions {
            outputs,
            capabilities: Vec::new(),
            held: Antichain::from_elem(timely::progress::Timestamp::minimum()),
            waiting: VecDeque::new(),
            bytes: 0,
            flow,
            activator,
        }
    }

    /// Takes the capabilities that the operator starts with.
    pub(crate) fn begin(&mut self, capabilities: Vec<CapabilitySet<Moment>>) {
        self.capabilities = capabilities;
    }

    /// What a bundle gave, to be sent at `moment`.
    pub(crate) fn push(&mut self, moment: Moment, outputs: Outputs) {
        let ports = outputs.into_ports();
        if ports.iter().any(|port| !port.is_empty()) {
            self.bytes += ports.iter().map(SpillQueue::bytes).sum::<usize>();
            self.waiting.push_back(Emission { moment, ports });
        }
    }

    /// The moment of the least watermark that the capabilities stand at; none once they are gone.
    pub(crate) fn least(&self) -> Option<Moment> {
        self.held.iter().copied().reduce(Moment::of_both)
    }

    /// The least watermark that can be sent at in `epoch`; none if nothing can.
    pub(crate) fn least_at(&self, epoch: u64) -> Option<i64> {
        self.held.iter().filter(|held| held.epoch <= epoch).map(|held| held.watermark).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether so much waits to be sent that no more should be made.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= WAITING_BYTES || self.waiting.len() >= WAITING_BUNDLES
    }

    /// Says what input waits at the operator, by epoch: [`Flow::update`].
    pub(crate) fn input_waits(&mut self, waiting: impl Iterator<Item = EpochBytes>) {
        self.flow.update(waiting);
    }

    /// Sends as much as there is room for.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while let Some(emission) = self.waiting.front_mut() {
            if !self.flow.has_room(emission.moment.epoch) {
                return Ok(());
            }
            if sent > VISIT_LIMIT {
                self.activator.activate();
                return Ok(());
            }
            let mut empty = true;
            for (port, queue) in emission.ports.iter_mut().enumerate() {
                if let Some(batch) = queue.pop()? {
                    empty = false;
                    sent += batch.data().len();
                    self.bytes -= batch.data().len();
                    let capability = self.capabilities[port].delayed(&emission.moment);
                    self.outputs[port].give(&capability, batch);
                }
            }
            if empty {
                self.waiting.pop_front();
            }
        }
        Ok(())
    }

    /// Moves the capabilities to the least moments at which output may still come: those given, and those of what waits.
    pub(crate) fn hold(&mut self, moments: impl IntoIterator<Item = Moment>) {
        let mut held = Antichain::new();
        held.extend(moments);
        held.extend(self.waiting.iter().map(|emission| emission.moment));
        if held != self.held {
            for capabilities in &mut self.capabilities {
                capabilities.downgrade(held.iter());
            }
            self.held = held;
        }
    }
}
