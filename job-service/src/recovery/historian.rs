//! Writes down what happens to a job: [`Historian`].

use std::sync::Arc;
use std::time::Duration;

use super::again::again;
use super::error::SaveError;
use super::job_store::{JobStore, Loaded};
use super::saved::{NumberedEvent, Piece};
use crate::job::{Event, Job};

/// Messages wait for so long for others, states do not.
const GATHER: Duration = Duration::from_millis(500);
/// Events of a piece.
const PIECE: usize = 4096;
/// Pieces behind a whole one, before the next that is whole.
const PIECES: u64 = 64;

/// See the module.
#[derive(Debug)]
pub struct Historian {
    store: Arc<JobStore>,
    job: Arc<Job>,
    /// The number of the next piece, and of the latest that is whole, or the first.
    next: u64,
    whole: u64,
    /// The number of the next event.
    from: u64,
}

impl Historian {
    /// Of a new job.
    pub fn of(store: Arc<JobStore>, job: Arc<Job>) -> Historian {
        Historian { store, job, next: 1, whole: 1, from: 0 }
    }

    /// Of a job that was taken over.
    pub fn going_on(store: Arc<JobStore>, job: Arc<Job>, loaded: &Loaded) -> Historian {
        let next = loaded.history.piece;
        Historian { store, job, next, whole: next.saturating_sub(1), from: loaded.history.next }
    }

    /// Writes until the job has ended, or another service has it: an error.
    pub async fn follow(mut self) -> Result<(), SaveError> {
        let mut changes = self.job.changes();
        loop {
            changes.mark_unchanged();
            let mut page = self.job.read(self.from, PIECE);
            if page.events.is_empty() {
                // The job, which holds the sender, is held here.
                let _ = changes.changed().await;
                continue;
            }
            let is_state = |(_, event): &(u64, Event)| matches!(event, Event::State(..));
            if !page.events.iter().any(is_state) {
                let told = |job: &Job, from| job.read(from, PIECE).events.iter().any(is_state);
                let (job, from) = (Arc::clone(&self.job), page.next);
                let stated = async {
                    while !told(&job, from) {
                        let _ = changes.changed().await;
                    }
                };
                let _ = tokio::time::timeout(GATHER, stated).await;
                page = self.job.read(self.from, PIECE);
            }
            let over = page.events.iter().any(|(_, event)| matches!(event, Event::State(s, _) if s.is_terminal()));
            let events = page.events.into_iter().map(|(number, event)| NumberedEvent::of(number, event)).collect();
            self.write(Piece { whole: false, leader: self.store.leader(), events, next: page.next }).await?;
            self.from = page.next;
            self.job.recorded(self.from);
            if over {
                return Ok(());
            }
        }
    }

    async fn write(&mut self, piece: Piece) -> Result<(), SaveError> {
        let is_whole = self.next - self.whole > PIECES;
        let piece = if is_whole {
            let all = self.job.read(0, usize::MAX).events.into_iter().take_while(|(number, _)| *number < piece.next);
            let events = all.map(|(number, event)| NumberedEvent::of(number, event)).collect();
            Piece { whole: true, events, ..piece }
        } else {
            piece
        };
        let piece = piece.sealed()?;
        loop {
            let append = || self.store.append(self.job.id(), self.next, &piece);
            let appended = again(None, append, |error| {
                tracing::warn!(job = %self.job.id(), %error, "what happens to a job cannot be recorded, and is tried again");
            });
            match appended.await {
                // Something that is not ours has the place.
                Err(SaveError::Replaced) if self.store.leads().await.unwrap_or(false) => self.next += 1,
                appended => break appended?,
            }
        }
        if is_whole {
            if let Err(error) = self.store.forget_pieces(self.job.id(), self.whole..self.next).await {
                tracing::debug!(job = %self.job.id(), %error, "old pieces of its history stay");
            }
            self.whole = self.next;
        }
        self.next += 1;
        Ok(())
    }
}
