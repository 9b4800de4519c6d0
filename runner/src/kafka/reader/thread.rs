//! The thread that reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, Timestamp as RecordTime};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use regex::Regex;

use super::super::client::{Context, LEAVING, Warn};
use super::super::config;
use super::super::native;
use super::super::partitions::{self, PartitionName, Partitions};
use super::super::position::{PartitionPosition, owner};
use super::super::record::{BadRecord, ElementEncoder, ReadRecord, TimestampType, encode_read_error};
use super::super::spec::TimestampPolicy;
use super::super::timestamps::PartitionTime;
use super::begin::made_anew;
use super::{FromReader, Moved, Orders, ReaderTask, Reading, Tell, ToReader, Trouble};
use crate::clock::{Clock, WallClock};
use crate::element::{BatchBuilder, PANE_NO_FIRING, encode_windowed_header};

/// A batch is handed on when it has so many bytes, or when nothing waits.
const BATCH_BYTES: usize = 256 << 10;
/// Records of a partition before others get their turn.
const TURN: usize = 1000;
/// How often all is looked after that does not come by itself.
const TICK: Duration = Duration::from_millis(100);
/// How often brokers are asked where partitions end that have nothing more.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long a read may wait for records before that is told.
const TELL_WAITING: Duration = Duration::from_secs(10);

/// A partition that is read.
pub(super) struct Assigned {
    pub(super) name: PartitionName,
    pub(super) offset: i64,
    pub(super) stop: Option<i64>,
    pub(super) time: PartitionTime,
    /// Nothing more was there.
    pub(super) at_end: bool,
    /// It is not read any more.
    pub(super) ended: bool,
    /// There is something about it that was not told.
    pub(super) moved: bool,
    pub(super) is_ready: IsReady,
    pub(super) queue: Option<PartitionQueue<Context>>,
}

/// Says that something may be in a partition's queue: once, until it is looked at.
#[derive(Clone)]
pub(super) struct IsReady {
    pub(super) index: usize,
    pub(super) said: Arc<AtomicBool>,
    pub(super) ready: Sender<usize>,
}

impl IsReady {
    pub(super) fn say(&self) {
        if !self.said.swap(true, Ordering::AcqRel) {
            // Fails only when the reader is gone.
            let _ = self.ready.send(self.index);
        }
    }
}

/// The thread's state.
pub(super) struct ReaderThread {
    pub(super) task: ReaderTask,
    pub(super) warn: Warn,
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) context: Arc<Context>,
    pub(super) orders: Orders,
    pub(super) tell: Tell,
    pub(super) pattern: Option<Regex>,
    pub(super) assigned: Vec<Assigned>,
    pub(super) known: BTreeSet<PartitionName>,
    /// The ids of the topics that are read.
    pub(super) ids: BTreeMap<String, String>,
    /// Numbers of partitions in whose queues something may be.
    pub(super) ready: (Sender<usize>, Receiver<usize>),
    pub(super) encoder: ElementEncoder,
    pub(super) batch: BatchBuilder,
    /// Rows of values that are no elements, where those are wanted.
    pub(super) errors: BatchBuilder,
    /// Records that may still be read.
    pub(super) left: Option<u64>,
    pub(super) deadline: Option<Instant>,
    pub(super) looked: Instant,
    /// When brokers were asked last where partitions end.
    pub(super) asked: Instant,
    /// Since when a read of so many records has come to the end of what there is.
    pub(super) waits: Option<Instant>,
    pub(super) stopped: bool,
}

fn now() -> i64 {
    WallClock.now().0
}

pub(super) fn client(configured: &ClientConfig, warn: Warn) -> Result<BaseConsumer<Context>, Trouble> {
    let made = configured.create_with_context(Context::new(warn));
    made.map_err(|error| Trouble::Failed(config::refused(error).to_string()))
}

impl ReaderThread {
    pub(super) fn begin(task: ReaderTask, warn: Warn, orders: Orders, tell: Tell) -> Result<ReaderThread, Trouble> {
        let failed = |what: String| Trouble::Failed(what);
        let configured = config::consumer(&task.read.consumer_config).map_err(|error| failed(error.to_string()))?;
        let consumer = Arc::new(client(&configured, Arc::clone(&warn))?);
        let context = Arc::clone(consumer.context());
        let pattern = match &task.read.topic_pattern {
            Some(pattern) => Some(whole(pattern).map_err(|error| failed(format!("the topic pattern: {error}")))?),
            None => None,
        };
        let encoder = ElementEncoder::new(task.element.clone()).map_err(failed)?;
        let (read_before, millis_before) = (task.records_before(), task.millis_before());
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
            encoder,
            batch: BatchBuilder::new(),
            errors: BatchBuilder::new(),
            looked: Instant::now(),
            asked: Instant::now(),
            waits: None,
            stopped: false,
        })
    }

    pub(super) fn partitions(&self) -> Partitions<'_> {
        Partitions { consumer: &self.consumer, read: &self.task.read, pattern: self.pattern.as_ref() }
    }

    pub(super) fn is_mine(&self, name: &PartitionName) -> bool {
        self.owner(name, self.task.workers) == self.task.worker
    }

    pub(super) fn owner(&self, name: &PartitionName, workers: usize) -> usize {
        if self.task.read.is_for_one_worker() { 0 } else { owner(&name.topic, name.partition, workers) }
    }

    pub(super) fn run(mut self) -> Result<(), Trouble> {
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
            let is_enough = ticks || self.ready.1.is_empty() || self.bytes() >= BATCH_BYTES;
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
        self.tell_what_is_waited_for();
        self.let_time_pass();
        let every = Duration::from_millis(self.task.read.discover_every);
        if !every.is_zero() && self.looked.elapsed() >= every && !self.task.read.is_for_one_worker() {
            self.looked = Instant::now();
            self.look_again()?;
        }
        Ok(())
    }

    /// A read that ends with a number of records waits for them, if there are not as many: that may be a mistake.
    fn tell_what_is_waited_for(&mut self) {
        let (Some(most), Some(left)) = (self.task.read.max_records, self.left.filter(|left| *left > 0)) else { return };
        if !self.assigned.iter().all(|partition| partition.at_end || partition.ended) {
            self.waits = None;
            return;
        }
        if self.waits.get_or_insert_with(Instant::now).elapsed() >= TELL_WAITING {
            self.context.tell("waiting", || {
                format!(
                    "{} of the {most} records that are to be read were there, and the job waits for the others: they may come still, \
                     or the read was to begin earlier (auto.offset.reset, the offsets of its group)",
                    most - left
                )
            });
        }
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
            // With what an open transaction has written: that is read when it is committed, and as old as it is now.
            let ends = self.partitions().ends_now(idle.iter().map(|index| &self.assigned[*index].name));
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
            if self.assigned[index].ended || self.left == Some(0) || self.bytes() >= BATCH_BYTES {
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
            headers: if self.encoder.wants_headers() { native::headers(message) } else { Vec::new() },
        };
        let at = partition.time.of_record(timestamp, now());
        let encoder = &self.encoder;
        let encoded = self.batch.try_push_with(at, |out| {
            encode_windowed_header(out, at, &[b""], PANE_NO_FIRING);
            encoder.encode(out, &record)
        });
        if let Err(bad) = encoded {
            let bad = BadRecord(format!("the record at offset {} of {}: {bad}", message.offset(), partition.name));
            let Some(errors) = self.task.errors else { return Err(Trouble::Failed(bad.to_string())) };
            self.errors.push_with(at, |out| {
                encode_windowed_header(out, at, &[b""], PANE_NO_FIRING);
                encode_read_error(out, errors.prefixed, record.value, &bad);
            });
        }
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
            Some(code) if partitions::passes(&error) => {
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

    /// What waits to be handed on.
    fn bytes(&self) -> usize {
        self.batch.bytes() + self.errors.bytes()
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
        if moved.is_empty() && self.bytes() == 0 && !alone {
            return true;
        }
        // Who has no partition holds nothing up: one that comes later is behind the clock, as idle ones are.
        let least = self.assigned.iter().filter(|partition| !partition.ended).map(|it| it.time.watermark()).min();
        let watermark = least.unwrap_or_else(now);
        self.tell.say(FromReader::Read(Reading {
            batch: self.batch.finish(),
            errors: self.errors.finish(),
            moved,
            watermark,
        }))
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

/// As Java's `Pattern.matches` has it, the whole of a name.
fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}
