//! Continuation tokens: where the next page of a cell starts.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

use bytes::Bytes;

use crate::executor::StateError;

/// Makes tokens of positions, and positions of tokens. A position is only followed where it came from: a token that
/// was damaged, made for another cell or made by another process is refused, so that a harness cannot lead a reader
/// astray.
#[derive(Clone, Debug, Default)]
pub(crate) struct Continuations {
    secret: RandomState,
}

impl Continuations {
    /// The token of a position in `cell`.
    pub(crate) fn seal(&self, cell: impl Hash, position: u64) -> Bytes {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&position.to_be_bytes());
        token[8..].copy_from_slice(&self.secret.hash_one((cell, position)).to_be_bytes());
        Bytes::copy_from_slice(&token)
    }

    /// The position in `cell` of a token; `None` for the empty one, which is the start.
    pub(crate) fn open(&self, cell: impl Hash, token: &[u8]) -> Result<Option<u64>, StateError> {
        if token.is_empty() {
            return Ok(None);
        }
        let position = token.first_chunk().map(|position| u64::from_be_bytes(*position));
        match position {
            Some(position) if self.seal(cell, position) == token => Ok(Some(position)),
            _ => Err(StateError::Unknown("a continuation token that was not made for this cell".into())),
        }
    }
}
