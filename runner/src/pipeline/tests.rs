//! Pipelines that are wrong in one way each, and some that are hostile.

use std::collections::BTreeMap;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::ProcessBundleDescriptor;
use ferrobeam_proto::pipeline as pb;
use prost::Message;

use super::{Pipeline, Refusal};
use crate::plan::{self, PlanOptions};

fn spec(urn: &str, payload: impl Into<Bytes>) -> Option<pb::FunctionSpec> {
    Some(pb::FunctionSpec { urn: urn.to_owned(), payload: payload.into() })
}

fn coder(urn: &str, components: &[&str]) -> pb::Coder {
    pb::Coder {
        spec: spec(&format!("beam:coder:{urn}:v1"), ""),
        component_coder_ids: components.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn ends(ends: &[&str]) -> BTreeMap<String, String> {
    ends.iter().enumerate().map(|(index, id)| (format!("i{index}"), (*id).to_owned())).collect()
}

/// A pipeline under construction: impulse, then whatever a test adds.
struct Builder(pb::Pipeline);

impl Builder {
    fn new() -> Builder {
        let mut builder = Builder(pb::Pipeline { components: Some(pb::Components::default()), ..Default::default() });
        let components = builder.components();
        let strategy = pb::WindowingStrategy {
            window_fn: spec("beam:window_fn:global_windows:v1", ""),
            window_coder_id: "global".to_owned(),
            ..Default::default()
        };
        components.windowing_strategies.insert("globally".to_owned(), strategy);
        let environment = pb::Environment { urn: "beam:env:default:v1".to_owned(), ..Default::default() };
        components.environments.insert("env".to_owned(), environment);
        for (id, coder) in [
            ("global", coder("global_window", &[])),
            ("bytes", coder("bytes", &[])),
            ("kv", coder("kv", &["bytes", "bytes"])),
            ("several", coder("iterable", &["bytes"])),
            ("grouped", coder("kv", &["bytes", "several"])),
        ] {
            components.coders.insert(id.to_owned(), coder);
        }
        builder.pcollection("start", "bytes");
        builder.leaf("impulse", "impulse", "", &[], &["start"]);
        builder
    }

    fn components(&mut self) -> &mut pb::Components {
        self.0.components.as_mut().unwrap()
    }

    fn transform(&mut self, id: &str) -> &mut pb::PTransform {
        self.components().transforms.get_mut(id).unwrap()
    }

    fn pcollection(&mut self, id: &str, coder: &str) {
        let pcollection = pb::PCollection {
            unique_name: id.to_owned(),
            coder_id: coder.to_owned(),
            is_bounded: pb::is_bounded::Enum::Bounded.into(),
            windowing_strategy_id: "globally".to_owned(),
            display_data: Vec::new(),
        };
        self.components().pcollections.insert(id.to_owned(), pcollection);
    }

    fn leaf(&mut self, id: &str, urn: &str, payload: impl Into<Bytes>, inputs: &[&str], outputs: &[&str]) {
        let transform = pb::PTransform {
            unique_name: format!("the {id}"),
            spec: spec(&format!("beam:transform:{urn}:v1"), payload),
            inputs: ends(inputs),
            outputs: ends(outputs),
            environment_id: "env".to_owned(),
            ..Default::default()
        };
        self.components().transforms.insert(id.to_owned(), transform);
        self.0.root_transform_ids.push(id.to_owned());
    }

    fn par_do(&mut self, id: &str, payload: &pb::ParDoPayload, inputs: &[&str], outputs: &[&str]) {
        self.leaf(id, "pardo", payload.encode_to_vec(), inputs, outputs);
    }

    /// A ParDo from the collection before to a new one of the same name as itself.
    fn step(&mut self, id: &str, from: &str, coder: &str) {
        self.pcollection(id, coder);
        self.par_do(id, &pb::ParDoPayload::default(), &[from], &[id]);
    }

    fn plan(self) -> Result<plan::Plan, Refusal> {
        plan::build(&Pipeline::new(self.0)?, &PlanOptions::default())
    }

    fn refusal(self) -> String {
        self.plan().map(|plan| plan.to_string()).unwrap_err().to_string()
    }
}

#[track_caller]
fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn an_empty_pipeline_is_an_empty_plan() {
    assert_eq!(Builder(pb::Pipeline::default()).plan().unwrap().to_string(), "");
}

#[test]
fn what_is_missing_is_named() {
    for (spoil, wanted) in [
        (
            (|b: &mut Builder| b.transform("step").environment_id = "no_env".to_owned()) as fn(&mut Builder),
            "runs in environment \"no_env\"",
        ),
        (|b| b.transform("step").inputs = ends(&["no_pcollection"]), "PCollection \"no_pcollection\""),
        (|b| b.pcollection("step", "no_coder"), "coder \"no_coder\""),
        (|b| drop(b.components().windowing_strategies.remove("globally")), "windowing strategy \"globally\""),
        (|b| drop(b.components().coders.remove("global")), "coder \"global\""),
        (|b| b.components().coders.get_mut("kv").unwrap().component_coder_ids[1] = "gone".to_owned(), "coder \"gone\""),
        (|b| b.0.root_transform_ids.push("no_part".to_owned()), "\"no_part\""),
        (|b| b.0.root_transform_ids.clear(), "no root"),
        (|b| b.0.requirements.push("beam:requirement:new:v1".to_owned()), "beam:requirement:new:v1"),
        (|b| b.transform("step").spec = spec("beam:transform:new:v1", ""), "\"the step\" is of a kind unknown here"),
        (|b| b.transform("step").spec = None, "\"the step\" has neither parts nor a URN"),
        (|b| b.transform("step").spec.as_mut().unwrap().payload = Bytes::from_static(b"\x0a\xff"), "cannot be read"),
        (|b| b.transform("step").inputs.clear(), "0 main inputs"),
        (|b| b.transform("step").inputs = ends(&["start", "start"]), "2 main inputs"),
        (|b| b.transform("step").outputs = ends(&["start"]), "gives too"),
        (|b| b.components().environments.get_mut("env").unwrap().urn = "beam:env:new:v1".to_owned(), "beam:env:new:v1"),
        (|b| b.components().coders.get_mut("kv").unwrap().component_coder_ids.clear(), "instead of 2"),
    ] {
        let mut builder = Builder::new();
        builder.step("step", "start", "kv");
        spoil(&mut builder);
        assert_contains(&builder.refusal(), &[wanted]);
    }
}

#[test]
fn what_is_not_supported_is_named_all_at_once() {
    let mut builder = Builder::new();
    builder.pcollection("unbounded", "kv");
    builder.components().pcollections.get_mut("unbounded").unwrap().is_bounded = pb::is_bounded::Enum::Unbounded.into();
    builder.par_do("source", &pb::ParDoPayload::default(), &["start"], &["unbounded"]);
    let state = pb::StateSpec {
        protocol: spec("beam:user_state:new:v1", ""),
        spec: Some(pb::state_spec::Spec::BagSpec(pb::BagStateSpec::default())),
    };
    let state = pb::ParDoPayload { state_specs: [("cell".to_owned(), state)].into(), ..Default::default() };
    builder.par_do("stateful", &state, &["unbounded"], &[]);
    builder.par_do("stateful too", &state, &["unbounded"], &[]);
    let timers = pb::ParDoPayload {
        timer_family_specs: [("timer".to_owned(), pb::TimerFamilySpec::default())].into(),
        on_window_expiration_timer_family_spec: "end".to_owned(),
        ..Default::default()
    };
    builder.par_do("timed", &timers, &["unbounded"], &[]);
    let sorted = pb::ParDoPayload { requires_time_sorted_input: true, ..Default::default() };
    builder.par_do("sorted", &sorted, &["start"], &[]);
    let both = pb::ParDoPayload { restriction_coder_id: "bytes".to_owned(), ..sorted };
    builder.par_do("splittable", &both, &["unbounded"], &[]);
    builder.leaf("old", "read", "", &[], &[]);
    let refusal = builder.plan().unwrap_err();
    assert_contains(
        &refusal.to_string(),
        &[
            "transforms \"the stateful\", \"the stateful too\" each keeps state \"cell\" by a protocol unknown here",
            "\"the timed\" has a timer family \"timer\" that goes by no time domain known here",
            "\"the timed\" names \"end\" for the expiration of windows",
            "\"the sorted\" needs an input of keys and values, but its coder is beam:coder:bytes:v1",
            "\"the splittable\" is a splittable DoFn that keeps state or timers by key",
            "use_deprecated_read",
        ],
    );
    assert_eq!(refusal.transforms().count(), 7);
}

#[test]
fn cycles_are_refused() {
    let mut builder = Builder::new();
    builder.step("a", "b", "bytes");
    builder.step("b", "a", "bytes");
    builder.step("behind", "b", "bytes");
    assert_contains(&builder.refusal(), &["cyclic", "the a", "the b"]);

    let mut builder = Builder::new();
    builder.step("step", "start", "round");
    builder.components().coders.insert("round".to_owned(), coder("iterable", &["about"]));
    builder.components().coders.insert("about".to_owned(), coder("nullable", &["round"]));
    assert_contains(&builder.refusal(), &["contains itself"]);

    let mut builder = Builder::new();
    builder.step("step", "start", "bytes");
    builder.transform("step").spec = None;
    builder.transform("step").subtransforms = vec!["step".to_owned()];
    assert_contains(&builder.refusal(), &["\"the step\" is a part of more than one composite, or of itself"]);
}

#[test]
fn a_side_input_cycle_is_a_cycle() {
    let mut builder = Builder::new();
    builder.step("a", "start", "bytes");
    let reads_b = pb::ParDoPayload {
        side_inputs: [(
            "i1".to_owned(),
            pb::SideInput { access_pattern: spec("beam:side_input:iterable:v1", ""), ..Default::default() },
        )]
        .into(),
        ..Default::default()
    };
    builder.step("b", "a", "bytes");
    builder.transform("a").spec.as_mut().unwrap().payload = reads_b.encode_to_vec().into();
    builder.transform("a").inputs = ends(&["start", "b"]);
    assert_contains(&builder.refusal(), &["cyclic"]);
}

#[test]
fn depth_and_size_are_bounded() {
    // A composite of composites, as deep as a message may hold: no stack is used for it.
    let mut builder = Builder::new();
    for level in 0..100_000 {
        let part = if level == 99_999 { "impulse".to_owned() } else { format!("level{}", level + 1) };
        let composite = pb::PTransform { subtransforms: vec![part], ..Default::default() };
        builder.components().transforms.insert(format!("level{level}"), composite);
    }
    builder.0.root_transform_ids = vec!["level0".to_owned()];
    assert_eq!(builder.plan().unwrap().nodes.len(), 1);

    // A coder of coders, likewise.
    let mut builder = Builder::new();
    for level in 0..100_000 {
        builder.components().coders.insert(format!("c{level}"), coder("iterable", &[&format!("c{}", level + 1)]));
    }
    builder.components().coders.insert("c100000".to_owned(), coder("bytes", &[]));
    builder.step("step", "start", "c0");
    assert_contains(&builder.refusal(), &["nested too deeply"]);

    // Few coders that stand for 2^60.
    let mut builder = Builder::new();
    for level in 0..60 {
        let part = format!("c{}", level + 1);
        builder.components().coders.insert(format!("c{level}"), coder("kv", &[&part, &part]));
    }
    builder.components().coders.insert("c60".to_owned(), coder("bytes", &[]));
    builder.step("step", "start", "c0");
    assert_contains(&builder.refusal(), &["nested too deeply"]);
}

#[test]
fn a_long_pipeline_is_planned() {
    let mut builder = Builder::new();
    let mut from = "start".to_owned();
    for index in 0..3000 {
        let id = format!("step{index}");
        builder.step(&id, &from, "bytes");
        from = id;
    }
    let plan = builder.plan().unwrap();
    assert_eq!((plan.stages.len(), plan.stages[0].transforms.len()), (1, 3000));
}

#[test]
fn grouping_needs_keys_and_gives_iterables() {
    let mut builder = Builder::new();
    builder.pcollection("groups", "grouped");
    builder.leaf("group", "group_by_key", "", &["start"], &["groups"]);
    assert_contains(&builder.refusal(), &["needs an input of keys and values", "beam:coder:bytes:v1"]);

    let mut builder = Builder::new();
    builder.step("keyed", "start", "kv");
    builder.pcollection("groups", "kv");
    builder.leaf("group", "group_by_key", "", &["keyed"], &["groups"]);
    assert_contains(&builder.refusal(), &["is not one of keys and iterables"]);
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
fn what_no_window_can_do_is_refused() {
    let refusal = |spoil: fn(&mut pb::WindowingStrategy)| {
        let mut builder = Builder::new();
        builder.step("keyed", "start", "kv");
        builder.pcollection("groups", "grouped");
        builder.leaf("group", "group_by_key", "", &["keyed"], &["groups"]);
        spoil(builder.components().windowing_strategies.get_mut("globally").unwrap());
        builder.refusal()
    };
    let retracting = refusal(|it| it.accumulation_mode = pb::accumulation_mode::Enum::Retracting.into());
    assert_contains(&retracting, &["\"the group\" groups with the accumulation mode RETRACTING"]);
    assert_contains(&refusal(|it| it.allowed_lateness = -1), &["negative lateness"]);
    assert_contains(&refusal(|it| it.trigger = Some(pb::Trigger::default())), &["of a kind unknown here"]);
    let empty = pb::trigger::Trigger::AfterAll(pb::trigger::AfterAll::default());
    assert!(super::trigger::trigger(Some(&pb::Trigger { trigger: Some(empty) })).is_err());
}

#[test]
fn test_streams_that_cannot_be_played_are_refused() {
    use pb::test_stream_payload::{Event, event};
    let mut builder = Builder::new();
    let watermark = event::AdvanceWatermark { new_watermark: 5, tag: "neither".to_owned() };
    let stream = pb::TestStreamPayload {
        coder_id: "no_coder".to_owned(),
        events: vec![Event::default(), Event { event: Some(event::Event::WatermarkEvent(watermark)) }],
        endpoint: Some(pb::ApiServiceDescriptor { url: "there".to_owned(), ..Default::default() }),
    };
    builder.pcollection("one", "bytes");
    builder.pcollection("other", "bytes");
    builder.leaf("stream", "teststream", stream.encode_to_vec(), &["start"], &["one", "other"]);
    assert_contains(
        &builder.refusal(),
        &["has an input", "lists events and names a service", "a kind unknown", "\"neither\"", "\"no_coder\""],
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
fn a_refusal_fits_a_status() {
    let mut builder = Builder::new();
    for index in 0..2000 {
        builder.leaf(&format!("old{index}"), "read", "", &[], &[]);
        builder.leaf(&format!("new{index}"), &format!("new{index}"), "", &["start"], &["new"]);
    }
    let refusal = builder.plan().unwrap_err();
    let message = refusal.to_string();
    assert!(message.len() < 6000, "{}", message.len());
    assert_contains(&message, &["\"the new0\" is of a kind unknown here", "more reasons"]);
    assert_eq!(refusal.transforms().count(), 4000);

    let mut builder = Builder::new();
    for index in 0..2000 {
        builder.leaf(&format!("old{index}"), "read", "", &[], &[]);
    }
    let message = builder.refusal();
    assert!(message.len() < 6000, "{}", message.len());
    assert_contains(&message, &["\"the old0\", \"the old1\"", " more each is a deprecated read"]);
}
