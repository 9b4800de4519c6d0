//! Plans of real pipelines: what holds for every one of them, and the whole text of a few.
//!
//! The pipelines are built by Beam's Python SDK when the test runs (`pipelines.py`). `PYTHON` names the interpreter; the
//! default is `python3`. Changed golden texts are reviewed and accepted with `cargo insta`, or `INSTA_UPDATE=always`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use ferrobeam_proto::pipeline as pb;
use ferrobeam_runner::pipeline::{Pipeline, Refusal};
use ferrobeam_runner::plan::{self, CollectionId, KafkaErrors, Node, Plan, PlanOptions, Stage, TestEvent, TestEvents};
use ferrobeam_runner::time::Timestamp;
use ferrobeam_runner::windowing::WindowCoder;
use prost::Message;

/// Every pipeline of `pipelines.py`, by file name without the ending.
fn pipelines() -> &'static BTreeMap<String, pb::Pipeline> {
    // A failure is kept too, or every test would run Python again to find it.
    static PIPELINES: OnceLock<Result<BTreeMap<String, pb::Pipeline>, String>> = OnceLock::new();
    PIPELINES.get_or_init(written_by_python).as_ref().unwrap_or_else(|error| panic!("{error}"))
}

fn written_by_python() -> Result<BTreeMap<String, pb::Pipeline>, String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(&python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pipelines.py"))
        .arg(folder.path())
        .output()
        .map_err(|error| format!("cannot run {python}: {error}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{python} could not build the pipelines; apache-beam 2.77.0 is needed: {error}"));
    }
    let files = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
    Ok(files
        .map(|file| {
            let name = file.file_name().into_string().unwrap().trim_end_matches(".pb").to_owned();
            (name, pb::Pipeline::decode(std::fs::read(file.path()).unwrap().as_slice()).unwrap())
        })
        .collect())
}

fn plan(name: &str) -> Plan {
    try_plan(pipelines()[name].clone()).unwrap_or_else(|refusal| panic!("{name}: {refusal}"))
}

fn try_plan(pipeline: pb::Pipeline) -> Result<Plan, Refusal> {
    plan::build(&Pipeline::new(pipeline)?, &PlanOptions::default())
}

fn plans() -> Vec<(&'static str, Plan)> {
    pipelines().keys().map(|name| (name.as_str(), plan(name))).collect()
}

fn descriptor(stage: &Stage) -> ProcessBundleDescriptor {
    ProcessBundleDescriptor::decode(stage.descriptor.clone()).unwrap()
}

/// How the plan's text writes a coder of a descriptor, with the descriptor's own ids resolved.
fn written(coders: &BTreeMap<String, pb::Coder>, id: &str) -> String {
    let coder = coders.get(id).unwrap_or_else(|| panic!("coder {id} is not in the descriptor"));
    let part = |index: usize| written(coders, &coder.component_coder_ids[index]);
    let urn = &coder.spec.as_ref().unwrap().urn;
    match urn.trim_start_matches("beam:coder:").trim_end_matches(":v1") {
        "bytes" | "string_utf8" | "length_prefix" => "prefixed".to_owned(),
        "kv" => format!("kv({}, {})", part(0), part(1)),
        one @ ("iterable" | "state_backed_iterable" | "nullable" | "sharded_key" | "custom_window") => {
            format!("{one}({})", part(0))
        }
        plain @ ("bool" | "varint" | "double" | "global_window" | "interval_window") => plain.to_owned(),
        _ => panic!("coder {id} ({urn}) crosses a border, and the runner cannot walk it"),
    }
}

/// Everything that holds for any plan.
fn assert_sound(name: &str, plan: &Plan) {
    ports_have_the_coders_of_their_collections(name, plan);
    descriptors_are_whole_and_hold_nothing_else(name, plan);
    nodes_read_only_what_earlier_ones_gave(name, plan);
    runner_steps_hand_on_bytes_of_one_coder(name, plan);
    keys_and_windows_are_written_alike(name, plan);
    what_is_truncated_can_be_put_back(name, plan);
}

#[test]
fn plans_are_sound() {
    for (name, plan) in plans() {
        assert_sound(name, &plan);
    }
}

fn ports_have_the_coders_of_their_collections(name: &str, plan: &Plan) {
    for stage in &plan.stages {
        let descriptor = descriptor(stage);
        for port in std::iter::once(&stage.input).chain(&stage.outputs) {
            let spec = descriptor.transforms[&port.transform].spec.clone().unwrap();
            let grpc = RemoteGrpcPort::decode(spec.payload).unwrap();
            assert!(grpc.api_service_descriptor.is_none());
            let windowed = &descriptor.coders[&grpc.coder_id];
            assert_eq!(windowed.spec.as_ref().unwrap().urn, "beam:coder:windowed_value:v1");
            let collection = &plan.collections[port.collection.0 as usize];
            let value = written(&descriptor.coders, &windowed.component_coder_ids[0]);
            assert_eq!(value, collection.value.to_string(), "{name}: {}", collection.name);
            let window = written(&descriptor.coders, &windowed.component_coder_ids[1]);
            let wanted = match &collection.windowing.window_coder {
                WindowCoder::Global => "global_window".to_owned(),
                WindowCoder::Interval => "interval_window".to_owned(),
                WindowCoder::Custom(window) => format!("custom_window({window})"),
            };
            assert_eq!(window, wanted, "{name}: {}", collection.name);
        }
        for side_input in &stage.side_inputs {
            let transform = &descriptor.transforms[&side_input.transform];
            let read = &descriptor.pcollections[&transform.inputs[&side_input.local_name]];
            let collection = &plan.collections[side_input.collection.0 as usize];
            assert_eq!(written(&descriptor.coders, &read.coder_id), collection.value.to_string(), "{name}");
            let windowing = &descriptor.windowing_strategies[&read.windowing_strategy_id];
            written(&descriptor.coders, &windowing.window_coder_id);
        }
    }
}

fn descriptors_are_whole_and_hold_nothing_else(name: &str, plan: &Plan) {
    for stage in &plan.stages {
        let descriptor = descriptor(stage);
        let mut named = BTreeSet::new();
        let (mut given, mut read) = (BTreeSet::new(), BTreeSet::new());
        for transform in descriptor.transforms.values() {
            assert!(transform.subtransforms.is_empty());
            given.extend(transform.outputs.values());
            read.extend(transform.inputs.values());
        }
        named.extend(given.iter().chain(&read).map(|id| (*id).clone()));
        assert_eq!(named, descriptor.pcollections.keys().cloned().collect(), "{name}: {}", stage.name);
        let sides: BTreeSet<_> = stage
            .side_inputs
            .iter()
            .map(|side| &descriptor.transforms[&side.transform].inputs[&side.local_name])
            .collect();
        for id in read {
            assert!(given.contains(id) != sides.contains(id) || sides.contains(id), "{name}: {id} comes from nowhere");
        }
        let windowings: BTreeSet<_> =
            descriptor.pcollections.values().map(|it| it.windowing_strategy_id.clone()).collect();
        assert_eq!(windowings, descriptor.windowing_strategies.keys().cloned().collect(), "{name}: {}", stage.name);
        for coder in descriptor.coders.values() {
            for component in &coder.component_coder_ids {
                assert!(descriptor.coders.contains_key(component), "{name}: {component}");
            }
        }
        let ids: BTreeSet<_> = stage.transforms.iter().map(|(id, _)| id.clone()).collect();
        let ports: BTreeSet<_> =
            std::iter::once(&stage.input).chain(&stage.outputs).map(|port| port.transform.clone()).collect();
        assert_eq!(
            ids.union(&ports).cloned().collect::<BTreeSet<_>>(),
            descriptor.transforms.keys().cloned().collect()
        );
        assert_eq!(descriptor.environments.len(), 1);
    }
}

fn both(output: CollectionId, errors: &Option<KafkaErrors>) -> Vec<CollectionId> {
    std::iter::once(output).chain(errors.iter().map(|errors| errors.output)).collect()
}

/// What a node reads and gives.
fn ends(plan: &Plan, node: &Node) -> (Vec<CollectionId>, Vec<CollectionId>) {
    match node {
        Node::Impulse { output } => (vec![], vec![*output]),
        Node::KafkaRead { output, errors, .. } => (vec![], both(*output, errors)),
        Node::KafkaWrite { input, output, errors, .. } => (vec![*input], both(*output, errors)),
        Node::Flatten { inputs, output } => (inputs.clone(), vec![*output]),
        Node::GroupByKey { input, output, .. } | Node::Redistribute { input, output, .. } => {
            (vec![*input], vec![*output])
        }
        Node::TestStream { outputs, .. } => (vec![], outputs.iter().map(|(_, output)| *output).collect()),
        Node::Stage(stage) => {
            let stage = &plan.stages[stage.0 as usize];
            let sides = stage.side_inputs.iter().map(|side_input| side_input.collection);
            let inputs = std::iter::once(stage.input.collection).chain(sides).collect();
            (inputs, stage.outputs.iter().map(|port| port.collection).collect())
        }
    }
}

fn nodes_read_only_what_earlier_ones_gave(name: &str, plan: &Plan) {
    let mut given = BTreeSet::new();
    for node in &plan.nodes {
        let (inputs, outputs) = ends(plan, node);
        for input in inputs {
            assert!(given.contains(&input), "{name}: {} is read too early", plan.collections[input.0 as usize].name);
        }
        for output in outputs {
            assert!(given.insert(output), "{name}: given twice");
        }
    }
}

fn runner_steps_hand_on_bytes_of_one_coder(name: &str, plan: &Plan) {
    let coder = |id: &CollectionId| plan.collections[id.0 as usize].value.to_string();
    let windows = |id: &CollectionId| plan.collections[id.0 as usize].windowing.window_coder.clone();
    for node in &plan.nodes {
        match node {
            Node::Flatten { inputs, output } => {
                for input in inputs {
                    assert_eq!((coder(input), windows(input)), (coder(output), windows(output)), "{name}");
                }
            }
            Node::Redistribute { input, output, .. } => {
                assert_eq!((coder(input), windows(input)), (coder(output), windows(output)), "{name}");
            }
            Node::GroupByKey { input, output, .. } => {
                let input = coder(input);
                let (key, value) = split_kv(&input);
                let plain = format!("kv({key}, iterable({value}))");
                let by_reference = format!("kv({key}, state_backed_iterable({value}))");
                assert!([plain, by_reference].contains(&coder(output)), "{name}: {input} -> {}", coder(output));
            }
            _ => {}
        }
    }
}

/// A stage that truncates gives what the stage that it serves reads, and reads the same side inputs.
fn what_is_truncated_can_be_put_back(name: &str, plan: &Plan) {
    for stage in &plan.stages {
        let Some(truncate) = stage.truncate else { continue };
        let truncate = &plan.stages[truncate.0 as usize];
        assert!(
            stage.splittable
                && !plan.nodes.iter().any(|node| matches!(node, Node::Stage(id) if Some(*id) == stage.truncate))
        );
        assert_eq!(truncate.input.collection, stage.input.collection, "{name}");
        let [output] = truncate.outputs.as_slice() else { panic!("{name}: {}", truncate.name) };
        let [input, output] = [truncate.input.collection, output.collection].map(|id| &plan.collections[id.0 as usize]);
        assert_eq!((&input.value, &input.windowing), (&output.value, &output.windowing), "{name}");
        let [(head, _)] = truncate.transforms.as_slice() else { panic!("{name}: {}", truncate.name) };
        assert_eq!(head, &stage.transforms[0].0, "{name}");
        let of_head = |stage: &Stage| {
            let side_inputs = stage.side_inputs.iter().filter(|side_input| side_input.transform == *head);
            side_inputs.map(|it| (it.local_name.clone(), it.collection)).collect::<Vec<_>>()
        };
        assert_eq!(of_head(truncate), of_head(stage), "{name}");
    }
}

/// In the input of a keyed stage, in its state requests and in its timers.
fn keys_and_windows_are_written_alike(name: &str, plan: &Plan) {
    for stage in &plan.stages {
        let descriptor = descriptor(stage);
        let heads = descriptor.transforms.iter().filter_map(|(id, transform)| {
            let spec = transform.spec.as_ref().filter(|spec| spec.urn == "beam:transform:pardo:v1")?;
            let payload = pb::ParDoPayload::decode(spec.payload.clone()).unwrap();
            let keeps = !payload.state_specs.is_empty() || !payload.timer_family_specs.is_empty();
            (keeps || payload.requires_time_sorted_input).then_some((id, transform, payload))
        });
        let heads: Vec<_> = heads.collect();
        assert_eq!(heads.len(), usize::from(stage.keyed.is_some()), "{name}: {}", stage.name);
        let (Some((id, transform, payload)), Some(keyed)) = (heads.first(), &stage.keyed) else { continue };
        let source = &descriptor.transforms[&stage.input.transform];
        let main = transform.inputs.iter().find(|(local, _)| !payload.side_inputs.contains_key(*local)).unwrap().1;
        assert!(source.outputs.values().any(|output| output == main), "{name}: {id} is not the head of its stage");
        let collection = &plan.collections[stage.input.collection.0 as usize];
        let inside = written(&descriptor.coders, &descriptor.pcollections[main].coder_id);
        let wanted = collection.value.to_string();
        let key = split_kv(&wanted).0;
        assert_eq!(split_kv(&inside).0, key, "{name}");
        assert_eq!(keyed.states.len(), payload.state_specs.len());
        assert_eq!(keyed.timers.len(), payload.timer_family_specs.len());
        for timer in &keyed.timers {
            let coder = &payload.timer_family_specs[&timer.family].timer_family_coder_id;
            let coder = &descriptor.coders[coder];
            assert_eq!(coder.spec.as_ref().unwrap().urn, "beam:coder:timer:v1");
            assert_eq!(written(&descriptor.coders, &coder.component_coder_ids[0]), key, "{name}");
            assert_eq!(timer.key.to_string(), key, "{name}");
            assert_eq!(timer.window, collection.windowing.window_coder, "{name}");
            let window = written(&descriptor.coders, &coder.component_coder_ids[1]);
            assert_eq!(window, timer.window.element().to_string(), "{name}");
        }
    }
}

/// Key and value of `kv(key, value)`.
fn split_kv(text: &str) -> (&str, &str) {
    let inner = text.strip_prefix("kv(").and_then(|text| text.strip_suffix(')')).unwrap();
    let mut depth = 0;
    let comma = inner.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        *c == ',' && depth == 0
    });
    let comma = comma.unwrap().0;
    (&inner[..comma], &inner[comma + 2..])
}

/// The leaves of a pipeline that an SDK runs, found in another way than the planner's: whatever has an environment, no
/// parts, and work to do.
fn sdk_leaves(pipeline: &pb::Pipeline) -> BTreeSet<String> {
    let transforms = &pipeline.components.as_ref().unwrap().transforms;
    let mut todo: Vec<_> = pipeline.root_transform_ids.iter().collect();
    let mut leaves = BTreeSet::new();
    while let Some(id) = todo.pop() {
        let transform = &transforms[id];
        let urn = transform.spec.as_ref().map_or("", |spec| spec.urn.as_str());
        let name = urn.trim_start_matches("beam:transform:").trim_end_matches(":v1");
        match name {
            "group_by_key" | "impulse" | "flatten" | "reshuffle" | "teststream" => {}
            "combine_per_key" if !transform.unique_name.contains("counted") => {
                leaves.insert(transform.unique_name.clone());
            }
            _ if !transform.subtransforms.is_empty() => todo.extend(&transform.subtransforms),
            // Gives nothing that it was not given.
            _ if transform.outputs.values().all(|output| transform.inputs.values().any(|input| input == output)) => {}
            _ => {
                leaves.insert(transform.unique_name.clone());
            }
        }
    }
    leaves
}

#[test]
fn every_transform_runs_exactly_once() {
    for (name, plan) in plans() {
        if name.starts_with("counting_trigger") {
            continue; // Its combine is not taken whole: see the text of its plan.
        }
        let mut seen = BTreeSet::new();
        let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let nodes = plan.nodes.iter().filter_map(|node| match node {
            Node::Stage(stage) => Some(&plan.stages[stage.0 as usize]),
            _ => None,
        });
        for stage in nodes {
            let descriptor = descriptor(stage);
            for (id, unique_name) in &stage.transforms {
                assert!(seen.insert(id.clone()), "{name}: {id} is in two stages");
                let urn = descriptor.transforms[id].spec.as_ref().unwrap().urn.clone();
                // What the planner adds to a flatten or redistribution converts and does nothing else.
                if urn != "beam:transform:flatten:v1" {
                    parts.entry(unique_name.clone()).or_default().push(urn);
                }
            }
        }
        let planned: BTreeSet<String> = parts.keys().cloned().collect();
        assert_eq!(planned, sdk_leaves(&pipelines()[name]), "{name}");
        for (unique_name, urns) in parts {
            let expected = match urns[0].as_str() {
                // Taken apart by the SDK already.
                "beam:transform:combine_per_key_precombine:v1" if unique_name.ends_with("/Precombine") => 1,
                "beam:transform:combine_per_key_precombine:v1" | "beam:transform:sdf_pair_with_restriction:v1" => 3,
                _ => 1,
            };
            assert_eq!(urns.len(), expected, "{name}: {unique_name} {urns:?}");
        }
    }
}

#[test]
fn planning_is_repeatable() {
    for (name, once) in plans() {
        assert_eq!(once.to_string(), plan(name).to_string());
        let descriptors = |plan: &Plan| plan.stages.iter().map(|stage| stage.descriptor.clone()).collect::<Vec<_>>();
        assert_eq!(descriptors(&once), descriptors(&plan(name)), "{name}");
    }
}

/// What becomes of the bytes that an SDK gave for an element.
#[test]
fn elements_of_test_streams_are_given_ends() {
    let nodes = plan("streams").nodes;
    let of = |wanted: &str| {
        let events = nodes.iter().find_map(|node| match node {
            Node::TestStream { name, events: TestEvents::Listed(events), .. } if name == wanted => Some(events.clone()),
            _ => None,
        });
        events.unwrap()
    };
    let end = TestEvent::Watermark { tag: "None".to_owned(), to: Timestamp::MAX };
    let given = |elements: &[(i64, &'static [u8])]| TestEvent::Elements {
        tag: "None".to_owned(),
        elements: elements.iter().map(|(at, value)| (Timestamp(*at), Bytes::from_static(value))).collect(),
    };
    let pairs = vec![
        given(&[(1000, b"\x03\x01kv")]),
        TestEvent::ProcessingTime(5000),
        TestEvent::Watermark { tag: "None".to_owned(), to: Timestamp(20_000) },
        given(&[(20_000, b"\x06\x01klate")]),
        end.clone(),
    ];
    assert_eq!(of("Pairs"), pairs);
    let plain = of("Plain");
    assert_eq!(plain[1..], [end]);
    let TestEvent::Elements { elements, .. } = &plain[0] else { panic!("{plain:?}") };
    for (at, value) in elements {
        assert_eq!((*at, usize::from(value[0])), (Timestamp::MIN, value.len() - 1));
    }
}

/// The golden texts.
macro_rules! golden {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(plan(stringify!($name)).to_string());
        }
    )*};
}

golden! {
    wordcount, side_inputs, side_input_of_itself, siblings, flatten_of_differing_coders, flatten_of_nothing, sessions,
    custom_windows, side_windows, custom_merging_windows, splittable, counting_trigger, reshuffle, cogroup, several_outputs,
    stateful, timers, batches, streams, streams_of_several_outputs, stream_from_a_service,
}

#[test]
fn wordcount_as_submitted() {
    insta::assert_snapshot!(plan("wordcount.submitted").to_string());
}

#[test]
fn packed_combines_as_submitted() {
    insta::assert_snapshot!(plan("packed_combines.submitted").to_string());
}

mod spoiled {
    //! Real pipelines with something put wrong at random: refused or planned, and never a panic.

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// One way of putting something wrong. Indices choose among whatever the pipeline has.
    #[derive(Clone, Debug)]
    enum Fault {
        DropTransform(Index),
        DropPCollection(Index),
        DropCoder(Index),
        DropWindowing(Index),
        DropEnvironments,
        CutPayload(Index, Index),
        SwapUrns(Index, Index),
        RedirectInput(Index, Index),
        RedirectOutput(Index, Index),
        RedirectPart(Index, Index),
        RecodePCollection(Index, Index),
        RewindowPCollection(Index, Index),
        RecodeWindows(Index, Index),
        RecodeCoder(Index, Index),
        ForgetEnvironment(Index),
        NeedMerge(Index),
    }

    fn fault() -> impl Strategy<Value = Fault> {
        let one = any::<Index>;
        let two = any::<(Index, Index)>;
        prop_oneof![
            one().prop_map(Fault::DropTransform),
            one().prop_map(Fault::DropPCollection),
            one().prop_map(Fault::DropCoder),
            one().prop_map(Fault::DropWindowing),
            Just(Fault::DropEnvironments),
            two().prop_map(|(a, b)| Fault::CutPayload(a, b)),
            two().prop_map(|(a, b)| Fault::SwapUrns(a, b)),
            two().prop_map(|(a, b)| Fault::RedirectInput(a, b)),
            two().prop_map(|(a, b)| Fault::RedirectOutput(a, b)),
            two().prop_map(|(a, b)| Fault::RedirectPart(a, b)),
            two().prop_map(|(a, b)| Fault::RecodePCollection(a, b)),
            two().prop_map(|(a, b)| Fault::RewindowPCollection(a, b)),
            two().prop_map(|(a, b)| Fault::RecodeWindows(a, b)),
            two().prop_map(|(a, b)| Fault::RecodeCoder(a, b)),
            one().prop_map(Fault::ForgetEnvironment),
            one().prop_map(Fault::NeedMerge),
        ]
    }

    fn key<V>(map: &BTreeMap<String, V>, index: &Index) -> Option<String> {
        (!map.is_empty()).then(|| map.keys().nth(index.index(map.len())).unwrap().clone())
    }

    fn apply(fault: &Fault, pipeline: &mut pb::Pipeline) -> Option<()> {
        let components = pipeline.components.as_mut().unwrap();
        match fault {
            Fault::DropTransform(at) => drop(components.transforms.remove(&key(&components.transforms, at)?)),
            Fault::DropPCollection(at) => drop(components.pcollections.remove(&key(&components.pcollections, at)?)),
            Fault::DropCoder(at) => drop(components.coders.remove(&key(&components.coders, at)?)),
            Fault::DropWindowing(at) => {
                drop(components.windowing_strategies.remove(&key(&components.windowing_strategies, at)?));
            }
            Fault::DropEnvironments => components.environments.clear(),
            Fault::CutPayload(at, length) => {
                let id = key(&components.transforms, at)?;
                let payload = &mut components.transforms.get_mut(&id)?.spec.as_mut()?.payload;
                payload.truncate(length.index(payload.len() + 1));
            }
            Fault::SwapUrns(a, b) => {
                let (a, b) = (key(&components.transforms, a)?, key(&components.transforms, b)?);
                let urn = components.transforms.get(&b)?.spec.as_ref()?.urn.clone();
                components.transforms.get_mut(&a)?.spec.as_mut()?.urn = urn;
            }
            Fault::RedirectInput(at, to) => {
                let (id, to) = (key(&components.transforms, at)?, key(&components.pcollections, to)?);
                *components.transforms.get_mut(&id)?.inputs.values_mut().next()? = to;
            }
            Fault::RedirectOutput(at, to) => {
                let (id, to) = (key(&components.transforms, at)?, key(&components.pcollections, to)?);
                *components.transforms.get_mut(&id)?.outputs.values_mut().next()? = to;
            }
            Fault::RedirectPart(at, to) => {
                let (id, to) = (key(&components.transforms, at)?, key(&components.transforms, to)?);
                *components.transforms.get_mut(&id)?.subtransforms.first_mut()? = to;
            }
            Fault::RecodePCollection(at, to) => {
                let (id, to) = (key(&components.pcollections, at)?, key(&components.coders, to)?);
                components.pcollections.get_mut(&id)?.coder_id = to;
            }
            Fault::RewindowPCollection(at, to) => {
                let (id, to) = (key(&components.pcollections, at)?, key(&components.windowing_strategies, to)?);
                components.pcollections.get_mut(&id)?.windowing_strategy_id = to;
            }
            Fault::RecodeWindows(at, to) => {
                let (id, to) = (key(&components.windowing_strategies, at)?, key(&components.coders, to)?);
                components.windowing_strategies.get_mut(&id)?.window_coder_id = to;
            }
            Fault::RecodeCoder(at, to) => {
                let (id, to) = (key(&components.coders, at)?, key(&components.coders, to)?);
                *components.coders.get_mut(&id)?.component_coder_ids.first_mut()? = to;
            }
            Fault::ForgetEnvironment(at) => {
                let id = key(&components.transforms, at)?;
                components.transforms.get_mut(&id)?.environment_id.clear();
            }
            Fault::NeedMerge(at) => {
                let id = key(&components.windowing_strategies, at)?;
                components.windowing_strategies.get_mut(&id)?.merge_status = pb::merge_status::Enum::NeedsMerge.into();
            }
        }
        Some(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pipelines_are_refused_or_planned(which: Index, faults in prop::collection::vec(fault(), 1..4)) {
            let name = key(pipelines(), &which).unwrap();
            let mut pipeline = pipelines()[&name].clone();
            for fault in &faults {
                apply(fault, &mut pipeline);
            }
            match try_plan(pipeline) {
                Ok(plan) => assert_sound(&name, &plan),
                Err(refusal) => prop_assert!(refusal.to_string().len() > "this pipeline cannot be run: ".len()),
            }
        }
    }
}
