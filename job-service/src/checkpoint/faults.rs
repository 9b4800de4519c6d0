//! A store that fails, for tests: decided by a seed, so that what failed once fails again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio_stream::{Stream, StreamExt};

type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = T> + Send>>;

/// How often, of 1000 requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// Nothing is done, and an error told.
    pub(super) fails: u32,
    /// It is done, and an error told.
    pub(super) done_but_failed: u32,
    /// It is told that the object exists: nothing is done.
    pub(super) lies_exists: u32,
    /// It is done, and told that the object existed: a request that the client sent twice.
    pub(super) done_but_exists: u32,
    /// An error is told, and it is done some time later.
    pub(super) late: u32,
    /// A part of an upload is lost, and an error told.
    pub(super) part_fails: u32,
    /// An upload is completed, and an error told.
    pub(super) complete_done_but_failed: u32,
    /// An upload is completed without its last part, and success told: what the local store does with lost parts.
    pub(super) complete_short: u32,
    /// Plain writes are told that the object exists.
    pub(super) plain_exists: u32,
    /// Writes and reads fail, lists do not.
    pub(super) fails_puts_and_gets: u32,
    /// No answer comes.
    pub(super) hangs: u32,
    /// How often at most a request lets others go first.
    pub(super) yields: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    rates: Rates,
    dice: Mutex<Dice>,
}

/// xorshift64*.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit.max(1)
    }
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, rates: Rates, seed: u64) -> Arc<Faulty> {
        Arc::new(Faulty { inner, rates, dice: Mutex::new(Dice::new(seed)) })
    }

    fn below(&self, limit: u64) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).below(limit)
    }

    async fn pass(&self) {
        for _ in 0..self.below(u64::from(self.rates.yields) + 1) {
            tokio::task::yield_now().await;
        }
    }

    /// Which of `choices` comes up, if any.
    fn choose<T: Copy>(&self, choices: &[(u32, T)]) -> Option<T> {
        let mut roll = self.below(1000);
        for (rate, choice) in choices {
            match roll.checked_sub(u64::from(*rate)) {
                None => return Some(*choice),
                Some(rest) => roll = rest,
            }
        }
        None
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Fails,
    DoneButFailed,
    LiesExists,
    DoneButExists,
    Late,
    Hangs,
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "the test says so".into() }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "the test says so".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[tonic::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass().await;
        let conditional = options.mode == PutMode::Create;
        let only_then = |rate| if conditional { rate } else { 0 };
        let plain = if conditional { 0 } else { self.rates.plain_exists };
        let fault = self.choose(&[
            (self.rates.fails + self.rates.fails_puts_and_gets, Fault::Fails),
            (self.rates.hangs, Fault::Hangs),
            (plain, Fault::LiesExists),
            (self.rates.done_but_failed, Fault::DoneButFailed),
            (only_then(self.rates.lies_exists), Fault::LiesExists),
            (only_then(self.rates.done_but_exists), Fault::DoneButExists),
            (self.rates.late, Fault::Late),
        ]);
        let result = match fault {
            None => self.inner.put_opts(path, payload, options).await,
            Some(Fault::Fails) => Err(failure()),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::LiesExists) => Err(exists(path)),
            Some(Fault::DoneButFailed) => self.inner.put_opts(path, payload, options).await.and(Err(failure())),
            Some(Fault::DoneButExists) => self.inner.put_opts(path, payload, options).await.and(Err(exists(path))),
            Some(Fault::Late) => {
                let (inner, path, rounds) = (self.inner.clone(), path.clone(), self.below(200));
                tokio::spawn(async move {
                    for _ in 0..rounds {
                        tokio::task::yield_now().await;
                    }
                    inner.put_opts(&path, payload, options).await
                });
                Err(failure())
            }
        };
        self.pass().await;
        result
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(path, options).await?;
        let fault = self.choose(&[
            (self.rates.part_fails, UploadFault::PartFails),
            (self.rates.complete_done_but_failed, UploadFault::DoneButFailed),
            (self.rates.complete_short, UploadFault::Short),
        ]);
        Ok(Box::new(FaultyUpload { inner, fault, part: 0 }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass().await;
        let rates = &self.rates;
        match self.choose(&[(rates.fails + rates.fails_puts_and_gets + rates.done_but_failed, ())]) {
            Some(()) => Err(failure()),
            None => self.inner.get_opts(path, options).await,
        }
    }

    /// Some go, and then it fails.
    fn delete_stream(&self, paths: BoxStream<Result<Path>>) -> BoxStream<Result<Path>> {
        match self.choose(&[(self.rates.fails, ())]) {
            None => self.inner.delete_stream(paths),
            Some(()) => {
                let some = self.inner.delete_stream(Box::pin(paths.take(self.below(3) as usize)));
                Box::pin(some.chain(tokio_stream::once(Err(failure()))))
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<Result<ObjectMeta>> {
        match self.choose(&[(self.rates.fails, ())]) {
            Some(()) => Box::pin(tokio_stream::once(Err(failure()))),
            // A list is as of some moment between its request and its answer.
            None => {
                let (inner, prefix, rounds) =
                    (self.inner.clone(), prefix.cloned(), self.below(u64::from(self.rates.yields) + 1));
                let (sender, receiver) = tokio::sync::mpsc::channel(1);
                tokio::spawn(async move {
                    for _ in 0..rounds {
                        tokio::task::yield_now().await;
                    }
                    let mut listed = inner.list(prefix.as_ref());
                    while let Some(object) = listed.next().await {
                        if sender.send(object).await.is_err() {
                            return;
                        }
                    }
                });
                Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum UploadFault {
    PartFails,
    DoneButFailed,
    Short,
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    fault: Option<UploadFault>,
    part: u32,
}

#[tonic::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.part += 1;
        match self.fault {
            Some(UploadFault::PartFails) if self.part == 2 => Box::pin(async { Err(failure()) }),
            Some(UploadFault::Short) if self.part == 2 => Box::pin(async { Ok(()) }),
            _ => self.inner.put_part(data),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let completed = self.inner.complete().await;
        if self.fault == Some(UploadFault::DoneButFailed) { completed.and(Err(failure())) } else { completed }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// A store whose Create looks first and writes then: what s3s-fs does.
#[derive(Debug)]
pub(super) struct NotAtomic(pub(super) Arc<dyn ObjectStore>);

impl fmt::Display for NotAtomic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not atomic {}", self.0)
    }
}

#[tonic::async_trait]
impl ObjectStore for NotAtomic {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Create {
            if self.0.get_opts(path, GetOptions::default()).await.is_ok() {
                return Err(exists(path));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.0.put_opts(path, payload, PutOptions::default()).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<Result<Path>>) -> BoxStream<Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
