//! A table as it is saved: what it has in memory is written beside its contents.
//!
//! Numbers are varints, times eight bytes as on the wire.
//!
//! | record | value |
//! |---|---|
//! | the table | the last content that was created, how far windows were removed, the watermark (0 or 1, then the time) |
//! | a window, by its name | flags, end, expiry, content and end of what is shown, likewise of what waits, bytes, the trigger's state |

use std::collections::HashSet;

use bytes::Bytes;

use super::contents::{ContentId, TABLE, WINDOWS, damaged};
use super::window::{Content, Window};
use super::{GrowingTable, Inner};
use crate::element::{ElementCoder, put_varint};
use crate::plan::Access;
use crate::state::{FrozenStore, Reader, Store, StoreError, WriteBatch, after};
use crate::time::Timestamp;
use crate::windowing::{TriggerMachine, Windowing};

const FIRED: u64 = 1;
const WAITS: u64 = 2;
const OPEN: u64 = 4;

impl GrowingTable {
    /// All of it as it is now. Nothing may be due that was not fired: see [`GrowingTable::advance`].
    pub fn freeze(&self) -> Result<Box<dyn FrozenStore>, StoreError> {
        let mut inner = self.inner();
        let mut batch = WriteBatch::default();
        batch.delete_range(&[WINDOWS][..], after(&[WINDOWS]));
        for (name, window) in &inner.windows {
            batch.put([&[WINDOWS][..], name].concat(), encode(window, self.machine.as_ref()));
        }
        let mut table = Vec::new();
        put_varint(&mut table, inner.contents.next);
        table.extend_from_slice(&inner.removed.to_wire());
        table.push(u8::from(inner.watermark.is_some()));
        table.extend_from_slice(&inner.watermark.unwrap_or(Timestamp::MAX).to_wire());
        batch.put(&[TABLE][..], table);
        inner.contents.store.write(batch)?;
        inner.contents.store.freeze()
    }

    /// The table whose store was saved.
    pub fn restore(
        store: Box<dyn Store>,
        access: Access,
        coder: ElementCoder,
        windowing: Windowing,
    ) -> Result<GrowingTable, StoreError> {
        let table = GrowingTable::new(store, access, coder, windowing);
        table.inner().take_over(table.machine.as_ref())?;
        Ok(table)
    }
}

impl Inner {
    fn take_over(&mut self, machine: Option<&TriggerMachine>) -> Result<(), StoreError> {
        let saved = self.contents.store.get(&[TABLE])?.ok_or_else(damaged)?;
        let mut reader = Reader(&saved);
        self.contents.next = reader.take_varint()?;
        self.removed = reader.take_time()?;
        let [known] = reader.take_array()?;
        let watermark = reader.take_time()?;
        self.watermark = (known == 1).then_some(watermark);
        let mut windows = Vec::new();
        self.contents.store.scan(&[WINDOWS], Some(&after(&[WINDOWS])), &mut |key, record| {
            windows.push((Bytes::copy_from_slice(&key[1..]), Bytes::copy_from_slice(record)));
            true
        })?;
        let mut live = HashSet::new();
        for (name, record) in windows {
            let window = decode(&record, machine)?;
            live.extend(window.contents());
            self.needed.set(&name, Some(window.end));
            // Whether it fires is asked anew.
            self.touched.insert(name.clone());
            self.windows.insert(name, window);
        }
        // What was replaced and still read when it was saved is read by nobody now.
        self.contents.keep_only(&live)
    }
}

fn encode(window: &Window, machine: Option<&TriggerMachine>) -> Vec<u8> {
    let Window { end, expiry, shown, pending, trigger, fired, bytes } = window;
    let flag = |is: bool, flag| if is { flag } else { 0 };
    let mut out = Vec::new();
    put_varint(&mut out, flag(*fired, FIRED) | flag(pending.is_some(), WAITS) | flag(trigger.is_some(), OPEN));
    out.extend_from_slice(&end.to_wire());
    out.extend_from_slice(&expiry.to_wire());
    for content in std::iter::once(shown).chain(pending) {
        put_varint(&mut out, content.id.0);
        put_varint(&mut out, content.end);
    }
    put_varint(&mut out, *bytes);
    if let (Some(machine), Some(trigger)) = (machine, trigger) {
        machine.encode(trigger, &mut out);
    }
    out
}

fn decode(record: &[u8], machine: Option<&TriggerMachine>) -> Result<Window, StoreError> {
    let mut reader = Reader(record);
    let flags = reader.take_varint()?;
    let (end, expiry) = (reader.take_time()?, reader.take_time()?);
    let mut content =
        || Ok::<_, StoreError>(Content { id: ContentId(reader.take_varint()?), end: reader.take_varint()? });
    let shown = content()?;
    let pending = if flags & WAITS > 0 { Some(content()?) } else { None };
    let bytes = reader.take_varint()?;
    let trigger = match machine.filter(|_| flags & OPEN > 0) {
        Some(machine) => Some(machine.decode(reader.0).map_err(|_| damaged())?),
        None => None,
    };
    Ok(Window { end, expiry, shown, pending, trigger, fired: flags & FIRED > 0, bytes })
}
