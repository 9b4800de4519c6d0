//! Which partitions a worker reads, and from where.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::config::{self, FAIL_ON_DATA_LOSS};
use super::super::partitions::PartitionName;
use super::super::position::PartitionPosition;
use super::super::timestamps::PartitionTime;
use super::thread::{Assigned, IsReady, ReaderThread, client};
use super::{FromReader, ToReader, Trouble};

impl ReaderThread {
    /// Finds what there is to be read, and where to begin.
    pub(super) fn look_first(&mut self) -> Result<(), Trouble> {
        let is_for_one = self.task.read.is_for_one_worker();
        let had_ended = is_for_one && self.task.saved.iter().flatten().any(|saved| saved.ended);
        if had_ended || (is_for_one && self.task.worker != 0) {
            self.stopped = true;
            self.tell.say(FromReader::Begun(Vec::new()));
            self.tell.say(FromReader::Ended);
            return Ok(());
        }
        let mut orders = Vec::new();
        let saved = self.task.saved.clone();
        let was_read = |topic: &str| {
            saved.iter().flatten().flat_map(|saved| &saved.partitions).any(|position| position.topic == topic)
        };
        let found = self.partitions().first(was_read, || {
            orders.extend(self.orders.orders.try_iter());
            orders.iter().any(|order| matches!(order, ToReader::Stop))
        })?;
        let mut mine: BTreeMap<PartitionName, PartitionPosition> = BTreeMap::new();
        for position in saved.iter().flatten().flat_map(|saved| &saved.partitions) {
            let name = PartitionName { topic: position.topic.clone(), partition: position.partition };
            if self.is_mine(&name) && self.is_wanted(&name) {
                mine.insert(name, position.clone());
            }
        }
        if self.task.worker == 0 {
            self.tell_unread();
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

    /// Tells of topics that the job has read and that the pipeline does not read any more: a mistyped name looks like that.
    fn tell_unread(&self) {
        let saved = self.task.saved.iter().flatten().flat_map(|saved| &saved.partitions);
        let mut unread: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for position in saved {
            let PartitionPosition { topic, partition, offset, .. } = position;
            if !self.is_wanted(&PartitionName { topic: topic.clone(), partition: *partition }) {
                unread.entry(topic).or_default().push(format!("{offset} of partition {partition}"));
            }
        }
        for (topic, offsets) in unread {
            (self.warn)(format!(
                "topic {topic}, which the saved state has read up to offset {}, is not read any more: the pipeline reads {}",
                offsets.join(", "),
                match &self.pattern {
                    Some(pattern) => format!("the topics that match {pattern}"),
                    None => self.task.read.topics.join(", "),
                }
            ));
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
    pub(super) fn lost(&self, what: String) -> Result<(), Trouble> {
        if !config::fails_on_data_loss(&self.task.read.consumer_config) {
            self.context.tell(&what.clone(), || format!("{what}; the job goes on, as {FAIL_ON_DATA_LOSS}=false says"));
            return Ok(());
        }
        Err(Trouble::Failed(format!(
            "{what}. With {FAIL_ON_DATA_LOSS}=false in the consumer's configuration the job goes on with what there is"
        )))
    }

    pub(super) fn assign(
        &mut self,
        mut positions: Vec<PartitionPosition>,
        ids: &BTreeMap<String, String>,
    ) -> Result<(), Trouble> {
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
}

/// Says of a partition that its topic is another now.
pub(super) fn made_anew(name: &PartitionName, offset: i64) -> String {
    format!("the topic of {name} was deleted and made anew since the job has read it up to offset {offset}")
}
