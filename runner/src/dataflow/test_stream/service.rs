//! Where the events of a TestStream come from: the plan, or a service that is asked while the job runs.

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use timely::scheduling::activate::SyncActivator;

use crate::element::put_varint;
use crate::plan::{TestEvent, TestEvents};

/// Events that a service may be ahead of the dataflow.
const AHEAD: usize = 64;

/// Fetches the events of TestStreams that name a service (`TestStreamService` of the interactive API).
pub trait TestEventService: Send + Sync {
    /// Asks the service at `url`, as the pipeline states it, for the events of the TestStream's `outputs` and gives them
    /// to `sink` from a thread of its own. Does not block.
    fn open(&self, url: &str, outputs: Vec<String>, sink: TestEventSink);
}

/// Takes the events of one TestStream. Dropped, it ends the stream.
pub struct TestEventSink {
    sender: Sender<Result<TestEvent, String>>,
    /// Last, because it tells the dataflow of the sender's end.
    wake: Wake,
}

struct Wake(Box<dyn Fn() + Send>);

impl Drop for Wake {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl TestEventSink {
    /// A sink, and where what it is given comes out; `wake` is called when there is something, and at the end.
    pub fn new(wake: impl Fn() + Send + 'static) -> (TestEventSink, Receiver<Result<TestEvent, String>>) {
        let (sender, inbox) = crossbeam_channel::bounded(AHEAD);
        (TestEventSink { sender, wake: Wake(Box::new(wake)) }, inbox)
    }

    /// Gives the next event. Blocks while the dataflow is far behind; false when it wants no more.
    pub fn give(&self, event: TestEvent) -> bool {
        self.send(Ok(event))
    }

    /// There will be no more events, because of an error: the job fails. `why` says what the TestStream does, as in
    /// "gets no events from ...".
    pub fn fail(self, why: String) {
        self.send(Err(why));
    }

    fn send(&self, next: Result<TestEvent, String>) -> bool {
        let sent = self.sender.send(next).is_ok();
        (self.wake.0)();
        sent
    }
}

/// The events that one TestStream has still to play.
pub(super) enum Events {
    /// All are known.
    Listed(std::vec::IntoIter<TestEvent>),
    /// They come from a service; elements may need a length prefix.
    Service { inbox: Receiver<Result<TestEvent, String>>, prefix: bool },
}

impl Default for Events {
    fn default() -> Self {
        Events::Listed(Vec::new().into_iter())
    }
}

/// What comes next.
pub(super) enum Next {
    Event(TestEvent),
    /// Nothing yet; the operator will be activated.
    Later,
    End,
    Failed(String),
}

impl Events {
    pub(super) fn open(
        events: &TestEvents,
        outputs: Vec<String>,
        service: &dyn TestEventService,
        wake: SyncActivator,
    ) -> Events {
        match events {
            TestEvents::Listed(events) => Events::Listed(events.clone().into_iter()),
            TestEvents::Service { url, prefix } => {
                let (sink, inbox) = TestEventSink::new(move || {
                    // Fails only when the worker is gone, and with it whoever wants events.
                    let _ = wake.activate();
                });
                service.open(url, outputs, sink);
                Events::Service { inbox, prefix: *prefix }
            }
        }
    }

    pub(super) fn next(&mut self) -> Next {
        match self {
            Events::Listed(events) => events.next().map_or(Next::End, Next::Event),
            Events::Service { inbox, prefix } => match inbox.try_recv() {
                Ok(Ok(event)) if *prefix => Next::Event(prefixed(event)),
                Ok(Ok(event)) => Next::Event(event),
                Ok(Err(why)) => Next::Failed(why),
                Err(TryRecvError::Empty) => Next::Later,
                Err(TryRecvError::Disconnected) => Next::End,
            },
        }
    }
}

fn prefixed(event: TestEvent) -> TestEvent {
    let TestEvent::Elements { tag, mut elements } = event else { return event };
    for (_, value) in &mut elements {
        let mut with_length = Vec::with_capacity(value.len() + 5);
        put_varint(&mut with_length, value.len() as u64);
        with_length.extend_from_slice(value);
        *value = Bytes::from(with_length);
    }
    TestEvent::Elements { tag, elements }
}
