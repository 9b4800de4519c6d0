//! Continuation tokens of state cells.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use bytes::Bytes;

use crate::executor::{CellPart, StateError};

/// Where the next page of a cell starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The first item that is on it.
    pub(super) item: Bytes,
    /// Where in that item's bag it starts.
    pub(super) offset: u64,
}

/// Makes tokens of positions, and positions of tokens. A token stays good from bundle to bundle: an SDK may cache the
/// first pages of a cell and ask for the next one later. One that was damaged, or made for another cell or by another
/// process, is refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens(RandomState);

impl Tokens {
    pub(super) fn seal(&self, cell: &[u8], part: &CellPart, position: &Position) -> Bytes {
        let seal = self.0.hash_one((cell, part, &position.item, position.offset));
        [&seal.to_be_bytes(), &position.offset.to_be_bytes(), &position.item[..]].concat().into()
    }

    /// The position of a token; `None` for the empty one, which is the start.
    pub(super) fn open(&self, cell: &[u8], part: &CellPart, token: &[u8]) -> Result<Option<Position>, StateError> {
        if token.is_empty() {
            return Ok(None);
        }
        let position = token
            .get(8..)
            .and_then(|rest| rest.split_first_chunk())
            .map(|(offset, item)| Position { item: Bytes::copy_from_slice(item), offset: u64::from_be_bytes(*offset) });
        match position {
            Some(position) if self.seal(cell, part, &position) == token => Ok(Some(position)),
            _ => Err(StateError::Unknown("a continuation token that was not made for this cell".into())),
        }
    }
}
