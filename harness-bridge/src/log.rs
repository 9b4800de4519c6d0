//! What harnesses log (`BeamFnLogging`, and the output of the processes that the bridge starts), on its way to the job's messages.

use std::time::SystemTime;

/// Takes log entries. Called from the bridge's tasks: an implementation must not block.
pub trait LogSink: Send + Sync + 'static {
    /// One entry. Entries of one harness come in its order.
    fn log(&self, entry: HarnessLog);
}

/// How grave an entry is (`LogEntry.Severity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Finer than debugging.
    Trace,
    /// For debugging.
    Debug,
    /// Ordinary.
    Info,
    /// Ordinary but significant.
    Notice,
    /// Perhaps a fault.
    Warn,
    /// A fault.
    Error,
    /// A fault that ends something.
    Critical,
}

/// One log entry of a harness.
#[derive(Clone, Debug)]
pub struct HarnessLog {
    /// How grave it is.
    pub severity: Severity,
    /// When the harness made it.
    pub time: SystemTime,
    /// The text.
    pub message: String,
    /// The stack trace, or empty.
    pub trace: String,
    /// The id of the transform in its stage's descriptor, or empty.
    pub transform: String,
    /// The user's name for that transform, where the stage knows it, or empty.
    pub transform_name: String,
    /// The Fn API instruction during which it was made, or empty.
    pub instruction: String,
    /// The stable name of the stage that the instruction ran, or empty.
    pub stage: String,
    /// Where in the code, or empty.
    pub location: String,
    /// The thread, or empty.
    pub thread: String,
    /// The id of the harness.
    pub harness: String,
    /// The environment's id in the pipeline.
    pub environment: String,
}
