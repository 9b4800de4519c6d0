//! The store in RocksDB.
//!
//! A store is a job's own scratch: it is written without a log, and after a crash it is not opened again but made anew
//! from a snapshot, if there is one. All stores of a process share one cache, which blocks that were read and writes that
//! are not on disk yet are both charged to, and which is a part of the job's budget.
//!
//! A range is removed key by key where it is short: RocksDB keeps a removed range as a record of its own that every later
//! read has to look at, and the cells of a window that expires are a few keys. Files in which much was removed, which is
//! where windows have expired, are compacted before others.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, LogLevel, Options, ReadOptions, SliceTransform, WriteBufferManager, WriteOptions,
};
use tempfile::TempDir;

use super::store::{FrozenStore, Store, StoreError, Write, WriteBatch};
use crate::memory::{Budget, Reservation};

/// Of a key, what a filter of prefixes holds: the section and the key group (see [`super::layout`]).
const PREFIX: usize = 3;
/// A range with more keys than these is removed as a range.
const SHORT_RANGE: usize = 256;
/// Bounds of the shared cache in bytes, whatever the budget.
const CACHE: std::ops::RangeInclusive<usize> = (8 << 20)..=(512 << 20);
/// The greatest size in bytes of one store's writes in memory.
const WRITE_BUFFER: usize = 32 << 20;
/// The folder of a checkpoint, which RocksDB wants to make itself.
const FROZEN: &str = "store";
/// Among so many entries in a row of a file, so many removals get the file compacted.
const REMOVALS: (usize, usize) = (4096, 2048);

/// What all stores of a process share. Nothing is taken of the budget before the first is opened.
#[derive(Clone)]
pub(super) struct Shared {
    budget: Budget,
    inner: Arc<OnceLock<Inner>>,
}

struct Inner {
    options: Options,
    /// The cache, as a part of the budget.
    _reserved: Reservation,
}

impl Shared {
    pub(super) fn new(budget: &Budget) -> Shared {
        Shared { budget: budget.clone(), inner: Arc::default() }
    }

    /// A quarter of the budget is for RocksDB.
    fn inner(&self) -> &Inner {
        self.inner.get_or_init(|| {
            let size = (self.budget.limit() / 4).clamp(*CACHE.start(), *CACHE.end());
            let mut reserved = self.budget.reserve();
            reserved.force_grow(size);
            Inner { options: options(size), _reserved: reserved }
        })
    }

    /// A new store, which holds what `snapshot` says or nothing. Its folder is removed with the store.
    pub(super) fn open(&self, name: &str, snapshot: Option<&Path>) -> Result<RocksStore, StoreError> {
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(self.budget.spill_dir());
        let folder = folder.map_err(|error| failed("make a folder", error))?;
        if let Some(snapshot) = snapshot {
            copy(snapshot, folder.path()).map_err(|error| failed("read a snapshot", error))?;
        }
        let db = DB::open(&self.inner().options, folder.path()).map_err(|error| failed("open", error))?;
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        Ok(RocksStore { db, without_log, _folder: folder, shared: self.clone() })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn options(cache: usize) -> Options {
    let blocks = Cache::new_lru_cache(cache);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&blocks);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        cache / 2,
        false,
        blocks,
    ));
    options.set_write_buffer_size(WRITE_BUFFER.min(cache / 4));
    options.set_prefix_extractor(SliceTransform::create_fixed_prefix(PREFIX));
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_memtable_whole_key_filtering(true);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.add_compact_on_deletion_collector_factory(REMOVALS.0, REMOVALS.1, 0.0);
    options.set_max_background_jobs(2);
    // What it would log every so often, nobody reads.
    options.set_log_level(LogLevel::Error);
    options.set_keep_log_file_num(1);
    options.set_stats_dump_period_sec(0);
    options
}

/// A snapshot is flat, and may have files beside it that are not the database's. Its files are linked where they can be: what is in one never changes.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if !is_of_database(&entry.file_name()) {
            continue;
        }
        let target = to.join(entry.file_name());
        let unchanging = entry.path().extension().is_some_and(|extension| extension == "sst");
        if !unchanging || std::fs::hard_link(entry.path(), &target).is_err() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Whether a file in a snapshot's folder belongs to the database.
fn is_of_database(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".sst")
        || name.ends_with(".log")
        || name == "CURRENT"
        || name.starts_with("MANIFEST-")
        || name.starts_with("OPTIONS-")
}

/// Whether a folder is a snapshot of a database.
pub(super) fn is_snapshot(folder: &Path) -> bool {
    folder.join("CURRENT").is_file()
}

/// An ordered map in RocksDB.
pub(super) struct RocksStore {
    db: DB,
    without_log: WriteOptions,
    /// Removed after the database was closed.
    _folder: TempDir,
    shared: Shared,
}

impl RocksStore {
    /// The keys of a range, if they are few.
    fn few(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<Bytes>>, StoreError> {
        let mut keys = Vec::new();
        self.scan(from, Some(to), &mut |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            keys.len() <= SHORT_RANGE
        })?;
        Ok((keys.len() <= SHORT_RANGE).then_some(keys))
    }
}

impl Store for RocksStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get_pinned(key).map_err(|error| failed("read a record", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
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
        let mut options = ReadOptions::default();
        // The filter of prefixes may answer only for a range that lies within one.
        let prefix = from.get(..PREFIX).filter(|prefix| to.is_some_and(|to| to.starts_with(prefix)));
        match prefix {
            Some(_) => options.set_prefix_same_as_start(true),
            None => options.set_total_order_seek(true),
        }
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut entries = self.db.raw_iterator_opt(options);
        entries.seek(from);
        while let Some((key, value)) = entries.item() {
            if !visit(key, value) {
                return Ok(());
            }
            entries.next();
        }
        entries.status().map_err(|error| failed("scan", error))
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut writes = rocksdb::WriteBatch::default();
        let removes_ranges = batch.writes.iter().any(|write| matches!(write, Write::DeleteRange(..)));
        // What the batch itself has put so far, in case that it removes it again.
        let mut put = BTreeSet::new();
        for write in batch.writes {
            match write {
                Write::Put(key, value) => {
                    writes.put(&key, &value);
                    if removes_ranges {
                        put.insert(key);
                    }
                }
                Write::Delete(key) => writes.delete(&key),
                Write::DeleteRange(from, to) if from < to => match self.few(&from, &to)? {
                    Some(keys) => {
                        keys.iter().chain(put.range(from..to)).for_each(|key| writes.delete(key));
                    }
                    None => writes.delete_range(&from, &to),
                },
                Write::DeleteRange(..) => {}
            }
        }
        self.db.write_opt(writes, &self.without_log).map_err(|error| failed("write", error))
    }

    fn freeze(&mut self) -> Result<Box<dyn FrozenStore>, StoreError> {
        let folder = tempfile::Builder::new().prefix("frozen-").tempdir_in(self.shared.budget.spill_dir());
        let folder = folder.map_err(|error| failed("make a folder", error))?;
        // Without a log to fall back on, it flushes what is in memory first; then it links files, which never change.
        let checkpoint =
            Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(folder.path().join(FROZEN)));
        checkpoint.map_err(|error| failed("write a snapshot", error))?;
        Ok(Box::new(FrozenRocks { folder }))
    }
}

/// The checkpoint of a database, in a folder of its own under [`FROZEN`].
struct FrozenRocks {
    folder: TempDir,
}

impl FrozenStore for FrozenRocks {
    fn write(self: Box<Self>, into: &Path) -> Result<Option<u64>, StoreError> {
        let frozen = self.folder.path().join(FROZEN);
        let copied = std::fs::create_dir(into).and_then(|()| copy(&frozen, into));
        copied.map_err(|error| failed("write a snapshot", error))?;
        Ok(None)
    }
}

fn failed(doing: &'static str, why: impl fmt::Display) -> StoreError {
    StoreError { doing, why: why.to_string() }
}
