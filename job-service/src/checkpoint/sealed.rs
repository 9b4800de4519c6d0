//! A value as the bytes of an object: JSON that cannot be cut, edited or mistaken for another format unnoticed.
//!
//! ```text
//! {"format":1,"sha256":"<of the bytes of the entry>","nonce":"<32 hex digits>","entry":<the value>}\n
//! ```
//!
//! The hash is of the bytes between `"nonce":` and the last `}`, and everything around them is compared byte for byte,
//! so there is one text for a value: a byte that differs is an error. To write the value anew and compare was rejected:
//! it would tie what is readable to how a library prints numbers.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ContentHash;

/// The one that is written. A reader names the ones that it knows.
const FORMAT: u64 = 1;
const START: &str = "{\"format\":";
const HASH: &str = ",\"sha256\":\"";
const NONCE: &str = "\",\"nonce\":\"";
const ENTRY: &str = "\",\"entry\":";
const END: &str = "}\n";
const NONCE_DIGITS: usize = 32;
const HASH_DIGITS: usize = 64;

/// Tells one writing of an object from every other: 122 random bits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Nonce(String);

impl Nonce {
    /// A new one.
    pub fn new() -> Nonce {
        Nonce(uuid::Uuid::new_v4().simple().to_string())
    }

    fn parse(text: &str) -> Option<Nonce> {
        let good = text.len() == NONCE_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Nonce(text.to_owned()))
    }
}

impl Default for Nonce {
    fn default() -> Nonce {
        Nonce::new()
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes that hold a nonce: what [`Storage::create_once`](super::Storage::create_once) writes. Without one, a writer
/// could not tell its own object from the same object of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    nonce: Nonce,
    bytes: Bytes,
}

impl Sealed {
    /// Of a value.
    pub fn new<T: Serialize>(nonce: Nonce, value: &T) -> Result<Sealed, Unsealing> {
        let entry = serde_json::to_string(value).map_err(|e| Unsealing::Content(e.to_string()))?;
        let hash = checksum(&nonce, &entry);
        let text = format!("{START}{FORMAT}{HASH}{hash}{NONCE}{nonce}{ENTRY}{entry}{END}");
        Ok(Sealed { nonce, bytes: text.into() })
    }

    /// Which writing this is.
    pub fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// As they are stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Why bytes are no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealing {
    /// Written by a later version.
    #[error(
        "it has format {found}, and this version of Ferrobeam reads format {FORMAT} only: use the version that wrote it, \
         or a later one"
    )]
    Format {
        /// What it says.
        found: u64,
    },
    /// Cut, edited, or something else altogether.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Whole, and yet not what a reader takes.
    #[error("it is whole, and its content is not as it must be: {0}")]
    Content(String),
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unsealed<T> {
    /// Which writing it is.
    pub nonce: Nonce,
    /// The value.
    pub value: T,
}

/// Reads what [`Sealed::new`] wrote.
pub(crate) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<Unsealed<T>, Unsealing> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unsealing::Damaged("it is not text"))?;
    let rest = text.strip_prefix(START).ok_or(Unsealing::Damaged("it does not begin as it must"))?;
    let (format, rest) = rest.split_once(',').ok_or(Unsealing::Damaged("it is cut short"))?;
    let canonical = |n: &u64| n.to_string() == format;
    let found = format.parse().ok().filter(canonical).ok_or(Unsealing::Damaged("its format is no number"))?;
    if found != FORMAT {
        return Err(Unsealing::Format { found });
    }
    let rest = rest.strip_prefix(&HASH[1..]).ok_or(Unsealing::Damaged("it has no checksum"))?;
    let (hash, rest) = rest.split_at_checked(HASH_DIGITS).ok_or(Unsealing::Damaged("it is cut short"))?;
    let rest = rest.strip_prefix(NONCE).ok_or(Unsealing::Damaged("it has no nonce"))?;
    let (nonce, rest) = rest.split_at_checked(NONCE_DIGITS).ok_or(Unsealing::Damaged("it is cut short"))?;
    let nonce = Nonce::parse(nonce).ok_or(Unsealing::Damaged("its nonce is none"))?;
    let rest = rest.strip_prefix(ENTRY).ok_or(Unsealing::Damaged("it has no entry"))?;
    let entry = rest.strip_suffix(END).ok_or(Unsealing::Damaged("it is cut short"))?;
    if checksum(&nonce, entry) != hash {
        return Err(Unsealing::Damaged("its checksum differs: it was cut, edited or badly copied"));
    }
    let value = serde_json::from_str(entry).map_err(|e| Unsealing::Content(e.to_string()))?;
    Ok(Unsealed { nonce, value })
}

fn checksum(nonce: &Nonce, entry: &str) -> String {
    ContentHash::of(format!("{nonce}{ENTRY}{entry}").as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_this() {
        let nonce = Nonce("0123456789abcdef0123456789abcdef".to_owned());
        let sealed = Sealed::new(nonce.clone(), &vec![1, 2]).expect("it is JSON");
        let text = std::str::from_utf8(sealed.bytes()).expect("text");
        assert_eq!(
            text,
            "{\"format\":1,\"sha256\":\"2139e8cff5c176b922ac33ab5039e105d203e871a002dab71f4f4ccbe1e22f6f\",\"nonce\":\"0123456789abcdef0123456789abcdef\",\"entry\":[1,2]}\n"
        );
        assert_eq!(unseal::<Vec<u64>>(sealed.bytes()), Ok(Unsealed { nonce, value: vec![1, 2] }));
        let _: serde_json::Value = serde_json::from_str(text).expect("any JSON tool reads it");
    }

    #[test]
    fn another_format_is_refused_by_its_number() {
        let error = unseal::<u64>(b"{\"format\":2,\"anything\":true}\n").expect_err("unknown");
        assert_eq!(error, Unsealing::Format { found: 2 });
        assert!(error.to_string().contains("reads format 1 only"), "{error}");
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        let sealed = Sealed::new(Nonce::new(), &"text").expect("it is JSON");
        assert!(matches!(unseal::<u64>(sealed.bytes()), Err(Unsealing::Content(_))));
    }
}
