//! Where a job keeps its keyed state, as its owner or the service's asks for it.

use std::fmt;
use std::str::FromStr;

use ferrobeam_runner::state::StoreKind;

/// The values of the option `state_backend`: Flink's, and ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateBackend {
    /// In memory while the job's budget has room, then in RocksDB.
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
    /// The store of a job.
    ///
    /// State is in memory while it fits, in bounded and in streaming jobs: memory is the quicker, and what outgrows the
    /// job's budget moves to RocksDB by itself.
    pub const fn store(self) -> StoreKind {
        match self {
            StateBackend::Auto => StoreKind::Auto,
            StateBackend::Memory => StoreKind::Memory,
            StateBackend::RocksDb => StoreKind::RocksDb,
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
}
