//! What a stage operator has to send on, and the capabilities it sends it at.
//!
//! Output of finished bundles waits while the worker has enough to do. Until it is sent, and for as long as the operator
//! says that more may come, the capabilities stay at the least such moments; so the watermark and the epoch of every
//! output are exactly those of what may still come.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use timely::dataflow::operators::CapabilitySet;
use timely::progress::Antichain;
use timely::scheduling::Activator;

use super::edge::Output;
use super::flow::{Flow, VISIT_LIMIT};
use crate::element::{Outputs, SpillQueue};
use crate::time::Moment;

/// See the module.
pub(crate) struct Emissions {
    outputs: Vec<Output>,
    capabilities: Vec<CapabilitySet<Moment>>,
    /// What `capabilities` stand at.
    held: Antichain<Moment>,
    /// Oldest first.
    waiting: VecDeque<Emission>,
    flow: Rc<Flow>,
    activator: Activator,
}

struct Emission {
    moment: Moment,
    ports: Vec<SpillQueue>,
}

impl Emissions {
    pub(crate) fn new(outputs: Vec<Output>, flow: Rc<Flow>, activator: Activator) -> Emissions {
        Emissions {
            outputs,
            capabilities: Vec::new(),
            held: Antichain::from_elem(timely::progress::Timestamp::minimum()),
            waiting: VecDeque::new(),
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
            self.waiting.push_back(Emission { moment, ports });
        }
    }

    /// The least watermark that the capabilities stand at; none once they are gone.
    pub(crate) fn least(&self) -> Option<i64> {
        self.held.iter().map(|moment| moment.watermark).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends as much as there is room for.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while let Some(emission) = self.waiting.front_mut() {
            if !self.flow.has_room() {
                self.flow.wait(self.activator.clone());
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
