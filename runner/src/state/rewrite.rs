//! Records of saved state in a store that numbers cells and timer families otherwise.

use bytes::Bytes;

use super::layout::{BUFFER, CELLS, EXPIRIES, NEXT_SEQUENCE, Reader, TIMERS};
use super::store::StoreError;
use super::timers::{HOLDS, IDS, TIMES};

/// What numbers of before are called now; none where nothing has them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) cells: Vec<Option<u32>>,
    pub(crate) timers: Vec<Option<u16>>,
}

impl Numbers {
    /// Whether all are what they were.
    pub(crate) fn are_the_same(&self) -> bool {
        let same = |at: usize, number: Option<usize>| number == Some(at);
        self.cells.iter().enumerate().all(|(at, number)| same(at, number.map(|number| number as usize)))
            && self.timers.iter().enumerate().all(|(at, number)| same(at, number.map(usize::from)))
    }
}

/// Where in a key something stands.
struct Place {
    /// The key group.
    group: Option<usize>,
    /// The number of a cell or family.
    number: Option<Number>,
}

enum Number {
    Cell(usize),
    Timer(usize),
}

fn place(key: &[u8]) -> Result<Place, StoreError> {
    let mut reader = Reader(key);
    let [section] = reader.take_array()?;
    let at = |reader: &Reader<'_>| key.len() - reader.0.len();
    let scope = |reader: &mut Reader<'_>| {
        let group = at(reader);
        reader.take_scope()?;
        Ok::<_, StoreError>(group)
    };
    match section {
        CELLS => {
            let group = Some(scope(&mut reader)?);
            Ok(Place { group, number: Some(Number::Cell(at(&reader))) })
        }
        TIMERS => {
            let [order] = reader.take_array()?;
            match order {
                IDS => {}
                TIMES => {
                    reader.take(1)?;
                    reader.take_time()?;
                    reader.take_time()?;
                }
                HOLDS => {
                    reader.take_time()?;
                }
                _ => return Err(unknown()),
            }
            let group = Some(scope(&mut reader)?);
            Ok(Place { group, number: Some(Number::Timer(at(&reader))) })
        }
        EXPIRIES => {
            reader.take_time()?;
            Ok(Place { group: Some(scope(&mut reader)?), number: None })
        }
        BUFFER => {
            // The time and the sequence number.
            reader.take(16)?;
            Ok(Place { group: Some(at(&reader)), number: None })
        }
        NEXT_SEQUENCE => Ok(Place { group: None, number: None }),
        _ => Err(unknown()),
    }
}

/// The key group that a record of a keyed stage is of, by its key; none of a number that all share.
pub(crate) fn group_of(key: &[u8]) -> Result<Option<u16>, StoreError> {
    let Some(at) = place(key)?.group else { return Ok(None) };
    Ok(Some(u16::from_be_bytes(Reader(&key[at..]).take_array()?)))
}

/// The key of a record with today's numbers; none where nothing has it any more.
pub(crate) fn renumber(key: Bytes, numbers: &Numbers) -> Result<Option<Bytes>, StoreError> {
    let Some(number) = place(&key)?.number else { return Ok(Some(key)) };
    let mut renumbered = key.to_vec();
    match number {
        Number::Cell(at) => {
            let before = u32::from_be_bytes(Reader(&key[at..]).take_array()?);
            let Some(now) = numbers.cells.get(before as usize).copied().flatten() else { return Ok(None) };
            renumbered[at..at + 4].copy_from_slice(&now.to_be_bytes());
        }
        Number::Timer(at) => {
            let before = u16::from_be_bytes(Reader(&key[at..]).take_array()?);
            let Some(now) = numbers.timers.get(usize::from(before)).copied().flatten() else { return Ok(None) };
            renumbered[at..at + 2].copy_from_slice(&now.to_be_bytes());
        }
    }
    Ok(Some(renumbered.into()))
}

fn unknown() -> StoreError {
    StoreError { doing: "take over saved state", why: "a record is of a section unknown here".into() }
}
