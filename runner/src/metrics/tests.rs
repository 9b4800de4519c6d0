//! Merging by type: tables for the rules, properties for their order.

use ferrobeam_proto::pipeline::histogram_value::BucketOptions;
use ferrobeam_proto::pipeline::histogram_value::bucket_options::{BucketType, Linear};
use ferrobeam_proto::pipeline::{BoundedTrie, BoundedTrieNode, HistogramValue};
use ferrobeam_proto::urns::monitoring_info_type_urns as types;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use prost::Message;

use super::value::SET_LIMIT;
use super::*;
use crate::element::put_varint;

fn metric(type_urn: &str, payload: Vec<u8>) -> Metric {
    let labels = [("NAME".to_string(), "n".to_string())].into();
    Metric { urn: "beam:metric:user".into(), type_urn: type_urn.into(), labels, payload: payload.into() }
}

fn merged(type_urn: &str, payloads: &[Vec<u8>]) -> Vec<u8> {
    let metrics = Metrics::new();
    for payload in payloads {
        metrics.commit(vec![metric(type_urn, payload.clone())]);
    }
    let snapshot = metrics.snapshot();
    assert_eq!(snapshot.len(), 1);
    snapshot[0].payload.to_vec()
}

fn ints(values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| put_varint(&mut out, *value as u64));
    out
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn counted(count: usize, values: Vec<u8>) -> Vec<u8> {
    [(count as u32).to_be_bytes().to_vec(), values].concat()
}

fn strings<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut count = 0;
    for value in values {
        count += 1;
        put_varint(&mut out, value.len() as u64);
        out.extend_from_slice(value.as_bytes());
    }
    counted(count, out)
}

fn histogram(width: f64, counts: &[i64]) -> Vec<u8> {
    let linear = Linear { number_of_buckets: Some(10), width: Some(width), start: Some(0.0) };
    HistogramValue {
        count: Some(counts.iter().sum()),
        bucket_options: Some(BucketOptions { bucket_type: Some(BucketType::Linear(linear)) }),
        bucket_counts: counts.to_vec(),
    }
    .encode_to_vec()
}

fn trie(bound: i32, paths: &[&[&str]]) -> Vec<u8> {
    let mut root = BoundedTrieNode::default();
    for path in paths {
        let mut node = &mut root;
        for segment in *path {
            node = node.children.entry((*segment).to_string()).or_default();
        }
    }
    BoundedTrie { bound, root: Some(root), singleton: Vec::new() }.encode_to_vec()
}

/// The paths of a trie, a truncated one ending in `*`.
fn paths(payload: &[u8]) -> Vec<String> {
    fn walk(node: &BoundedTrieNode, prefix: &str, found: &mut Vec<String>) {
        if node.children.is_empty() {
            found.push(format!("{prefix}{}", if node.truncated { "*" } else { "" }));
        }
        for (segment, child) in &node.children {
            walk(child, &format!("{prefix}{segment}"), found);
        }
    }
    let mut found = Vec::new();
    let trie = BoundedTrie::decode(payload).unwrap();
    walk(&trie.root.unwrap_or_default(), "", &mut found);
    found
}

#[test]
fn each_type_merges_by_its_rule() {
    let wide =
        |values: &[i64]| [ints(&values[..1]), doubles(&values[1..].iter().map(|v| *v as f64).collect::<Vec<_>>())];
    type Case = (&'static str, Vec<Vec<u8>>, Vec<u8>);
    let cases: [Case; 22] = [
        (types::SUM_INT64_TYPE, vec![ints(&[3]), ints(&[-5])], ints(&[-2])),
        (types::SUM_INT64_TYPE, vec![ints(&[i64::MAX]), ints(&[1])], ints(&[i64::MIN])),
        (types::SUM_DOUBLE_TYPE, vec![doubles(&[0.5]), doubles(&[1.25])], doubles(&[1.75])),
        (types::DISTRIBUTION_INT64_TYPE, vec![ints(&[2, 10, 3, 7]), ints(&[1, -4, -4, -4])], ints(&[3, 6, -4, 7])),
        // A distribution of nothing, in both of its forms, changes nothing.
        (
            types::DISTRIBUTION_INT64_TYPE,
            vec![ints(&[0]), ints(&[1, 5, 5, 5]), ints(&[0, 0, 9, 9])],
            ints(&[1, 5, 5, 5]),
        ),
        (types::DISTRIBUTION_INT64_TYPE, vec![ints(&[0])], ints(&[0, 0, i64::MAX, i64::MIN])),
        (
            types::DISTRIBUTION_DOUBLE_TYPE,
            vec![wide(&[2, 10, 3, 7]).concat(), wide(&[1, -4, -4, -4]).concat()],
            wide(&[3, 6, -4, 7]).concat(),
        ),
        (types::LATEST_INT64_TYPE, vec![ints(&[20, 1]), ints(&[10, 2])], ints(&[20, 1])),
        (types::LATEST_INT64_TYPE, vec![ints(&[10, 2]), ints(&[20, 1])], ints(&[20, 1])),
        (types::LATEST_DOUBLE_TYPE, vec![wide(&[10, 2]).concat(), wide(&[20, 1]).concat()], wide(&[20, 1]).concat()),
        (
            types::TOP_N_INT64_TYPE,
            vec![counted(3, ints(&[9, 5, 1])), counted(2, ints(&[7, 7]))],
            counted(3, ints(&[9, 7, 7])),
        ),
        (
            types::BOTTOM_N_INT64_TYPE,
            vec![counted(2, ints(&[-9, 5])), counted(2, ints(&[7, 0]))],
            counted(2, ints(&[-9, 0])),
        ),
        (
            types::TOP_N_DOUBLE_TYPE,
            vec![counted(1, doubles(&[0.5])), counted(2, doubles(&[1.5, -2.0]))],
            counted(2, doubles(&[1.5, 0.5])),
        ),
        (
            types::BOTTOM_N_DOUBLE_TYPE,
            vec![counted(1, doubles(&[0.5])), counted(2, doubles(&[1.5, -2.0]))],
            counted(2, doubles(&[-2.0, 0.5])),
        ),
        (types::SET_STRING_TYPE, vec![strings(["b", "a"]), strings(["c", "a"])], strings(["a", "b", "c"])),
        (types::HISTOGRAM, vec![histogram(1.0, &[1, 2]), histogram(1.0, &[0, 1, 4])], histogram(1.0, &[1, 3, 4])),
        // Of what cannot be merged, the last is kept.
        (types::HISTOGRAM, vec![histogram(1.0, &[1, 2]), histogram(2.0, &[5])], histogram(2.0, &[5])),
        (
            types::PROGRESS_TYPE,
            vec![counted(1, doubles(&[0.5])), counted(1, doubles(&[0.75]))],
            counted(1, doubles(&[0.75])),
        ),
        ("example:metrics:new:v1", vec![b"one".to_vec(), b"two".to_vec()], b"two".to_vec()),
        (types::SUM_INT64_TYPE, vec![ints(&[3]), vec![0xff]], vec![0xff]),
        (types::SUM_INT64_TYPE, vec![vec![0xff], ints(&[3]), ints(&[4])], ints(&[7])),
        (types::SUM_INT64_TYPE, vec![ints(&[3, 4])], ints(&[3, 4])),
    ];
    for (type_urn, payloads, expected) in cases {
        assert_eq!(merged(type_urn, &payloads), expected, "{type_urn} of {payloads:?}");
    }
}

#[test]
fn tries_unite_and_lose_detail_at_the_bound() {
    let left = trie(3, &[&["a", "b", "c"], &["a", "b", "d"]]);
    let right = trie(100, &[&["a", "e"], &["f"]]);
    assert_eq!(
        paths(&merged(types::BOUNDED_TRIE_TYPE, &[left.clone(), trie(3, &[&["a", "e"]])])),
        ["abc", "abd", "ae"]
    );
    assert_eq!(paths(&merged(types::BOUNDED_TRIE_TYPE, &[left.clone(), right])), ["ab*", "ae", "f"]);
    let singleton = BoundedTrie { bound: 100, root: None, singleton: vec!["x".into(), "y".into()] }.encode_to_vec();
    assert_eq!(paths(&merged(types::BOUNDED_TRIE_TYPE, &[singleton.clone(), singleton.clone()])), ["xy"]);
    assert_eq!(paths(&merged(types::BOUNDED_TRIE_TYPE, &[left.clone(), singleton])), ["abc", "abd", "xy"]);
    let nothing = BoundedTrie { bound: 100, root: None, singleton: Vec::new() }.encode_to_vec();
    assert_eq!(paths(&merged(types::BOUNDED_TRIE_TYPE, &[left.clone(), nothing.clone()])), ["abc", "abd"]);
    assert_eq!(paths(&merged(types::BOUNDED_TRIE_TYPE, &[nothing, left])), ["abc", "abd"]);
    let deep = BoundedTrie { bound: 100, root: None, singleton: vec!["s".into(); 100_000] }.encode_to_vec();
    let deep = merged(types::BOUNDED_TRIE_TYPE, &[deep.clone(), deep]);
    assert!(paths(&deep)[0].ends_with("s*"), "a path too long for decoders is cut");
}

#[test]
fn a_set_of_strings_stops_growing() {
    let metrics = Metrics::new();
    for index in 0..30 {
        let string = format!("{index:02}").repeat(50_000);
        metrics.commit(vec![metric(types::SET_STRING_TYPE, strings([string.as_str()]))]);
    }
    let size = metrics.snapshot()[0].payload.len();
    assert!(size > SET_LIMIT / 2 && size < SET_LIMIT + 1000, "{size}");
}

#[test]
fn metrics_are_told_apart() {
    let named = |name: &str, type_urn: &str| {
        let labels = [("NAME".to_string(), name.to_string())].into();
        Metric { labels, ..metric(type_urn, ints(&[1])) }
    };
    let metrics = Metrics::new();
    metrics.commit(vec![named("a", types::SUM_INT64_TYPE), named("b", types::SUM_INT64_TYPE)]);
    metrics.commit(vec![named("a", types::SUM_INT64_TYPE), named("a", "example:other")]);
    let other = Metrics::new();
    other.commit(vec![named("a", types::SUM_INT64_TYPE), named("c", types::SUM_INT64_TYPE)]);
    metrics.merge(&other.snapshot());
    let found: Vec<(String, String, Vec<u8>)> = metrics
        .snapshot()
        .into_iter()
        .map(|metric| (metric.labels["NAME"].clone(), metric.type_urn, metric.payload.to_vec()))
        .collect();
    let sum = types::SUM_INT64_TYPE.to_string();
    assert_eq!(
        found,
        [
            ("a".into(), sum.clone(), ints(&[3])),
            ("a".into(), "example:other".into(), ints(&[1])),
            ("b".into(), sum.clone(), ints(&[1])),
            ("c".into(), sum, ints(&[1])),
        ]
    );
}

/// Payloads of one type that merge whatever their order.
fn payloads() -> impl Strategy<Value = (&'static str, Vec<Vec<u8>>)> {
    let int = || prop_oneof![-5..5i64, any::<i64>()];
    // Doubles whose sums are exact.
    let double = || (-1000..1000i32).prop_map(|value| f64::from(value) / 4.0);
    let many = |payload: BoxedStrategy<Vec<u8>>| vec(payload, 1..6);
    let list = || vec(int(), 3..4).prop_map(|values| counted(values.len(), ints(&values)));
    prop_oneof![
        (Just(types::SUM_INT64_TYPE), many(int().prop_map(|v| ints(&[v])).boxed())),
        (Just(types::SUM_DOUBLE_TYPE), many(double().prop_map(|v| doubles(&[v])).boxed())),
        (
            Just(types::DISTRIBUTION_INT64_TYPE),
            many((0..5i64, int(), int(), int()).prop_map(|(c, s, l, h)| ints(&[c, s, l, h])).boxed())
        ),
        (
            Just(types::DISTRIBUTION_DOUBLE_TYPE),
            many(
                (1..5i64, double(), double(), double())
                    .prop_map(|(c, s, l, h)| [ints(&[c]), doubles(&[s, l, h])].concat())
                    .boxed()
            )
        ),
        (Just(types::LATEST_INT64_TYPE), many((0..3i64, int()).prop_map(|(t, v)| ints(&[t, v])).boxed())),
        (
            Just(types::LATEST_DOUBLE_TYPE),
            many((0..3i64, double()).prop_map(|(t, v)| [ints(&[t]), doubles(&[v])].concat()).boxed())
        ),
        (Just(types::TOP_N_INT64_TYPE), many(list().boxed())),
        (Just(types::BOTTOM_N_INT64_TYPE), many(list().boxed())),
        (
            Just(types::SET_STRING_TYPE),
            many(btree_set("[a-e]{0,2}", 0..5).prop_map(|set| strings(set.iter().map(String::as_str))).boxed())
        ),
        (Just(types::HISTOGRAM), many(vec(0..9i64, 0..10).prop_map(|counts| histogram(1.0, &counts)).boxed())),
        (
            Just(types::BOUNDED_TRIE_TYPE),
            many(
                vec(vec("[a-c]", 1..4), 1..4)
                    .prop_map(|paths| {
                        let paths: Vec<Vec<&str>> =
                            paths.iter().map(|path| path.iter().map(String::as_str).collect()).collect();
                        trie(1000, &paths.iter().map(Vec::as_slice).collect::<Vec<_>>())
                    })
                    .boxed()
            )
        ),
    ]
}

proptest! {
    #[test]
    fn bundles_may_commit_in_any_order((type_urn, payloads) in payloads(), seed in any::<u64>()) {
        let mut shuffled = payloads.clone();
        for index in (1..shuffled.len()).rev() {
            shuffled.swap(index, (seed.rotate_left(index as u32 * 7) % (index as u64 + 1)) as usize);
        }
        // One payload is merged with itself, so that what is compared has one form.
        let whole = |payloads: &[Vec<u8>]| merged(type_urn, &[payloads, payloads].concat());
        prop_assert_eq!(whole(&payloads), whole(&shuffled));
    }

    #[test]
    fn workers_may_add_up_their_parts((type_urn, payloads) in payloads(), at in any::<usize>()) {
        let (left, right) = payloads.split_at(1 + at % payloads.len());
        let parts = [left, right].into_iter().filter(|part| !part.is_empty()).map(|part| merged(type_urn, part));
        let parts: Vec<Vec<u8>> = parts.collect();
        prop_assert_eq!(merged(type_urn, &parts), merged(type_urn, &payloads));
    }

    #[test]
    fn any_payload_is_taken(type_index in 0..types::ALL.len(), payloads in vec(vec(any::<u8>(), 0..40), 1..4)) {
        let merged = merged(types::ALL[type_index], &payloads);
        // What came out can go in again.
        Metrics::new().commit(vec![metric(types::ALL[type_index], merged)]);
    }
}
