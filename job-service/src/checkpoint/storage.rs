//! An object store as checkpoints use it: few operations, all of them bounded, with the surprises of stores taken out.
//!
//! What real stores do, and what is done about it here:
//!
//! - A Create that won may be reported as lost, when its answer is dropped and the client sends it again. So what is
//!   created holds a nonce, and any error is followed by reading back ([`Storage::create_once`]).
//! - A store may say that it has conditional writes and lose races ([`Storage::probe`]).
//! - Lists come in any order, and one foreign key that cannot be read hides the rest: lists are of narrow folders, are
//!   sorted here, and fail as a whole.
//! - Some stores answer a plain put with "already exists" when the key lies below another object: plain errors here.
//! - The local store syncs nothing unless told to, and leaves `name#1` behind when it is killed ([`Storage::sweep`]).

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error as ClientError, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, RetryConfig,
};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use url::Url;

use super::ContentHash;
use super::layout::{Key, ServiceLayout};
use super::options::{OpenError, Options, Provider};
use super::sealed::{Nonce, Sealed};

/// Listing more than this is refused: a folder of ours never holds as much.
const MAX_LISTED: usize = 4_000_000;
const PIECE: usize = 1 << 20;

/// What bounds every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How often a conditional Create is tried.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles.
    pub pause: Duration,
    /// How often the client tries a request again that is safe to repeat.
    pub retries: usize,
    /// From when on the client does not try again.
    pub retry_timeout: Duration,
    /// The longest that one operation, or one piece of a long one, may take with all its retries.
    pub operation: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            attempts: 4,
            pause: Duration::from_millis(200),
            retries: 5,
            retry_timeout: Duration::from_secs(60),
            operation: Duration::from_secs(180),
        }
    }
}

/// Why an operation failed. Whether it was carried out all the same is unknown, except where it says so.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no such object.
    #[error("the checkpoint storage {url} has no object {key}")]
    NotFound {
        /// Where.
        url: Arc<str>,
        /// Which.
        key: Key,
    },
    /// It is not as long as it was.
    #[error(
        "{key} in the checkpoint storage {url} is {found} bytes long instead of {expected}: it was cut or replaced"
    )]
    Length {
        /// Where.
        url: Arc<str>,
        /// Which.
        key: Key,
        /// As written.
        expected: u64,
        /// As found; reading stops when it is too much.
        found: u64,
    },
    /// It does not hold what it did.
    #[error(
        "{key} in the checkpoint storage {url} has SHA-256 {found} instead of {expected}: it was damaged or replaced"
    )]
    Altered {
        /// Where.
        url: Arc<str>,
        /// Which.
        key: Key,
        /// As written.
        expected: ContentHash,
        /// As found.
        found: ContentHash,
    },
    /// More than the reader takes.
    #[error("{key} in the checkpoint storage {url} is longer than {limit} bytes, which no object of its kind is")]
    TooLong {
        /// Where.
        url: Arc<str>,
        /// Which.
        key: Key,
        /// How much is taken.
        limit: u64,
    },
    /// Too many objects.
    #[error("{key} in the checkpoint storage {url} holds more than {MAX_LISTED} objects: not a folder of checkpoints")]
    TooMany {
        /// Where.
        url: Arc<str>,
        /// Which folder.
        key: Key,
    },
    /// The store, or the way there.
    #[error("{action} {key} in the checkpoint storage {url} failed: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// Where.
        url: Arc<str>,
        /// On what.
        key: Key,
        /// What was said.
        #[source]
        source: Box<ClientError>,
    },
    /// No answer.
    #[error("{action} {key} in the checkpoint storage {url} was not over after {} s", after.as_secs_f32())]
    Late {
        /// What was tried.
        action: &'static str,
        /// Where.
        url: Arc<str>,
        /// On what.
        key: Key,
        /// For how long.
        after: Duration,
    },
    /// Not the store but the disk here.
    #[error("a local file of {key}: {source}")]
    Local {
        /// Of which object.
        key: Key,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// More than one writer was told that it created one object, or another than the one that was told.
    #[error(
        "the checkpoint storage {url} has no atomic conditional writes ({message}), so two attempts of one job could \
         both believe that they own it: use another store, or a version of this one that keeps `If-None-Match: *` \
         under concurrent writes"
    )]
    NotAtomic {
        /// Where.
        url: Arc<str>,
        /// What happened.
        message: String,
    },
}

impl StorageError {
    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StorageError::NotFound { .. })
    }

    /// Whether the object itself is wrong, so that reading it again does not help.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            StorageError::NotFound { .. }
                | StorageError::Length { .. }
                | StorageError::Altered { .. }
                | StorageError::TooLong { .. }
        )
    }

    /// Whether trying again may help without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            StorageError::Late { .. } => true,
            StorageError::Store { source, .. } => !matches!(
                **source,
                ClientError::NotSupported { .. }
                    | ClientError::NotImplemented { .. }
                    | ClientError::PermissionDenied { .. }
                    | ClientError::Unauthenticated { .. }
                    | ClientError::InvalidPath { .. }
                    | ClientError::UnknownConfigurationKey { .. }
            ),
            _ => false,
        }
    }
}

/// Who has an object that was to be created.
#[derive(Debug)]
pub enum Claim {
    /// The caller: what stands there is what it wrote, now or in an earlier call with the same bytes.
    Won,
    /// Somebody else, for as long as the object is not deleted: what the caller sent is not there and will not be.
    Lost {
        /// What stands there; `None` if it is longer than any entry.
        held: Option<Bytes>,
    },
    /// The object may be there, or come yet. The same call with the same bytes says more.
    Unknown(StorageError),
}

/// An object of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub key: Key,
    /// Its length.
    pub bytes: u64,
}

/// A store and a folder in it. Clones are the same one.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    root: String,
    url: Arc<str>,
    /// Of a local store.
    folder: Option<PathBuf>,
    limits: Limits,
}

impl fmt::Debug for Storage {
    /// Without the client: Google's shows its token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("url", &self.url).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What becomes of a folder of this machine that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Folder {
    Made,
    /// It must be.
    IsThere,
}

impl Storage {
    /// The store and folder that `url` names. Sends nothing; makes the folder of a `file://` URL.
    pub fn open(url: &str, options: &Options) -> Result<Storage, OpenError> {
        Storage::open_with(url, options, Limits::default())
    }

    /// The same, to read what must be there: makes no folder.
    pub fn open_to_read(url: &str, options: &Options) -> Result<Storage, OpenError> {
        Storage::open_as(url, options, Limits::default(), Folder::IsThere)
    }

    /// The same with other limits.
    pub fn open_with(url: &str, options: &Options, limits: Limits) -> Result<Storage, OpenError> {
        Storage::open_as(url, options, limits, Folder::Made)
    }

    fn open_as(url: &str, options: &Options, limits: Limits, folder: Folder) -> Result<Storage, OpenError> {
        let refused = |message: &str| OpenError::Url { url: without_secrets(url), message: message.to_owned() };
        let parsed = Url::parse(url).map_err(|e| refused(&e.to_string()))?;
        if parsed.password().is_some() || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(refused("a password, `?` or `#` has no place in it; credentials are options"));
        }
        let provider = match parsed.scheme() {
            "file" => Provider::File,
            "s3" | "s3a" => Provider::Amazon,
            "gs" => Provider::Google,
            "az" | "abfs" | "abfss" => Provider::Azure,
            scheme => return Err(OpenError::Scheme { url: url.to_owned(), scheme: scheme.to_owned() }),
        };
        if provider != Provider::Azure && !parsed.username().is_empty() {
            return Err(refused("a user has no place in it; credentials are options"));
        }
        no_dots(url)?;
        let options = options.of(provider, url)?;
        if provider == Provider::File {
            return Storage::open_folder(url, &parsed, limits, folder);
        }
        if parsed.host_str().is_none_or(str::is_empty) {
            return Err(refused("the name of the bucket or container is missing"));
        }
        let root = root_of(url, &parsed)?;
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: limits.retries,
            retry_timeout: limits.retry_timeout,
        };
        let client = ClientOptions::new().with_timeout(limits.operation);
        let failed = |e: ClientError| OpenError::Client { url: url.to_owned(), message: e.to_string() };
        macro_rules! built {
            ($builder:ty) => {{
                let builder = <$builder>::new().with_client_options(client).with_retry(retry).with_url(url);
                let builder = options.into_iter().try_fold(builder, |builder, (name, value)| {
                    let key = provider.builder_name(&name).parse().map_err(failed)?;
                    Ok::<_, OpenError>(builder.with_config(key, value))
                })?;
                Arc::new(builder.build().map_err(failed)?)
            }};
        }
        let store: Arc<dyn ObjectStore> = match provider {
            Provider::Amazon => built!(AmazonS3Builder),
            Provider::Google => built!(GoogleCloudStorageBuilder),
            Provider::Azure => built!(MicrosoftAzureBuilder),
            Provider::File => return Err(refused("it is no folder")),
        };
        Ok(Storage { store, root, url: url.into(), folder: None, limits })
    }

    fn open_folder(url: &str, parsed: &Url, limits: Limits, make: Folder) -> Result<Storage, OpenError> {
        if parsed.path().trim_start_matches('/').contains("//") || parsed.path().starts_with("//") {
            return Err(OpenError::Path { url: url.to_owned(), message: "it has an empty part".into() });
        }
        let path = parsed.to_file_path().map_err(|()| OpenError::Url {
            url: url.to_owned(),
            message: "a file:// URL names an absolute path on this machine".into(),
        })?;
        let failed = |source| OpenError::Folder { folder: path.display().to_string(), source };
        if make == Folder::Made {
            std::fs::create_dir_all(&path).map_err(failed)?;
        }
        let folder = path.canonicalize().map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|e| OpenError::Client { url: url.to_owned(), message: e.to_string() })?
            .with_fsync(true);
        Ok(Storage { store: Arc::new(store), root: String::new(), url: url.into(), folder: Some(folder), limits })
    }

    /// Keeps what services record of their jobs from other users of a machine, where the storage is a folder: pipelines and
    /// options may hold credentials. One that is there stays as its owner has made it.
    pub fn keep_records_private(&self) -> Result<(), OpenError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let records = folder.join(ServiceLayout::FOLDER);
        match std::fs::DirBuilder::new().mode(0o700).create(&records) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(OpenError::Folder { folder: records.display().to_string(), source: error })
            }
            _ => Ok(()),
        }
    }

    /// A store that is gone with the process: for tests. Two of them share nothing.
    pub fn in_memory() -> Storage {
        Storage::over(Arc::new(InMemory::new()), Limits::default())
    }

    pub(super) fn over(store: Arc<dyn ObjectStore>, limits: Limits) -> Storage {
        Storage { store, root: String::new(), url: "memory".into(), folder: None, limits }
    }

    /// The folder `name` in this one.
    #[cfg(test)]
    pub(super) fn within(&self, name: &str) -> Storage {
        let root = format!("{}{}{name}", self.root, if self.root.is_empty() { "" } else { "/" });
        Storage { root, ..self.clone() }
    }

    #[cfg(test)]
    pub(super) fn with_limits(&self, limits: Limits) -> Storage {
        Storage { limits, ..self.clone() }
    }

    #[cfg(test)]
    pub(super) fn client(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// As the user wrote it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What bounds operations.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Writes an object, whatever was there.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let path = self.path("writing", key)?;
        self.bounded("writing", key, self.store.put(&path, bytes.into())).await.map(drop)
    }

    /// Begins to write an object in parts; it appears when they are complete. Whoever fails to send a part must abort:
    /// a local store does not notice that one is missing.
    pub(super) async fn put_parts(&self, key: &Key) -> Result<Parts, StorageError> {
        let path = self.path("writing", key)?;
        let upload = self.bounded("writing", key, self.store.put_multipart(&path)).await?;
        Ok(Parts { storage: self.clone(), key: key.clone(), upload })
    }

    /// Creates an object that must not be there. Atomic: of all callers at most one wins, whatever fails on the way.
    pub async fn create_once(&self, key: &Key, body: &Sealed) -> Claim {
        let mut pause = self.limits.pause;
        for attempt in 1.. {
            let error = match self.create(key, body.bytes().clone()).await {
                Ok(()) => return Claim::Won,
                Err(error) => error,
            };
            // Whatever the error says, the object may be there, and may be ours.
            let error = match self.get(key, super::manifest::MAX_ENTRY).await {
                Ok(held) if held == body.bytes() => return Claim::Won,
                Ok(held) => return Claim::Lost { held: Some(held) },
                Err(StorageError::TooLong { .. }) => return Claim::Lost { held: None },
                Err(StorageError::NotFound { .. }) => error,
                Err(unread) if unread.is_transient() => unread,
                Err(_) => error,
            };
            if attempt >= self.limits.attempts || !error.is_transient() {
                return Claim::Unknown(error);
            }
            tracing::debug!(%key, %error, "a conditional write is tried again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends by its attempts")
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let path = self.path("creating", key)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.bounded("creating", key, self.store.put_opts(&path, bytes.into(), options)).await.map(drop)
    }

    /// Reads an object of at most `limit` bytes.
    pub async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, StorageError> {
        let path = self.path("reading", key)?;
        let found = self.bounded("reading", key, self.store.get(&path)).await?;
        let too_long = || StorageError::TooLong { url: self.url.clone(), key: key.clone(), limit };
        if found.meta.size > limit {
            return Err(too_long());
        }
        let mut pieces = found.into_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = self.bounded("reading", key, async { pieces.next().await.transpose() }).await? {
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(too_long());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    /// Reads an object that must be `bytes` long and have this hash, into `out` if there is one.
    pub async fn get_checked(
        &self,
        key: &Key,
        bytes: u64,
        sha256: ContentHash,
        out: Option<File>,
    ) -> Result<(), StorageError> {
        let path = self.path("reading", key)?;
        let found = self.bounded("reading", key, self.store.get(&path)).await?;
        let length = |found| StorageError::Length { url: self.url.clone(), key: key.clone(), expected: bytes, found };
        if found.meta.size != bytes {
            return Err(length(found.meta.size));
        }
        let local = |source| StorageError::Local { key: key.clone(), source };
        let mut checked = Checked { hasher: Sha256::new(), length: 0, expected: bytes, out };
        match found.payload {
            GetResultPayload::File(mut file, _) => {
                checked = blocking(move || {
                    let mut piece = vec![0; PIECE];
                    loop {
                        match file.read(&mut piece)? {
                            0 => return Ok(checked),
                            n => checked.take(&piece[..n])?,
                        }
                        if checked.length > checked.expected {
                            return Ok(checked);
                        }
                    }
                })
                .await
                .map_err(local)?;
            }
            GetResultPayload::Stream(mut pieces) => {
                let mut gathered = Vec::new();
                loop {
                    let piece = self.bounded("reading", key, async { pieces.next().await.transpose() }).await?;
                    let ended = piece.is_none();
                    gathered.extend(piece);
                    if ended || gathered.iter().map(Bytes::len).sum::<usize>() >= PIECE {
                        let full = std::mem::take(&mut gathered);
                        let take = move || full.iter().try_for_each(|p| checked.take(p)).map(|()| checked);
                        checked = blocking(take).await.map_err(local)?;
                    }
                    if ended || checked.length > bytes {
                        break;
                    }
                }
            }
        }
        if checked.length != bytes {
            return Err(length(checked.length));
        }
        let found = ContentHash::from(checked.hasher);
        if found != sha256 {
            return Err(StorageError::Altered { url: self.url.clone(), key: key.clone(), expected: sha256, found });
        }
        Ok(())
    }

    /// How long an object is.
    pub async fn length(&self, key: &Key) -> Result<u64, StorageError> {
        let path = self.path("looking at", key)?;
        Ok(self.bounded("looking at", key, self.store.head(&path)).await?.size)
    }

    /// The objects of a folder, without its folders, in the order of their names.
    pub async fn list(&self, folder: &Key) -> Result<Vec<Listed>, StorageError> {
        let path = self.path("listing", folder)?;
        let mut found = self.store.list(Some(&path));
        let mut listed = Vec::new();
        while let Some(object) = self.bounded("listing", folder, async { found.next().await.transpose() }).await? {
            let name = object.location.as_ref().strip_prefix(path.as_ref()).and_then(|rest| rest.strip_prefix('/'));
            if let Some(name) = name.filter(|name| !name.contains('/')) {
                listed.push(Listed { key: Key::listed(&format!("{folder}/{name}")), bytes: object.size });
            }
            if listed.len() > MAX_LISTED {
                return Err(StorageError::TooMany { url: self.url.clone(), key: folder.clone() });
            }
        }
        listed.sort();
        Ok(listed)
    }

    /// Removes objects; one that is gone already is no error. Goes through all of them and returns the first error.
    pub async fn delete(&self, keys: &[Key]) -> Result<(), StorageError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let paths = keys.iter().map(|key| self.path("removing", key)).collect::<Result<Vec<_>, _>>()?;
        let mut removed = self.store.delete_stream(Box::pin(tokio_stream::iter(paths.into_iter().map(Ok))));
        let mut result = Ok(());
        loop {
            match self.bounded("removing", first, async { removed.next().await.transpose() }).await {
                Ok(None) => return result,
                Ok(Some(_)) | Err(StorageError::NotFound { .. }) => {}
                Err(late @ StorageError::Late { .. }) => return Err(late),
                Err(error) => result = result.and(Err(error)),
            }
        }
    }

    /// Removes what processes that were killed left behind in a folder of a local store: `name#digits`, last written
    /// before `before`. Others may be written at this moment. Returns how many.
    pub async fn sweep(&self, folder: &Key, before: SystemTime) -> Result<usize, StorageError> {
        let Some(root) = &self.folder else { return Ok(0) };
        let path = root.join(&self.root).join(folder.as_str());
        let local = |source| StorageError::Local { key: folder.clone(), source };
        blocking(move || sweep(&path, before)).await.map_err(local)
    }

    /// Finds out whether conditional writes are atomic, by a race: two puts in turn look right in stores that are not.
    pub async fn probe(&self) -> Result<(), StorageError> {
        const ROUNDS: usize = 3;
        const WRITERS: usize = 16;
        const FILLING: usize = 200_000;
        let not_atomic = |message| StorageError::NotAtomic { url: self.url.clone(), message };
        for round in 1..=ROUNDS {
            let key = Key::probe(&Nonce::new().to_string());
            let mut race = JoinSet::new();
            for _ in 0..WRITERS {
                let (storage, key, nonce) = (self.clone(), key.clone(), Nonce::new());
                // Long enough that requests overlap.
                let body = Bytes::from(format!("{nonce}{}", "-".repeat(FILLING)));
                race.spawn(async move { storage.create(&key, body.clone()).await.map(|()| body) });
            }
            let (mut won, mut failed) = (Vec::new(), None);
            while let Some(joined) = race.join_next().await {
                match joined.map_err(|e| not_atomic(e.to_string()))? {
                    Ok(body) => won.push(body),
                    Err(StorageError::Store { source, .. })
                        if matches!(*source, ClientError::AlreadyExists { .. } | ClientError::Precondition { .. }) => {}
                    Err(error) => failed = Some(error),
                }
            }
            let held = self.get(&key, FILLING as u64 * 2).await;
            let cleaned = self.delete(std::slice::from_ref(&key)).await;
            match (&won[..], failed) {
                ([winner], _) if held? != winner => {
                    return Err(not_atomic("the object is not the one of the writer that was told so".to_owned()));
                }
                ([_], _) => cleaned?,
                // A writer that won and was not told: not the store's fault.
                ([], None) => cleaned?,
                ([], Some(error)) => return Err(error),
                (several, _) => {
                    let told = several.len();
                    return Err(not_atomic(format!(
                        "in round {round} of a race {told} of {WRITERS} writers were told that they had created one object"
                    )));
                }
            }
        }
        Ok(())
    }

    fn path(&self, action: &'static str, key: &Key) -> Result<Path, StorageError> {
        let joined = if self.root.is_empty() { key.to_string() } else { format!("{}/{key}", self.root) };
        Path::parse(joined).map_err(|e| self.error(action, key, e.into()))
    }

    async fn bounded<T>(
        &self,
        action: &'static str,
        key: &Key,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        let after = self.limits.operation;
        match tokio::time::timeout(after, operation).await {
            Ok(result) => result.map_err(|source| self.error(action, key, source)),
            Err(_) => Err(StorageError::Late { action, url: self.url.clone(), key: key.clone(), after }),
        }
    }

    fn error(&self, action: &'static str, key: &Key, source: ClientError) -> StorageError {
        match source {
            ClientError::NotFound { .. } => StorageError::NotFound { url: self.url.clone(), key: key.clone() },
            source => StorageError::Store { action, url: self.url.clone(), key: key.clone(), source: Box::new(source) },
        }
    }
}

/// An object on its way, part by part.
#[derive(Debug)]
pub(super) struct Parts {
    storage: Storage,
    key: Key,
    upload: Box<dyn MultipartUpload>,
}

impl Parts {
    /// The next part. Parts may be sent at the same time.
    pub(super) fn part(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), StorageError>> + Send + 'static {
        let (storage, key, part) = (self.storage.clone(), self.key.clone(), self.upload.put_part(bytes.into()));
        async move { storage.bounded("writing", &key, part).await }
    }

    /// All parts were sent.
    pub(super) async fn complete(mut self) -> Result<(), StorageError> {
        let completed = self.storage.bounded("completing", &self.key, self.upload.complete()).await;
        completed.map(drop)
    }

    /// What was sent may go. A store that cannot be told keeps it until its own rules for such parts remove it.
    pub(super) async fn abort(mut self) {
        if let Err(error) = self.storage.bounded("giving up", &self.key, self.upload.abort()).await {
            tracing::debug!(key = %self.key, %error, "parts of an upload that failed are left behind");
        }
    }
}

struct Checked {
    hasher: Sha256,
    length: u64,
    expected: u64,
    out: Option<File>,
}

impl Checked {
    fn take(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.length += piece.len() as u64;
        if self.length > self.expected {
            return Ok(());
        }
        self.hasher.update(piece);
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(piece))
    }
}

/// Off the threads that serve requests.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn sweep(folder: &std::path::Path, before: SystemTime) -> std::io::Result<usize> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut swept = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let staged = |name: &str| {
            let (base, digits) = name.rsplit_once('#')?;
            (!base.is_empty() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(())
        };
        let metadata = entry.metadata()?;
        if name.to_str().and_then(staged).is_some() && metadata.is_file() && metadata.modified()? < before {
            std::fs::remove_file(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Looks at the text: a URL that is parsed has its dots resolved already.
fn no_dots(url: &str) -> Result<(), OpenError> {
    let dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if url.split(['/', '\\']).any(dots) {
        return Err(OpenError::Path { url: url.to_owned(), message: "it has a part of dots".into() });
    }
    Ok(())
}

fn root_of(url: &str, parsed: &Url) -> Result<String, OpenError> {
    let path = parsed.path();
    let refused = |message: &str| OpenError::Path { url: url.to_owned(), message: message.to_owned() };
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let root = trimmed.strip_suffix('/').unwrap_or(trimmed);
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'=' | b'+');
    for part in root.split('/').filter(|_| !root.is_empty()) {
        match part {
            "" => return Err(refused("it has an empty part")),
            part if !part.bytes().all(good) => return Err(refused(part)),
            _ => {}
        }
    }
    Ok(root.to_owned())
}

/// A URL for a message. What is no URL is shown up to its `?` and `#`, and without what is before an `@`.
fn without_secrets(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) => {
            parsed.set_query(None);
            parsed.set_fragment(None);
            let _ = parsed.set_password(None);
            parsed.into()
        }
        Err(_) => {
            let shown = url.split(['?', '#']).next().unwrap_or_default();
            shown.rsplit('@').next().unwrap_or_default().to_owned()
        }
    }
}
