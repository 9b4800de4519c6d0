//! Reads partitions on a thread of its own and makes batches of elements.
//!
//! Partitions are assigned by the runner: no group is joined, so nothing is ever taken away. Each partition has a queue of
//! its own in librdkafka, which tells whose end was reached. While its batches are not taken, the thread waits and
//! librdkafka stops fetching.
//!
//! The parts: here is what its operator sees of it, [`thread`] is the thread, and [`begin`] finds out what it reads and from where.

mod begin;
mod thread;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::client::{LEAVING, Warn};
use super::position::{PartitionPosition, SavedPositions};
use super::record::{ErrorElement, ReadElement};
use super::spec::KafkaRead;
use crate::element::Batch;
use thread::ReaderThread;

/// Batches that may wait to be taken.
const BATCHES_WAITING: usize = 4;

/// What a reader is to do.
pub(crate) struct ReaderTask {
    pub(crate) read: KafkaRead,
    pub(crate) element: ReadElement,
    /// Values that are no elements are given, too.
    pub(crate) errors: Option<ErrorElement>,
    /// Which worker of how many it is.
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    /// What the job starts from, by the workers that saved it; none: from nothing.
    pub(crate) saved: Option<Vec<SavedPositions>>,
}

impl ReaderTask {
    /// Records that were read before what was saved.
    pub(crate) fn records_before(&self) -> u64 {
        self.saved.iter().flatten().map(|saved| saved.records).sum()
    }

    /// For how many milliseconds it had been read by then.
    pub(crate) fn millis_before(&self) -> u64 {
        self.saved.iter().flatten().map(|saved| saved.millis).max().unwrap_or(0)
    }
}

/// What a reader tells.
#[derive(Debug)]
pub(crate) enum FromReader {
    /// Partitions are read now, from these positions. They are numbered in the order in which they are told.
    Begun(Vec<PartitionPosition>),
    /// A topic was made anew, and is read from its start.
    MadeAnew { topic: String, id: String },
    /// What was read.
    Read(Reading),
    /// Nothing more will come.
    Ended,
    /// Nothing more can come.
    Failed(KafkaFailure),
}

/// Why a reader or a writer cannot go on, in words for the job's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KafkaFailure {
    pub(crate) message: String,
    /// It may be otherwise another time. If not, the owner has to mend something.
    pub(crate) may_pass: bool,
}

/// Some elements, and how far partitions are with them.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) batch: Batch,
    /// Rows of values that are none.
    pub(crate) errors: Batch,
    pub(crate) moved: Vec<Moved>,
    /// What no later element of any partition is expected to be before.
    pub(crate) watermark: i64,
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Its number.
    pub(crate) index: usize,
    pub(crate) offset: i64,
    pub(crate) watermark: i64,
}

enum ToReader {
    Commit(Vec<PartitionPosition>),
    Stop,
}

/// Why a reader cannot go on.
#[derive(Debug)]
pub(in crate::kafka) enum Trouble {
    NoTopic(String),
    /// It will not be otherwise another time.
    Failed(String),
    Passing(String),
    Stopped,
}

/// A running reader. Cloning shares it; the last to go waits a short while for what is to be committed.
#[derive(Clone, Debug)]
pub(crate) struct Reader(Arc<Running>);

#[derive(Debug)]
struct Running {
    commands: Mutex<Option<Sender<ToReader>>>,
    /// Commits that were ordered and are not done.
    pending: Arc<AtomicUsize>,
    /// Ends with the thread.
    ended: Receiver<()>,
}

impl Reader {
    /// Starts it. `wake` is called whenever there is something to take.
    pub(crate) fn start(
        task: ReaderTask,
        warn: Warn,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<(Reader, Receiver<FromReader>)> {
        let (tell, told) = crossbeam_channel::bounded(BATCHES_WAITING);
        let (commands, orders) = crossbeam_channel::unbounded();
        let (alive, ended) = crossbeam_channel::bounded(0);
        let pending = Arc::new(AtomicUsize::new(0));
        let (wake, of_thread) = (Arc::new(wake), Arc::clone(&pending));
        std::thread::Builder::new().name("kafka-read".into()).spawn(move || {
            let _alive: Sender<()> = alive;
            let tell = Tell { tell, wake: wake.clone() };
            let orders = Orders { orders, pending: of_thread };
            let failure = match ReaderThread::begin(task, warn, orders, tell.clone()).and_then(ReaderThread::run) {
                Ok(()) | Err(Trouble::Stopped) => return,
                Err(Trouble::NoTopic(topic)) => KafkaFailure {
                    message: format!("there is no Kafka topic {topic}: create it, or correct its name"),
                    may_pass: true,
                },
                Err(Trouble::Failed(message)) => KafkaFailure { message, may_pass: false },
                Err(Trouble::Passing(message)) => KafkaFailure { message, may_pass: true },
            };
            tell.say(FromReader::Failed(failure));
        })?;
        let running = Running { commands: Mutex::new(Some(commands)), pending, ended };
        Ok((Reader(Arc::new(running)), told))
    }

    /// Has what was read so far committed to the group.
    pub(crate) fn commit(&self, positions: Vec<PartitionPosition>) {
        self.0.pending.fetch_add(1, Ordering::AcqRel);
        self.0.order(ToReader::Commit(positions));
    }

    /// Reads no more. What is to be committed still is.
    pub(crate) fn stop(&self) {
        self.0.order(ToReader::Stop);
    }
}

impl Running {
    fn order(&self, order: ToReader) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = &*commands {
            // Fails only when the reader has ended.
            let _ = commands.send(order);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        if self.pending.load(Ordering::Acquire) > 0 {
            // The process may end with whoever lets go of it last.
            let _ = self.ended.recv_timeout(LEAVING);
        }
    }
}

/// What a reader is told to do.
struct Orders {
    orders: Receiver<ToReader>,
    pending: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Tell {
    tell: Sender<FromReader>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Tell {
    /// Waits while what was told before is not taken. Nobody listens any more where it fails.
    fn say(&self, what: FromReader) -> bool {
        let said = self.tell.send(what).is_ok();
        (self.wake)();
        said
    }
}
