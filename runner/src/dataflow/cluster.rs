//! The processes of a job as one Timely cluster, over sockets that were connected and checked elsewhere.

use std::any::Any;
use std::io::{self, Seek, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use timely::bytes::arc::{Bytes, BytesMut};
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::zero_copy::spill::{
    BytesFetch, BytesSpill, PrefetchPolicy, SpillPolicy, SpillPolicyFn, Threshold,
};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks};

use crate::memory::Budget;

/// The place of this process among those of its job.
#[derive(Debug)]
pub struct Topology {
    /// Index of this process.
    pub process: usize,
    /// How many processes the job has.
    pub processes: usize,
    /// Worker threads of each process.
    pub workers: usize,
    /// A connected socket to every other process, by index; `None` for this one. Both ends have proved that they belong
    /// to the same generation of the same job.
    pub sockets: Vec<Option<TcpStream>>,
}

impl Topology {
    /// One process with `workers` threads.
    pub fn single(workers: usize) -> Topology {
        Topology { process: 0, processes: 1, workers, sockets: vec![None] }
    }
}

type Allocators = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// The allocators of this process's worker threads. Queues between processes spill past their share of the budget;
/// those between threads hand over references to bytes that are accounted where they wait.
pub(crate) fn allocators(topology: Topology, budget: &Budget) -> io::Result<Allocators> {
    let workers = topology.workers.max(1);
    if topology.processes == 1 {
        return Config::Process(workers).try_build().map_err(io::Error::other);
    }
    let queues = workers * workers * topology.processes * 2;
    let hooks = Hooks { spill: Some(spill(budget, queues)), ..Hooks::default() };
    let inside = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
    let (builders, guard) =
        initialize_networking_from_sockets(inside, topology.sockets, topology.process, workers, hooks)?;
    Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)))
}

/// Spill policies for each network queue: a quarter of the budget for all of them together.
fn spill(budget: &Budget, queues: usize) -> SpillPolicyFn {
    let share = (budget.limit() / 4 / queues.max(1)).max(1 << 20);
    let directory = budget.spill_dir().to_path_buf();
    Arc::new(move || {
        let mut writer = Threshold::new(Box::new(ToDisk { directory: directory.clone() }));
        writer.threshold_bytes = share / 2;
        writer.head_reserve_bytes = share / 2;
        let reader: Box<dyn SpillPolicy> = Box::new(PrefetchPolicy::new(share / 2));
        (Box::new(writer) as Box<dyn SpillPolicy>, reader)
    })
}

/// Writes runs of queue entries to unlinked files.
struct ToDisk {
    directory: PathBuf,
}

impl ToDisk {
    fn write(&self, chunks: &[Bytes]) -> io::Result<std::fs::File> {
        let mut file = tempfile::tempfile_in(&self.directory)?;
        for chunk in chunks {
            file.write_all(chunk)?;
        }
        file.rewind()?;
        Ok(file)
    }
}

impl BytesSpill for ToDisk {
    /// Chunks that cannot be written stay in memory: the queue keeps what is not taken.
    fn spill(&mut self, chunks: &mut Vec<Bytes>, handles: &mut Vec<Box<dyn BytesFetch>>) {
        match self.write(chunks) {
            Ok(file) => {
                let file = Arc::new(file);
                let mut offset = 0;
                for chunk in chunks.drain(..) {
                    let length = chunk.len();
                    handles.push(Box::new(OnDisk { file: Arc::clone(&file), offset, length }));
                    offset += length as u64;
                }
            }
            Err(error) => tracing::warn!(%error, "a network queue stays in memory: it could not be written to disk"),
        }
    }
}

/// One spilled queue entry.
struct OnDisk {
    file: Arc<std::fs::File>,
    offset: u64,
    length: usize,
}

impl BytesFetch for OnDisk {
    fn fetch(self: Box<Self>) -> Result<Vec<Bytes>, Box<dyn BytesFetch>> {
        let mut bytes = vec![0; self.length];
        match self.file.read_exact_at(&mut bytes, self.offset) {
            Ok(()) => Ok(vec![BytesMut::from(bytes).freeze()]),
            Err(error) => {
                tracing::warn!(%error, "a spilled network queue could not be read; trying again");
                Err(self)
            }
        }
    }
}
