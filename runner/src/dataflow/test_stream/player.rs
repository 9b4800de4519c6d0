//! Plays the events of all TestStreams, an epoch for each turn.

use std::rc::Rc;

use bytes::Bytes;
use timely::dataflow::operators::Capability;

use super::super::JobFailure;
use super::super::edge::Output;
use super::super::quiescence::Quiescence;
use super::super::run::Reporter;
use super::service::{Events, Next};
use crate::element::{Batch, BatchBuilder, MAX_ELEMENT};
use crate::executor::Fault;
use crate::plan::TestEvent;
use crate::time::{Moment, NOTHING_MORE, Timestamp};

/// A batch is sent on once it holds this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// An output of the operator.
pub(super) struct Port {
    output: Output,
    /// `None` before the start, after the end, and on all workers but the first.
    capability: Option<Capability<Moment>>,
    watermark: Timestamp,
}

/// One TestStream.
pub(super) struct Stream {
    name: String,
    events: Events,
    ports: Vec<(String, Port)>,
    ended: bool,
}

/// See the module.
pub(super) struct Player {
    /// Tells the clocks.
    ticks: Port,
    /// Tells the other sources which epoch it is, and holds nothing back.
    roots: Port,
    streams: Vec<Stream>,
    /// The epoch that all outputs stand at.
    epoch: u64,
    /// What to do when all that is older than `epoch` is over.
    next: Step,
    quiescence: Quiescence,
    reporter: Rc<Reporter>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Leave the first epoch to the other sources.
    Begin,
    /// An event of each TestStream.
    Turn,
    /// Nothing: the clocks have moved; what is due by them happens in this epoch.
    Wait,
    /// Move the clocks to the end.
    LastTick,
    /// As `Wait`, after the last tick.
    LastWait,
    /// Close the outputs.
    Close,
    /// Nothing any more; after a failure the capabilities are kept.
    Stop,
}

impl Port {
    pub(super) fn new(output: Output) -> Port {
        Port { output, capability: None, watermark: Timestamp::MIN }
    }

    /// One that only says which epoch it is.
    pub(super) fn of_epochs(output: Output) -> Port {
        Port { output, capability: None, watermark: Timestamp(NOTHING_MORE) }
    }

    fn give(&mut self, batch: Batch) {
        if let Some(capability) = &self.capability {
            self.output.give(capability, batch);
        }
    }

    fn step(&mut self, epoch: u64) {
        if let Some(capability) = &mut self.capability {
            capability.downgrade(&Moment::new(epoch, self.watermark));
        }
    }
}

impl Stream {
    pub(super) fn new(name: String, events: Events, ports: Vec<(String, Port)>) -> Stream {
        Stream { name, events, ports, ended: false }
    }

    /// Plays an event; the result is how far the clock moves.
    fn play(&mut self, event: TestEvent) -> Result<i64, String> {
        match event {
            TestEvent::ProcessingTime(by) if by < 0 => return Err(format!("moves the clock by {by} ms, that is back")),
            TestEvent::ProcessingTime(by) => return Ok(by),
            TestEvent::Watermark { tag, to } => {
                let port = self.port(&tag)?;
                let to = to.clamp(Timestamp::MIN, Timestamp::MAX);
                if to < port.watermark {
                    let from = port.watermark.0;
                    return Err(format!("moves the watermark of output {tag:?} back from {from} to {} ms", to.0));
                }
                port.watermark = to;
            }
            TestEvent::Elements { tag, elements } => {
                let port = self.port(&tag)?;
                let mut batch = BatchBuilder::default();
                for (timestamp, value) in elements {
                    if !(Timestamp::MIN..=Timestamp::MAX).contains(&timestamp) {
                        return Err(format!("has an element at {} ms, which is no timestamp of Beam's", timestamp.0));
                    }
                    if value.len() > MAX_ELEMENT - HEAD {
                        return Err(format!("has an element of {} bytes, which is too long", value.len()));
                    }
                    batch.push_with(timestamp, |out| windowed(out, timestamp, &value));
                    if batch.bytes() >= BATCH_BYTES {
                        port.give(batch.finish());
                    }
                }
                port.give(batch.finish());
            }
        }
        Ok(0)
    }

    /// An event of a TestStream with one output need not name it.
    fn port(&mut self, tag: &str) -> Result<&mut Port, String> {
        let index = match self.ports.iter().position(|(name, _)| name == tag) {
            None if self.ports.len() == 1 => 0,
            None => return Err(format!("has an event for output {tag:?}, which it does not have")),
            Some(index) => index,
        };
        Ok(&mut self.ports[index].1)
    }
}

impl Player {
    pub(super) fn new(
        ticks: Port,
        roots: Port,
        streams: Vec<Stream>,
        quiescence: Quiescence,
        reporter: Rc<Reporter>,
    ) -> Player {
        Player { ticks, roots, streams, epoch: 0, next: Step::Stop, quiescence, reporter }
    }

    /// Takes the operator's capabilities, in the order of its outputs.
    pub(super) fn begin(&mut self, capabilities: Vec<Capability<Moment>>) {
        for (port, capability) in self.ports().zip(capabilities) {
            port.capability = Some(capability);
        }
        self.next = Step::Begin;
    }

    fn ports(&mut self) -> impl Iterator<Item = &mut Port> {
        let ports = self.streams.iter_mut().flat_map(|stream| stream.ports.iter_mut().map(|(_, port)| port));
        [&mut self.ticks, &mut self.roots].into_iter().chain(ports)
    }

    /// Does what may be done by now. `drain`: plays no more events.
    pub(super) fn visit(&mut self, drain: bool) {
        while self.next != Step::Stop && self.quiescence.reached() >= self.epoch {
            match self.next {
                Step::Begin => self.step(Step::Turn),
                Step::Turn => match self.turn(drain) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(failure) => {
                        self.reporter.fail(failure);
                        self.next = Step::Stop;
                    }
                },
                Step::Wait => self.step(Step::Turn),
                Step::LastTick => {
                    self.tick(i64::MAX);
                    self.step(Step::LastWait);
                }
                Step::LastWait => self.step(Step::Close),
                Step::Close => {
                    self.ports().for_each(|port| port.capability = None);
                    self.next = Step::Stop;
                }
                Step::Stop => {}
            }
        }
    }

    fn step(&mut self, next: Step) {
        self.epoch += 1;
        let epoch = self.epoch;
        self.ports().for_each(|port| port.step(epoch));
        self.next = next;
    }

    /// Plays an event of every TestStream that has one. False when none has, but may get one.
    fn turn(&mut self, drain: bool) -> Result<bool, JobFailure> {
        let mut played = false;
        let mut advance: i64 = 0;
        for stream in self.streams.iter_mut().filter(|stream| !stream.ended) {
            if drain {
                stream.ended = true;
                continue;
            }
            let failed = |name: &str, fault, what: String| JobFailure {
                fault,
                message: format!("the TestStream {name:?} {what}"),
                environment: None,
            };
            match stream.events.next() {
                Next::Event(event) => {
                    played = true;
                    let by = stream.play(event).map_err(|what| failed(&stream.name, Fault::User, what))?;
                    advance = advance.saturating_add(by);
                }
                Next::Later => {}
                Next::End => stream.ended = true,
                Next::Failed(what) => return Err(failed(&stream.name, Fault::Environment, what)),
            }
        }
        if !played && self.streams.iter().all(|stream| stream.ended) {
            self.ports().for_each(|port| port.watermark = port.watermark.max(Timestamp::MAX));
            self.step(Step::LastTick);
        } else if advance > 0 {
            self.tick(advance);
            self.step(Step::Wait);
        } else if played {
            self.step(Step::Turn);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn tick(&mut self, by: i64) {
        let tick = Bytes::copy_from_slice(&by.to_be_bytes());
        let end = tick.len() as u32;
        self.ticks.give(Batch::new(tick, [end], Timestamp::MIN));
    }
}

/// The length of what [`windowed`] puts before the value.
const HEAD: usize = 13;

/// Timestamp, one global window, no firing, and the value.
fn windowed(out: &mut Vec<u8>, timestamp: Timestamp, value: &[u8]) {
    out.extend_from_slice(&timestamp.to_wire());
    out.extend_from_slice(&[0, 0, 0, 1, 0x0f]);
    out.extend_from_slice(value);
}
