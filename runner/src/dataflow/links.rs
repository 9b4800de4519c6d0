//! What ties an operator to the rest of its process.

use std::rc::Rc;

use super::flow::Flow;
use super::run::Reporter;
use crate::checkpoint::Saver;

/// What every operator that queues, or keeps something, is given as it is built.
pub(crate) struct Links {
    /// Back-pressure, from those behind it and to those before it.
    pub(crate) flow: Flow,
    /// Tells the job of faults.
    pub(crate) reporter: Rc<Reporter>,
    /// Saves what it keeps, and has what it starts from.
    pub(crate) saver: Saver,
}
