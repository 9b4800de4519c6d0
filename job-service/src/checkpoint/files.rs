//! Files of a checkpoint: from a local folder to the store and back.
//!
//! Files that RocksDB never changes (`.sst`) are not sent again when the checkpoint that this one builds on has their
//! content. Their names say nothing: a restored store gives the same names to other content. Everything else
//! (`MANIFEST`, `CURRENT`, `OPTIONS`, snapshots) is sent anew. Nothing is skipped because an object happens to be there:
//! it might be on its way out. See [the module](super).

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::layout::{Key, Layout, LayoutError};
use super::manifest::{FileRef, Manifest, is_file_name};
use super::storage::{Storage, StorageError, blocking};
use super::{ContentHash, Epoch};
use crate::job::JobId;

/// Which files never change once they are written.
const SHARED: &str = ".sst";
/// Stores take parts of at least 5 MiB, of one size, and at most 10,000 of them.
const PART: u64 = 8 << 20;
const MAX_PARTS: u64 = 9_000;
/// Longer files are sent in parts.
const WHOLE: u64 = 2 * PART;
/// How many files are hashed, sent or fetched at once.
const FILES_AT_ONCE: usize = 8;
/// How many buffers of a part all of them have.
const BUFFERS: usize = 8;

/// Why files were not stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The disk here.
    #[error("{action} {}: {source}", path.display())]
    Local {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder or a link, where only files are.
    #[error("{} is no file: the folder of a checkpoint holds nothing else", .0.display())]
    NotAFile(PathBuf),
    /// A name that a manifest does not take.
    #[error("the file name {0:?} of a checkpoint is refused: it must consist of letters, digits, '-', '_' and '.'")]
    Name(String),
    /// It was written while it was read.
    #[error("{} changed while it was stored", .0.display())]
    Changed(PathBuf),
}

fn local<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + use<'a> {
    move |source| FileError::Local { action, path: path.to_owned(), source }
}

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// How many.
    pub files: u64,
    /// How long together.
    pub bytes: u64,
}

impl Transfer {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// A folder that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Its files, for the manifest, in the order of their names.
    pub files: Vec<FileRef>,
    /// What was sent.
    pub sent: Transfer,
    /// What was there already, or was sent once for several files.
    pub shared: Transfer,
}

/// The files of the checkpoint that the next one builds on: one that stands in the journal, and is not collected before
/// the next one is committed.
#[derive(Clone, Debug, Default)]
pub struct Known(HashMap<ContentHash, FileRef>);

impl Known {
    /// None: everything is sent.
    pub fn nothing() -> Known {
        Known::default()
    }

    /// Those of a checkpoint of the same job.
    pub fn of(manifest: &Manifest) -> Known {
        manifest.files().cloned().collect()
    }
}

impl FromIterator<FileRef> for Known {
    fn from_iter<I: IntoIterator<Item = FileRef>>(files: I) -> Known {
        let shared = files.into_iter().filter(|file| file.name.ends_with(SHARED));
        Known(shared.map(|file| (file.sha256, file)).collect())
    }
}

/// Hashes of files that never change, so that a checkpoint reads only what is new. To be kept from one checkpoint of a
/// store to the next; a checkpoint's links are the same files as the store's.
#[derive(Clone, Debug, Default)]
pub struct FileHashes(HashMap<Identity, ContentHash>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    name: String,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(name: &str, metadata: &Metadata) -> Option<Identity> {
        name.ends_with(SHARED).then(|| Identity {
            name: name.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Stores and fetches a job's files.
#[derive(Clone, Debug)]
pub struct Files {
    storage: Storage,
    layout: Layout,
    buffers: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
struct LocalFile {
    name: String,
    path: PathBuf,
    bytes: u64,
    identity: Option<Identity>,
}

impl Files {
    /// Of this job.
    pub fn of(storage: &Storage, job: &JobId) -> Result<Files, LayoutError> {
        Ok(Files::at(storage, Layout::of(job)?))
    }

    /// At a place in a storage.
    pub fn at(storage: &Storage, layout: Layout) -> Files {
        Files { storage: storage.clone(), layout, buffers: Arc::new(Semaphore::new(BUFFERS)) }
    }

    /// Stores every file of a flat folder for the checkpoint of `epoch`. When this returns `Ok` all of them are there,
    /// whole. Stopped or failed, it leaves objects that nobody names and that are collected.
    pub async fn upload(
        &self,
        folder: &Path,
        epoch: Epoch,
        known: &Known,
        hashes: &mut FileHashes,
    ) -> Result<Uploaded, FileError> {
        let listed = list(folder).await?;
        let hashed = self.hash(listed, hashes).await?;
        let mut uploaded = Uploaded::default();
        let mut sending = BTreeMap::new();
        for (file, sha256) in hashed {
            let reference = FileRef { name: file.name.clone(), sha256, bytes: file.bytes, epoch };
            let known = known.0.get(&sha256).filter(|known| known.bytes == file.bytes && file.name.ends_with(SHARED));
            if let Some(known) = known {
                uploaded.shared.add(file.bytes);
                uploaded.files.push(FileRef { epoch: known.epoch, ..reference });
                continue;
            }
            match sending.insert(sha256, file) {
                None => uploaded.sent.add(reference.bytes),
                Some(_) => uploaded.shared.add(reference.bytes),
            }
            uploaded.files.push(reference);
        }
        let key = |sha256| self.layout.file(super::layout::FileKey { epoch, sha256 });
        let sending: Vec<_> = sending.into_iter().map(|(sha256, file)| (key(sha256), sha256, file)).collect();
        let files = self.clone();
        each(sending, move |(key, sha256, file)| {
            let files = files.clone();
            async move { files.send(&key, sha256, &file).await }
        })
        .await?;
        Ok(uploaded)
    }

    /// Fetches files into a folder that has none of them. Each is checked; on an error the folder is of no use.
    pub async fn download(&self, files: &[FileRef], folder: &Path) -> Result<Transfer, FileError> {
        if let Some(file) = files.iter().find(|file| !is_file_name(&file.name)) {
            return Err(FileError::Name(file.name.clone()));
        }
        let wanted = files.iter().map(|file| (file.clone(), folder.join(&file.name))).collect();
        let this = self.clone();
        each(wanted, move |(file, path)| {
            let this = this.clone();
            async move { this.fetch(&file, &path).await }
        })
        .await?;
        let mut transfer = Transfer::default();
        files.iter().for_each(|file| transfer.add(file.bytes));
        Ok(transfer)
    }

    /// Fetches the files of a checkpoint that are `wanted` into `into`, a folder for each part, in their order.
    pub async fn download_parts(
        &self,
        manifest: &Manifest,
        into: &Path,
        wanted: impl Fn(&FileRef) -> bool,
    ) -> Result<Vec<PathBuf>, FileError> {
        let mut folders = Vec::with_capacity(manifest.operators.len());
        for (number, part) in manifest.operators.iter().enumerate() {
            let folder = into.join(number.to_string());
            tokio::fs::create_dir_all(&folder).await.map_err(local("cannot make a folder", &folder))?;
            let files: Vec<FileRef> = part.files.iter().filter(|file| wanted(file)).cloned().collect();
            self.download(&files, &folder).await?;
            folders.push(folder);
        }
        Ok(folders)
    }

    /// In the order of `listed`.
    async fn hash(
        &self,
        listed: Vec<LocalFile>,
        hashes: &mut FileHashes,
    ) -> Result<Vec<(LocalFile, ContentHash)>, FileError> {
        let cached = std::mem::take(&mut hashes.0);
        let known = |file: &LocalFile| file.identity.as_ref().and_then(|identity| cached.get(identity)).copied();
        let work = listed.into_iter().map(|file| (known(&file), file)).collect();
        let mut hashed = each(work, |(known, file)| async move {
            let sha256 = match known {
                Some(sha256) => sha256,
                None => hash(&file).await?,
            };
            Ok((file, sha256))
        })
        .await?;
        hashed.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        // What is gone from the store is forgotten.
        hashes.0 = hashed.iter().filter_map(|(file, hash)| Some((file.identity.clone()?, *hash))).collect();
        Ok(hashed)
    }

    async fn send(&self, key: &Key, sha256: ContentHash, file: &LocalFile) -> Result<(), FileError> {
        if file.bytes > WHOLE {
            return self.send_in_parts(key, sha256, file).await;
        }
        let _buffers = self.buffers(WHOLE.div_ceil(PART)).await;
        let mut source = Source::open(file).await?;
        let bytes = source.read(file.bytes.max(1)).await?;
        source.finish(sha256).await?;
        let limits = self.storage.limits();
        let mut pause = limits.pause;
        for attempt in 1.. {
            match self.storage.put(key, bytes.clone()).await {
                // Content under the name of its hash: to write it twice is to write it once.
                Err(error) if error.is_transient() && attempt < limits.attempts => tokio::time::sleep(pause).await,
                result => return Ok(result?),
            }
            pause *= 2;
        }
        unreachable!("the loop ends by its attempts")
    }

    async fn send_in_parts(&self, key: &Key, sha256: ContentHash, file: &LocalFile) -> Result<(), FileError> {
        let size = file.bytes.div_ceil(MAX_PARTS).max(PART);
        let mut source = Source::open(file).await?;
        let mut parts = self.storage.put_parts(key).await?;
        let sent = async {
            let mut sending = JoinSet::new();
            loop {
                let buffer = self.buffers(1).await;
                let bytes = source.read(size).await?;
                if bytes.is_empty() {
                    break;
                }
                let part = parts.part(bytes);
                sending.spawn(async move {
                    let sent = part.await;
                    drop(buffer);
                    sent
                });
                while let Some(joined) = sending.try_join_next() {
                    joined.map_err(joining(&file.path))??;
                }
            }
            while let Some(joined) = sending.join_next().await {
                joined.map_err(joining(&file.path))??;
            }
            // What was sent is what was hashed: nothing appears under the name of what it is not.
            source.finish(sha256).await
        }
        .await;
        if let Err(error) = sent {
            parts.abort().await;
            return Err(error);
        }
        let completed = parts.complete().await;
        match completed {
            // Two uploads of one content disturb each other on some stores, and an answer may be lost: what counts is
            // what is there.
            Err(error) => match self.storage.get_checked(key, file.bytes, sha256, None).await {
                Ok(()) => Ok(()),
                Err(_) => Err(error.into()),
            },
            Ok(()) => match self.storage.length(key).await? {
                length if length == file.bytes => Ok(()),
                found => {
                    let (url, key) = (self.storage.url().into(), key.clone());
                    Err(StorageError::Length { url, key, expected: file.bytes, found }.into())
                }
            },
        }
    }

    async fn fetch(&self, file: &FileRef, path: &Path) -> Result<(), FileError> {
        let key = self.layout.file(file.key());
        let limits = self.storage.limits();
        let mut pause = limits.pause;
        for attempt in 1.. {
            let made = File::create_new(path).map_err(local("cannot make", path))?;
            let error = match self.storage.get_checked(&key, file.bytes, file.sha256, Some(made)).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Nobody takes a half of it for the whole.
            fs::remove_file(path).map_err(local("cannot remove", path))?;
            if !error.is_transient() || attempt >= limits.attempts {
                return Err(error.into());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends by its attempts")
    }

    async fn buffers(&self, number: u64) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.buffers).acquire_many_owned(number as u32).await.ok()
    }
}

fn joining(path: &Path) -> impl FnOnce(tokio::task::JoinError) -> FileError + use<'_> {
    move |error| FileError::Local { action: "cannot store", path: path.to_owned(), source: io::Error::other(error) }
}

/// Does the work, some of it at once; the first error ends it.
async fn each<T: Send + 'static, R: Send + 'static, F>(work: Vec<T>, run: impl Fn(T) -> F) -> Result<Vec<R>, FileError>
where
    F: Future<Output = Result<R, FileError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::with_capacity(work.len());
    let mut work = work.into_iter();
    loop {
        while running.len() < FILES_AT_ONCE
            && let Some(next) = work.next()
        {
            running.spawn(run(next));
        }
        match running.join_next().await {
            None => return Ok(done),
            Some(joined) => done.push(joined.map_err(joining(Path::new("a file")))??),
        }
    }
}

async fn list(folder: &Path) -> Result<Vec<LocalFile>, FileError> {
    let at = folder.to_owned();
    let listed = tokio::task::spawn_blocking(move || {
        let failed = || local("cannot read", &at);
        let mut files = Vec::new();
        for entry in fs::read_dir(&at).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).map_err(local("cannot look at", &path))?;
            if !metadata.is_file() {
                return Err(FileError::NotAFile(path));
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_file_name(&name) {
                return Err(FileError::Name(name));
            }
            files.push(LocalFile { identity: Identity::of(&name, &metadata), name, path, bytes: metadata.len() });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    });
    listed.await.map_err(joining(folder))?
}

async fn hash(file: &LocalFile) -> Result<ContentHash, FileError> {
    let path = file.path.clone();
    let expected = file.bytes;
    let hashed = blocking(move || {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        let mut length = 0;
        loop {
            match file.read(&mut piece)? {
                0 => return Ok((length == expected).then(|| ContentHash::from(hasher))),
                n => {
                    length += n as u64;
                    hasher.update(&piece[..n]);
                }
            }
        }
    });
    let hashed = hashed.await.map_err(local("cannot read", &file.path))?;
    hashed.ok_or_else(|| FileError::Changed(file.path.clone()))
}

/// A file that is read piece by piece and hashed on the way.
struct Source<'a> {
    file: &'a LocalFile,
    reader: Option<Reader>,
}

struct Reader {
    file: File,
    hasher: Sha256,
    read: u64,
}

impl Source<'_> {
    async fn open(file: &LocalFile) -> Result<Source<'_>, FileError> {
        let path = file.path.clone();
        let opened = blocking(move || File::open(path)).await.map_err(local("cannot read", &file.path))?;
        Ok(Source { file, reader: Some(Reader { file: opened, hasher: Sha256::new(), read: 0 }) })
    }

    /// `limit` bytes, or what is left of the file.
    async fn read(&mut self, limit: u64) -> Result<Bytes, FileError> {
        let Some(mut reader) = self.reader.take() else { return Err(FileError::Changed(self.file.path.clone())) };
        let (reader, bytes) = blocking(move || {
            let mut bytes = Vec::new();
            (&mut reader.file).take(limit).read_to_end(&mut bytes)?;
            reader.hasher.update(&bytes);
            reader.read += bytes.len() as u64;
            Ok((reader, Bytes::from(bytes)))
        })
        .await
        .map_err(local("cannot read", &self.file.path))?;
        self.reader = Some(reader);
        Ok(bytes)
    }

    /// Whether what was read is the whole of what was hashed before.
    async fn finish(mut self, sha256: ContentHash) -> Result<(), FileError> {
        let more = self.read(1).await?;
        let path = &self.file.path;
        match self.reader {
            Some(reader)
                if more.is_empty()
                    && reader.read == self.file.bytes
                    && ContentHash::from(reader.hasher.clone()) == sha256 =>
            {
                Ok(())
            }
            _ => Err(FileError::Changed(path.clone())),
        }
    }
}
