//! What the integration tests share: a plan of one environment, bundles of byte strings, and sinks that remember.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_harness_bridge::{
    ArtifactBytes, ArtifactError, ArtifactSource, Bridge, BridgeConfig, HarnessLog, LogSink,
};
use ferrobeam_proto::pipeline::{
    ApiServiceDescriptor, ArtifactInformation, Environment, ExternalPayload, ProcessPayload,
};
use ferrobeam_proto::urns::standard_environments::{EXTERNAL, PROCESS};
use ferrobeam_runner::element::{
    BatchBuilder, ElementCoder, Outputs, PANE_NO_FIRING, WireCoder, encode_windowed_value, get_varint, put_varint,
};
use ferrobeam_runner::executor::{
    Bundle, BundleDone, BundleError, CellPart, OpenBundle, Split, SplitSink, StateError, StateKey, StatePage,
    StateServer,
};
use ferrobeam_runner::memory::Budget;
use ferrobeam_runner::plan::{
    Access, CollectionId, EnvironmentId, Keyed, Plan, Port, SideInput, Stage, StageId, StateCell, StateKind,
    TimeDomain, TimerFamily, WindowMapping,
};
use ferrobeam_runner::time::Timestamp;
use ferrobeam_runner::windowing::WindowCoder;
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};

/// The size of the one artifact that every job here has.
pub const ARTIFACT: usize = 3_000_000;

/// Keeps what is logged.
#[derive(Default)]
pub struct Collected(watch::Sender<Vec<HarnessLog>>);

impl Collected {
    pub fn entries(&self) -> Vec<HarnessLog> {
        self.0.borrow().clone()
    }

    /// Waits for an entry.
    pub async fn wait_for(&self, wanted: impl Fn(&HarnessLog) -> bool) -> HarnessLog {
        let mut entries = self.0.subscribe();
        let entries = entries.wait_for(|entries| entries.iter().any(&wanted)).await.unwrap();
        entries.iter().find(|entry| wanted(entry)).unwrap().clone()
    }
}

impl LogSink for Collected {
    fn log(&self, entry: HarnessLog) {
        self.0.send_modify(|entries| entries.push(entry));
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
    pub timers: Vec<String>,
    /// It can be split, and what it can be given is encoded already.
    pub elements: Vec<Vec<u8>>,
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
        splittable: !stage.elements.is_empty(),
        unbounded: false,
        merges_windows: false,
        keyed: (!stage.timers.is_empty()).then(|| Keyed {
            states: vec![StateCell {
                transform: "step".into(),
                state: "seen".into(),
                kind: StateKind::Bag,
                value: Some(WireCoder::Prefixed),
                single_valued: false,
                entries: None,
            }],
            timers: stage.timers.into_iter().map(timer_family).collect(),
            time_sorted: false,
        }),
        truncate: None,
        finalizes: false,
        stable_input: false,
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

fn timer_family(family: String) -> TimerFamily {
    TimerFamily {
        transform: "step".into(),
        family,
        domain: TimeDomain::EventTime,
        key: WireCoder::Prefixed,
        window: WindowCoder::Global,
        on_window_expiration: false,
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
    // A busy machine may take minutes to start Python.
    config.start_timeout = Duration::from_secs(300);
    config
}

/// A state server with one iterable side input, one value a page; counts what it is asked.
#[derive(Default)]
pub struct SideInputs {
    pub values: Vec<Vec<u8>>,
    pub asked: Mutex<Vec<StateKey>>,
    pub version: u64,
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

    fn side_input_versions(&self) -> Vec<u64> {
        vec![self.version]
    }
}

/// Keeps the state of user code: whatever was appended, ordered lists by sort key.
#[derive(Default)]
pub struct Cells {
    bags: Mutex<HashMap<StateKey, Vec<u8>>>,
    lists: Mutex<BTreeMap<(Bytes, i64), Vec<u8>>>,
    /// How often a bag was read.
    pub read: AtomicUsize,
}

impl StateServer for Cells {
    fn get(&self, key: &StateKey, _: &[u8]) -> Result<StatePage, StateError> {
        let data = match key {
            StateKey::User { key, part: CellPart::OrderedRange { start, end }, .. } => {
                let lists = self.lists.lock().unwrap();
                let range = lists.range((key.clone(), *start)..(key.clone(), *end));
                range.flat_map(|(_, entries)| entries.clone()).collect()
            }
            key => {
                self.read.fetch_add(1, Ordering::Relaxed);
                self.bags.lock().unwrap().get(key).cloned().unwrap_or_default()
            }
        };
        Ok(StatePage { data: Bytes::from(data), continuation: Bytes::new() })
    }

    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), StateError> {
        let StateKey::User { key, part: CellPart::OrderedRange { .. }, .. } = key else {
            self.bags.lock().unwrap().entry(key.clone()).or_default().extend_from_slice(&data);
            return Ok(());
        };
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (sort, at) = get_varint(rest).unwrap();
            let (length, prefix) = get_varint(&rest[at..]).unwrap();
            let entry = at + prefix + length as usize;
            self.lists.lock().unwrap().entry((key.clone(), sort as i64)).or_default().extend_from_slice(&rest[..entry]);
            rest = &rest[entry..];
        }
        Ok(())
    }

    fn clear(&self, key: &StateKey) -> Result<(), StateError> {
        match key {
            StateKey::User { key, part: CellPart::OrderedRange { start, end }, .. } => {
                let range = (key.clone(), *start)..(key.clone(), *end);
                self.lists.lock().unwrap().retain(|sort, _| !range.contains(sort));
            }
            key => drop(self.bags.lock().unwrap().remove(key)),
        }
        Ok(())
    }
}

/// A timer of a test, in the global window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    pub key: Vec<u8>,
    pub tag: Vec<u8>,
    /// `None`: cleared.
    pub fires: Option<i64>,
}

impl Timer {
    pub fn encode(&self) -> Bytes {
        let mut encoded = [prefixed(&self.key), prefixed(&self.tag), 1u32.to_be_bytes().to_vec()].concat();
        match self.fires {
            None => encoded.push(1),
            Some(at) => {
                encoded.push(0);
                for _ in 0..2 {
                    encoded.extend((at as u64 ^ (1 << 63)).to_be_bytes());
                }
                encoded.extend(PANE_NO_FIRING);
            }
        }
        encoded.into()
    }

    /// Reads the timers of a family.
    pub fn read(mut encoded: &[u8]) -> Vec<Timer> {
        fn take<'a>(encoded: &mut &'a [u8], length: usize) -> &'a [u8] {
            let (taken, rest) = encoded.split_at(length);
            *encoded = rest;
            taken
        }
        fn text(encoded: &mut &[u8]) -> Vec<u8> {
            let (length, prefix) = get_varint(encoded).unwrap();
            take(encoded, prefix);
            take(encoded, length as usize).to_vec()
        }
        let mut timers = Vec::new();
        while !encoded.is_empty() {
            let (key, tag) = (text(&mut encoded), text(&mut encoded));
            assert_eq!(take(&mut encoded, 4), [0, 0, 0, 1], "one window, which has no bytes");
            let cleared = take(&mut encoded, 1) == [1];
            let fires = (!cleared).then(|| {
                let at = u64::from_be_bytes(take(&mut encoded, 8).try_into().unwrap());
                take(&mut encoded, 8 + 1);
                (at ^ (1 << 63)) as i64
            });
            timers.push(Timer { key, tag, fires });
        }
        timers
    }
}

/// Pushes pairs of byte strings.
pub fn push_pairs(bundle: &mut dyn Bundle, pairs: &[(&[u8], &[u8])]) {
    let mut builder = BatchBuilder::new();
    for (key, value) in pairs {
        let mut encoded = Vec::new();
        let pair = [prefixed(key), prefixed(value)].concat();
        encode_windowed_value(&mut encoded, Timestamp(0), &[&[]], PANE_NO_FIRING, &pair);
        builder.push(&encoded, Timestamp(0));
    }
    bundle.push(builder.finish());
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
    encoded(&prefixed(value))
}

/// A windowed value that is encoded already but for its window.
pub fn encoded(value: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_windowed_value(&mut encoded, Timestamp(0), &[&[]], PANE_NO_FIRING, value);
    encoded
}

pub type Outcome = Result<BundleDone, BundleError>;

/// Opens a bundle.
pub fn open(bridge: &Bridge, stage: u32, state: Arc<dyn StateServer>) -> (Box<dyn Bundle>, oneshot::Receiver<Outcome>) {
    open_part(bridge, stage, None, state)
}

/// Opens a bundle whose splits are looked at.
pub fn open_splittable(
    bridge: &Bridge,
    stage: u32,
) -> (Box<dyn Bundle>, mpsc::UnboundedReceiver<Split>, oneshot::Receiver<Outcome>) {
    let (tell, splits) = mpsc::unbounded_channel();
    let on_split = Box::new(move |split| {
        let _ = tell.send(split);
    });
    let (bundle, outcome) = open_with(bridge, stage, None, Arc::new(SideInputs::default()), on_split);
    (bundle, splits, outcome)
}

/// Opens a bundle of a part of a keyed stage.
pub fn open_part(
    bridge: &Bridge,
    stage: u32,
    partition: Option<usize>,
    state: Arc<dyn StateServer>,
) -> (Box<dyn Bundle>, oneshot::Receiver<Outcome>) {
    open_with(bridge, stage, partition, state, Box::new(|split| panic!("{split:?} was not asked for")))
}

fn open_with(
    bridge: &Bridge,
    stage: u32,
    partition: Option<usize>,
    state: Arc<dyn StateServer>,
    splits: SplitSink,
) -> (Box<dyn Bundle>, oneshot::Receiver<Outcome>) {
    let budget = Budget::new(256 << 20, std::env::temp_dir());
    let (tell, outcome) = oneshot::channel();
    let bundle = bridge.executor().open(OpenBundle {
        partition,
        stage: StageId(stage),
        state,
        outputs: Outputs::new(vec![coder()], &budget),
        splits,
        completion: Box::new(move |outcome| {
            let _ = tell.send(outcome);
        }),
    });
    (bundle, outcome)
}

/// Pushes encoded elements, as one batch.
pub fn push_encoded(bundle: &mut dyn Bundle, elements: &[&[u8]]) {
    let mut builder = BatchBuilder::new();
    for element in elements {
        builder.push(element, Timestamp(0));
    }
    bundle.push(builder.finish());
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
                let (length, prefix) = get_varint(value).unwrap();
                assert_eq!(value.len(), length as usize + prefix);
                values.push(value[prefix..].to_vec());
            }
        }
    }
    values
}
