//! Panes as elements.

use std::sync::Arc;

use super::Trouble;
use super::windows::{Window, Windows};
use crate::element::{Batch, BatchBuilder, MAX_ELEMENT, encode_windowed_header, put_varint};
use crate::grouping::{NewIterable, StoredIterables};
use crate::time::Timestamp;
use crate::windowing::PaneInfo;

/// Values above this many bytes are sent by reference where the coder allows it.
const INLINE_LIMIT: u64 = 1 << 20;
/// A batch is sent on once it holds this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Turns panes into windowed values.
pub(super) struct Panes {
    batch: BatchBuilder,
    state_backed: bool,
    iterables: Arc<StoredIterables>,
    /// Stages that read the output.
    readers: u32,
}

impl Panes {
    /// `state_backed`: the coder of the output lets iterables be sent by reference.
    pub(super) fn new(state_backed: bool, iterables: Arc<StoredIterables>, readers: u32) -> Panes {
        Panes { batch: BatchBuilder::default(), state_backed, iterables, readers }
    }

    /// Adds the window's values as one pane.
    pub(super) fn push(
        &mut self,
        windows: &Windows,
        window: &Window,
        pane: &PaneInfo,
        timestamp: Timestamp,
    ) -> Result<(), Trouble> {
        let values = &window.state.values;
        let by_reference = self.state_backed && values.bytes > INLINE_LIMIT;
        if !by_reference && values.bytes > MAX_ELEMENT as u64 {
            let (count, bytes) = (values.count, values.bytes);
            let what = format!("a group of {count} values ({bytes} bytes) is too long to be one element");
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, what).into());
        }
        let mut encoded_pane = Vec::with_capacity(8);
        pane.encode(&mut encoded_pane);
        let stored = by_reference.then_some((&*self.iterables, self.readers));
        self.batch.try_push_with(timestamp, |out| {
            encode_windowed_header(out, timestamp, &[&window.window], &encoded_pane);
            out.extend_from_slice(&window.key);
            encode_values(out, windows, window, stored)
        })
    }

    /// Whether there is enough for a batch.
    pub(super) fn is_full(&self) -> bool {
        self.batch.bytes() >= BATCH_BYTES
    }

    /// Everything since the last time; an empty batch if that is nothing.
    pub(super) fn finish(&mut self) -> Batch {
        self.batch.finish()
    }
}

/// An iterable: counted and whole, or, given where to store it and for how many readers, its start and a token for the
/// rest.
fn encode_values(
    out: &mut Vec<u8>,
    windows: &Windows,
    window: &Window,
    stored: Option<(&StoredIterables, u32)>,
) -> Result<(), Trouble> {
    let counted = i32::try_from(window.state.values.count).ok().filter(|_| stored.is_none());
    out.extend_from_slice(&counted.unwrap_or(-1).to_be_bytes());
    let mut inline = 0;
    let mut rest: Option<NewIterable> = None;
    windows.values(window, |values, count| -> Result<(), Trouble> {
        if let Some(rest) = &mut rest {
            return Ok(rest.push(values, count)?);
        }
        if counted.is_none() {
            put_varint(out, count);
        }
        out.extend_from_slice(values);
        inline += values.len() as u64;
        if let Some((iterables, readers)) = stored
            && inline >= INLINE_LIMIT
        {
            rest = Some(iterables.begin(readers)?);
        }
        Ok(())
    })?;
    if let Some(rest) = rest {
        let token = rest.finish()?;
        put_varint(out, u64::MAX);
        put_varint(out, token.len() as u64);
        out.extend_from_slice(&token);
    } else if counted.is_none() {
        put_varint(out, 0);
    }
    Ok(())
}
