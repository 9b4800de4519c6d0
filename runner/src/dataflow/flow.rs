//! Back-pressure: output waits while those it goes to have enough to do.
//!
//! Every operator that queues its input says how many bytes wait there, by epoch ([`Backlog`]). An operator sends what it
//! has at an epoch only while each operator that it goes to has less than [`BACKLOG_LIMIT`] waiting in that epoch and
//! those before, on every worker of the process that the output may reach; and it opens no bundle while much of what it
//! made waits ([`super::emission`]). So a fast source is as slow as the slowest stage behind it, and what is in flight is
//! bounded by the limit, an operator and worker.
//!
//! Why waiting ends. An operator waits only for those behind it, never for its own input or for one beside it; the graph
//! has no cycle, and the last ones wait for nobody. Input of a later epoch does not count for what is sent in an earlier
//! one: the receiver cannot touch it before the earlier one is over, which is when all of that was sent. Input that waits
//! for a side input counts for nobody: it goes to disk, because the side input may come from the same source.
//!
//! A rejected alternative: one sum for all operators of a worker. With two epochs in flight an operator then waits for
//! room that input of the later one takes, which is not worked off before the operator has sent what it has.
//!
//! What a sink has taken and cannot write counts for nobody, because the checkpoint that it waits for is not over before its
//! input is; of too much of that it has the sources of its process wait themselves, which step over borders all the same.
//!
//! Processes tell each other which of their operators have enough to do ([`super::backlog_exchange`]); what is on its way
//! when that is told comes on top of the limit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use timely::scheduling::activate::SyncActivator;

use crate::plan::{CollectionId, Node, Plan};

/// Queued input of one operator on one worker, in bytes, above which what goes there waits.
pub(crate) const BACKLOG_LIMIT: usize = 32 << 20;
/// Bytes an operator may send in one visit before downstream operators get their turn.
pub(crate) const VISIT_LIMIT: usize = 4 << 20;

/// What waits at one operator.
#[derive(Debug)]
pub(crate) struct Backlog {
    limit: usize,
    /// Of each worker of this process: the first epoch in which, with those before, the limit is reached; [`ROOM`].
    here: Vec<AtomicU64>,
    /// Of each process, as it said last.
    elsewhere: Vec<AtomicU64>,
    /// Operators that wait for room here.
    waiting: Mutex<Vec<Arc<SyncActivator>>>,
    is_waited_for: AtomicBool,
}

/// There is room in every epoch.
pub(super) const ROOM: u64 = u64::MAX;

impl Backlog {
    fn new(workers: usize, processes: usize, limit: usize) -> Backlog {
        let with_room = |count: usize| (0..count).map(|_| AtomicU64::new(ROOM)).collect();
        let (here, elsewhere) = (with_room(workers), with_room(processes));
        Backlog { limit, here, elsewhere, waiting: Mutex::default(), is_waited_for: AtomicBool::new(false) }
    }

    fn has_room(&self, reach: &Reach, epoch: u64) -> bool {
        let room = |full_from: &AtomicU64| epoch < full_from.load(Ordering::SeqCst);
        match reach {
            Reach::Worker(worker) => room(&self.here[*worker]),
            Reach::Job => self.here.iter().chain(&self.elsewhere).all(room),
        }
    }

    /// Says from which epoch on a worker has enough to do. True if that is news.
    fn set(full_from: &AtomicU64, waiting: impl Iterator<Item = EpochBytes>, limit: usize) -> bool {
        let mut sum = 0;
        let now = waiting.into_iter().find_map(|at| {
            sum += at.bytes;
            (sum >= limit).then_some(at.epoch)
        });
        let now = now.unwrap_or(ROOM);
        full_from.swap(now, Ordering::SeqCst) != now
    }

    /// From which epoch on some worker of this process has enough to do.
    pub(super) fn full_from(&self) -> u64 {
        self.here.iter().map(|full_from| full_from.load(Ordering::SeqCst)).min().unwrap_or(ROOM)
    }

    /// Another process says from which epoch on it has enough to do.
    pub(super) fn told(&self, process: usize, full_from: u64) {
        if let Some(elsewhere) = self.elsewhere.get(process) {
            elsewhere.store(full_from, Ordering::SeqCst);
            self.wake();
        }
    }

    fn wake(&self) {
        if self.is_waited_for.swap(false, Ordering::SeqCst) {
            for waiter in lock(&self.waiting).drain(..) {
                // Fails only when the worker is gone.
                let _ = waiter.activate();
            }
        }
    }

    fn wait(&self, waiter: &Arc<SyncActivator>) {
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|other| Arc::ptr_eq(other, waiter)) {
            waiting.push(Arc::clone(waiter));
        }
        self.is_waited_for.store(true, Ordering::SeqCst);
    }
}

/// Bytes that wait in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochBytes {
    pub(crate) epoch: u64,
    pub(crate) bytes: usize,
}

/// The backlogs of a process, and who sends to which.
#[derive(Debug)]
pub(crate) struct Backlogs {
    /// By the index of the node.
    of_node: Vec<Arc<Backlog>>,
    /// Of the nodes that may have sources wait: full, for all epochs, while they do.
    holds: BTreeMap<usize, Arc<Backlog>>,
    readers: BTreeMap<CollectionId, Vec<Reader>>,
    workers: usize,
    /// Told when from one of them there is something new to tell other processes.
    news: Mutex<Option<SyncActivator>>,
}

/// An operator that queues what is in a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reader {
    node: usize,
    /// What is sent may come to another worker.
    exchanged: bool,
}

/// The workers of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) processes: usize,
    /// Of each process.
    pub(crate) workers: usize,
}

impl Backlogs {
    /// Of a plan. `durable`: bounded input is grouped as it comes, too.
    pub(crate) fn new(plan: &Plan, shape: Shape, durable: bool) -> Backlogs {
        Backlogs::with_limit(plan, shape, durable, BACKLOG_LIMIT)
    }

    /// As [`Backlogs::new`], with another limit than [`BACKLOG_LIMIT`].
    pub(crate) fn with_limit(plan: &Plan, shape: Shape, durable: bool, limit: usize) -> Backlogs {
        let Shape { processes, workers } = shape;
        let others = if processes > 1 { processes } else { 0 };
        let of_node = plan.nodes.iter().map(|_| Arc::new(Backlog::new(workers, others, limit))).collect();
        let peers = processes * workers;
        let mut readers: BTreeMap<CollectionId, Vec<Reader>> = BTreeMap::new();
        // From the end: what stands behind a node that only passes on is known by then.
        for (index, node) in plan.nodes.iter().enumerate().rev() {
            let exchanges = peers > 1;
            match node {
                Node::Impulse { .. } | Node::TestStream { .. } | Node::KafkaRead { .. } => {}
                Node::KafkaWrite { input, .. } => {
                    readers.entry(*input).or_default().push(Reader { node: index, exchanged: false });
                }
                Node::Flatten { inputs, output } => {
                    let behind = readers.get(output).cloned().unwrap_or_default();
                    for input in inputs {
                        readers.entry(*input).or_default().extend(&behind);
                    }
                }
                Node::Redistribute { input, output, .. } => {
                    let behind = readers.get(output).cloned().unwrap_or_default();
                    let behind = behind.into_iter().map(|reader| Reader { exchanged: exchanges, ..reader });
                    readers.entry(*input).or_default().extend(behind);
                }
                // A grouping of bounded input takes everything, to disk where it has to.
                Node::GroupByKey { bounded: true, .. } if !durable => {}
                Node::GroupByKey { input, .. } => {
                    readers.entry(*input).or_default().push(Reader { node: index, exchanged: exchanges });
                }
                Node::Stage(id) => {
                    let stage = &plan.stages[id.0 as usize];
                    let exchanged = exchanges && stage.keyed.is_some();
                    readers.entry(stage.input.collection).or_default().push(Reader { node: index, exchanged });
                }
            }
        }
        let may_hold = plan.nodes.iter().enumerate().filter(|(_, node)| matches!(node, Node::KafkaWrite { .. }));
        let holds = may_hold.map(|(index, _)| (index, Arc::new(Backlog::new(workers, 0, limit)))).collect();
        Backlogs { of_node, holds, readers, workers, news: Mutex::default() }
    }

    /// Of all nodes, in their order.
    pub(super) fn all(&self) -> &[Arc<Backlog>] {
        &self.of_node
    }

    /// Wakes who tells other processes, whenever there is something to tell.
    pub(super) fn on_news(&self, wake: SyncActivator) {
        *lock(&self.news) = Some(wake);
    }

    fn are_news(&self) {
        if let Some(wake) = &*lock(&self.news) {
            let _ = wake.activate();
        }
    }

    /// Of the operator of a node whose outputs are `outputs`, on one worker of the job.
    pub(crate) fn flow(
        self: &Arc<Self>,
        node: usize,
        outputs: impl IntoIterator<Item = CollectionId>,
        worker: usize,
    ) -> Flow {
        let worker = worker % self.workers;
        let mut behind: Vec<Behind> = Vec::new();
        let readers = outputs.into_iter().filter_map(|output| self.readers.get(&output)).flatten();
        for reader in readers {
            let backlog = Arc::clone(&self.of_node[reader.node]);
            let reach = if reader.exchanged { Reach::Job } else { Reach::Worker(worker) };
            match behind.iter_mut().find(|known| Arc::ptr_eq(&known.backlog, &backlog)) {
                Some(known) if reader.exchanged => known.reach = reach,
                Some(_) => {}
                None => behind.push(Behind { backlog, reach }),
            }
        }
        let own = Own { node, backlog: Arc::clone(&self.of_node[node]), of: Arc::clone(self), worker };
        Flow { own: Some(own), behind, wake: None }
    }
}

/// An operator that output goes to.
#[derive(Debug)]
struct Behind {
    backlog: Arc<Backlog>,
    reach: Reach,
}

/// Where output may come to.
#[derive(Debug)]
enum Reach {
    /// To a worker of this process.
    Worker(usize),
    /// To any of the job.
    Job,
}

/// Back-pressure as one operator on one worker sees it. The default one knows of nobody, and never waits.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    own: Option<Own>,
    behind: Vec<Behind>,
    wake: Option<Arc<SyncActivator>>,
}

/// The backlog of the operator itself.
#[derive(Debug)]
struct Own {
    node: usize,
    backlog: Arc<Backlog>,
    of: Arc<Backlogs>,
    worker: usize,
}

impl Flow {
    /// For the operator that `wake` wakes.
    #[must_use]
    pub(crate) fn waking(self, wake: SyncActivator) -> Flow {
        Flow { wake: Some(Arc::new(wake)), ..self }
    }

    /// Says what waits at the operator, in the order of the epochs.
    pub(crate) fn update(&mut self, waiting: impl Iterator<Item = EpochBytes>) {
        let Some(Own { backlog, of, worker, .. }) = &self.own else { return };
        if Backlog::set(&backlog.here[*worker], waiting, backlog.limit) {
            backlog.wake();
            if !backlog.elsewhere.is_empty() {
                of.are_news();
            }
        }
    }

    /// Has sources of this process wait, or go on.
    pub(crate) fn hold_sources(&mut self, hold: bool) {
        let Some(Own { node, of, worker, .. }) = &self.own else { return };
        let Some(own) = of.holds.get(node) else { return };
        let full_from = if hold { 0 } else { ROOM };
        if own.here[*worker].swap(full_from, Ordering::SeqCst) != full_from {
            own.wake();
        }
    }

    /// Whether no sink has sources wait. If one has, the operator is woken when it has not any more.
    pub(crate) fn may_read(&self) -> bool {
        let Some(Own { of, .. }) = &self.own else { return true };
        let holds = |own: &&Arc<Backlog>| !own.has_room(&Reach::Job, 0);
        let Some(own) = of.holds.values().find(holds) else { return true };
        if let Some(wake) = &self.wake {
            own.wait(wake);
            // It may have let go before this operator was known to wait.
            if !holds(&own) {
                let _ = wake.activate();
            }
        }
        false
    }

    /// Whether output of an epoch may be sent. If not, the operator is woken when there may be room again.
    pub(crate) fn has_room(&self, epoch: u64) -> bool {
        let full = |behind: &&Behind| !behind.backlog.has_room(&behind.reach, epoch);
        let Some(behind) = self.behind.iter().find(full) else { return true };
        if let Some(wake) = &self.wake {
            behind.backlog.wait(wake);
            // Room that came before the operator was known to wait wakes nobody.
            if !full(&behind) {
                let _ = wake.activate();
            }
        }
        false
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long after `attempt` failures a bundle is run again.
pub(crate) fn backoff(delay: Duration, attempt: u32) -> Duration {
    delay.saturating_mul(1 << attempt.min(6)).min(Duration::from_secs(5))
}
