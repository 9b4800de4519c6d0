//! Which partitions there are, and where they are read from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use regex::Regex;

use super::client::{Context, GIVE_UP};
use super::config::{self, Reset};
use super::native::{self, EndOf};
use super::position::PartitionPosition;
use super::reader::Trouble;
use super::spec::KafkaRead;

/// How long one question to a broker may take.
const ASK: Duration = Duration::from_secs(10);
/// How long a question may take that can be asked again.
const SOON: Duration = Duration::from_secs(2);

/// A partition by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartitionName {
    pub(super) topic: String,
    pub(super) partition: i32,
}

impl std::fmt::Display for PartitionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {} of topic {}", self.partition, self.topic)
    }
}

/// Finds partitions, and where to begin with them.
pub(super) struct Partitions<'a> {
    pub(super) consumer: &'a BaseConsumer<Context>,
    pub(super) read: &'a KafkaRead,
    pub(super) pattern: Option<&'a Regex>,
}

impl Partitions<'_> {
    /// All that there are now. Fails only with what is no passing trouble of a broker; that is `None`.
    pub(super) fn all(&self) -> Result<Option<BTreeSet<PartitionName>>, Trouble> {
        let mut found = BTreeSet::new();
        if let Some(pattern) = self.pattern {
            let Some(metadata) = passing(self.consumer.fetch_metadata(None, ASK))? else { return Ok(None) };
            for topic in metadata.topics().iter().filter(|topic| pattern.is_match(topic.name())) {
                let partitions = topic.partitions().iter().map(|partition| partition.id());
                found.extend(partitions.map(|partition| PartitionName { topic: topic.name().to_owned(), partition }));
            }
            return Ok(Some(found));
        }
        for name in &self.read.topics {
            let Some(metadata) = passing(self.consumer.fetch_metadata(Some(name), ASK))? else { return Ok(None) };
            for topic in metadata.topics() {
                if let Some(error) = topic.error() {
                    let code = RDKafkaErrorCode::from(error);
                    match code {
                        RDKafkaErrorCode::LeaderNotAvailable => return Ok(None),
                        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                            return Err(Trouble::NoTopic(name.clone()));
                        }
                        _ => return Err(Trouble::Failed(format!("topic {name} cannot be read: {code}"))),
                    }
                }
                let partitions = topic.partitions().iter().map(|partition| partition.id());
                found.extend(partitions.map(|partition| PartitionName { topic: name.clone(), partition }));
            }
        }
        Ok(Some(found))
    }

    /// As [`Partitions::all`], until there is an answer. A topic that `was_read` is given more time to be there than one that may never
    /// have been.
    pub(super) fn first(
        &self,
        was_read: impl Fn(&str) -> bool,
        mut asked_to_stop: impl FnMut() -> bool,
    ) -> Result<BTreeSet<PartitionName>, Trouble> {
        let begun = Instant::now();
        loop {
            let trouble = match self.all() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => None,
                Err(Trouble::NoTopic(name)) => Some(Trouble::NoTopic(name)),
                Err(other) => return Err(other),
            };
            if asked_to_stop() {
                return Err(Trouble::Stopped);
            }
            // Has it tell what goes wrong: a call may end with any event.
            for _ in 0..20 {
                let _ = self.consumer.poll(Duration::from_millis(10));
            }
            if let Some(refusal) = self.consumer.context().refusal(&self.read.consumer_config, begun.elapsed()) {
                return Err(Trouble::Passing(refusal));
            }
            // A topic that was just made is not known to every broker at once.
            let patience = match &trouble {
                Some(Trouble::NoTopic(name)) if !was_read(name) => ASK,
                _ => GIVE_UP,
            };
            if begun.elapsed() >= patience {
                return Err(trouble.unwrap_or_else(|| {
                    let context = self.consumer.context();
                    Trouble::Passing(context.no_broker(&self.read.consumer_config, begun.elapsed()))
                }));
            }
        }
    }

    /// Where to begin with partitions that were there when the job began.
    pub(super) fn starts(&self, names: &[PartitionName]) -> Result<Vec<PartitionPosition>, Trouble> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        // Before offsets are looked up by time: what comes between the two questions is not to be passed over.
        let ends = names.iter().map(|name| self.ends(name)).collect::<Result<Vec<_>, _>>()?;
        let mut starts = match (self.read.start_time, config::group(&self.read.consumer_config)) {
            (Some(time), _) => self.at_time(names, time)?,
            (None, Some(_)) => self.committed(names)?,
            (None, None) => vec![None; names.len()],
        };
        let said = Reset::said(&self.read.consumer_config);
        for ((name, start), (low, high)) in names.iter().zip(&mut starts).zip(&ends) {
            let (low, high) = (*low, *high);
            let reset = match said {
                _ if self.read.start_time.is_some() => Some(high),
                Reset::Earliest => Some(low),
                Reset::Latest => Some(high),
                Reset::None => None,
            };
            let there = start.filter(|start| (low..=high).contains(start));
            *start = there.or(reset);
            if start.is_none() {
                return Err(Trouble::Failed(format!(
                    "{name} has no offset to start from: the group has none that is there still, and auto.offset.reset is none"
                )));
            }
        }
        let stops = match self.read.stop_time {
            Some(time) => self.at_time(names, time)?,
            None => vec![None; names.len()],
        };
        let mut positions = Vec::with_capacity(names.len());
        for (((name, start), stop), (_, high)) in names.iter().zip(starts).zip(stops).zip(ends) {
            let stop = stop.or(self.read.stop_time.map(|_| high));
            positions.push(PartitionPosition {
                topic: name.topic.clone(),
                topic_id: None,
                partition: name.partition,
                offset: start.unwrap_or_default(),
                watermark: i64::MIN,
                stop,
            });
        }
        Ok(positions)
    }

    /// Where to begin with partitions that came later: at their start.
    pub(super) fn starts_of_new(&self, names: &[PartitionName]) -> Result<Vec<PartitionPosition>, Trouble> {
        let starts = names.iter().map(|name| {
            // One broker has told of it; the one that leads it may not have heard yet.
            let is_unknown = |error: &KafkaError| {
                let code = error.rdkafka_error_code();
                matches!(code, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition))
            };
            let ends = || self.consumer.fetch_watermarks(&name.topic, name.partition, ASK);
            let offset = self.ask_while(ends, &name.to_string(), |error| passes(error) || is_unknown(error))?.0;
            let PartitionName { topic, partition } = name.clone();
            Ok(PartitionPosition { topic, topic_id: None, partition, offset, watermark: i64::MIN, stop: None })
        });
        starts.collect()
    }

    /// The ids of the topics of `positions`, where they are known.
    pub(super) fn ids<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
        let topics: BTreeSet<&str> = topics.into_iter().collect();
        native::topic_ids(self.consumer, topics, ASK)
    }

    /// The first offset of a partition, and the one behind its last.
    pub(super) fn ends(&self, name: &PartitionName) -> Result<(i64, i64), Trouble> {
        self.ask(|| self.consumer.fetch_watermarks(&name.topic, name.partition, ASK), &name.to_string())
    }

    /// Where partitions end now, with the records of transactions that are open; of those of which brokers say so soon.
    pub(super) fn ends_now<'a>(
        &self,
        names: impl IntoIterator<Item = &'a PartitionName>,
    ) -> BTreeMap<PartitionName, i64> {
        let names: Vec<&PartitionName> = names.into_iter().collect();
        if names.is_empty() {
            return BTreeMap::new();
        }
        let ends = native::ends(self.consumer, &names, SOON).into_iter();
        ends.map(|EndOf { topic, partition, offset }| (PartitionName { topic, partition }, offset)).collect()
    }

    fn list(names: &[PartitionName], offset: Offset) -> Result<TopicPartitionList, Trouble> {
        let mut list = TopicPartitionList::with_capacity(names.len());
        for name in names {
            list.add_partition_offset(&name.topic, name.partition, offset)
                .map_err(|error| Trouble::Failed(format!("{name}: {error}")))?;
        }
        Ok(list)
    }

    /// The offsets of an answer, where it has some.
    fn found(names: &[PartitionName], list: &TopicPartitionList) -> Result<Vec<Option<i64>>, KafkaError> {
        let offsets = names.iter().map(|name| {
            let Some(found) = list.find_partition(&name.topic, name.partition) else { return Ok(None) };
            found.error()?;
            Ok(match found.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
        });
        offsets.collect()
    }

    /// The first offsets with such a timestamp or a later one.
    fn at_time(&self, names: &[PartitionName], time: i64) -> Result<Vec<Option<i64>>, Trouble> {
        let list = Self::list(names, Offset::Offset(time))?;
        let ask = || Self::found(names, &self.consumer.offsets_for_times(list.clone(), ASK)?);
        self.ask(ask, "looking up offsets by time")
    }

    /// What the group has committed.
    fn committed(&self, names: &[PartitionName]) -> Result<Vec<Option<i64>>, Trouble> {
        let list = Self::list(names, Offset::Invalid)?;
        let ask = || Self::found(names, &self.consumer.committed_offsets(list.clone(), ASK)?);
        self.ask(ask, "looking up the offsets of the group")
    }

    /// Asks until there is an answer.
    fn ask<T>(&self, ask: impl Fn() -> Result<T, KafkaError>, what: &str) -> Result<T, Trouble> {
        self.ask_while(ask, what, passes)
    }

    /// As [`Partitions::ask`], also after other faults that may be over soon.
    fn ask_while<T>(
        &self,
        ask: impl Fn() -> Result<T, KafkaError>,
        what: &str,
        passes: impl Fn(&KafkaError) -> bool,
    ) -> Result<T, Trouble> {
        let begun = Instant::now();
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !passes(&error) {
                return Err(Trouble::Failed(format!("{what}: {error}")));
            }
            if begun.elapsed() >= GIVE_UP {
                return Err(Trouble::Passing(format!("{what}: {error}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Nothing where a question has no answer only for now.
fn passing<T>(answer: Result<T, KafkaError>) -> Result<Option<T>, Trouble> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if passes(&error) => Ok(None),
        Err(error) => Err(Trouble::Failed(error.to_string())),
    }
}

/// Whether a fault may be over soon.
pub(super) fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::TimedOutQueue
                | Code::RequestTimedOut
                | Code::WaitingForCoordinator
                | Code::WaitCache
                | Code::InProgress
                | Code::Resolve
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::BrokerNotAvailable
                | Code::ReplicaNotAvailable
                | Code::NetworkException
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::UnstableOffsetCommit
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::OffsetNotAvailable
                | Code::KafkaStorageError
        )
    })
}
