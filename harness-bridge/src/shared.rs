//! What the parts of a bridge share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use ferrobeam_proto::pipeline::ApiServiceDescriptor;
use ferrobeam_runner::plan::{EnvironmentId, StageId};
use tokio::sync::watch;

use crate::config::BridgeConfig;
use crate::environment::{Pool, Residences};
use crate::harness::Harnesses;
use crate::log::{HarnessLog, Severity};
use crate::stage::Stage;
use crate::tasks::Tasks;

/// Held by every server and task of a bridge.
pub(crate) struct Shared {
    pub(crate) config: Arc<BridgeConfig>,
    /// Unlike that of any other bridge: in the ids of harnesses and descriptors, and the cache tokens.
    pub(crate) generation: String,
    pub(crate) cores: usize,
    /// Where harnesses reach every service.
    pub(crate) endpoint: ApiServiceDescriptor,
    pub(crate) stages: Vec<Arc<Stage>>,
    pub(crate) stages_by_descriptor: HashMap<String, Arc<Stage>>,
    pub(crate) pools: BTreeMap<EnvironmentId, Arc<Pool>>,
    pub(crate) harnesses: Harnesses,
    pub(crate) residences: Residences,
    /// Bundles, streams, whatever may be cut off at the end.
    pub(crate) tasks: Tasks,
    /// The slots of the pools, which stop their harnesses in good order.
    pub(crate) keepers: Tasks,
    /// Callbacks of bundles that the SDK is running; their harnesses are not stopped before.
    pub(crate) finalizing: Tasks,
    pub(crate) closing: watch::Sender<bool>,
    pub(crate) next_harness: AtomicU64,
}

impl Shared {
    pub(crate) fn stage(&self, id: StageId) -> Option<Arc<Stage>> {
        self.stages.get(id.0 as usize).cloned()
    }

    pub(crate) fn next_harness_id(&self) -> String {
        format!("{}-{}", self.generation, self.next_harness.fetch_add(1, Ordering::Relaxed))
    }

    /// The job is over, or ending.
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until the job is over.
    pub(crate) async fn closing(&self) {
        // The sender lives as long as `self`.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

impl BridgeConfig {
    /// Says something about a harness, beside what it says itself.
    pub(crate) fn note(&self, severity: Severity, environment: &str, harness: &str, message: String) {
        self.logs.log(HarnessLog {
            severity,
            time: SystemTime::now(),
            message,
            trace: String::new(),
            transform: String::new(),
            transform_name: String::new(),
            instruction: String::new(),
            stage: String::new(),
            location: String::new(),
            thread: String::new(),
            harness: harness.to_owned(),
            environment: environment.to_owned(),
        });
    }
}
