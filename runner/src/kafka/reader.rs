//! Reads partitions on a thread of its own and makes batches of elements.
//!
//! Partitions are assigned by the runner: no group is joined, so nothing is ever taken away. Each partition has a queue of
//! its own in librdkafka, which tells whose end was reached. While its batches are not taken, the thread waits and
//! librdkafka stops fetching.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, Timestamp as RecordTime};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use regex::Regex;

use super::client::{Context, Warn};
use super::config::{self, FAIL_ON_DATA_LOSS};
use super::native;
use super::partitions::{PartitionName, Partitions};
use super::position::{PartitionPosition, SavedPositions, owner};
use super::record::{ReadElement, ReadRecord, TimestampType};
use super::spec::{KafkaRead, TimestampPolicy};
use super::timestamps::PartitionTime;
use crate::element::{Batch, BatchBuilder, PANE_NO_FIRING, encode_windowed_header};

/// A batch is handed on when it has so many bytes, or when nothing waits.
const BATCH_BYTES: usize = 256 << 10;
/// Batches that may wait to be taken.
const BATCHES_WAITING: usize = 4;
/// Records of a partition before others get their turn.
const TURN: usize = 1000;
/// How often all is looked after that does not come by itself.
const TICK: Duration = Duration::from_millis(100);
/// How often brokers are asked where partitions end that have nothing more.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long the end may take.
const LEAVING: Duration = Duration::from_secs(2);

/// What a reader is to do.
pub(crate) struct ReaderTask {
    pub(crate) read: KafkaRead,
    pub(crate) element: ReadElement,
    /// Which worker of how many it is.
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    /// What the job starts from, by the workers that saved it; none: from nothing.
    pub(crate) saved: Option<Vec<SavedPositions>>,
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
pub(super) enum Trouble {
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

/// A partition that is read.
struct Assigned {
    name: PartitionName,
    offset: i64,
    stop: Option<i64>,
    time: PartitionTime,
    /// Nothing more was there.
    at_end: bool,
    /// It is not read any more.
    ended: bool,
    /// There is something about it that was not told.
    moved: bool,
    is_ready: IsReady,
    queue: Option<PartitionQueue<Context>>,
}

/// Says that something may be in a partition's queue: once, until it is looked at.
#[derive(Clone)]
struct IsReady {
    index: usize,
    said: Arc<AtomicBool>,
    ready: Sender<usize>,
}

impl IsReady {
    fn say(&self) {
        if !self.said.swap(true, Ordering::AcqRel) {
            // Fails only when the reader is gone.
            let _ = self.ready.send(self.index);
        }
    }
}

/// The thread's state.
struct ReaderThread {
    task: ReaderTask,
    warn: Warn,
    consumer: Arc<BaseConsumer<Context>>,
    context: Arc<Context>,
    orders: Orders,
    tell: Tell,
    pattern: Option<Regex>,
    assigned: Vec<Assigned>,
    known: BTreeSet<PartitionName>,
    /// The ids of the topics that are read.
    ids: BTreeMap<String, String>,
    /// Numbers of partitions in whose queues something may be.
    ready: (Sender<usize>, Receiver<usize>),
    batch: BatchBuilder,
    /// Records that may still be read.
    left: Option<u64>,
    deadline: Option<Instant>,
    looked: Instant,
    /// When brokers were asked last where partitions end.
    asked: Instant,
    stopped: bool,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

fn client(configured: &ClientConfig, warn: Warn) -> Result<BaseConsumer<Context>, Trouble> {
    let made = configured.create_with_context(Context::new(warn));
    made.map_err(|error| Trouble::Failed(config::refused(error).to_string()))
}

impl ReaderThread {
    fn begin(task: ReaderTask, warn: Warn, orders: Orders, tell: Tell) -> Result<ReaderThread, Trouble> {
        let failed = |what: String| Trouble::Failed(what);
        let configured = config::consumer(&task.read.consumer_config).map_err(|error| failed(error.to_string()))?;
        let consumer = Arc::new(client(&configured, Arc::clone(&warn))?);
        let context = Arc::clone(consumer.context());
        let pattern = match &task.read.topic_pattern {
            Some(pattern) => Some(whole(pattern).map_err(|error| failed(format!("the topic pattern: {error}")))?),
            None => None,
        };
        let saved = || task.saved.iter().flatten();
        let read_before: u64 = saved().map(|saved| saved.records).sum();
        let millis_before = saved().map(|saved| saved.millis).max().unwrap_or(0);
        let time_left = |time: u64| Duration::from_millis(time.saturating_sub(millis_before));
        Ok(ReaderThread {
            left: task.read.max_records.map(|most| most.saturating_sub(read_before)),
            deadline: task.read.max_time.and_then(|time| Instant::now().checked_add(time_left(time))),
            task,
            warn,
            consumer,
            context,
            orders,
            tell,
            pattern,
            assigned: Vec::new(),
            known: BTreeSet::new(),
            ids: BTreeMap::new(),
            ready: crossbeam_channel::unbounded(),
            batch: BatchBuilder::new(),
            looked: Instant::now(),
            asked: Instant::now(),
            stopped: false,
        })
    }

    fn partitions(&self) -> Partitions<'_> {
        Partitions { consumer: &self.consumer, read: &self.task.read, pattern: self.pattern.as_ref() }
    }

    fn is_mine(&self, name: &PartitionName) -> bool {
        self.owner(name, self.task.workers) == self.task.worker
    }

    fn owner(&self, name: &PartitionName, workers: usize) -> usize {
        if self.task.read.is_for_one_worker() { 0 } else { owner(&name.topic, name.partition, workers) }
    }

    /// Finds what there is to be read, and where to begin.
    fn look_first(&mut self) -> Result<(), Trouble> {
        let is_for_one = self.task.read.is_for_one_worker();
        let had_ended = is_for_one && self.task.saved.iter().flatten().any(|saved| saved.ended);
        if had_ended || (is_for_one && self.task.worker != 0) {
            self.stopped = true;
            self.tell.say(FromReader::Begun(Vec::new()));
            self.tell.say(FromReader::Ended);
            return Ok(());
        }
        let mut orders = Vec::new();
        let found = self.partitions().first(|| {
            orders.extend(self.orders.orders.try_iter());
            orders.iter().any(|order| matches!(order, ToReader::Stop))
        })?;
        let saved = self.task.saved.clone();
        let mut mine: BTreeMap<PartitionName, PartitionPosition> = BTreeMap::new();
        for position in saved.iter().flatten().flat_map(|saved| &saved.partitions) {
            let name = PartitionName { topic: position.topic.clone(), partition: position.partition };
            if self.is_mine(&name) && self.is_wanted(&name) {
                mine.insert(name, position.clone());
            }
        }
        let ids = self.ids_of(found.iter().filter(|name| self.is_mine(name)))?;
        self.check_saved(&mut mine, &found, &ids)?;
        // One that nobody saved is new, unless who was to read it had not looked yet.
        let had_looked = |name: &PartitionName| {
            let Some(saved) = &saved else { return false };
            let of_owner = saved.get(self.owner(name, saved.len()));
            // A topic that is read since then only begins as every first one does.
            of_owner
                .is_some_and(|saved| saved.has_looked && (self.pattern.is_some() || saved.topics.contains(&name.topic)))
        };
        let unknown = found.iter().filter(|name| self.is_mine(name) && !mine.contains_key(*name));
        let (new, first): (Vec<_>, Vec<_>) = unknown.cloned().partition(had_looked);
        let mut begun: Vec<PartitionPosition> = mine.into_values().collect();
        begun.extend(self.partitions().starts(&first)?);
        begun.extend(self.partitions().starts_of_new(&new)?);
        self.known = found;
        self.bound(begun.len())?;
        self.assign(begun, &ids)
    }

    /// The ids of topics. Where there is something to compare them with, they are asked for until there is an answer.
    fn ids_of<'a>(&self, names: impl Iterator<Item = &'a PartitionName>) -> Result<BTreeMap<String, String>, Trouble> {
        let topics: BTreeSet<&str> = names.map(|name| name.topic.as_str()).collect();
        let saved = self.task.saved.iter().flatten().flat_map(|saved| &saved.partitions);
        let known: BTreeSet<&str> =
            saved.filter(|position| position.topic_id.is_some()).map(|position| position.topic.as_str()).collect();
        for _ in 0..6 {
            let ids = self.partitions().ids(topics.iter().copied());
            if topics.iter().all(|topic| !known.contains(topic) || ids.contains_key(*topic)) {
                return Ok(ids);
            }
        }
        Err(Trouble::Passing(
            "Kafka does not say which ids its topics have, by which those made anew are told".to_owned(),
        ))
    }

    /// Takes a client that fetches no more ahead than there is room for so many partitions.
    fn bound(&mut self, partitions: usize) -> Result<(), Trouble> {
        let config = &self.task.read.consumer_config;
        let mut configured = config::consumer(config).map_err(|error| Trouble::Failed(error.to_string()))?;
        config::bound(&mut configured, config, partitions);
        self.consumer = Arc::new(client(&configured, Arc::clone(&self.warn))?);
        self.context = Arc::clone(self.consumer.context());
        Ok(())
    }

    /// Whether the read still asks for a partition's topic: it may have changed since it was saved.
    fn is_wanted(&self, name: &PartitionName) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.is_match(&name.topic),
            None => self.task.read.topics.contains(&name.topic),
        }
    }

    /// That what was saved is still there to go on from.
    fn check_saved(
        &self,
        mine: &mut BTreeMap<PartitionName, PartitionPosition>,
        found: &BTreeSet<PartitionName>,
        ids: &BTreeMap<String, String>,
    ) -> Result<(), Trouble> {
        let mut gone = Vec::new();
        for (name, position) in &mut *mine {
            if let (Some(was), Some(is)) = (&position.topic_id, ids.get(&name.topic))
                && was != is
                && found.contains(name)
            {
                self.lost(made_anew(name, position.offset))?;
                position.offset = self.partitions().ends(name)?.0;
                position.topic_id = Some(is.clone());
                continue;
            }
            if !found.contains(name) {
                self.lost(format!(
                    "{name}, which the job has read up to offset {}, is not there any more",
                    position.offset
                ))?;
                gone.push(name.clone());
                continue;
            }
            let (low, high) = self.partitions().ends(name)?;
            if position.offset > high {
                self.lost(format!(
                    "{name} ends at offset {high}, and the job has read it up to {}: it was deleted and made anew, or cut",
                    position.offset
                ))?;
                position.offset = low;
            } else if position.offset < low {
                self.lost(format!(
                    "{name} begins at offset {low}, and the job has read it up to {}: records {} to {} were removed before \
                     they were read (retention.ms, retention.bytes)",
                    position.offset,
                    position.offset,
                    low - 1
                ))?;
                position.offset = low;
            }
        }
        gone.iter().for_each(|name| drop(mine.remove(name)));
        Ok(())
    }

    /// Data was lost: the job fails, unless it was told to go on.
    fn lost(&self, what: String) -> Result<(), Trouble> {
        if !config::fails_on_data_loss(&self.task.read.consumer_config) {
            self.context.tell(&what.clone(), || format!("{what}; the job goes on, as {FAIL_ON_DATA_LOSS}=false says"));
            return Ok(());
        }
        Err(Trouble::Failed(format!(
            "{what}. With {FAIL_ON_DATA_LOSS}=false in the consumer's configuration the job goes on with what there is"
        )))
    }

    fn assign(&mut self, mut positions: Vec<PartitionPosition>, ids: &BTreeMap<String, String>) -> Result<(), Trouble> {
        for position in &mut positions {
            // One that was saved was compared.
            position.topic_id = position.topic_id.take().or_else(|| ids.get(&position.topic).cloned());
            if let Some(id) = &position.topic_id {
                self.ids.insert(position.topic.clone(), id.clone());
            }
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        let first = self.assigned.len();
        for (index, position) in (first..).zip(&positions) {
            let name = PartitionName { topic: position.topic.clone(), partition: position.partition };
            let ended = position.stop.is_some_and(|stop| position.offset >= stop);
            let is_ready = IsReady { index, said: Arc::default(), ready: self.ready.0.clone() };
            let mut queue = None;
            if !ended {
                // Before it is assigned, so that nothing of it goes elsewhere.
                queue = self.consumer.split_partition_queue(&name.topic, name.partition);
                let Some(queue) = &mut queue else {
                    return Err(Trouble::Failed(format!("{name} is not a name that Kafka knows")));
                };
                let is_ready = is_ready.clone();
                queue.set_nonempty_callback(move || is_ready.say());
                list.add_partition_offset(&name.topic, name.partition, Offset::Offset(position.offset))
                    .map_err(|error| Trouble::Failed(format!("{name}: {error}")))?;
            }
            self.assigned.push(Assigned {
                name,
                offset: position.offset,
                stop: position.stop,
                time: PartitionTime::new(self.task.read.timestamps, position.watermark),
                at_end: false,
                ended,
                moved: false,
                is_ready,
                queue,
            });
        }
        if list.count() > 0 {
            self.consumer
                .incremental_assign(&list)
                .map_err(|error| Trouble::Failed(format!("partitions cannot be read: {error}")))?;
        }
        if self.tell.say(FromReader::Begun(positions)) { Ok(()) } else { Err(Trouble::Stopped) }
    }

    fn run(mut self) -> Result<(), Trouble> {
        self.look_first()?;
        let mut ticked = Instant::now();
        loop {
            self.obey();
            if self.stopped {
                return self.leave();
            }
            match self.ready.1.recv_timeout(TICK) {
                Ok(index) => self.read(index)?,
                Err(RecvTimeoutError::Timeout) => {}
                // We have a sender.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let ticks = ticked.elapsed() >= TICK;
            if ticks {
                ticked = Instant::now();
                self.tick()?;
            }
            let is_over = self.is_over();
            let is_enough = ticks || self.ready.1.is_empty() || self.batch.bytes() >= BATCH_BYTES;
            if (is_over || is_enough) && !self.hand_on() {
                return self.leave();
            }
            if is_over {
                self.stopped = true;
                self.tell.say(FromReader::Ended);
            }
        }
    }

    /// What does not come by itself.
    fn tick(&mut self) -> Result<(), Trouble> {
        while let Some(polled) = self.consumer.poll(Duration::ZERO) {
            if let Err(error) = polled {
                self.context.tell(&format!("poll {error}"), || format!("Kafka: {error}; it is tried again"));
            }
        }
        for index in 0..self.assigned.len() {
            if !self.assigned[index].ended {
                self.read(index)?;
            }
        }
        self.let_time_pass();
        let every = Duration::from_millis(self.task.read.discover_every);
        if !every.is_zero() && self.looked.elapsed() >= every && !self.task.read.is_for_one_worker() {
            self.looked = Instant::now();
            self.look_again()?;
        }
        Ok(())
    }

    /// Moves the watermarks of partitions that have nothing more. That one had its end reached says nothing of later: this thread
    /// may have slept, or the broker been away. So brokers are asked where partitions end; of one that was read up to there,
    /// nothing is missing that came before the question.
    fn let_time_pass(&mut self) {
        let asks = self.asked.elapsed() >= ASK_EVERY;
        let asked_at = now();
        if asks {
            self.asked = Instant::now();
            self.step_over_what_is_no_record();
        }
        let mut idle: Vec<usize> = (0..self.assigned.len()).filter(|index| !self.assigned[*index].ended).collect();
        // What is read gets the time at which it is read, so nothing can be late.
        if self.task.read.timestamps != TimestampPolicy::ProcessingTime {
            if !asks {
                return;
            }
            idle.retain(|index| self.assigned[*index].at_end);
            let names = idle.iter().map(|index| &self.assigned[*index].name);
            let Some(ends) = self.partitions().ends_now(names) else { return };
            idle.retain(|index| {
                let Assigned { name, offset, .. } = &self.assigned[*index];
                ends.get(name).is_some_and(|end| offset >= end)
            });
        }
        for index in idle {
            let partition = &mut self.assigned[index];
            let before = partition.time.watermark();
            partition.time.is_idle(asked_at);
            partition.moved |= partition.time.watermark() != before;
        }
    }

    /// Markers of transactions, and what was aborted or compacted away, have offsets: a partition that stands before them would
    /// seem to have lost them when retention takes them.
    fn step_over_what_is_no_record(&mut self) {
        if !self.assigned.iter().any(|partition| partition.at_end) {
            return;
        }
        let Ok(positions) = self.consumer.position() else { return };
        for partition in self.assigned.iter_mut().filter(|partition| partition.at_end && !partition.ended) {
            let position = positions.find_partition(&partition.name.topic, partition.name.partition);
            if let Some(Offset::Offset(position)) = position.map(|found| found.offset())
                && position > partition.offset
            {
                partition.offset = position;
                partition.moved = true;
            }
        }
    }

    /// Looks for partitions that came later. One that is briefly absent is not forgotten.
    fn look_again(&mut self) -> Result<(), Trouble> {
        let found = match self.partitions().all() {
            Ok(Some(found)) => found,
            Ok(None) | Err(Trouble::NoTopic(_)) => return Ok(()),
            Err(other) => return Err(other),
        };
        self.check_ids()?;
        let new: Vec<PartitionName> = found.difference(&self.known).cloned().collect();
        let mine: Vec<PartitionName> = new.iter().filter(|name| self.is_mine(name)).cloned().collect();
        if !mine.is_empty() {
            let begun = self.partitions().starts_of_new(&mine)?;
            let ids = self.partitions().ids(mine.iter().map(|name| name.topic.as_str()));
            self.assign(begun, &ids)?;
        }
        self.known.extend(new);
        Ok(())
    }

    /// That the topics that are read are still those that they were. Where they are not and that is no failure, they are read
    /// from their start.
    fn check_ids(&mut self) -> Result<(), Trouble> {
        let ids = self.partitions().ids(self.ids.keys().map(String::as_str));
        for (topic, id) in ids {
            let Some(was) = self.ids.insert(topic.clone(), id.clone()).filter(|was| *was != id) else { continue };
            tracing::info!(topic, was, is = id, "a Kafka topic was made anew");
            for index in 0..self.assigned.len() {
                let Assigned { name, offset, ended, .. } = &self.assigned[index];
                if name.topic == topic && !ended {
                    self.lost(made_anew(name, *offset))?;
                    let start = self.partitions().ends(&name.clone())?.0;
                    self.go_on_from(index, start)?;
                }
            }
            self.tell.say(FromReader::MadeAnew { topic, id });
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<(), Trouble> {
        let Some(queue) = self.assigned[index].queue.take() else { return Ok(()) };
        self.assigned[index].is_ready.said.store(false, Ordering::Release);
        let mut more = true;
        for _ in 0..TURN {
            if self.assigned[index].ended || self.left == Some(0) || self.batch.bytes() >= BATCH_BYTES {
                break;
            }
            match queue.poll(Duration::ZERO) {
                None => {
                    more = false;
                    break;
                }
                Some(Ok(message)) => self.take(index, &message)?,
                Some(Err(error)) => self.fault(index, error)?,
            }
        }
        let partition = &mut self.assigned[index];
        if !partition.ended {
            partition.queue = Some(queue);
            if more {
                partition.is_ready.say();
            }
        }
        Ok(())
    }

    fn take(&mut self, index: usize, message: &BorrowedMessage<'_>) -> Result<(), Trouble> {
        let partition = &mut self.assigned[index];
        partition.at_end = false;
        if partition.stop.is_some_and(|stop| message.offset() >= stop) {
            partition.ended = true;
            return Ok(());
        }
        let (timestamp, timestamp_type) = match message.timestamp() {
            RecordTime::NotAvailable => (None, TimestampType::None),
            RecordTime::CreateTime(time) => (Some(time), TimestampType::CreateTime),
            RecordTime::LogAppendTime(time) => (Some(time), TimestampType::LogAppendTime),
        };
        let record = ReadRecord {
            topic: &partition.name.topic,
            partition: partition.name.partition,
            offset: message.offset(),
            timestamp: timestamp.unwrap_or(-1),
            timestamp_type,
            key: message.key(),
            value: message.payload(),
            headers: if self.task.element.wants_headers() { native::headers(message) } else { Vec::new() },
        };
        let at = partition.time.of_record(timestamp, now());
        let element = &self.task.element;
        let encoded = self.batch.try_push_with(at, |out| {
            encode_windowed_header(out, at, &[b""], PANE_NO_FIRING);
            element.encode(out, &record)
        });
        encoded.map_err(|bad| {
            Trouble::Failed(format!("the record at offset {} of {}: {bad}", message.offset(), partition.name))
        })?;
        partition.offset = message.offset() + 1;
        partition.moved = true;
        partition.ended = partition.stop.is_some_and(|stop| partition.offset >= stop);
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(())
    }

    fn fault(&mut self, index: usize, error: KafkaError) -> Result<(), Trouble> {
        use RDKafkaErrorCode as Code;
        let partition = &mut self.assigned[index];
        let name = partition.name.clone();
        if let KafkaError::PartitionEOF(_) = error {
            partition.at_end = true;
            // What stands before the stop may be no record: markers of transactions, or what was compacted away.
            partition.ended |= partition.stop.is_some();
            return Ok(());
        }
        match error.rdkafka_error_code() {
            // It is told once, and nothing comes any more.
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                let at = partition.offset;
                let (low, high) = self.partitions().ends(&name)?;
                self.lost(format!(
                    "{name} has no record at offset {at} any more, only {low} to {high}: retention removed what was not read, \
                     or it was deleted and made anew"
                ))?;
                self.go_on_from(index, low)
            }
            Some(Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
                self.lost(format!("{name} is not there any more"))?;
                self.assigned[index].ended = true;
                Ok(())
            }
            Some(code) if super::partitions::passes(&error) => {
                self.context.tell(&code.to_string(), || format!("Kafka: {name}: {error}; it is tried again"));
                Ok(())
            }
            _ => Err(Trouble::Failed(format!("{name} cannot be read: {error}"))),
        }
    }

    fn go_on_from(&mut self, index: usize, offset: i64) -> Result<(), Trouble> {
        let partition = &mut self.assigned[index];
        let name = &partition.name;
        partition.offset = offset;
        partition.moved = true;
        let failed = |error: KafkaError| Trouble::Failed(format!("{name}: {error}"));
        self.consumer.seek(&name.topic, name.partition, Offset::Offset(offset), LEAVING).map_err(failed)
    }

    /// Hands on what there is. False: nobody takes it any more.
    fn hand_on(&mut self) -> bool {
        let moved: Vec<Moved> = (0..)
            .zip(&mut self.assigned)
            .filter_map(|(index, partition)| {
                let Assigned { offset, time, .. } = partition;
                let moved = Moved { index, offset: *offset, watermark: time.watermark() };
                std::mem::take(&mut partition.moved).then_some(moved)
            })
            .collect();
        let alone = self.assigned.iter().all(|partition| partition.ended);
        if moved.is_empty() && self.batch.is_empty() && !alone {
            return true;
        }
        // Who has no partition holds nothing up: one that comes later is behind the clock, as idle ones are.
        let least = self.assigned.iter().filter(|partition| !partition.ended).map(|it| it.time.watermark()).min();
        let watermark = least.unwrap_or_else(now);
        self.tell.say(FromReader::Read(Reading { batch: self.batch.finish(), moved, watermark }))
    }

    fn is_over(&self) -> bool {
        let all_ended = self.task.read.stop_time.is_some() && self.assigned.iter().all(|partition| partition.ended);
        all_ended || self.left == Some(0) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn obey(&mut self) {
        loop {
            match self.orders.orders.try_recv() {
                Ok(ToReader::Commit(positions)) => self.commit(&positions, CommitMode::Async),
                Ok(ToReader::Stop) | Err(TryRecvError::Disconnected) => {
                    self.stopped = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn commit(&self, positions: &[PartitionPosition], mode: CommitMode) {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for PartitionPosition { topic, partition, offset, .. } in positions {
            // Only offsets that are none are refused.
            let _ = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            self.context.tell("commit", || format!("offsets could not be committed to the Kafka group: {error}"));
        }
        self.orders.pending.fetch_sub(1, Ordering::AcqRel);
    }

    /// Reads no more, and commits what is said until nobody is left to say so.
    fn leave(self) -> Result<(), Trouble> {
        let _ = self.consumer.unassign();
        while let Ok(order) = self.orders.orders.recv() {
            if let ToReader::Commit(positions) = order {
                self.commit(&positions, CommitMode::Sync);
            }
        }
        Ok(())
    }
}

fn made_anew(name: &PartitionName, offset: i64) -> String {
    format!("the topic of {name} was deleted and made anew since the job has read it up to offset {offset}")
}

/// As Java's `Pattern.matches` has it, the whole of a name.
fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}
