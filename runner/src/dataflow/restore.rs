//! Starting an operator's store from the parts of a checkpoint, for the keys of one worker.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;

use crate::checkpoint::{PartHead, Restored, Saver};
use crate::state::{Record, Store, StoreError, Stores, worker_of};
use crate::time::Timestamp;

/// The parts that an operator takes over on one worker: its own, or, where the number of workers has changed, those that
/// have keys of it.
pub(crate) struct Parts<'a> {
    parts: Vec<&'a Restored>,
    shard: usize,
    shards: usize,
}

impl<'a> Parts<'a> {
    /// Those of the operator of `saver`, whose parts are of the kind and form of `head`.
    pub(crate) fn of(saver: &'a Saver, head: &PartHead) -> Result<Parts<'a>, StoreError> {
        let (shard, shards) = (saver.shard(), saver.shards());
        let parts: Vec<&Restored> =
            saver.restored().iter().filter(|part| overlaps(&part.head, shard, shards)).collect();
        for Restored { head: saved, .. } in &parts {
            if saved.kind != head.kind || saved.form != head.form {
                let (saved, now) = (&saved.form, &head.form);
                let why =
                    format!("it was saved as {saved}, and is now {now}: leave it as it was, or start from nothing");
                return Err(StoreError { doing: "take over saved state", why });
            }
        }
        Ok(Parts { parts, shard, shards })
    }

    /// The heads of the parts.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &PartHead> {
        self.parts.iter().map(|part| &part.head)
    }

    /// A store with all records of this worker's keys. `group_of` says which key group a record is of; one of none is a
    /// number of eight bytes, of which the greatest counts. `rewrite` makes the record of today of a record of a part.
    pub(crate) fn open(
        &self,
        stores: &Stores,
        name: &str,
        group_of: impl Fn(&[u8]) -> Result<Option<u16>, StoreError>,
        rewrite: Option<&Rewrite<'_>>,
    ) -> Result<Box<dyn Store>, StoreError> {
        let stored: Vec<&Restored> = self.parts.iter().copied().filter(|part| part.head.has_store).collect();
        match (&stored[..], rewrite) {
            ([], _) => return stores.open(name),
            ([whole], None) if whole.head.shards as usize == self.shards => return stores.restore(name, &whole.folder),
            _ => {}
        }
        let mut greatest: HashMap<Bytes, Bytes> = HashMap::new();
        let mut select = |head: &PartHead, key: Bytes, value: Bytes| -> Result<Option<Record>, StoreError> {
            match group_of(&key)? {
                Some(group) if worker_of(group.to_be_bytes(), self.shards) != self.shard => return Ok(None),
                Some(_) => {}
                None => {
                    if greatest.get(&key).is_some_and(|known| *known >= value) {
                        return Ok(None);
                    }
                    greatest.insert(key.clone(), value.clone());
                }
            }
            match rewrite {
                None => Ok(Some(Record { key, value })),
                Some(rewrite) => rewrite(head, key, value),
            }
        };
        let snapshots = stored.iter().map(|part| (&part.head, part.folder.as_path()));
        let snapshots: Vec<(&PartHead, &Path)> = snapshots.collect();
        stores.merge(name, &snapshots, &mut select)
    }

    /// The least input watermark that the parts had worked off: what was on time for one of them stays so.
    pub(crate) fn least_watermark(&self) -> Timestamp {
        Timestamp(self.heads().map(|head| head.watermark).min().unwrap_or(i64::MIN))
    }

    /// The least output watermark that they had reached.
    pub(crate) fn least_output(&self) -> Timestamp {
        Timestamp(self.heads().map(|head| head.output).min().unwrap_or(i64::MIN))
    }
}

/// Makes the record of today of one of a part; none where nothing has it any more.
pub(crate) type Rewrite<'a> = dyn Fn(&PartHead, Bytes, Bytes) -> Result<Option<Record>, StoreError> + 'a;

/// Whether a part has keys of worker `shard` of `shards`: both have a contiguous range of the key groups.
fn overlaps(part: &PartHead, shard: usize, shards: usize) -> bool {
    let (old, of) = (part.shard as u64, u64::from(part.shards.max(1)));
    let (new, shards) = (shard as u64, shards as u64);
    old * shards < (new + 1) * of && new * of < (old + 1) * shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::PartKind;

    #[test]
    fn the_parts_that_have_keys_of_a_worker_are_those_that_overlap() {
        for of in 1..9usize {
            for shards in 1..9 {
                for group in (0..=u16::MAX).step_by(7) {
                    let group = group.to_be_bytes();
                    let (old, new) = (worker_of(group, of), worker_of(group, shards));
                    let part = PartHead { shard: old as u32, shards: of as u32, ..PartHead::of(PartKind::Keyed) };
                    assert!(overlaps(&part, new, shards), "{old} of {of}, {new} of {shards}");
                }
                // And no more than touch it.
                let count = (0..of)
                    .map(|old| PartHead { shard: old as u32, shards: of as u32, ..PartHead::of(PartKind::Keyed) })
                    .filter(|part| overlaps(part, 0, shards))
                    .count();
                assert_eq!(count, of.div_ceil(shards));
            }
        }
    }
}
