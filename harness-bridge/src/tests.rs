//! What the crate's tests share.

use std::sync::{Arc, Mutex};

use ferrobeam_proto::pipeline::ArtifactInformation;
use ferrobeam_runner::plan::Plan;

use crate::{ArtifactBytes, ArtifactError, ArtifactSource, BridgeConfig, HarnessLog, LogSink};

/// Keeps what is logged.
#[derive(Default)]
pub(crate) struct Collected(Mutex<Vec<HarnessLog>>);

impl Collected {
    pub(crate) fn entries(&self) -> Vec<HarnessLog> {
        self.0.lock().unwrap().clone()
    }
}

impl LogSink for Collected {
    fn log(&self, entry: HarnessLog) {
        self.0.lock().unwrap().push(entry);
    }
}

struct NoArtifacts;

#[tonic::async_trait]
impl ArtifactSource for NoArtifacts {
    async fn resolve(
        &self,
        artifacts: Vec<ArtifactInformation>,
        _: Vec<String>,
    ) -> Result<Vec<ArtifactInformation>, ArtifactError> {
        Ok(artifacts)
    }

    async fn open(&self, artifact: ArtifactInformation) -> Result<ArtifactBytes, ArtifactError> {
        Err(ArtifactError::NotFound(artifact.type_urn))
    }
}

/// A configuration for a plan without stages.
pub(crate) fn config(logs: Arc<Collected>) -> BridgeConfig {
    let plan = Plan { collections: vec![], nodes: vec![], stages: vec![], environments: vec![] };
    BridgeConfig::new("job", Arc::new(plan), Arc::new(NoArtifacts), logs, std::env::temp_dir())
}
