//! Side inputs as tables that harnesses read page by page.
//!
//! A [`SideInputTable`] is filled, frozen, and from then on read by many threads at once. It groups like a GroupByKey
//! whose key is the window, and for a multimap whose second key is the user's: in memory that gives hash lookups and a
//! list of each window's keys; past the budget one run sorted by window and key, with a sparse index in memory.
//!
//! Everything is answered in pages of whole values, at most [`PAGE`] bytes unless one value is longer, so that neither
//! side needs memory for a whole side input. Reads reserve nothing of the budget: a page is held by who asked for it.

mod disk;
mod growing;
mod mapping;
mod memory;
mod names;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::element::{Batch, ElementCoder, put_varint};
use crate::executor::{StateError, StatePage};
use crate::grouping::{Continuations, Frozen, GroupBuffer, Values};
use crate::memory::Budget;
use crate::plan::Access;
use names::{bare, in_window};

pub use growing::{GrowingError, GrowingTable, ReaderId, Shown, View};
pub use mapping::map_window;

/// Bytes of a page, unless one value is longer.
pub const PAGE: usize = 1 << 20;

/// Most bytes of values that are sent together with their key. Asked for a page of entries that holds a key with more,
/// the table refuses, upon which SDKs look up one key at a time, in pages.
pub const ENTRY_LIMIT: u64 = 16 << 20;

/// The contents of one side input, by window.
#[derive(Debug)]
pub struct SideInputTable {
    access: Access,
    coder: ElementCoder,
    filling: Mutex<Option<GroupBuffer>>,
    frozen: OnceLock<Contents>,
    continuations: Continuations,
}

#[derive(Debug)]
enum Contents {
    Memory(memory::Memory),
    Disk(disk::Disk),
}

/// What is asked for; part of what a continuation is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    Values,
    ValuesOf,
    Keys,
    Entries,
}

impl SideInputTable {
    /// An empty table of `coder`'s elements.
    pub fn new(budget: &Budget, access: Access, coder: ElementCoder) -> SideInputTable {
        SideInputTable {
            access,
            coder,
            filling: Mutex::new(Some(GroupBuffer::new(budget))),
            frozen: OnceLock::new(),
            continuations: Continuations::default(),
        }
    }

    /// Adds elements, each to all of its windows.
    pub fn append(&self, batch: &Batch) -> io::Result<()> {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(buffer) = filling.as_mut() else {
            return Err(io::Error::other("elements came after the side input was complete"));
        };
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        for element in batch.elements() {
            let view = self.coder.parse(element).map_err(malformed)?;
            let (key, value) = match self.access {
                Access::Iterable => (&[][..], view.value),
                Access::Multimap => self.coder.value.key_value(view.value).map_err(malformed)?,
            };
            for window in view.windows {
                buffer.add(bare(&self.coder.window, window), key, view.timestamp, value)?;
            }
        }
        Ok(())
    }

    /// Ends the filling; from now on the table can be read. Freezing again changes nothing.
    pub fn freeze(&self) -> io::Result<()> {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(buffer) = filling.take() else { return Ok(()) };
        let mut index = disk::Index::default();
        let contents = match buffer.freeze(|head, position| index.visit(head, position))? {
            Frozen::Memory(table) => Contents::Memory(memory::Memory::new(table)),
            Frozen::Disk(run) => Contents::Disk(disk::Disk::new(run, index)),
        };
        // The buffer was taken under the lock, so nobody else can have set it.
        let _ = self.frozen.set(contents);
        Ok(())
    }

    /// The values of a window (`IterableSideInput`).
    pub fn values(&self, window: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.expect(Access::Iterable)?;
        in_window(&self.coder.window, window, |window| {
            self.page_of_values((Request::Values, window, b""), continuation)
        })
    }

    /// The values of a key in a window (`MultimapSideInput`).
    pub fn values_of(&self, window: &[u8], key: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.expect(Access::Multimap)?;
        in_window(&self.coder.window, window, |window| {
            self.page_of_values((Request::ValuesOf, window, key), continuation)
        })
    }

    /// The keys of a window, each once (`MultimapKeysSideInput`).
    pub fn keys(&self, window: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.expect(Access::Multimap)?;
        in_window(&self.coder.window, window, |window| {
            self.page_of_groups(Request::Keys, window, continuation, |page, key, _, _| {
                page.extend_from_slice(key);
                Ok(())
            })
        })
    }

    /// The keys of a window, each followed by an iterable of its values (`MultimapKeysValuesSideInput`).
    pub fn entries(&self, window: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.expect(Access::Multimap)?;
        in_window(&self.coder.window, window, |window| {
            self.page_of_groups(Request::Entries, window, continuation, entry)
        })
    }

    fn expect(&self, access: Access) -> Result<(), StateError> {
        expect(self.access, access)
    }

    fn contents(&self) -> Result<&Contents, StateError> {
        self.frozen.get().ok_or_else(|| StateError::Storage("the side input is not complete yet".into()))
    }

    fn page_of_values(&self, cell: (Request, &[u8], &[u8]), continuation: &[u8]) -> Result<StatePage, StateError> {
        let [position] = self.continuations.open(cell, continuation)?.unwrap_or([0]);
        let (_, window, key) = cell;
        let values = match self.contents()? {
            Contents::Memory(memory) => memory.find(window, key),
            Contents::Disk(disk) => disk.find(window, key).map_err(storage)?,
        };
        let Some(values) = values else { return Ok(StatePage::default()) };
        let (data, _, next) = values.page(position, PAGE).map_err(storage)?;
        Ok(StatePage { data, continuation: self.continuation(cell, next) })
    }

    fn page_of_groups(
        &self,
        request: Request,
        window: &[u8],
        continuation: &[u8],
        mut add: impl FnMut(&mut BytesMut, &[u8], u64, &Values) -> Result<(), StateError>,
    ) -> Result<StatePage, StateError> {
        let cell = (request, window, &b""[..]);
        let position = self.continuations.open(cell, continuation)?.map(|[position]| position);
        let mut page = BytesMut::new();
        // What would make a page too long is taken back, to start the next one.
        let add = |key: &[u8], count: u64, values: &Values| {
            let before = page.len();
            add(&mut page, key, count, values)?;
            if before > 0 && page.len() > PAGE {
                page.truncate(before);
                return Ok(false);
            }
            Ok(true)
        };
        let next = match self.contents()? {
            Contents::Memory(memory) => memory.groups(window, position, add)?,
            Contents::Disk(disk) => disk.groups(window, position, add)?,
        };
        Ok(StatePage { data: page.freeze(), continuation: self.continuation(cell, next) })
    }

    fn continuation(&self, cell: (Request, &[u8], &[u8]), next: Option<u64>) -> Bytes {
        next.map_or_else(Bytes::new, |next| self.continuations.seal(cell, [next]))
    }
}

/// Refuses to read a side input in another way than it was declared.
fn expect(declared: Access, asked: Access) -> Result<(), StateError> {
    if declared == asked {
        return Ok(());
    }
    let kind = match asked {
        Access::Iterable => "an iterable",
        Access::Multimap => "a multimap",
    };
    Err(StateError::Unsupported(format!("this side input is not {kind}")))
}

fn storage(error: io::Error) -> StateError {
    StateError::Storage(error.to_string())
}

/// Appends a key and the iterable of its values.
fn entry(page: &mut BytesMut, key: &[u8], count: u64, values: &Values) -> Result<(), StateError> {
    page.extend_from_slice(key);
    let start = page.len();
    let known = i32::try_from(count).ok();
    page.extend_from_slice(&known.unwrap_or(-1).to_be_bytes());
    let mut cursor = values.cursor();
    while let Some((bytes, elements)) = cursor.next_page(PAGE).map_err(storage)? {
        if known.is_none() {
            page.extend_from_slice(&varint(elements));
        }
        page.extend_from_slice(&bytes);
        if (page.len() - start) as u64 > ENTRY_LIMIT {
            let limit = ENTRY_LIMIT >> 20;
            let what = format!("a key has more than {limit} MiB of values: look up its values by themselves");
            return Err(StateError::Unsupported(what));
        }
    }
    if known.is_none() {
        page.extend_from_slice(&varint(0));
    }
    Ok(())
}

fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    put_varint(&mut out, value);
    out
}
