//! The memory that a job process may spend on user data, shared by every buffer that can spill.
//!
//! A buffer asks its [`Reservation`] before it grows. When the budget is spent the buffer writes what it holds to disk
//! and gives the bytes back; it never waits for another buffer, so a full budget cannot deadlock. Each reservation may
//! always hold [`FLOOR`] bytes, so that a buffer that comes late still writes runs of a useful size.

mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use file::{SpillFile, SpillReader, SpillWriter};

/// Bytes that every reservation may hold whatever the others do.
pub const FLOOR: usize = 1 << 20;

/// A limit in bytes on buffered user data in one process, and the folder that takes what does not fit.
#[derive(Clone, Debug)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    floor: usize,
    used: AtomicUsize,
    spill_dir: PathBuf,
}

impl Budget {
    /// A budget of `limit` bytes whose buffers spill into files under `spill_dir`, which must exist.
    pub fn new(limit: usize, spill_dir: impl Into<PathBuf>) -> Budget {
        Budget::with_floor(limit, FLOOR, spill_dir)
    }

    /// As [`Budget::new`], where each reservation may always hold `floor` bytes instead of [`FLOOR`].
    pub fn with_floor(limit: usize, floor: usize, spill_dir: impl Into<PathBuf>) -> Budget {
        Budget { inner: Arc::new(Inner { limit, floor, used: AtomicUsize::new(0), spill_dir: spill_dir.into() }) }
    }

    /// The folder for spilled data. Files there are unlinked while open or removed with the folder.
    pub fn spill_dir(&self) -> &Path {
        &self.inner.spill_dir
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.inner.limit
    }

    /// Bytes reserved now.
    pub fn used(&self) -> usize {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// An empty reservation of this budget.
    pub fn reserve(&self) -> Reservation {
        Reservation { budget: self.clone(), held: 0 }
    }
}

/// A buffer's part of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    held: usize,
}

impl Reservation {
    /// Adds `bytes` if the budget has room (or the reservation is below [`FLOOR`]); `false` means: spill, then retry.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let used = self.budget.inner.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.budget.inner.limit && self.held.saturating_add(bytes) > self.budget.inner.floor {
            self.budget.inner.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.held += bytes;
        true
    }

    /// Adds `bytes` whatever the budget says: for what must be in memory to make progress (one element).
    pub fn force_grow(&mut self, bytes: usize) {
        self.budget.inner.used.fetch_add(bytes, Ordering::Relaxed);
        self.held += bytes;
    }

    /// Gives back `bytes` of what is held (at most all of it).
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        self.budget.inner.used.fetch_sub(bytes, Ordering::Relaxed);
        self.held -= bytes;
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The budget this is a part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: usize, floor: usize) -> Budget {
        Budget::with_floor(limit, floor, std::env::temp_dir())
    }

    #[test]
    fn a_reservation_grows_to_the_limit_and_always_to_the_floor() {
        let budget = budget(100, 30);
        let (mut first, mut late) = (budget.reserve(), budget.reserve());
        assert!(first.try_grow(100));
        assert!(!first.try_grow(1), "the budget is spent");
        assert!(late.try_grow(30), "the floor is free to all");
        assert!(!late.try_grow(1));
        assert_eq!((budget.used(), first.held(), late.held()), (130, 100, 30));
        first.shrink(1000);
        assert_eq!((budget.used(), first.held()), (30, 0));
        assert!(late.try_grow(70));
        drop(late);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_forced_is_counted() {
        let budget = budget(10, 0);
        let mut reservation = budget.reserve();
        reservation.force_grow(50);
        assert_eq!(budget.used(), 50);
        assert!(!budget.reserve().try_grow(1));
        drop(reservation);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn threads_share_a_budget_exactly() {
        let budget = budget(1000, 10);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let budget = &budget;
                scope.spawn(move || {
                    for round in 0..2000 {
                        let mut reservation = budget.reserve();
                        for step in 0..20 {
                            let _ = reservation.try_grow((thread + round + step) % 97);
                        }
                        reservation.shrink(round % 50);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_reader_sees_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = SpillWriter::create(&Budget::new(0, folder.path())).unwrap();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
        for part in bytes.chunks(77_777) {
            writer.write(part).unwrap();
        }
        writer.flush().unwrap();
        assert_eq!((writer.position(), writer.flushed()), (1_000_000, 1_000_000));
        let mut reader = SpillReader::new(Arc::clone(writer.file()), 10, 999_990, 1000);
        let mut at = 10;
        for length in [0, 1, 999, 1000, 1001, 5, 100_000] {
            assert_eq!(reader.peek(length).unwrap(), &bytes[at..at + length]);
            assert_eq!(reader.take(length).unwrap(), &bytes[at..at + length]);
            at += length;
        }
        reader.skip(500_000);
        at += 500_000;
        assert_eq!(reader.peek(usize::MAX).unwrap(), &bytes[at..999_990]);
        assert!(reader.take(999_991 - at).is_err(), "the part ends before the file");
        reader.skip(u64::MAX);
        assert_eq!((reader.position(), reader.peek(5).unwrap().len()), (999_990, 0));
    }
}
