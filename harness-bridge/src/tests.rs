//! What the crate's tests share.

use std::sync::{Arc, Mutex};

use ferrobeam_proto::fn_execution::ProcessBundleDescriptor;
use ferrobeam_proto::pipeline::{ApiServiceDescriptor, ArtifactInformation, PTransform};
use ferrobeam_runner::element::WireCoder;
use ferrobeam_runner::plan::{self, CollectionId, EnvironmentId, Keyed, Plan, Port, StageId, TimeDomain, TimerFamily};
use ferrobeam_runner::windowing::WindowCoder;
use prost::Message;

use crate::stage::{Stage, TimerPort};
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

/// A stage of a source and timer families.
pub(crate) fn stage(timers: Vec<TimerPort>) -> Stage {
    let family = |timer: TimerPort| TimerFamily {
        transform: timer.transform,
        family: timer.family,
        domain: TimeDomain::EventTime,
        key: WireCoder::Prefixed,
        window: WindowCoder::Global,
        on_window_expiration: false,
    };
    let timers: Vec<TimerFamily> = timers.into_iter().map(family).collect();
    let transforms = timers.iter().map(|timer| timer.transform.clone()).chain(["source".to_owned()]);
    let descriptor = ProcessBundleDescriptor {
        transforms: transforms.map(|id| (id, PTransform::default())).collect(),
        ..Default::default()
    };
    let planned = plan::Stage {
        name: "stage".into(),
        environment: EnvironmentId(0),
        descriptor: descriptor.encode_to_vec().into(),
        input: Port { transform: "source".into(), collection: CollectionId(0) },
        outputs: vec![],
        side_inputs: vec![],
        transforms: vec![],
        splittable: false,
        unbounded: false,
        merges_windows: false,
        keyed: Some(Keyed { timers, ..Keyed::default() }),
        truncate: None,
        finalizes: false,
        stable_input: false,
    };
    Stage::prepare(StageId(0), &planned, &[], "g", &ApiServiceDescriptor::default()).unwrap()
}

/// A configuration for a plan without stages.
pub(crate) fn config(logs: Arc<Collected>) -> BridgeConfig {
    let plan = Plan { collections: vec![], nodes: vec![], stages: vec![], environments: vec![] };
    BridgeConfig::new("job", Arc::new(plan), Arc::new(NoArtifacts), logs, std::env::temp_dir())
}
