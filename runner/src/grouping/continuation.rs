//! Continuation tokens: where the next page of a cell starts.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

use bytes::Bytes;

use crate::executor::StateError;

/// Makes tokens of positions, and positions of tokens. A position is a few numbers. It is only followed where it came
/// from: a token that was damaged, made for another cell or made by another process is refused, so that a harness cannot
/// lead a reader astray.
#[derive(Clone, Debug, Default)]
pub(crate) struct Continuations {
    secret: RandomState,
}

impl Continuations {
    /// The token of a position in `cell`.
    pub(crate) fn seal<const N: usize>(&self, cell: impl Hash, position: [u64; N]) -> Bytes {
        let mut token = Vec::with_capacity(8 * (N + 1));
        for number in position {
            token.extend_from_slice(&number.to_be_bytes());
        }
        token.extend_from_slice(&self.secret.hash_one((cell, position)).to_be_bytes());
        token.into()
    }

    /// The position in `cell` of a token; `None` for the empty one, which is the start.
    pub(crate) fn open<const N: usize>(&self, cell: impl Hash, token: &[u8]) -> Result<Option<[u64; N]>, StateError> {
        if token.is_empty() {
            return Ok(None);
        }
        let (words, rest) = token.as_chunks::<8>();
        let mut position = [0; N];
        for (number, word) in position.iter_mut().zip(words) {
            *number = u64::from_be_bytes(*word);
        }
        if words.len() == N + 1 && rest.is_empty() && self.seal(cell, position) == token {
            return Ok(Some(position));
        }
        Err(StateError::Unknown("a continuation token that was not made for this cell".into()))
    }
}
