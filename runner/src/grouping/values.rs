//! The values of a group, wherever they are, read page by page.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::FRAME;
use super::arena::Spot;
use super::run::{FRAME_HEADER, Section, damaged, encode_frame_header, frame_header};
use super::table::Table;
use crate::memory::SpillWriter;

/// Encoded values of one group. Cloning is cheap, and what is on disk stays readable as long as a clone lives.
///
/// A position names a frame: 0 is the start, others come from [`Values::page`].
#[derive(Clone, Debug, Default)]
pub struct Values {
    pieces: Pieces,
}

#[derive(Clone, Debug, Default)]
enum Pieces {
    #[default]
    None,
    One(Piece),
    /// With the position at which each piece starts.
    Many(Arc<[(u64, Piece)]>),
}

#[derive(Clone, Debug)]
enum Piece {
    /// Frames of a table; within the piece the position of a frame is its spot.
    Table { table: Arc<Table>, first: Spot },
    /// A section in memory; within the piece the position of a frame is its offset.
    Loaded(Bytes),
    /// A section on disk; likewise.
    Disk(Section),
}

/// Gathers a page; keeps the first part as it is, so that a page of one part is not copied.
#[derive(Default)]
struct Page {
    first: Bytes,
    rest: BytesMut,
    elements: u64,
}

impl Page {
    fn len(&self) -> usize {
        if self.rest.is_empty() { self.first.len() } else { self.rest.len() }
    }

    /// Whether a frame may join. The number of values in a page is that of a frame at most: four bytes.
    fn has_room(&self, length: usize, count: u64, limit: usize) -> bool {
        self.elements == 0 || self.len() + length <= limit && self.elements + count <= u64::from(u32::MAX)
    }

    fn push(&mut self, values: Bytes, count: u64) {
        self.elements += count;
        if self.rest.is_empty() {
            if self.first.is_empty() {
                self.first = values;
                return;
            }
            self.rest.extend_from_slice(&self.first);
        }
        self.rest.extend_from_slice(&values);
    }

    fn finish(self) -> (Bytes, u64) {
        (if self.rest.is_empty() { self.first } else { self.rest.freeze() }, self.elements)
    }
}

impl Values {
    pub(crate) fn in_table(table: Arc<Table>, group: usize) -> Values {
        let first = table.first_frame(group);
        Values { pieces: Pieces::One(Piece::Table { table, first }) }
    }

    pub(crate) fn loaded(section: Bytes) -> Values {
        Values { pieces: Pieces::One(Piece::Loaded(section)) }
    }

    pub(crate) fn on_disk(section: Section) -> Values {
        Values { pieces: Pieces::One(Piece::Disk(section)) }
    }

    /// All of these, in their order: for windows that merged.
    pub fn chain(parts: Vec<Values>) -> Values {
        if parts.len() < 2 {
            return parts.into_iter().next().unwrap_or_default();
        }
        let mut pieces = Vec::with_capacity(parts.len());
        let mut start = 0;
        let mut add = |piece: &Piece| {
            pieces.push((start, piece.clone()));
            start += piece.span();
        };
        for part in &parts {
            match &part.pieces {
                Pieces::None => {}
                Pieces::One(piece) => add(piece),
                Pieces::Many(pieces) => pieces.iter().for_each(|(_, piece)| add(piece)),
            }
        }
        Values { pieces: Pieces::Many(pieces.into()) }
    }

    /// Whole values from `position` on, concatenated, how many they are, and where the next page starts. A page is at
    /// most `limit` bytes, or one frame: that is up to [`FRAME`] bytes, or a single longer value.
    pub fn page(&self, position: u64, limit: usize) -> io::Result<(Bytes, u64, Option<u64>)> {
        let mut page = Page::default();
        let next = match &self.pieces {
            Pieces::None => None,
            Pieces::One(piece) => piece.read(position, limit, &mut page)?,
            Pieces::Many(pieces) => {
                let first = pieces.partition_point(|(start, _)| *start <= position).saturating_sub(1);
                let mut next = None;
                for (index, (start, piece)) in pieces.iter().enumerate().skip(first) {
                    let offset = if index == first { position - start } else { 0 };
                    next = piece.read(offset, limit, &mut page)?.map(|offset| start + offset);
                    if next.is_some() {
                        break;
                    }
                }
                next
            }
        };
        let (bytes, elements) = page.finish();
        Ok((bytes, elements, next))
    }

    /// The same values from `position` on, with whatever of them is in memory written to a file: for values that are
    /// kept for long, which must not keep the memory of all the groups they were gathered with.
    pub(super) fn store(&self, position: u64, writer: &mut SpillWriter) -> io::Result<Values> {
        if let Pieces::One(Piece::Disk(section)) = &self.pieces {
            let position = position.min(section.length);
            let (offset, length) = (section.offset + position, section.length - position);
            return Ok(Values::on_disk(Section { file: Arc::clone(&section.file), offset, length }));
        }
        let offset = writer.position();
        let mut next = Some(position);
        while let Some(position) = next {
            // One frame, or several in one: both are frames.
            let (values, count, after) = self.page(position, FRAME)?;
            next = after;
            if count > 0 {
                writer.write(&encode_frame_header(values.len(), count))?;
                writer.write(&values)?;
            }
        }
        writer.flush()?;
        let length = writer.position() - offset;
        Ok(Values::on_disk(Section { file: Arc::clone(writer.file()), offset, length }))
    }

    /// Reads all pages in turn.
    pub fn cursor(&self) -> Cursor {
        Cursor { values: self.clone(), next: Some(0) }
    }
}

impl Piece {
    /// How many positions the piece takes.
    fn span(&self) -> u64 {
        match self {
            Piece::Table { .. } => 1 << 32,
            Piece::Loaded(section) => section.len() as u64,
            Piece::Disk(section) => section.length,
        }
    }

    /// Adds frames to the page, from `position` in the piece on. The position of the frame for which there was no room,
    /// or `None` at the end.
    fn read(&self, position: u64, limit: usize, page: &mut Page) -> io::Result<Option<u64>> {
        match self {
            Piece::Table { table, first } => {
                let mut spot = if position == 0 { *first } else { Spot(position as u32) };
                while spot != Spot::NONE {
                    let frame = table.frame(spot);
                    if !page.has_room(frame.length, frame.count, limit) {
                        return Ok(Some(u64::from(spot.0)));
                    }
                    page.push(table.share_frame(&frame), frame.count);
                    spot = frame.next;
                }
                Ok(None)
            }
            Piece::Loaded(section) => {
                let start = (position as usize).min(section.len());
                let (taken, _) = frames(&section.slice(start..), limit, page)?;
                let next = start + taken;
                Ok((next < section.len()).then_some(next as u64))
            }
            Piece::Disk(section) => section_page(section, position, limit, page),
        }
    }
}

/// Adds frames of `bytes` to the page: how many bytes they took, and how many the next one needs if it is not whole.
fn frames(bytes: &Bytes, limit: usize, page: &mut Page) -> io::Result<(usize, Option<usize>)> {
    let mut at = 0;
    while at < bytes.len() {
        if bytes.len() - at < FRAME_HEADER {
            return Ok((at, Some(FRAME_HEADER)));
        }
        let (length, count) = frame_header(&bytes[at..])?;
        if !page.has_room(length, count, limit) {
            return Ok((at, None));
        }
        let (start, end) = (at + FRAME_HEADER, at + FRAME_HEADER + length);
        if end > bytes.len() {
            return Ok((at, Some(end - at)));
        }
        page.push(bytes.slice(start..end), count);
        at = end;
    }
    Ok((at, None))
}

fn section_page(section: &Section, position: u64, limit: usize, page: &mut Page) -> io::Result<Option<u64>> {
    let mut position = position.min(section.length);
    // Frames are read together with their headers, which are few.
    let mut ahead = limit.saturating_sub(page.len()).clamp(FRAME_HEADER, 16 << 20) + FRAME / 4;
    while position < section.length {
        let length = (ahead as u64).min(section.length - position) as usize;
        let bytes = Bytes::from(section.file.read(section.offset + position, length)?);
        let (taken, needs) = frames(&bytes, limit, page)?;
        position += taken as u64;
        match needs {
            Some(needs) if needs as u64 > section.length - position => return Err(damaged()),
            // A frame that reaches beyond what was read: again from its start.
            Some(needs) => ahead = needs.max(limit.saturating_sub(page.len()).min(16 << 20)),
            None if taken < length => return Ok(Some(position)),
            None => {}
        }
    }
    Ok(None)
}

/// Reads the pages of [`Values`] in turn.
#[derive(Clone, Debug)]
pub struct Cursor {
    values: Values,
    next: Option<u64>,
}

impl Cursor {
    /// The next page and the number of its values, as [`Values::page`]; `None` at the end.
    pub fn next_page(&mut self, limit: usize) -> io::Result<Option<(Bytes, u64)>> {
        let Some(position) = self.next else { return Ok(None) };
        let (bytes, elements, next) = self.values.page(position, limit)?;
        self.next = next;
        Ok(if elements == 0 { None } else { Some((bytes, elements)) })
    }
}
