//! Files on disk by the hash of their content.
//!
//! A file is written beside its final place and renamed there when it is whole and its hash is known, so that a reader
//! sees all of it or nothing, and two writers of the same content do no harm.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The SHA-256 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// From 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<ContentHash> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(ContentHash(hash))
    }

    /// Of these bytes.
    pub fn of(content: &[u8]) -> ContentHash {
        ContentHash(Sha256::digest(content).into())
    }
}

impl From<[u8; 32]> for ContentHash {
    fn from(digest: [u8; 32]) -> ContentHash {
        ContentHash(digest)
    }
}

impl From<ContentHash> for [u8; 32] {
    fn from(hash: ContentHash) -> [u8; 32] {
        hash.0
    }
}

impl From<Sha256> for ContentHash {
    /// Of what was hashed piece by piece.
    fn from(hasher: Sha256) -> ContentHash {
        ContentHash(hasher.finalize().into())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a file was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What came is not what was announced.
    #[error("an artifact announced with SHA-256 {announced} came with {came}: it changed, or was damaged on the way")]
    Mismatch {
        /// The hash that the client named.
        announced: ContentHash,
        /// The hash of what came.
        came: ContentHash,
    },
}

/// A folder of files named by their hashes.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in `dir`, which is created if it does not exist.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Store, StoreError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(io_error("cannot create the artifacts directory", &dir))?;
        Ok(Store { dir })
    }

    /// Whether the content is here.
    pub fn has(&self, hash: ContentHash) -> bool {
        self.path(hash).is_file()
    }

    /// Where the content is, or would be. Made of the hash alone.
    pub fn path(&self, hash: ContentHash) -> PathBuf {
        self.dir.join(hash.to_string())
    }

    /// Starts to write content.
    pub fn upload(&self) -> Result<Upload, StoreError> {
        let file = tempfile::Builder::new()
            .prefix(".incoming-")
            .tempfile_in(&self.dir)
            .map_err(io_error("cannot write an artifact in", &self.dir))?;
        Ok(Upload { store: self.clone(), file, hasher: Sha256::new(), size: 0 })
    }

    /// A folder of links to contents that are here, named by their hashes; removed when dropped.
    pub fn links(&self, hashes: &[ContentHash]) -> Result<tempfile::TempDir, StoreError> {
        let folder = self.incoming()?;
        for hash in hashes {
            let (path, link) = (self.path(*hash), folder.path().join(hash.to_string()));
            fs::hard_link(&path, &link).map_err(io_error("cannot link the artifact", &path))?;
        }
        Ok(folder)
    }

    /// A folder on the file system of the store; removed when dropped.
    pub fn incoming(&self) -> Result<tempfile::TempDir, StoreError> {
        let made = tempfile::Builder::new().prefix(".incoming-").tempdir_in(&self.dir);
        made.map_err(io_error("cannot make a folder in", &self.dir))
    }

    /// Takes a file that is known to have this content.
    pub fn adopt(&self, file: &Path, hash: ContentHash) -> Result<(), StoreError> {
        fs::rename(file, self.path(hash)).map_err(io_error("cannot keep the artifact", file))
    }

    /// Opens content that is here.
    pub fn open_content(&self, hash: ContentHash) -> Result<File, StoreError> {
        let path = self.path(hash);
        File::open(&path).map_err(io_error("cannot read the artifact", &path))
    }
}

/// Content on its way in; dropped, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    store: Store,
    file: tempfile::NamedTempFile,
    hasher: Sha256,
    size: u64,
}

impl Upload {
    /// Appends.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(piece);
        self.size += piece.len() as u64;
        self.file.write_all(piece).map_err(io_error("cannot write an artifact in", &self.store.dir))
    }

    /// The content is whole. Checks it against the hash that was announced, if one was.
    pub fn finish(self, announced: Option<ContentHash>) -> Result<ContentHash, StoreError> {
        let hash = ContentHash::from(self.hasher);
        if let Some(announced) = announced.filter(|a| *a != hash) {
            return Err(StoreError::Mismatch { announced, came: hash });
        }
        let path = self.store.path(hash);
        self.file.persist(&path).map_err(|e| io_error("cannot keep the artifact", &path)(e.error))?;
        Ok(hash)
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + use<'a> {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path().join("artifacts")).expect("it can be made");
        (dir, store)
    }

    fn put(store: &Store, content: &[u8], announced: Option<ContentHash>) -> Result<ContentHash, StoreError> {
        let mut upload = store.upload()?;
        for piece in content.chunks(3) {
            upload.write(piece)?;
        }
        upload.finish(announced)
    }

    #[test]
    fn content_comes_back_by_its_hash() {
        let (_dir, store) = store();
        let hash = put(&store, b"hello", None).expect("stored");
        assert_eq!(hash, ContentHash::of(b"hello"));
        assert_eq!(put(&store, b"hello", Some(hash)).expect("stored twice"), hash);
        let mut read = Vec::new();
        store.open_content(hash).expect("it is here").read_to_end(&mut read).expect("it can be read");
        assert_eq!(read, b"hello");
    }

    #[test]
    fn content_that_is_not_what_was_announced_leaves_nothing() {
        let (_dir, store) = store();
        let announced = ContentHash::of(b"hello");
        let error = put(&store, b"hullo", Some(announced)).expect_err("another hash").to_string();
        assert!(error.contains(&announced.to_string()), "{error}");
        assert!(!store.has(announced) && !store.has(ContentHash::of(b"hullo")));
        assert_eq!(fs::read_dir(&store.dir).expect("it exists").count(), 0);
    }

    #[test]
    fn an_upload_that_is_given_up_leaves_nothing() {
        let (_dir, store) = store();
        let mut upload = store.upload().expect("started");
        upload.write(b"half").expect("written");
        drop(upload);
        assert_eq!(fs::read_dir(&store.dir).expect("it exists").count(), 0);
    }

    #[test]
    fn only_64_hexadecimal_digits_are_a_hash() {
        let good = ContentHash::of(b"x").to_string();
        assert_eq!(ContentHash::parse(&good).map(|h| h.to_string()), Some(good.clone()));
        assert!(ContentHash::parse(&good.to_uppercase()).is_some());
        for bad in ["", "../../../../etc/passwd", &good[1..], &format!("+{}", &good[1..]), &"é".repeat(32)] {
            assert_eq!(ContentHash::parse(bad), None, "{bad}");
        }
    }
}
