//! The store in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;

use super::store::{Store, StoreError, Write, WriteBatch};

/// An ordered map in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: BTreeMap<Bytes, Bytes>,
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in self.entries.range::<[u8], _>((Bound::Included(from), to)) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        for write in batch.writes {
            match write {
                Write::Put(key, value) => {
                    self.entries.insert(key, value);
                }
                Write::Delete(key) => {
                    self.entries.remove(&key);
                }
                Write::DeleteRange(from, to) if from < to => {
                    let doomed: Vec<Bytes> = self.entries.range(from..to).map(|(key, _)| key.clone()).collect();
                    for key in doomed {
                        self.entries.remove(&key);
                    }
                }
                Write::DeleteRange(..) => {}
            }
        }
        Ok(())
    }

    fn snapshot(&self, _into: &Path) -> Result<(), StoreError> {
        Err(StoreError { doing: "write a snapshot", why: "not there yet".into() })
    }
}
