//! What the integration tests share: a plan of one environment, bundles of byte strings, and sinks that remember.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ferrobeam_harness_bridge::{
    ArtifactBytes, ArtifactError, ArtifactSource, Bridge, BridgeConfig, HarnessLog, LogSink,
};
use ferrobeam_proto::pipeline::{
    ApiServiceDescriptor, ArtifactInformation, Environment, ExternalPayload, ProcessPayload,
};
use ferrobeam_proto::urns::standard_environments::{EXTERNAL, PROCESS};
use ferrobeam_runner::element::{
    BatchBuilder, ElementCoder, Outputs, PANE_NO_FIRING, WireCoder, encode_windowed_value, put_varint,
};
use ferrobeam_runner::executor::{
    Bundle, BundleDone, BundleError, OpenBundle, StateError, StateKey, StatePage, StateServer,
};
use ferrobeam_runner::memory::Budget;
use ferrobeam_runner::plan::{
    Access, CollectionId, EnvironmentId, Plan, Port, SideInput, Stage, StageId, WindowMapping,
};
use ferrobeam_runner::time::Timestamp;
use ferrobeam_runner::windowing::WindowCoder;
use prost::Message;
use tokio::sync::oneshot;

/// The size of the one artifact that every job here has.
pub const ARTIFACT: usize = 3_000_000;

/// Keeps what is logged.
#[derive(Default)]
pub struct Collected(Mutex<Vec<HarnessLog>>);

impl Collected {
    pub fn entries(&self) -> Vec<HarnessLog> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for an entry.
    pub async fn wait_for(&self, wanted: impl Fn(&HarnessLog) -> bool) -> HarnessLog {
        loop {
            if let Some(found) = self.entries().into_iter().find(|entry| wanted(entry)) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl LogSink for Collected {
    fn log(&self, entry: HarnessLog) {
        self.0.lock().unwrap().push(entry);
    }
}

/// Serves one artifact, of type `data`.
struct OneArtifact;

#[tonic::async_trait]
impl ArtifactSource for OneArtifact {
    async fn resolve(
        &self,
        artifacts: Vec<ArtifactInformation>,
        _: Vec<String>,
    ) -> Result<Vec<ArtifactInformation>, ArtifactError> {
        Ok(artifacts)
    }

    async fn open(&self, artifact: ArtifactInformation) -> Result<ArtifactBytes, ArtifactError> {
        if artifact.type_urn != "data" {
            return Err(ArtifactError::NotFound(artifact.type_urn));
        }
        let halves = [Bytes::from(vec![b'a'; ARTIFACT / 2]), Bytes::from(vec![b'b'; ARTIFACT / 2])];
        Ok(Box::pin(tokio_stream::iter(halves.map(Ok))))
    }
}

/// A stage to be put into a plan.
pub struct TestStage {
    pub name: String,
    pub descriptor: Vec<u8>,
    pub side_inputs: Vec<String>,
}

/// A plan whose stages all run in `environment`, from `source` to `sink`.
pub fn plan(environment: &Environment, stages: Vec<TestStage>) -> Plan {
    let port = |transform: &str| Port { transform: transform.into(), collection: CollectionId(0) };
    let stages = stages.into_iter().map(|stage| Stage {
        descriptor: stage.descriptor.into(),
        environment: EnvironmentId(0),
        input: port("source"),
        outputs: vec![port("sink")],
        side_inputs: stage
            .side_inputs
            .into_iter()
            .map(|local_name| SideInput {
                transform: "step".into(),
                local_name,
                collection: CollectionId(0),
                access: Access::Iterable,
                mapping: WindowMapping::Global,
            })
            .collect(),
        transforms: vec![("step".into(), format!("user's {}", stage.name))],
        name: stage.name,
        splittable: false,
        merges_windows: false,
        keyed: None,
        truncate: None,
        finalizes: false,
    });
    Plan {
        collections: vec![],
        nodes: vec![],
        stages: stages.collect(),
        environments: vec![ferrobeam_runner::plan::Environment {
            name: "python".into(),
            proto: environment.encode_to_vec().into(),
        }],
    }
}

pub fn external(endpoint: &str) -> Environment {
    let endpoint = ApiServiceDescriptor { url: endpoint.into(), authentication: None };
    let payload = ExternalPayload { endpoint: Some(endpoint), params: [].into() };
    Environment { urn: EXTERNAL.into(), payload: payload.encode_to_vec().into(), ..Default::default() }
}

pub fn process(command: &Path) -> Environment {
    let payload = ProcessPayload { command: command.display().to_string(), ..Default::default() };
    let artifact = ArtifactInformation { type_urn: "data".into(), ..Default::default() };
    Environment {
        urn: PROCESS.into(),
        payload: payload.encode_to_vec().into(),
        dependencies: vec![artifact],
        ..Default::default()
    }
}

/// An executable shell script.
pub fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub fn config(plan: Plan, logs: Arc<Collected>, folder: &Path) -> BridgeConfig {
    let mut config = BridgeConfig::new("job", Arc::new(plan), Arc::new(OneArtifact), logs, folder);
    config.sdk_worker_parallelism = Some(1);
    config
}

/// A state server with one iterable side input, one value a page; counts what it is asked.
#[derive(Default)]
pub struct SideInputs {
    pub values: Vec<Vec<u8>>,
    pub asked: Mutex<Vec<StateKey>>,
}

impl StateServer for SideInputs {
    fn get(&self, key: &StateKey, continuation: &[u8]) -> Result<StatePage, StateError> {
        self.asked.lock().unwrap().push(key.clone());
        let StateKey::IterableSideInput { .. } = key else { return Err(StateError::Unknown(format!("{key:?}"))) };
        let at = continuation.first().map_or(0, |at| usize::from(*at));
        let Some(value) = self.values.get(at) else { return Ok(StatePage::default()) };
        let more = at + 1 < self.values.len();
        let continuation = if more { Bytes::from(vec![at as u8 + 1]) } else { Bytes::new() };
        Ok(StatePage { data: prefixed(value).into(), continuation })
    }

    fn append(&self, key: &StateKey, _: Bytes) -> Result<(), StateError> {
        Err(StateError::Unsupported(format!("append to {key:?}")))
    }

    fn clear(&self, key: &StateKey) -> Result<(), StateError> {
        Err(StateError::Unsupported(format!("clear {key:?}")))
    }
}

fn prefixed(value: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    put_varint(&mut encoded, value.len() as u64);
    encoded.extend_from_slice(value);
    encoded
}

pub fn coder() -> ElementCoder {
    ElementCoder::new(WireCoder::Prefixed, WindowCoder::Global)
}

/// An encoded windowed value.
pub fn element(value: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_windowed_value(&mut encoded, Timestamp(0), &[&[]], PANE_NO_FIRING, &prefixed(value));
    encoded
}

pub type Outcome = Result<BundleDone, BundleError>;

/// Opens a bundle.
pub fn open(bridge: &Bridge, stage: u32, state: Arc<dyn StateServer>) -> (Box<dyn Bundle>, oneshot::Receiver<Outcome>) {
    let budget = Budget::new(256 << 20, std::env::temp_dir());
    let (tell, outcome) = oneshot::channel();
    let bundle = bridge.executor().open(OpenBundle {
        partition: None,
        stage: StageId(stage),
        state,
        outputs: Outputs::new(vec![coder()], &budget),
        completion: Box::new(move |outcome| {
            let _ = tell.send(outcome);
        }),
    });
    (bundle, outcome)
}

/// Pushes byte strings.
pub fn push(bundle: &mut dyn Bundle, values: &[&[u8]]) {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(&element(value), Timestamp(0));
    }
    bundle.push(builder.finish());
}

/// Runs one bundle.
pub async fn run_with(bridge: &Bridge, stage: u32, state: Arc<dyn StateServer>, values: &[&[u8]]) -> Outcome {
    let (mut bundle, outcome) = open(bridge, stage, state);
    push(&mut *bundle, values);
    bundle.close();
    drop(bundle);
    outcome.await.expect("the completion is always called")
}

pub async fn run(bridge: &Bridge, stage: u32, values: &[&[u8]]) -> Outcome {
    run_with(bridge, stage, Arc::new(SideInputs::default()), values).await
}

/// The byte strings that a bundle emitted.
pub fn emitted(done: BundleDone) -> Vec<Vec<u8>> {
    let coder = coder();
    let mut values = Vec::new();
    for mut queue in done.outputs.into_ports() {
        while let Some(batch) = queue.pop().unwrap() {
            for element in batch.elements() {
                let value = coder.parse(element).unwrap().value;
                let (length, prefix) = ferrobeam_runner::element::get_varint(value).unwrap();
                assert_eq!(value.len(), length as usize + prefix);
                values.push(value[prefix..].to_vec());
            }
        }
    }
    values
}
