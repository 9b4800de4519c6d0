//! What plans come of small pipelines.

use ferrobeam_proto::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::state_spec::Spec;
use prost::Message;

use super::{Node, Plan, PlanOptions, build};
use crate::element::WireCoder;
use crate::pipeline::Refusal;
use crate::pipeline::tests::{Builder, assert_contains, coder};

impl Builder {
    fn plan(self) -> Result<Plan, Refusal> {
        build(&self.validate()?, &PlanOptions::default())
    }
}

#[test]
fn an_empty_pipeline_is_an_empty_plan() {
    assert_eq!(Builder(pb::Pipeline::default()).plan().unwrap().to_string(), "");
}

/// So many that whatever looks at all of them for each of them is not done in a minute.
const MANY: usize = 20_000;

#[test]
fn a_long_pipeline_is_planned() {
    let mut builder = Builder::new();
    let mut from = "start".to_owned();
    for index in 0..MANY {
        let id = format!("step{index}");
        builder.step(&id, &from, "bytes");
        from = id;
    }
    let plan = builder.plan().unwrap();
    assert_eq!((plan.stages.len(), plan.stages[0].transforms.len()), (1, MANY));
    assert_eq!(plan.to_string().lines().count(), MANY + 4);
}

#[test]
fn a_pipeline_of_many_stages_in_a_row_is_planned() {
    let mut builder = Builder::new();
    let mut from = "start".to_owned();
    for index in 0..MANY {
        let id = format!("step{index}");
        builder.step(&id, &from, "bytes");
        from = format!("spread{index}");
        builder.pcollection(&from, "bytes");
        builder.leaf(&from, "redistribute_arbitrarily", "", &[&id], &[&from]);
    }
    let plan = builder.plan().unwrap();
    assert_eq!((plan.stages.len(), plan.nodes.len()), (MANY, 2 * MANY + 1));
}

#[test]
fn a_wide_pipeline_is_planned() {
    let mut builder = Builder::new();
    for index in 0..MANY {
        let start = format!("start{index}");
        builder.pcollection(&start, "bytes");
        builder.leaf(&start, "impulse", "", &[], &[&start]);
        builder.step(&format!("step{index}"), &start, "bytes");
        // Names need not be unique: stages get such.
        "step".clone_into(&mut builder.transform(&format!("step{index}")).unique_name);
    }
    let plan = builder.plan().unwrap();
    assert_eq!((plan.stages.len(), plan.nodes.len()), (MANY, 2 * MANY + 1));
    let names: std::collections::BTreeSet<_> = plan.stages.iter().map(|stage| &stage.name).collect();
    assert_eq!(names.len(), MANY);
}

#[test]
fn many_that_read_one_grouping_are_planned() {
    let mut builder = Builder::new();
    builder.step("keyed", "start", "kv");
    builder.pcollection("groups", "grouped");
    builder.leaf("group", "group_by_key", "", &["keyed"], &["groups"]);
    let stable = pb::ParDoPayload { requires_time_sorted_input: true, ..Default::default() };
    for index in 0..MANY {
        builder.par_do(&format!("sorted{index}"), &stable, &["groups"], &[]);
    }
    assert_eq!(builder.plan().unwrap().stages.len(), MANY + 1);
}

#[test]
fn a_composite_that_hands_on_its_input_is_nothing() {
    let mut builder = Builder::new();
    builder.leaf("same", "named_by_an_sdk", "", &["start"], &["start"]);
    builder.leaf("nothing", "named_by_an_sdk", "", &["start"], &[]);
    builder.step("step", "start", "bytes");
    assert_eq!(builder.plan().unwrap().stages.len(), 1);
}

#[test]
fn a_view_is_its_input() {
    let mut builder = Builder::new();
    builder.pcollection("view", "bytes");
    builder.leaf("create view", "create_view", "", &["start"], &["view"]);
    builder.step("step", "view", "bytes");
    insta::assert_snapshot!(builder.plan().unwrap().to_string(), @r#"
    impulse -> start
    stage "the step" in env
      read start
      pardo "the step"
    start: prefixed in global windows
    "#);
}

#[test]
fn stable_input_comes_over_a_border() {
    let mut builder = Builder::new();
    builder.step("before", "start", "bytes");
    builder.par_do("stable", &pb::ParDoPayload { requires_stable_input: true, ..Default::default() }, &["before"], &[]);
    insta::assert_snapshot!(builder.plan().unwrap().to_string(), @r#"
    impulse -> start
    stage "the before" in env
      read start
      pardo "the before"
      write before
    stage "the stable" in env
      read before
      pardo "the stable"
    start: prefixed in global windows
    before: prefixed in global windows
    "#);
}

#[test]
fn coders_are_prefixed_unless_every_environment_knows_them() {
    let numbers = |capabilities: &[&str]| {
        let mut builder = Builder::new();
        builder.components().coders.insert("bool".to_owned(), coder("bool", &[]));
        builder.components().coders.insert("private".to_owned(), coder("private", &["bool"]));
        builder.components().coders.insert("pair".to_owned(), coder("kv", &["bool", "private"]));
        builder.step("step", "start", "pair");
        builder.leaf("spread", "redistribute_arbitrarily", "", &["step"], &["spread"]);
        builder.pcollection("spread", "pair");
        builder.components().environments.get_mut("env").unwrap().capabilities =
            capabilities.iter().map(|urn| (*urn).to_owned()).collect();
        let plan = builder.plan().unwrap();
        plan.collections.last().unwrap().value.to_string()
    };
    assert_eq!(numbers(&[]), "kv(prefixed, prefixed)");
    assert_eq!(numbers(&["beam:coder:bool:v1"]), "kv(bool, prefixed)");
    assert_eq!(numbers(&["beam:coder:bool:v1", "beam:coder:private:v1"]), "kv(bool, prefixed)");
}

#[test]
fn different_environments_are_different_stages() {
    let mut builder = Builder::new();
    let other = pb::Environment { urn: "beam:env:default:v1".to_owned(), ..Default::default() };
    builder.components().environments.insert("other".to_owned(), other);
    builder.step("here", "start", "bytes");
    builder.step("there", "here", "bytes");
    builder.step("back", "there", "bytes");
    builder.step("near", "here", "bytes");
    builder.transform("there").environment_id = "other".to_owned();
    insta::assert_snapshot!(builder.plan().unwrap().to_string(), @r#"
    impulse -> start
    stage "the here" in env
      read start
      pardo "the here"
      pardo "the near"
      write here
    stage "the there" in other
      read here
      pardo "the there"
      write there
    stage "the back" in env
      read there
      pardo "the back"
    start: prefixed in global windows
    here: prefixed in global windows
    there: prefixed in global windows
    "#);
}

#[test]
fn a_grouping_whose_output_is_passed_on_has_plain_iterables() {
    let mut builder = Builder::new();
    builder.step("keyed", "start", "kv");
    builder.pcollection("groups", "grouped");
    builder.leaf("group", "group_by_key", "", &["keyed"], &["groups"]);
    builder.pcollection("all", "grouped");
    builder.leaf("flatten", "flatten", "", &["groups", "groups"], &["all"]);
    builder.step("step", "groups", "bytes");
    insta::assert_snapshot!(builder.plan().unwrap().to_string(), @r#"
    impulse -> start
    stage "the keyed" in env
      read start
      pardo "the keyed"
      write keyed
    group "the group" keyed -> groups in global windows
    flatten groups + groups -> all
    stage "the step" in env
      read groups
      pardo "the step"
    start: prefixed in global windows
    keyed: kv(prefixed, prefixed) in global windows
    groups: kv(prefixed, iterable(prefixed)) in global windows
    all: kv(prefixed, iterable(prefixed)) in global windows
    "#);
}

#[test]
fn a_grouping_reads_what_its_output_can_be_read_as() {
    let mut builder = Builder::new();
    builder.components().coders.insert("private".to_owned(), coder("private", &[]));
    builder.components().coders.insert("opaque".to_owned(), coder("kv", &["bytes", "kv"]));
    builder.components().coders.insert("several".to_owned(), coder("iterable", &["private"]));
    builder.step("keyed", "start", "opaque");
    builder.pcollection("groups", "grouped");
    builder.leaf("group", "group_by_key", "", &["keyed"], &["groups"]);
    builder.step("step", "groups", "bytes");
    insta::assert_snapshot!(builder.plan().unwrap().to_string(), @r#"
    impulse -> start
    stage "the keyed" in env
      read start
      pardo "the keyed"
      flatten "the group"
      write keyed/group/i0
    group "the group" keyed/group/i0 -> groups in global windows
    stage "the step" in env
      read groups
      pardo "the step"
    start: prefixed in global windows
    keyed/group/i0: kv(prefixed, prefixed) in global windows
    groups: kv(prefixed, state_backed_iterable(prefixed)) in global windows
    "#);
}

#[test]
fn what_is_made_of_unbounded_input_is_unbounded() {
    let mut builder = Builder::new();
    builder.step("source", "start", "kv");
    builder.components().pcollections.get_mut("source").unwrap().is_bounded = pb::is_bounded::Enum::Unbounded.into();
    builder.step("keyed", "source", "kv");
    builder.pcollection("groups", "grouped");
    builder.leaf("group", "group_by_key", "", &["keyed"], &["groups"]);
    builder.step("step", "groups", "bytes");
    insta::assert_snapshot!(builder.plan().unwrap().to_string(), @r#"
    impulse -> start
    stage "the source" in env, unbounded
      read start
      pardo "the source"
      pardo "the keyed"
      write keyed
    group "the group" as it comes keyed -> groups in global windows
    stage "the step" in env, unbounded
      read groups
      pardo "the step"
    start: prefixed in global windows
    keyed: kv(prefixed, prefixed) in global windows, unbounded
    groups: kv(prefixed, state_backed_iterable(prefixed)) in global windows, unbounded
    "#);
}

#[test]
fn triggers_are_read() {
    use pb::trigger::{self, Trigger as Kind};
    let of = |kind: Kind| pb::Trigger { trigger: Some(kind) };
    let boxed = |kind: Kind| Some(Box::new(of(kind)));
    let align = pb::timestamp_transform::AlignTo { period: 60_000, offset: 7 };
    let align = pb::timestamp_transform::TimestampTransform::AlignTo(align);
    let delay = pb::timestamp_transform::Delay { delay_millis: 5 };
    let delay = pb::timestamp_transform::TimestampTransform::Delay(delay);
    let steps = [delay, align].map(|step| pb::TimestampTransform { timestamp_transform: Some(step) }).to_vec();
    let late = Kind::AfterEach(trigger::AfterEach {
        subtriggers: vec![
            of(Kind::ElementCount(trigger::ElementCount { element_count: 3 })),
            of(Kind::AfterAll(trigger::AfterAll { subtriggers: vec![of(Kind::Always(trigger::Always {}))] })),
            of(Kind::Never(trigger::Never {})),
        ],
    });
    let after = Kind::AfterEndOfWindow(Box::new(trigger::AfterEndOfWindow {
        early_firings: boxed(Kind::AfterProcessingTime(trigger::AfterProcessingTime { timestamp_transforms: steps })),
        late_firings: boxed(late),
    }));
    let finally = Kind::OrFinally(Box::new(trigger::OrFinally {
        main: boxed(Kind::Repeat(Box::new(trigger::Repeat { subtrigger: boxed(after) }))),
        finally: boxed(Kind::AfterAny(trigger::AfterAny {
            subtriggers: vec![of(Kind::AfterSynchronizedProcessingTime(trigger::AfterSynchronizedProcessingTime {}))],
        })),
    }));
    let mut builder = Builder::new();
    builder.step("keyed", "start", "kv");
    builder.pcollection("groups", "grouped");
    builder.leaf("group", "group_by_key", "", &["keyed"], &["groups"]);
    let strategy = builder.components().windowing_strategies.get_mut("globally").unwrap();
    strategy.trigger = Some(of(finally));
    strategy.accumulation_mode = pb::accumulation_mode::Enum::Accumulating.into();
    strategy.allowed_lateness = 1500;
    strategy.closing_behavior = pb::closing_behavior::Enum::EmitAlways.into();
    strategy.on_time_behavior = pb::on_time_behavior::Enum::FireIfNonempty.into();
    assert_contains(
        &builder.plan().unwrap().to_string(),
        &[
            "group \"the group\" as it comes keyed -> groups in global windows, trigger or_finally(repeat(end_of_window(\
           early processing_time(5 ms, to n * 60000 + 7 ms), late each(count(3), all(always), never))), \
           any(synchronized_processing_time)), accumulating, 1500 ms late, closing always, on time if nonempty\n",
        ],
    );
}

#[test]
fn test_streams_of_go_need_no_converting() {
    let stream = |capability: &str| {
        let mut builder = Builder::new();
        let payload = pb::TestStreamPayload { coder_id: "kv".to_owned(), ..Default::default() };
        builder.pcollection("pairs", "kv");
        builder.components().pcollections.get_mut("pairs").unwrap().is_bounded = 0;
        builder.leaf("stream", "teststream", payload.encode_to_vec(), &[], &["pairs"]);
        builder.pcollection("groups", "grouped");
        builder.leaf("group", "group_by_key", "", &["pairs"], &["groups"]);
        builder.components().environments.get_mut("env").unwrap().capabilities = vec![capability.to_owned()];
        builder.plan().unwrap().to_string()
    };
    insta::assert_snapshot!(stream("beam:version:sdk_base:go:apache/beam_go_sdk:2.77.0"), @r#"
    impulse -> start
    test stream "the stream", 0 events -> pairs
    group "the group" as it comes pairs -> groups in global windows
    start: prefixed in global windows
    pairs: kv(prefixed, prefixed) in global windows, unbounded
    groups: kv(prefixed, iterable(prefixed)) in global windows, unbounded
    "#);
    assert_contains(&stream("beam:version:sdk_base:apache/beam_java17_sdk:2.77.0"), &["flatten \"the stream\""]);
}

#[test]
fn a_coder_of_windowed_values_stays_one_of_values() {
    let mut builder = Builder::new();
    builder.components().coders.insert("reified".to_owned(), coder("windowed_value", &["bytes", "global"]));
    builder.step("reify", "start", "reified");
    builder.step("step", "reify", "bytes");
    let plan = builder.plan().unwrap();
    let descriptor = ProcessBundleDescriptor::decode(plan.stages[0].descriptor.clone()).unwrap();
    let inside = &descriptor.coders[&descriptor.pcollections["reify"].coder_id];
    assert_eq!(inside, &coder("length_prefix", &["reified"]));
}

#[test]
fn values_of_a_multimap_that_only_an_sdk_knows_are_counted_by_it() {
    let mut builder = Builder::new();
    let components = builder.components();
    components.coders.insert("own".to_owned(), coder("own", &[]));
    let multimap = |value: &str| {
        let (key_coder_id, value_coder_id) = ("bytes".to_owned(), value.to_owned());
        Spec::MultimapSpec(pb::MultimapStateSpec { key_coder_id, value_coder_id })
    };
    let map = pb::MapStateSpec { key_coder_id: "bytes".to_owned(), value_coder_id: "own".to_owned() };
    let states = [("own", multimap("own")), ("known", multimap("bytes")), ("single", Spec::MapSpec(map))];
    let state = |spec| pb::StateSpec { spec: Some(spec), protocol: None };
    let state_specs = states.map(|(name, spec)| (name.to_owned(), state(spec))).into();
    builder.pcollection("pairs", "kv");
    builder.par_do("pair", &pb::ParDoPayload::default(), &["start"], &["pairs"]);
    builder.par_do("keep", &pb::ParDoPayload { state_specs, ..Default::default() }, &["pairs"], &[]);
    let plan = builder.plan().unwrap();
    let cells = plan.stages.iter().filter_map(|stage| stage.keyed.as_ref()).flat_map(|keyed| &keyed.states);
    let counted: Vec<_> = cells.filter_map(|cell| Some((cell.state.as_str(), cell.entries?))).collect();
    let [("own", stage)] = counted[..] else { panic!("{counted:?}") };
    assert!(!plan.nodes.iter().any(|node| matches!(node, Node::Stage(id) if *id == stage)), "it runs by itself");

    let stage = &plan.stages[stage.0 as usize];
    assert_contains(&stage.name, &["the keep", "own"]);
    let descriptor = ProcessBundleDescriptor::decode(stage.descriptor.clone()).unwrap();
    let written = |transform: &str| {
        let port = descriptor.transforms[transform].spec.as_ref().unwrap();
        let port = RemoteGrpcPort::decode(port.payload.clone()).unwrap();
        let mut todo = vec![port.coder_id];
        let mut urns = Vec::new();
        while let Some(id) = todo.pop() {
            let coder = &descriptor.coders[&id];
            let urn = &coder.spec.as_ref().unwrap().urn;
            urns.push(urn.trim_start_matches("beam:coder:").trim_end_matches(":v1").to_owned());
            todo.extend(coder.component_coder_ids.iter().rev().cloned());
        }
        urns.join(" ")
    };
    let [output] = &stage.outputs[..] else { panic!("{:?}", stage.outputs) };
    assert_eq!(written(&stage.input.transform), "windowed_value kv bytes state_backed_iterable own global_window");
    assert_eq!(written(&output.transform), "windowed_value kv bytes length_prefix iterable own global_window");
    assert_eq!(descriptor.transforms.len(), 2);
    let [collection] = &descriptor.pcollections.keys().collect::<Vec<_>>()[..] else { panic!("{descriptor:?}") };
    let ends = |transform: &pb::PTransform| {
        [&transform.inputs, &transform.outputs].map(|ends| ends.values().cloned().collect::<Vec<_>>())
    };
    let one = vec![(*collection).clone()];
    assert_eq!(ends(&descriptor.transforms[&stage.input.transform]), [vec![], one.clone()]);
    assert_eq!(ends(&descriptor.transforms[&output.transform]), [one, vec![]]);
}

#[test]
fn values_of_an_ordered_list_end_by_their_length_or_by_a_coder_that_is_known() {
    let planned = |value: &str, capabilities: &[&str]| {
        let mut builder = Builder::new();
        let components = builder.components();
        components.coders.insert("own".to_owned(), coder("own", &[]));
        components.coders.insert("long".to_owned(), coder("varint", &[]));
        components.coders.insert("pair".to_owned(), coder("kv", &["bytes", "own"]));
        components.coders.insert("prefixed".to_owned(), coder("length_prefix", &["own"]));
        let environment = components.environments.get_mut("env").unwrap();
        environment.capabilities = capabilities.iter().map(|urn| (*urn).to_owned()).collect();
        let list = Spec::OrderedListSpec(pb::OrderedListStateSpec { element_coder_id: value.to_owned() });
        let state_specs = [("list".to_owned(), pb::StateSpec { spec: Some(list), protocol: None })].into();
        builder.pcollection("pairs", "kv");
        builder.par_do("pair", &pb::ParDoPayload::default(), &["start"], &["pairs"]);
        builder.par_do("keep", &pb::ParDoPayload { state_specs, ..Default::default() }, &["pairs"], &[]);
        let plan = builder.plan().map_err(|refusal| refusal.to_string())?;
        let cells = plan.stages.into_iter().filter_map(|stage| stage.keyed).flat_map(|keyed| keyed.states);
        Ok::<_, String>(cells.map(|cell| cell.value).collect::<Vec<_>>())
    };
    let lengths = ["beam:protocol:ordered_list_state:v1"];
    for value in ["own", "long", "pair", "prefixed"] {
        assert_eq!(planned(value, &lengths).unwrap(), [Some(WireCoder::Prefixed)], "{value}");
    }
    assert_eq!(planned("long", &[]).unwrap(), [Some(WireCoder::VarInt)]);
    assert_eq!(planned("prefixed", &[]).unwrap(), [Some(WireCoder::Prefixed)]);
    for value in ["own", "pair"] {
        let refusal = planned(value, &[]).unwrap_err();
        assert_contains(&refusal, &["\"the keep\"", "\"list\"", &format!("\"{value}\""), lengths[0]]);
    }
}

#[test]
fn environments_that_nobody_could_start_are_refused() {
    let environment = |urn: &str, payload: Vec<u8>| pb::Environment {
        urn: format!("beam:env:{urn}:v1"),
        payload: payload.into(),
        ..Default::default()
    };
    let external = |url: &str, asks: bool| {
        let authentication = asks.then(pb::AuthenticationSpec::default);
        let endpoint = Some(pb::ApiServiceDescriptor { url: url.to_owned(), authentication });
        environment("external", pb::ExternalPayload { endpoint, ..Default::default() }.encode_to_vec())
    };
    let process = |command: &str| {
        let command = command.to_owned();
        environment("process", pb::ProcessPayload { command, ..Default::default() }.encode_to_vec())
    };
    let docker =
        |image: &str| environment("docker", pb::DockerPayload { container_image: image.to_owned() }.encode_to_vec());
    let any_of = |environments: Vec<pb::Environment>| {
        environment("anyof", pb::AnyOfEnvironmentPayload { environments }.encode_to_vec())
    };
    let planned = |environment: pb::Environment| {
        let mut builder = Builder::new();
        builder.components().environments.insert("env".to_owned(), environment);
        builder.step("step", "start", "bytes");
        builder.plan().map(drop).map_err(|refusal| refusal.to_string())
    };
    for good in [
        external("localhost:1", false),
        process("boot"),
        docker("image"),
        environment("default", vec![]),
        any_of(vec![docker(""), external("localhost:1", false)]),
    ] {
        planned(good).unwrap();
    }
    for (bad, why) in [
        (external("", false), "names no worker pool"),
        (environment("external", vec![]), "names no worker pool"),
        (external("localhost:1", true), "authentication"),
        (process(""), "names no command"),
        (docker(""), "names no container image"),
        (any_of(vec![]), "no environment to choose from"),
        (any_of(vec![process(""), docker("")]), "names no container image"),
        (any_of(vec![any_of(vec![docker("image")])]), "unknown here"),
        (any_of(vec![environment("default", vec![])]), "unknown here"),
    ] {
        assert_contains(&planned(bad).unwrap_err(), &["environment \"env\"", why]);
    }
}
