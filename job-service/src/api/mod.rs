//! The Job API: what SDKs' clients call.
//!
//! Answers by status: a pipeline, option or artifact that is refused is `INVALID_ARGUMENT`, with everything that is
//! wrong in one message; an id that is not known is `NOT_FOUND`; a call that comes at the wrong time is
//! `FAILED_PRECONDITION` or `ALREADY_EXISTS`. A request that does not parse is answered by the transport and reaches
//! nothing here.

mod convert;
mod job_service;
mod name;
mod state;
mod streams;

pub use job_service::JobApi;
