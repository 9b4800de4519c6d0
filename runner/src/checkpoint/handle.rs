//! [`Checkpoints`]: between whoever asks for checkpoints and the operators that save.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use super::part::{CarriedWriter, FORMAT, Part, PartHead};
use super::restore::{Restore, Restored};
use crate::executor::Finalizer;
use crate::state::FrozenStore;

/// Told what becomes of a process's part of a checkpoint. Called from a thread of its own; may block.
pub trait CheckpointObserver: Send + Sync {
    /// Every operator of the process has saved for `epoch`, and all is written.
    fn saved(&self, epoch: u64, parts: Vec<Part>);
    /// The process cannot save for `epoch`, and goes on.
    fn failed(&self, epoch: u64, why: String);
}

/// Shared by whoever asks for checkpoints and the operators of one process. Cloning shares it.
#[derive(Clone)]
pub struct Checkpoints(Arc<Shared>);

struct Shared {
    /// `None`: the job has no checkpoints.
    on: Option<On>,
    /// What the job starts from.
    restore: Option<Arc<Restore>>,
}

struct On {
    /// The epoch that sources stand at.
    epoch: AtomicU64,
    /// The last checkpoint that is committed.
    durable: AtomicU64,
    inner: Mutex<Inner>,
    writer: Sender<Work>,
    /// Told of every new epoch, and of what is committed.
    wakers: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

#[derive(Default)]
struct Inner {
    /// Operators that save, on all workers of the process.
    savers: usize,
    /// Workers that have built all of theirs, and how many there are.
    built: usize,
    workers: usize,
    under_way: Option<UnderWay>,
    /// Effects that wait until all of their epoch is durable.
    effects: BTreeMap<u64, Vec<Arc<dyn Finalizer>>>,
}

/// The checkpoint that is being taken.
struct UnderWay {
    epoch: u64,
    folder: PathBuf,
    /// Operators that have handed over what they keep.
    saved: usize,
}

/// For the thread that writes.
enum Work {
    Write {
        epoch: u64,
        folder: PathBuf,
        head: Box<PartHead>,
        frozen: Frozen,
    },
    /// All operators have handed over theirs.
    Finish {
        epoch: u64,
    },
    Fail {
        epoch: u64,
        why: String,
    },
    /// Nothing of this or earlier epochs is wanted any more.
    Forget {
        epoch: u64,
    },
}

/// What an operator keeps, as it was at the border.
#[derive(Default)]
pub(crate) struct Frozen {
    pub(crate) store: Option<Box<dyn FrozenStore>>,
    /// Writes what the operator carries.
    pub(crate) carried: Option<WriteCarried>,
}

/// Writes what an operator carries.
pub(crate) type WriteCarried = Box<dyn FnOnce(&mut CarriedWriter) -> io::Result<()> + Send>;

impl Default for Checkpoints {
    fn default() -> Self {
        Checkpoints::none()
    }
}

impl Checkpoints {
    /// Of a job that has none.
    pub fn none() -> Checkpoints {
        Checkpoints(Arc::new(Shared { on: None, restore: None }))
    }

    /// Of a job that takes checkpoints, and starts from one if `restore` says so, in a process with so many workers.
    pub fn new(
        workers: usize,
        restore: Option<Restore>,
        observer: Arc<dyn CheckpointObserver>,
    ) -> io::Result<Checkpoints> {
        let (writer, work) = crossbeam_channel::unbounded();
        std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
            let mut writing = Writing { observer, epoch: 0, parts: Vec::new(), failed: None, next: 0, forgotten: 0 };
            for work in work {
                writing.work(work);
            }
        })?;
        let on = On {
            epoch: AtomicU64::new(restore.as_ref().map_or(0, Restore::epoch)),
            durable: AtomicU64::new(restore.as_ref().map_or(0, Restore::epoch)),
            inner: Mutex::new(Inner { workers: workers.max(1), ..Inner::default() }),
            writer,
            wakers: Mutex::default(),
        };
        Ok(Checkpoints(Arc::new(Shared { on: Some(on), restore: restore.map(Arc::new) })))
    }

    /// Begins checkpoint `epoch`, which is greater than those before: sources step to it. Each operator's part is written
    /// to a folder of its own in `folder`, which is there. One that is under way is given up.
    pub fn begin(&self, epoch: u64, folder: PathBuf) {
        let Some(on) = &self.0.on else { return };
        if epoch <= on.epoch.load(Ordering::SeqCst) {
            on.tell(Work::Fail { epoch, why: format!("epoch {epoch} is over already") });
            on.tell(Work::Finish { epoch });
            return;
        }
        let mut inner = on.inner();
        inner.under_way = Some(UnderWay { epoch, folder, saved: 0 });
        // Before that nobody steps, so everybody sees what is under way.
        on.epoch.store(epoch, Ordering::SeqCst);
        drop(inner);
        on.wake();
    }

    /// Checkpoint `epoch` is complete and durable, on all processes: effects of the epochs before are let go.
    pub fn committed(&self, epoch: u64) {
        let Some(on) = &self.0.on else { return };
        let effects = {
            let mut inner = on.inner();
            let later = inner.effects.split_off(&epoch);
            std::mem::replace(&mut inner.effects, later)
        };
        effects.into_values().flatten().for_each(|effect| effect.finalize());
        on.durable.fetch_max(epoch, Ordering::SeqCst);
        on.wake();
    }

    /// The job has come to its end: nothing of it will be undone, so all effects are let go.
    pub(crate) fn job_is_over(&self) {
        let Some(on) = &self.0.on else { return };
        let effects = std::mem::take(&mut on.inner().effects);
        effects.into_values().flatten().for_each(|effect| effect.finalize());
    }

    /// Checkpoint `epoch` will not be complete. What belongs to it waits for the next one.
    pub fn aborted(&self, epoch: u64) {
        let Some(on) = &self.0.on else { return };
        let mut inner = on.inner();
        if inner.under_way.as_ref().is_some_and(|under_way| under_way.epoch <= epoch) {
            inner.under_way = None;
        }
        on.tell(Work::Forget { epoch });
    }

    /// Whether the job has checkpoints.
    pub(crate) fn are_on(&self) -> bool {
        self.0.on.is_some()
    }

    /// What the job starts from.
    pub(crate) fn restore(&self) -> Option<&Arc<Restore>> {
        self.0.restore.as_ref()
    }

    /// The epoch that sources are to stand at.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.on.as_ref().map_or(0, |on| on.epoch.load(Ordering::SeqCst))
    }

    /// The last checkpoint that is committed.
    pub(crate) fn durable(&self) -> u64 {
        self.0.on.as_ref().map_or(0, |on| on.durable.load(Ordering::SeqCst))
    }

    /// Calls `wake` whenever there is a new epoch, or a checkpoint is committed.
    pub(crate) fn on_change(&self, wake: impl Fn() + Send + 'static) {
        if let Some(on) = &self.0.on {
            lock(&on.wakers).push(Box::new(wake));
        }
    }

    /// Lets an effect of `epoch` happen when it is durable: at once, where there are no checkpoints.
    pub(crate) fn when_durable(&self, epoch: u64, effect: Arc<dyn Finalizer>) {
        match &self.0.on {
            Some(on) => on.inner().effects.entry(epoch).or_default().push(effect),
            None => effect.finalize(),
        }
    }

    /// What saves for an operator of worker `shard` of `shards`. It must step over every border, or the checkpoint never
    /// ends.
    pub(crate) fn saver(&self, operator: String, shard: usize, shards: usize) -> Saver {
        if let Some(on) = &self.0.on {
            on.inner().savers += 1;
        }
        Saver { checkpoints: self.clone(), operator, shard, shards }
    }

    /// A worker has built all of its operators.
    pub(crate) fn worker_is_built(&self) {
        let Some(on) = &self.0.on else { return };
        let mut inner = on.inner();
        inner.built += 1;
        on.finish_if_all(&mut inner);
    }
}

impl On {
    fn wake(&self) {
        for wake in lock(&self.wakers).iter() {
            wake();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Fails only when the thread that writes has panicked, which ends the process.
    fn tell(&self, work: Work) {
        let _ = self.writer.send(work);
    }

    fn finish_if_all(&self, inner: &mut Inner) {
        if let Some(under_way) = &inner.under_way
            && inner.built == inner.workers
            && under_way.saved == inner.savers
        {
            let epoch = under_way.epoch;
            inner.under_way = None;
            self.tell(Work::Finish { epoch });
        }
    }
}

/// Saves for one operator on one worker.
pub(crate) struct Saver {
    checkpoints: Checkpoints,
    operator: String,
    shard: usize,
    shards: usize,
}

/// A border that a checkpoint is at.
pub(crate) struct Border<'a> {
    saver: &'a Saver,
    epoch: u64,
}

impl Saver {
    /// Of an operator in a job without checkpoints.
    #[cfg(test)]
    pub(crate) fn none() -> Saver {
        Checkpoints::none().saver(String::new(), 0, 1)
    }

    /// The checkpoint that the operator has to save for as it steps from epoch `from` to `to`.
    pub(crate) fn border(&self, from: u64, to: u64) -> Option<Border<'_>> {
        let on = self.checkpoints.0.on.as_ref()?;
        let epoch = on.inner().under_way.as_ref()?.epoch;
        (from < epoch && epoch <= to).then_some(Border { saver: self, epoch })
    }

    /// What the operator starts from, in the order of the shards; nothing if the job starts from nothing.
    pub(crate) fn restored(&self) -> &[Restored] {
        self.checkpoints.0.restore.as_ref().map_or(&[], |restore| restore.of(&self.operator))
    }

    /// The epoch that the job starts in.
    pub(crate) fn first_epoch(&self) -> u64 {
        self.checkpoints.0.restore.as_ref().map_or(0, |restore| restore.epoch())
    }

    pub(crate) fn shard(&self) -> usize {
        self.shard
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards
    }
}

impl Border<'_> {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Hands over what the operator keeps. Where `head` says who saves, that is filled in.
    pub(crate) fn save(self, head: PartHead, frozen: Frozen) {
        let head = PartHead {
            format: FORMAT,
            operator: self.saver.operator.clone(),
            epoch: self.epoch,
            shard: self.saver.shard as u32,
            shards: self.saver.shards as u32,
            has_store: frozen.store.is_some(),
            ..head
        };
        self.count(|folder, epoch| Work::Write { epoch, folder: folder.to_owned(), head: Box::new(head), frozen });
    }

    fn count(self, work: impl FnOnce(&Path, u64) -> Work) {
        let Some(on) = &self.saver.checkpoints.0.on else { return };
        let mut inner = on.inner();
        let Some(under_way) = inner.under_way.as_mut().filter(|under_way| under_way.epoch == self.epoch) else {
            return;
        };
        on.tell(work(&under_way.folder, self.epoch));
        under_way.saved += 1;
        on.finish_if_all(&mut inner);
    }
}

/// The thread that writes.
struct Writing {
    observer: Arc<dyn CheckpointObserver>,
    epoch: u64,
    parts: Vec<Part>,
    failed: Option<String>,
    /// The number of the next part's folder.
    next: u64,
    forgotten: u64,
}

impl Writing {
    fn work(&mut self, work: Work) {
        match work {
            Work::Write { epoch, .. } | Work::Finish { epoch } | Work::Fail { epoch, .. }
                if epoch <= self.forgotten => {}
            Work::Write { epoch, folder, head, frozen } => {
                self.turn_to(epoch);
                if self.failed.is_none() {
                    let folder = folder.join(format!("part-{}", self.next));
                    self.next += 1;
                    match write(&folder, *head, frozen) {
                        Ok(part) => self.parts.push(part),
                        Err(error) => self.failed = Some(format!("writing to {}: {error}", folder.display())),
                    }
                }
            }
            Work::Fail { epoch, why } => {
                self.turn_to(epoch);
                self.failed.get_or_insert(why);
            }
            Work::Finish { epoch } => {
                self.turn_to(epoch);
                let parts = std::mem::take(&mut self.parts);
                match self.failed.take() {
                    None => self.observer.saved(epoch, parts),
                    Some(why) => self.observer.failed(epoch, why),
                }
            }
            Work::Forget { epoch } => self.forgotten = self.forgotten.max(epoch),
        }
    }

    fn turn_to(&mut self, epoch: u64) {
        if self.epoch != epoch {
            (self.epoch, self.failed) = (epoch, None);
            self.parts.clear();
        }
    }
}

fn write(folder: &Path, head: PartHead, frozen: Frozen) -> io::Result<Part> {
    let mut records = Some(0);
    match frozen.store {
        Some(store) => records = store.write(folder).map_err(io::Error::other)?,
        None => std::fs::create_dir(folder)?,
    }
    let mut writer = CarriedWriter::new(folder);
    if let Some(carried) = frozen.carried {
        carried(&mut writer)?;
    }
    let carried = writer.finish()?;
    let head = PartHead { carried, ..head };
    head.write(folder)?;
    let PartHead { operator, shard, shards, .. } = head;
    Ok(Part { operator, shard, shards, folder: folder.to_owned(), records: records.map(|count| count + carried) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change inside is one step, so what a panicking thread leaves is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoints").field("on", &self.are_on()).field("epoch", &self.epoch()).finish()
    }
}
