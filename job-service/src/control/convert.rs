//! Between the protocol's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrobeam_runner::state::StoreKind;

use super::v1;
use crate::agent::{Order, ProcessName};
use crate::artifacts::ContentHash;
use crate::checkpoint::{Epoch, FileRef, Part};
use crate::job::{Generation, Importance, JobId, Message};

impl From<v1::ProcessName> for ProcessName {
    fn from(name: v1::ProcessName) -> Self {
        ProcessName { job: JobId::named(name.job_id), generation: Generation(name.generation), index: name.index }
    }
}

impl From<ProcessName> for v1::ProcessName {
    fn from(name: ProcessName) -> Self {
        v1::ProcessName { job_id: name.job.to_string(), generation: name.generation.0, index: name.index }
    }
}

impl From<Order> for v1::AgentOrder {
    fn from(order: Order) -> Self {
        let order = match order {
            Order::Start { process, token, processes } => {
                v1::agent_order::Order::Start(v1::StartProcess { process: Some(process.into()), token, processes })
            }
            Order::Kill(process) => v1::agent_order::Order::Kill(process.into()),
        };
        v1::AgentOrder { order: Some(order) }
    }
}

/// `None` for an order without content.
pub(super) fn order(order: v1::AgentOrder) -> Option<Order> {
    match order.order? {
        v1::agent_order::Order::Start(start) => {
            Some(Order::Start { process: start.process?.into(), token: start.token, processes: start.processes })
        }
        v1::agent_order::Order::Kill(process) => Some(Order::Kill(process.into())),
    }
}

impl From<StoreKind> for v1::Store {
    fn from(kind: StoreKind) -> Self {
        match kind {
            StoreKind::Auto => v1::Store::Auto,
            StoreKind::Memory => v1::Store::Memory,
            StoreKind::RocksDb => v1::Store::RocksDb,
        }
    }
}

impl From<v1::Store> for StoreKind {
    fn from(store: v1::Store) -> Self {
        match store {
            v1::Store::Unspecified => StoreKind::default(),
            v1::Store::Auto => StoreKind::Auto,
            v1::Store::Memory => StoreKind::Memory,
            v1::Store::RocksDb => StoreKind::RocksDb,
        }
    }
}

impl From<v1::Message> for Message {
    fn from(message: v1::Message) -> Self {
        let importance = match message.importance() {
            v1::message::Importance::Debug => Importance::Debug,
            v1::message::Importance::Detailed => Importance::Detailed,
            v1::message::Importance::Unspecified | v1::message::Importance::Basic => Importance::Basic,
            v1::message::Importance::Warning => Importance::Warning,
        };
        let time = UNIX_EPOCH + Duration::from_millis(u64::try_from(message.time).unwrap_or_default());
        Message { importance, time, text: message.text }
    }
}

impl From<Message> for v1::Message {
    fn from(message: Message) -> Self {
        let importance = match message.importance {
            Importance::Debug => v1::message::Importance::Debug,
            Importance::Detailed => v1::message::Importance::Detailed,
            Importance::Basic => v1::message::Importance::Basic,
            // The job's one error is the reason that it failed for, which is not sent as a message.
            Importance::Warning | Importance::Error => v1::message::Importance::Warning,
        };
        let since: Duration = message.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        v1::Message { importance: importance.into(), time, text: message.text }
    }
}

/// Why what a process says that it saved makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPart {
    #[error("a part is of no operator")]
    Operator,
    #[error("operator {operator:?} has {shards} shards and no shard {shard}")]
    Shard { operator: String, shard: u32, shards: u32 },
    #[error("file {0:?} has no digest of 32 bytes")]
    Digest(String),
}

/// What a process says that one shard of an operator saved.
pub(crate) fn part(part: v1::SavedPart) -> Result<Part, BadPart> {
    let v1::SavedPart { operator, shard, shards, files, records } = part;
    if operator.is_empty() {
        return Err(BadPart::Operator);
    }
    if shard >= shards {
        return Err(BadPart::Shard { operator, shard, shards });
    }
    let file = |file: v1::SavedFile| match <[u8; 32]>::try_from(&file.sha256[..]) {
        Ok(sha256) => Ok(FileRef {
            name: file.name,
            sha256: ContentHash::from(sha256),
            bytes: file.bytes,
            epoch: Epoch(file.epoch),
        }),
        Err(_) => Err(BadPart::Digest(file.name)),
    };
    let files = files.into_iter().map(file).collect::<Result<_, _>>()?;
    Ok(Part { operator, shard, shards, files, records })
}

impl From<Part> for v1::SavedPart {
    fn from(part: Part) -> Self {
        let Part { operator, shard, shards, files, records } = part;
        let file = |file: FileRef| v1::SavedFile {
            name: file.name,
            sha256: <[u8; 32]>::from(file.sha256).to_vec().into(),
            bytes: file.bytes,
            epoch: file.epoch.0,
        };
        v1::SavedPart { operator, shard, shards, files: files.into_iter().map(file).collect(), records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_checked() {
        let file =
            |digest: usize| v1::SavedFile { name: "a".into(), sha256: vec![7; digest].into(), bytes: 5, epoch: 3 };
        let part = |operator: &str, shard, digest| v1::SavedPart {
            operator: operator.into(),
            shard,
            shards: 2,
            files: vec![file(32), file(digest)],
            records: 9,
        };
        let good = FileRef { name: "a".into(), sha256: ContentHash::from([7; 32]), bytes: 5, epoch: Epoch(3) };
        let expected =
            Part { operator: "count".into(), shard: 1, shards: 2, files: vec![good.clone(), good], records: 9 };
        assert_eq!(super::part(part("count", 1, 32)), Ok(expected));
        assert_eq!(super::part(part("", 1, 32)), Err(BadPart::Operator));
        let no_shard = BadPart::Shard { operator: "count".into(), shard: 2, shards: 2 };
        assert_eq!(super::part(part("count", 2, 32)), Err(no_shard));
        assert_eq!(super::part(part("count", 0, 31)), Err(BadPart::Digest("a".into())));
    }
}
