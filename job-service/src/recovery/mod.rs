//! Jobs that outlive their service: what it keeps of them in its storage, and how the next service goes on with them.
//!
//! A service that was given a storage ([`ServiceConfig::checkpoint_storage`](crate::ServiceConfig)) is known there by a
//! [`Term`]: of all services on a storage one leads, and the others wait ([`Election`]). The leader records each job
//! before it says that it runs, and how it ends before it says that it ended ([`JobStore`]); in between it writes down what
//! happens to the job, a little behind (a `Historian` each). Whoever leads next has all of that: jobs that ended are told
//! of as before, and the others run again, from their checkpoints.
//!
//! ```text
//! <root>/.service/terms/<number, 20 digits>               who leads: the greatest number, claimed by Create, renewed by the next
//! <root>/.service/jobs/<job>                              what was submitted: `ferrobeam.store.v1.Job`, framed
//! <root>/.service/attempts/<job>/<number>                 an attempt to run it has begun
//! <root>/.service/checkpointed/<job>                      it has completed a checkpoint, and never begins from its start again
//! <root>/.service/history/<job>/<number>                  what happened to it, in pieces, each claimed by Create
//! <root>/.service/ends/<job>-<leader, 20 digits>          how it ended, by who led: `ferrobeam.store.v1.End`, framed
//! <root>/.service/artifacts/files/<zeros>-<SHA-256>       what its environments need
//! ```
//!
//! # Who leads
//!
//! A leader creates the next number in time; whoever finds the number that it wants taken has been replaced, and ends. A
//! service that waits takes the next number when the newest has not changed for the length of a lease by its own clock,
//! when the one that wrote it says that it has ended, or when it was a process of this machine that is gone. No clock is
//! compared with that of another machine.
//!
//! A leader that cannot write to the storage goes on trying: a full disk or a store that is away for a minute ends no job that
//! would have gone on without a checkpoint for so long. If another can write there, it takes over, and the first finds that
//! when it can again.
//!
//! A leader that slept may believe that it leads for as long as a request takes. What it does then counts for nothing: the
//! next one has taken the next piece of each job's history before it runs the job, so the old one's next piece finds its place
//! taken; a job that it takes, and an end that it records, count only if nobody had taken over when that was written, and an
//! end of a lesser leader than the last that has written of the job has no say; an attempt of it cannot commit checkpoints
//! once the next attempt has begun ([`checkpoint`](crate::checkpoint)), nor remove that one's. Its job processes go on until
//! they have not heard of it for their lease, 40 s: what they do outside may come twice, as after any restart.

mod again;
mod election;
mod error;
mod framed;
mod historian;
mod job_store;
mod saved;
#[cfg(test)]
mod tests;

pub(crate) use again::again;
pub use election::{Ballot, Election, Leadership, Term};
pub use error::SaveError;
pub use historian::Historian;
pub use job_store::{JobStore, Loaded};
pub use saved::End;

/// How long a service that leads may be silent before another takes its place.
pub const TERM: std::time::Duration = std::time::Duration::from_secs(10);

/// Generated messages.
#[allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("ferrobeam.store.v1");
}
