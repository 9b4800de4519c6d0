//! A message as the bytes of an object: eight bytes that say what it is, the SHA-256 of the message, the message.

use bytes::Bytes;
use prost::Message;

use crate::checkpoint::ContentHash;

const MAGIC: &[u8; 8] = b"ferrojb1";
const HEAD: usize = 8 + 32;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unframing {
    /// It is something else, or of a later format.
    #[error("it is no record of a job, or one of another format")]
    Magic,
    /// Cut or edited.
    #[error("it is damaged: its checksum does not fit")]
    Damaged,
    /// Whole, and not what a reader takes.
    #[error("it is whole, and does not parse: {0}")]
    Content(String),
}

pub(super) fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let hash: [u8; 32] = ContentHash::of(&encoded).into();
    [&MAGIC[..], &hash, &encoded].concat().into()
}

pub(super) fn unframe<M: Message + Default>(bytes: &Bytes) -> Result<M, Unframing> {
    if bytes.get(..MAGIC.len()) != Some(MAGIC) {
        return Err(Unframing::Magic);
    }
    let (Some(hash), Some(message)) = (bytes.get(MAGIC.len()..HEAD), bytes.get(HEAD..)) else {
        return Err(Unframing::Damaged);
    };
    let found: [u8; 32] = ContentHash::of(message).into();
    if found != hash {
        return Err(Unframing::Damaged);
    }
    M::decode(bytes.slice(HEAD..)).map_err(|error| Unframing::Content(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::v1;
    use super::*;

    #[test]
    fn what_was_cut_or_edited_is_no_message() {
        let end = v1::End { state: 4, reason: "because".into(), metrics: Bytes::from_static(b"m"), ended_millis: 7 };
        let framed = frame(&end);
        assert_eq!(unframe::<v1::End>(&framed), Ok(end));
        for length in 0..framed.len() {
            assert!(unframe::<v1::End>(&framed.slice(..length)).is_err(), "{length} bytes of {}", framed.len());
        }
        for at in 0..framed.len() {
            let mut edited = framed.to_vec();
            edited[at] ^= 1;
            assert!(unframe::<v1::End>(&edited.into()).is_err(), "byte {at}");
        }
    }
}
