//! The groups of a finished buffer, key by key.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::run::{Head, Merge, Section};
use super::table::{Table, Totals};
use super::values::Values;
use crate::time::Timestamp;

/// A section up to this length is loaded; a longer one is read when its values are asked for.
const LOAD_LIMIT: u64 = 64 << 10;

/// Bytes of values that one key may have loaded: the rest of its windows stay on disk.
const KEY_LIMIT: u64 = 1 << 20;

/// One key with all its windows.
#[derive(Clone, Debug)]
pub struct KeyGroup {
    /// The encoded key.
    pub key: Bytes,
    /// Its windows, in no particular order.
    pub windows: Vec<WindowGroup>,
}

/// The values of one key in one window.
#[derive(Clone, Debug)]
pub struct WindowGroup {
    /// The encoded window.
    pub window: Bytes,
    /// The least timestamp among the values.
    pub earliest: Timestamp,
    /// The greatest timestamp among the values.
    pub latest: Timestamp,
    /// The number of values.
    pub count: u64,
    /// Their bytes, as encoded.
    pub bytes: u64,
    /// The values themselves.
    pub values: Values,
}

impl WindowGroup {
    fn new(window: Bytes, totals: Totals, values: Values) -> WindowGroup {
        let Totals { count, bytes, earliest, latest } = totals;
        WindowGroup { window, earliest, latest, count, bytes, values }
    }
}

/// Gives every key once.
#[derive(Debug)]
pub struct Groups {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The next key, and the next of its groups if some were given.
    Memory {
        table: Arc<Table>,
        key: usize,
        group: Option<usize>,
    },
    Merge(Box<Merge>),
}

impl Groups {
    pub(super) fn memory(table: Table) -> Groups {
        Groups { source: Source::Memory { table: Arc::new(table), key: 0, group: None } }
    }

    pub(super) fn merge(merge: Merge) -> Groups {
        Groups { source: Source::Merge(Box::new(merge)) }
    }

    /// The next key; `None` when all were given.
    #[allow(clippy::should_implement_trait)] // Fails, and is not meant to be collected.
    pub fn next(&mut self) -> io::Result<Option<KeyGroup>> {
        self.next_part(usize::MAX)
    }

    /// As [`Groups::next`], with at most `limit` windows (or one); the key comes again with the next of them. For
    /// windows that do not merge, so that the memory for a key does not grow with their number.
    pub fn next_part(&mut self, limit: usize) -> io::Result<Option<KeyGroup>> {
        match &mut self.source {
            Source::Memory { table, key, group } => Ok(from_table(table, key, group, limit)),
            Source::Merge(merge) => from_merge(merge, limit),
        }
    }
}

fn from_table(table: &Arc<Table>, key: &mut usize, group: &mut Option<usize>, limit: usize) -> Option<KeyGroup> {
    if *key == table.keys() {
        return None;
    }
    let mut windows = Vec::with_capacity(1);
    let mut next = Some(group.unwrap_or_else(|| table.first_group(*key)));
    while let Some(group) = next
        && (windows.is_empty() || windows.len() < limit)
    {
        let values = Values::in_table(Arc::clone(table), group);
        windows.push(WindowGroup::new(table.window(group), table.totals(group), values));
        next = table.next_group(group);
    }
    let given = KeyGroup { key: table.key(*key), windows };
    if next.is_none() {
        *key += 1;
    }
    *group = next;
    Some(given)
}

fn from_merge(merge: &mut Merge, limit: usize) -> io::Result<Option<KeyGroup>> {
    let Some(head) = merge.pop()? else { return Ok(None) };
    let (hash, key) = (head.hash, head.key.clone());
    let mut loaded = 0;
    let mut windows = Vec::with_capacity(1);
    windows.push(window_group(merge, head, &mut loaded)?);
    while windows.len() < limit && merge.peek()?.is_some_and(|next| next == (hash, &key)) {
        if let Some(head) = merge.pop()? {
            windows.push(window_group(merge, head, &mut loaded)?);
        }
    }
    Ok(Some(KeyGroup { key, windows }))
}

fn window_group(merge: &mut Merge, head: Head, loaded: &mut u64) -> io::Result<WindowGroup> {
    let mut parts = Vec::with_capacity(merge.taken().len());
    // A large group may be kept for long, so none of it stays in memory, however small its parts are.
    let large = head.totals.bytes > KEY_LIMIT;
    merge.sections(|reader, length| {
        if !large && length <= LOAD_LIMIT && *loaded + length <= KEY_LIMIT {
            *loaded += length;
            parts.push(Values::loaded(reader.take(length as usize)?));
        } else {
            let (file, offset) = (Arc::clone(reader.file()), reader.position());
            parts.push(Values::on_disk(Section { file, offset, length }));
        }
        Ok(())
    })?;
    Ok(WindowGroup::new(head.window, head.totals, Values::chain(parts)))
}
