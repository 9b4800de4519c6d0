//! What a bundle emits, held until the bundle is complete.

use std::io;

use bytes::Bytes;

use super::{ElementCoder, ElementError, SpillQueue, Splitter};
use crate::memory::Budget;

/// Bytes of outputs that one bundle may hold in memory.
pub const MEMORY_LIMIT: usize = 64 << 20;

/// The outputs of one bundle, one queue for each port of its stage. They stay here until the bundle has completed; past
/// [`MEMORY_LIMIT`] in total, or past the budget, they are on disk.
#[derive(Debug)]
pub struct Outputs {
    ports: Vec<Port>,
    in_memory: usize,
}

#[derive(Debug)]
struct Port {
    splitter: Splitter,
    queue: SpillQueue,
}

/// Why an output was not taken. The bundle cannot succeed any more.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The stage has no such output.
    #[error("output {port} of a stage with {ports} outputs")]
    UnknownPort {
        /// The output named.
        port: usize,
        /// How many there are.
        ports: usize,
    },
    /// The harness sent bytes that are not elements of the output's coder.
    #[error("output {port}, after {elements} elements ({bytes} bytes): {error}")]
    Element {
        /// The output.
        port: usize,
        /// Whole elements before it.
        elements: usize,
        /// Bytes of those elements.
        bytes: usize,
        /// What is wrong.
        error: ElementError,
    },
    /// Spilling failed.
    #[error(transparent)]
    Storage(#[from] io::Error),
}

impl Outputs {
    /// Empty outputs whose elements have these coders, in the order of the stage's ports.
    pub fn new(coders: Vec<ElementCoder>, budget: &Budget) -> Outputs {
        let port = |coder| Port { splitter: Splitter::new(coder), queue: SpillQueue::new(budget) };
        Outputs { ports: coders.into_iter().map(port).collect(), in_memory: 0 }
    }

    /// Takes the next bytes of a port. They need not end with an element.
    pub fn push(&mut self, port: usize, chunk: Bytes) -> Result<(), OutputError> {
        let batch = self.port(port)?.splitter.push(chunk);
        self.take(port, batch)
    }

    /// Ends all ports: an element that is not whole is an error.
    pub fn finish(&mut self) -> Result<(), OutputError> {
        for port in 0..self.ports.len() {
            let batch = self.port(port)?.splitter.finish();
            self.take(port, batch)?;
        }
        Ok(())
    }

    fn port(&mut self, port: usize) -> Result<&mut Port, OutputError> {
        let ports = self.ports.len();
        self.ports.get_mut(port).ok_or(OutputError::UnknownPort { port, ports })
    }

    fn take(&mut self, port: usize, batch: Result<Option<super::Batch>, ElementError>) -> Result<(), OutputError> {
        let in_memory = self.in_memory;
        let Port { queue, .. } = self.port(port)?;
        let (elements, bytes) = (queue.elements(), queue.bytes());
        let batch = batch.map_err(|error| OutputError::Element { port, elements, bytes, error })?;
        let Some(batch) = batch else { return Ok(()) };
        let length = batch.data().len();
        if in_memory + length > MEMORY_LIMIT {
            queue.push_to_disk(&batch)?;
        } else {
            queue.push(batch)?;
        }
        if !queue.is_spilled() {
            self.in_memory += length;
        }
        Ok(())
    }

    /// The number of ports.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Whole elements that a port has; 0 for a port that does not exist.
    pub fn elements(&self, port: usize) -> usize {
        self.ports.get(port).map_or(0, |port| port.queue.elements())
    }

    /// Bytes of those elements.
    pub fn bytes(&self, port: usize) -> usize {
        self.ports.get(port).map_or(0, |port| port.queue.bytes())
    }

    /// The queues, in the order of the ports.
    pub fn into_ports(self) -> Vec<SpillQueue> {
        self.ports.into_iter().map(|port| port.queue).collect()
    }
}
