//! Pipelines that are wrong in one way each, and some that are hostile.

use std::collections::BTreeMap;

use bytes::Bytes;
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::state_spec::Spec;
use prost::Message;

use super::{Pipeline, Refusal};

pub(crate) fn spec(urn: &str, payload: impl Into<Bytes>) -> Option<pb::FunctionSpec> {
    Some(pb::FunctionSpec { urn: urn.to_owned(), payload: payload.into() })
}

pub(crate) fn coder(urn: &str, components: &[&str]) -> pb::Coder {
    pb::Coder {
        spec: spec(&format!("beam:coder:{urn}:v1"), ""),
        component_coder_ids: components.iter().map(|id| (*id).to_owned()).collect(),
    }
}

pub(crate) fn ends(ends: &[&str]) -> BTreeMap<String, String> {
    ends.iter().enumerate().map(|(index, id)| (format!("i{index}"), (*id).to_owned())).collect()
}

/// A pipeline under construction: impulse, then whatever a test adds.
pub(crate) struct Builder(pub(crate) pb::Pipeline);

impl Builder {
    pub(crate) fn new() -> Builder {
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

    pub(crate) fn components(&mut self) -> &mut pb::Components {
        self.0.components.as_mut().unwrap()
    }

    pub(crate) fn transform(&mut self, id: &str) -> &mut pb::PTransform {
        self.components().transforms.get_mut(id).unwrap()
    }

    pub(crate) fn pcollection(&mut self, id: &str, coder: &str) {
        let pcollection = pb::PCollection {
            unique_name: id.to_owned(),
            coder_id: coder.to_owned(),
            is_bounded: pb::is_bounded::Enum::Bounded.into(),
            windowing_strategy_id: "globally".to_owned(),
            display_data: Vec::new(),
        };
        self.components().pcollections.insert(id.to_owned(), pcollection);
    }

    pub(crate) fn leaf(&mut self, id: &str, urn: &str, payload: impl Into<Bytes>, inputs: &[&str], outputs: &[&str]) {
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

    pub(crate) fn par_do(&mut self, id: &str, payload: &pb::ParDoPayload, inputs: &[&str], outputs: &[&str]) {
        self.leaf(id, "pardo", payload.encode_to_vec(), inputs, outputs);
    }

    /// A ParDo from the collection before to a new one of the same name as itself.
    pub(crate) fn step(&mut self, id: &str, from: &str, coder: &str) {
        self.pcollection(id, coder);
        self.par_do(id, &pb::ParDoPayload::default(), &[from], &[id]);
    }

    pub(crate) fn validate(self) -> Result<Pipeline, Refusal> {
        Pipeline::new(self.0)
    }

    fn refusal(self) -> String {
        self.validate().map(|_| ()).unwrap_err().to_string()
    }
}

#[track_caller]
pub(crate) fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
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
        spec: Some(Spec::BagSpec(pb::BagStateSpec::default())),
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
    let refusal = builder.validate().unwrap_err();
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
    assert_eq!(builder.validate().unwrap().transform_names().count(), 1);

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
fn a_refusal_fits_a_status() {
    let mut builder = Builder::new();
    for index in 0..2000 {
        builder.leaf(&format!("old{index}"), "read", "", &[], &[]);
        builder.leaf(&format!("new{index}"), &format!("new{index}"), "", &["start"], &["new"]);
    }
    let refusal = builder.validate().unwrap_err();
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

#[test]
fn views_of_views_are_followed_once() {
    let mut builder = Builder::new();
    let mut from = "start".to_owned();
    for index in 0..50_000 {
        let view = format!("view{index}");
        builder.pcollection(&view, "bytes");
        builder.leaf(&view, "create_view", "", &[&from], &[&view]);
        builder.par_do(&format!("step{index}"), &pb::ParDoPayload::default(), &[&view], &[]);
        from = view;
    }
    let pipeline = builder.validate().unwrap();
    assert_eq!(pipeline.transforms.len(), 50_001);
    let read = |transform: &super::Transform| transform.inputs.values().all(|input| input.0 == "start");
    assert!(pipeline.transforms.iter().all(read));

    // A loop of views is nobody's output.
    let mut builder = Builder::new();
    for (id, from) in [("a", "b"), ("b", "a")] {
        builder.pcollection(id, "bytes");
        builder.leaf(id, "create_view", "", &[from], &[id]);
    }
    builder.step("step", "a", "bytes");
    assert_contains(&builder.refusal(), &["which nothing gives"]);
}

#[test]
fn many_different_reasons_make_one_message() {
    let reasons = (0..200_000).map(|index| (format!("the {index}"), format!("lacks {index}")));
    let message = Refusal::of_transforms(reasons).unwrap().to_string();
    assert_contains(&message, &["transform \"the 0\" lacks 0; ", "more reasons"]);
}
