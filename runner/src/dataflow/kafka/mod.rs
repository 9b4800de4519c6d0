//! Kafka's ends of a dataflow: [`read`], a source, and [`write`], a sink. What talks to Kafka is a thread beside the worker
//! ([`crate::kafka`]).

pub(crate) mod read;
pub(crate) mod write;
