//! Reading a growing table.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::contents::ContentId;
use super::{GrowingTable, Inner};
use crate::element::put_varint;
use crate::executor::{StateError, StatePage};
use crate::plan::Access;
use crate::side_input::names::in_window;
use crate::side_input::{ENTRY_LIMIT, PAGE, Request, expect};
use crate::state::StoreError;

/// A look at a growing table: what it has begun to read stays until it is dropped.
#[derive(Debug)]
pub struct View {
    table: Arc<GrowingTable>,
    version: u64,
}

/// What is read of a content.
struct Span {
    content: ContentId,
    from: u64,
    to: u64,
}

impl View {
    pub(super) fn new(table: Arc<GrowingTable>, version: u64) -> View {
        View { table, version }
    }

    /// Changes, within a process, whenever what the table shows has changed. Never 0.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The values of a window (`IterableSideInput`).
    pub fn values(&self, window: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.read(Access::Iterable, window, |window| self.page_of_values((Request::Values, window, b""), continuation))
    }

    /// The values of a key in a window (`MultimapSideInput`).
    pub fn values_of(&self, window: &[u8], key: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.read(Access::Multimap, window, |window| {
            self.page_of_values((Request::ValuesOf, window, key), continuation)
        })
    }

    /// The keys of a window, each once (`MultimapKeysSideInput`).
    pub fn keys(&self, window: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.read(Access::Multimap, window, |window| {
            self.page_of_keys(Request::Keys, window, continuation, |page, _, key, _| {
                page.extend_from_slice(key);
                Ok(())
            })
        })
    }

    /// The keys of a window, each followed by an iterable of its values (`MultimapKeysValuesSideInput`).
    pub fn entries(&self, window: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        self.read(Access::Multimap, window, |window| self.page_of_keys(Request::Entries, window, continuation, entry))
    }

    fn read(
        &self,
        access: Access,
        window: &[u8],
        read: impl Fn(&[u8]) -> Result<StatePage, StateError>,
    ) -> Result<StatePage, StateError> {
        expect(self.table.access, access)?;
        in_window(&self.table.coder.window, window, read)
    }

    /// What a page is to be read from: where the one before ended, or all that the window shows now.
    fn span(
        &self,
        inner: &Inner,
        cell: (Request, &[u8], &[u8]),
        continuation: &[u8],
    ) -> Result<Option<Span>, StateError> {
        let position = self.table.continuations.open(cell, continuation)?;
        let begin = || {
            let shown = inner.windows.get(cell.1)?.shown();
            Some(Span { content: shown.id, from: 0, to: shown.end })
        };
        Ok(position.map(|[content, from, to]| Span { content: ContentId(content), from, to }).or_else(begin))
    }

    fn continuation(&self, cell: (Request, &[u8], &[u8]), span: &Span, next: Option<u64>) -> Bytes {
        next.map_or_else(Bytes::new, |next| self.table.continuations.seal(cell, [span.content.0, next, span.to]))
    }

    fn page_of_values(&self, cell: (Request, &[u8], &[u8]), continuation: &[u8]) -> Result<StatePage, StateError> {
        let inner = self.table.inner();
        let Some(span) = self.span(&inner, cell, continuation)? else { return Ok(StatePage::default()) };
        let (_, _, key) = cell;
        let from = match continuation {
            [] => inner.contents.start(span.content, key).map_err(storage)?.unwrap_or(0),
            _ => span.from,
        };
        let (mut page, mut next) = (BytesMut::new(), None);
        let add = |number: u64, _, values: &[u8]| {
            if !page.is_empty() && page.len() + values.len() > PAGE {
                next = Some(number);
                return false;
            }
            page.extend_from_slice(values);
            true
        };
        inner.contents.values(span.content, key, (from, span.to), add).map_err(storage)?;
        Ok(StatePage { data: page.freeze(), continuation: self.continuation(cell, &span, next) })
    }

    fn page_of_keys(
        &self,
        request: Request,
        window: &[u8],
        continuation: &[u8],
        add: impl Fn(&mut BytesMut, &Inner, &[u8], &Span) -> Result<(), StateError>,
    ) -> Result<StatePage, StateError> {
        let cell = (request, window, &b""[..]);
        let inner = self.table.inner();
        let Some(span) = self.span(&inner, cell, continuation)? else { return Ok(StatePage::default()) };
        let (mut page, mut next) = (BytesMut::new(), None);
        let mut failed = None;
        let mut visit = |number: u64, key: &[u8]| {
            let before = page.len();
            failed = add(&mut page, &inner, key, &span).err();
            // What would make a page too long is taken back, to start the next one.
            if before > 0 && page.len() > PAGE && failed.is_none() {
                page.truncate(before);
                next = Some(number);
                return false;
            }
            failed.is_none()
        };
        inner.contents.keys(span.content, (span.from, span.to), &mut visit).map_err(storage)?;
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(StatePage { data: page.freeze(), continuation: self.continuation(cell, &span, next) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.table.close_view(self.version);
    }
}

/// Appends a key and the iterable of its values, in chunks.
fn entry(page: &mut BytesMut, inner: &Inner, key: &[u8], span: &Span) -> Result<(), StateError> {
    page.extend_from_slice(key);
    let start = page.len();
    page.extend_from_slice(&(-1i32).to_be_bytes());
    let from = inner.contents.start(span.content, key).map_err(storage)?.unwrap_or(0);
    // What was replaced since the first page of entries is shown as it is now.
    let to = if from < span.to { span.to } else { u64::MAX };
    let mut head = Vec::with_capacity(10);
    let mut fits = true;
    let add = |_, count: u64, values: &[u8]| {
        head.clear();
        put_varint(&mut head, count);
        page.extend_from_slice(&head);
        page.extend_from_slice(values);
        fits = (page.len() - start) as u64 <= ENTRY_LIMIT;
        fits
    };
    inner.contents.values(span.content, key, (from, to), add).map_err(storage)?;
    if !fits {
        let what = format!("a key has more than {} MiB of values: look up its values by themselves", ENTRY_LIMIT >> 20);
        return Err(StateError::Unsupported(what));
    }
    page.extend_from_slice(&[0]);
    Ok(())
}

fn storage(error: StoreError) -> StateError {
    StateError::Storage(error.to_string())
}
