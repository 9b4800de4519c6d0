//! Where a job keeps its keyed state, as its owner or the service's asks for it.

use std::fmt;
use std::str::FromStr;

use ferrobeam_runner::state::StoreKind;

/// The values of the option `state_backend`: Flink's, and ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateBackend {
    /// What fits the job.
    #[default]
    Auto,
    /// In memory: `memory`, and Flink's `hashmap` and `filesystem`, which keep state on the heap.
    Memory,
    /// In RocksDB.
    RocksDb,
}

/// A state backend that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no state backend {0:?}: memory, rocksdb or auto is wanted")]
pub struct UnknownBackend(String);

impl StateBackend {
    /// The store of a job. The one place that decides.
    ///
    /// A bounded job's state lives no longer than its input, and memory is the quicker. A streaming job's state grows
    /// with its keys and is to be saved, which is what RocksDB is for; but until it can be, memory serves those as well.
    pub const fn store(self, streaming: bool) -> StoreKind {
        match (self, streaming) {
            (StateBackend::Memory, _) | (StateBackend::Auto, false | true) => StoreKind::Memory,
            (StateBackend::RocksDb, _) => StoreKind::RocksDb,
        }
    }
}

impl FromStr for StateBackend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(StateBackend::Auto),
            "memory" | "hashmap" | "filesystem" => Ok(StateBackend::Memory),
            "rocksdb" => Ok(StateBackend::RocksDb),
            _ => Err(UnknownBackend(text.to_owned())),
        }
    }
}

impl fmt::Display for StateBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StateBackend::Auto => "auto",
            StateBackend::Memory => "memory",
            StateBackend::RocksDb => "rocksdb",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flinks_names_and_ours_are_known() {
        let cases = [
            ("memory", StateBackend::Memory),
            ("hashmap", StateBackend::Memory),
            ("FileSystem", StateBackend::Memory),
            ("rocksdb", StateBackend::RocksDb),
            (" auto ", StateBackend::Auto),
        ];
        for (text, backend) in cases {
            assert_eq!(text.parse(), Ok(backend), "{text}");
        }
        for bad in ["", "rocks", "17"] {
            let unknown = bad.parse::<StateBackend>().expect_err("unknown");
            assert!(unknown.to_string().contains("rocksdb"), "{unknown}");
        }
        for backend in [StateBackend::Auto, StateBackend::Memory, StateBackend::RocksDb] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
    }

    #[test]
    fn what_is_asked_for_is_what_is_used() {
        for streaming in [false, true] {
            assert_eq!(StateBackend::Memory.store(streaming), StoreKind::Memory);
            assert_eq!(StateBackend::RocksDb.store(streaming), StoreKind::RocksDb);
        }
        assert_eq!(StateBackend::Auto.store(false), StoreKind::Memory);
    }
}
