//! A job's files: taken from its client by content hash, handed to its environments.
//!
//! A file is known by the SHA-256 of its content and by nothing else: no name that a client gives ever becomes part of
//! a path. Content that is here already is not asked for again. What a client says that a file's hash is, is checked
//! when the file comes; a file that came is whole or absent.
//!
//! Whoever can name the hash of a file gets to use it without sending it. A secret per client would close that and
//! would make every client send every jar again; who knows a file's hash has, in practice, the file.

mod client;
mod retrieval;
mod staging;
mod store;
mod transfer;

pub use client::RemoteArtifacts;
pub use retrieval::{Retrieval, RetrievalGrants, TOKEN_HEADER};
pub use staging::{ArtifactRefusal, EnvironmentArtifacts, Staged, Staging};
pub use store::{ContentHash, Store, StoreError, Upload};
pub use transfer::StagingService;
