//! URNs and constants, one module for each enum of the protocol that states them.
//!
//! A module is named after the message around its enum: `StandardCoders.Enum` is [`standard_coders`]. Where a message
//! has several such enums, each has a module within: `StandardPTransforms.Primitives` is
//! [`standard_ptransforms::primitives`]. A module has its constants under the names of the enum's values, and `ALL`,
//! for asking whether a URN is known.

/// How the protocol declares a metric: what identifies it, how its payload is encoded, and which labels it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MetricSpec {
    /// The metric itself, such as `beam:metric:element_count:v1`.
    pub urn: &'static str,
    /// The encoding of its payload, such as `beam:metrics:sum_int64:v1`.
    pub type_urn: &'static str,
    /// Names of the labels without which a report of this metric is malformed.
    pub required_labels: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/urns.rs"));
