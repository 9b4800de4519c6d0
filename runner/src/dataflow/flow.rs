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
//! Between processes nothing is told: what another process has waiting is bounded by its disk only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use timely::scheduling::activate::SyncActivator;

use crate::plan::{CollectionId, Node, Plan};

/// Queued input of one operator on one worker, in bytes, above which what goes there waits.
pub(crate) const BACKLOG_LIMIT: usize = 32 << 20;
/// Bytes an operator may send in one visit before downstream operators get their turn.
pub(crate) const VISIT_LIMIT: usize = 4 << 20;

/// What waits at one operator, on each worker of the process.
#[derive(Debug)]
pub(crate) struct Backlog {
    limit: usize,
    workers: Vec<Mutex<Vec<EpochBytes>>>,
    /// Operators that wait for room here, by their worker and address.
    waiting: Mutex<Vec<Arc<SyncActivator>>>,
    is_waited_for: AtomicBool,
}

/// Bytes that wait in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EpochBytes {
    epoch: u64,
    bytes: usize,
}

impl Backlog {
    fn new(workers: usize, limit: usize) -> Backlog {
        let workers = (0..workers).map(|_| Mutex::default()).collect();
        Backlog { limit, workers, waiting: Mutex::default(), is_waited_for: AtomicBool::new(false) }
    }

    fn has_room(&self, worker: usize, epoch: u64) -> bool {
        let waiting = lock(&self.workers[worker]);
        waiting.iter().filter(|at| at.epoch <= epoch).map(|at| at.bytes).sum::<usize>() < self.limit
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

/// The backlogs of a process, and who sends to which.
#[derive(Debug)]
pub(crate) struct Backlogs {
    /// By the index of the node.
    of_node: Vec<Arc<Backlog>>,
    readers: BTreeMap<CollectionId, Vec<Reader>>,
    workers: usize,
}

/// An operator that queues what is in a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reader {
    node: usize,
    /// What is sent may come to another worker.
    exchanged: bool,
}

impl Backlogs {
    /// Of a plan whose operators run on `workers` threads of this process, and `peers` in all. `durable`: bounded input is
    /// grouped as it comes, too.
    pub(crate) fn new(plan: &Plan, workers: usize, peers: usize, durable: bool) -> Backlogs {
        Backlogs::with_limit(plan, workers, peers, durable, BACKLOG_LIMIT)
    }

    /// As [`Backlogs::new`], with another limit than [`BACKLOG_LIMIT`].
    pub(crate) fn with_limit(plan: &Plan, workers: usize, peers: usize, durable: bool, limit: usize) -> Backlogs {
        let of_node = plan.nodes.iter().map(|_| Arc::new(Backlog::new(workers, limit))).collect();
        let mut readers: BTreeMap<CollectionId, Vec<Reader>> = BTreeMap::new();
        // From the end: what stands behind a node that only passes on is known by then.
        for (index, node) in plan.nodes.iter().enumerate().rev() {
            let exchanges = peers > 1;
            match node {
                Node::Impulse { .. } | Node::TestStream { .. } => {}
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
        Backlogs { of_node, readers, workers }
    }

    /// Of the operator of a node whose outputs are `outputs`, on one worker of the process.
    pub(crate) fn flow(&self, node: usize, outputs: impl IntoIterator<Item = CollectionId>, worker: usize) -> Flow {
        let worker = worker % self.workers;
        let mut behind: Vec<Behind> = Vec::new();
        let readers = outputs.into_iter().filter_map(|output| self.readers.get(&output)).flatten();
        for reader in readers {
            let backlog = Arc::clone(&self.of_node[reader.node]);
            let workers = if reader.exchanged { 0..self.workers } else { worker..worker + 1 };
            match behind.iter_mut().find(|known| Arc::ptr_eq(&known.backlog, &backlog)) {
                Some(known) if reader.exchanged => known.workers = workers,
                Some(_) => {}
                None => behind.push(Behind { backlog, workers }),
            }
        }
        Flow { own: Some(Arc::clone(&self.of_node[node])), worker, told: Vec::new(), behind, wake: None }
    }
}

/// An operator that output goes to.
#[derive(Debug)]
struct Behind {
    backlog: Arc<Backlog>,
    /// Those that it may come to.
    workers: std::ops::Range<usize>,
}

/// Back-pressure as one operator on one worker sees it. The default one knows of nobody, and never waits.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    own: Option<Arc<Backlog>>,
    worker: usize,
    /// What the own backlog was told.
    told: Vec<EpochBytes>,
    behind: Vec<Behind>,
    wake: Option<Arc<SyncActivator>>,
}

impl Flow {
    /// For the operator that `wake` wakes.
    #[must_use]
    pub(crate) fn waking(self, wake: SyncActivator) -> Flow {
        Flow { wake: Some(Arc::new(wake)), ..self }
    }

    /// Says what waits at the operator, by epoch.
    pub(crate) fn update(&mut self, waiting: impl Iterator<Item = (u64, usize)>) {
        let Some(own) = &self.own else { return };
        let now: Vec<EpochBytes> =
            waiting.map(|(epoch, bytes)| EpochBytes { epoch, bytes }).filter(|at| at.bytes > 0).collect();
        if now != self.told {
            lock(&own.workers[self.worker]).clone_from(&now);
            self.told = now;
            own.wake();
        }
    }

    /// Whether output of an epoch may be sent. If not, the operator is woken when there may be room again.
    pub(crate) fn has_room(&self, epoch: u64) -> bool {
        let full = |behind: &&Behind| behind.workers.clone().any(|worker| !behind.backlog.has_room(worker, epoch));
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
