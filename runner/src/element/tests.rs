//! Properties of walking, splitting and queueing elements.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use timely::dataflow::channels::ContainerBytes;

use super::*;
use crate::memory::Budget;
use crate::time::Timestamp;
use crate::windowing::WindowCoder;

/// A coder and encodings of values in it.
pub(crate) fn coder() -> impl Strategy<Value = WireCoder> {
    let leaf = prop_oneof![
        4 => Just(WireCoder::Prefixed),
        2 => Just(WireCoder::VarInt),
        1 => Just(WireCoder::Bool),
        1 => Just(WireCoder::Double),
        1 => Just(WireCoder::GlobalWindow),
        1 => Just(WireCoder::IntervalWindow),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(key, value)| WireCoder::Kv(key.into(), value.into())),
            1 => inner.clone().prop_map(|element| WireCoder::Iterable(element.into())),
            1 => inner.clone().prop_map(|element| WireCoder::StateBackedIterable(element.into())),
            1 => inner.clone().prop_map(|value| WireCoder::Nullable(value.into())),
            1 => inner.clone().prop_map(|key| WireCoder::ShardedKey(key.into())),
            1 => inner.prop_map(|window| WireCoder::CustomWindow(window.into())),
        ]
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..200u64, any::<u64>()]
}

fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, value);
    out
}

fn prefixed() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300).prop_map(|bytes| [varint(bytes.len() as u64), bytes].concat())
}

/// Encodings of a coder's values.
pub(crate) fn value(coder: &WireCoder) -> BoxedStrategy<Vec<u8>> {
    match coder {
        WireCoder::Prefixed => prefixed().boxed(),
        WireCoder::Bool => (0..2u8).prop_map(|bool| vec![bool]).boxed(),
        WireCoder::VarInt => number().prop_map(varint).boxed(),
        WireCoder::Double => any::<[u8; 8]>().prop_map(|bytes| bytes.to_vec()).boxed(),
        WireCoder::Kv(key, value_coder) => {
            (value(key), value(value_coder)).prop_map(|(key, value)| [key, value].concat()).boxed()
        }
        WireCoder::Iterable(element) => iterable(element, false),
        WireCoder::StateBackedIterable(element) => iterable(element, true),
        WireCoder::Nullable(inner) => {
            prop_oneof![Just(vec![0]), value(inner).prop_map(|value| [vec![1], value].concat()),].boxed()
        }
        WireCoder::ShardedKey(key) => (prefixed(), value(key)).prop_map(|(id, key)| [id, key].concat()).boxed(),
        WireCoder::GlobalWindow => Just(Vec::new()).boxed(),
        WireCoder::IntervalWindow => {
            (any::<[u8; 8]>(), number()).prop_map(|(end, span)| [end.to_vec(), varint(span)].concat()).boxed()
        }
        WireCoder::CustomWindow(window) => {
            (any::<[u8; 8]>(), value(window)).prop_map(|(end, window)| [end.to_vec(), window].concat()).boxed()
        }
    }
}

fn iterable(element: &WireCoder, state_backed: bool) -> BoxedStrategy<Vec<u8>> {
    let counted = vec(value(element), 0..5)
        .prop_map(|values| [(values.len() as u32).to_be_bytes().to_vec(), values.concat()].concat());
    let token = if state_backed { proptest::option::of(prefixed()).boxed() } else { Just(None).boxed() };
    let chunked = (vec(vec(value(element), 1..4), 0..3), token).prop_map(|(chunks, token)| {
        let mut out = (-1i32).to_be_bytes().to_vec();
        for chunk in chunks {
            put_varint(&mut out, chunk.len() as u64);
            out.extend(chunk.concat());
        }
        match token {
            Some(token) => {
                put_varint(&mut out, u64::MAX);
                out.extend(token);
            }
            None => out.push(0),
        }
        out
    });
    prop_oneof![counted, chunked].boxed()
}

fn window_coder() -> impl Strategy<Value = WindowCoder> {
    prop_oneof![
        2 => Just(WindowCoder::Global),
        1 => Just(WindowCoder::Interval),
        1 => coder().prop_map(|window| WindowCoder::Custom(window.into())),
    ]
}

fn pane() -> impl Strategy<Value = Vec<u8>> {
    let with_metadata = (plain_pane(), vec(any::<u8>(), 0..200)).prop_map(|(mut pane, metadata)| {
        pane[0] |= PANE_METADATA;
        [pane, varint(metadata.len() as u64), metadata].concat()
    });
    prop_oneof![4 => plain_pane(), 1 => with_metadata]
}

fn plain_pane() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(PANE_NO_FIRING.to_vec()),
        Just(PANE_ON_TIME_AND_ONLY.to_vec()),
        (0x10..0x20u8, number()).prop_map(|(flags, index)| [vec![flags], varint(index)].concat()),
        (0x20..0x30u8, number(), number()).prop_map(|(flags, index, speculative)| [
            vec![flags],
            varint(index),
            varint(speculative)
        ]
        .concat()),
    ]
}

#[derive(Clone, Debug)]
struct Element {
    timestamp: Timestamp,
    windows: Vec<Vec<u8>>,
    pane: Vec<u8>,
    value: Vec<u8>,
}

impl Element {
    fn encode(&self) -> Vec<u8> {
        let windows: Vec<&[u8]> = self.windows.iter().map(Vec::as_slice).collect();
        let mut out = Vec::new();
        encode_windowed_value(&mut out, self.timestamp, &windows, &self.pane, &self.value);
        out
    }
}

fn element(coder: &ElementCoder) -> impl Strategy<Value = Element> + use<> {
    let most = if coder.window == WindowCoder::Global { 1 } else { 3 };
    let windows = vec(value(&coder.window.element()), 0..=most);
    (any::<i64>(), windows, pane(), value(&coder.value)).prop_map(|(timestamp, windows, pane, value)| Element {
        timestamp: Timestamp(timestamp),
        windows,
        pane,
        value,
    })
}

fn element_coder() -> impl Strategy<Value = ElementCoder> {
    (coder(), window_coder()).prop_map(|(value, window)| ElementCoder { value, window })
}

fn elements() -> impl Strategy<Value = (ElementCoder, Vec<Element>)> {
    element_coder().prop_flat_map(|coder| {
        let elements = vec(element(&coder), 0..12);
        (Just(coder), elements)
    })
}

/// Cuts bytes at random places; some pieces are empty.
fn cut(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| Bytes::copy_from_slice(&bytes[cut[0]..cut[1]])).collect()
}

proptest! {
    #[test]
    fn skip_finds_the_end_whatever_follows(
        (coder, value) in coder().prop_flat_map(|coder| { let value = value(&coder); (Just(coder), value) }),
        garbage in vec(any::<u8>(), 0..20),
    ) {
        let bytes = [value.clone(), garbage].concat();
        prop_assert_eq!(coder.skip(&bytes), Ok(value.len()));
        for end in 0..value.len() {
            prop_assert_eq!(coder.skip(&value[..end]), Err(ElementError::Incomplete));
        }
    }

    #[test]
    fn a_pair_is_taken_apart(
        (key, value, pair) in (coder(), coder()).prop_flat_map(|(key, other)| {
            let pair = WireCoder::Kv(key.clone().into(), other.clone().into());
            (value(&key), value(&other), Just(pair))
        })
    ) {
        let bytes = [key.clone(), value.clone()].concat();
        prop_assert_eq!(pair.key_value(&bytes), Ok((key.as_slice(), value.as_slice())));
    }

    #[test]
    fn an_iterable_gives_its_elements(
        (coder, values, chunks) in coder().prop_flat_map(|coder| {
            let values = vec(value(&coder), 0..6);
            (Just(coder), values, any::<bool>())
        })
    ) {
        // Without this, elements without bytes outnumber the bytes, which is refused.
        prop_assume!(coder.fixed_length() != Some(0));
        let mut bytes = if chunks { (-1i32).to_be_bytes() } else { (values.len() as i32).to_be_bytes() }.to_vec();
        if chunks && !values.is_empty() {
            put_varint(&mut bytes, values.len() as u64);
        }
        bytes.extend(values.concat());
        if chunks {
            bytes.push(0);
        }
        let elements = WireCoder::Iterable(coder.into()).iterate(&bytes);
        prop_assert_eq!(elements.map(|elements| elements.concat()), Ok(values.concat()));
    }

    #[test]
    fn elements_are_parsed((coder, elements) in elements()) {
        for element in elements {
            let bytes = element.encode();
            prop_assert_eq!(coder.skip(&bytes), Ok(bytes.len()));
            let view = coder.parse(&bytes).unwrap();
            prop_assert_eq!(view.timestamp, element.timestamp);
            prop_assert_eq!(view.windows.len(), element.windows.len());
            prop_assert_eq!(view.windows.map(<[u8]>::to_vec).collect::<Vec<_>>(), element.windows);
            prop_assert_eq!(view.pane, &element.pane);
            prop_assert_eq!(view.value, &element.value);
        }
    }

    #[test]
    fn splitter_finds_every_border((coder, elements) in elements(), cuts in vec(any::<usize>(), 0..20)) {
        let encoded: Vec<Vec<u8>> = elements.iter().map(Element::encode).collect();
        let mut splitter = Splitter::new(coder);
        let mut batches = Vec::new();
        for chunk in cut(&encoded.concat(), &cuts) {
            batches.extend(splitter.push(chunk).unwrap());
        }
        batches.extend(splitter.finish().unwrap());
        let found: Vec<Vec<u8>> = batches.iter().flat_map(Batch::elements).map(<[u8]>::to_vec).collect();
        prop_assert_eq!(found, encoded);
        let mut rest = elements.iter();
        for batch in batches {
            prop_assert!(!batch.is_empty());
            let least = rest.by_ref().take(batch.len()).map(|element| element.timestamp).min();
            prop_assert_eq!(Some(batch.min_timestamp()), least);
        }
    }

    #[test]
    fn a_stream_that_ends_inside_an_element_is_incomplete((coder, elements) in elements(), at in any::<usize>()) {
        let encoded: Vec<Vec<u8>> = elements.iter().map(Element::encode).collect();
        let mut whole: Vec<usize> = vec![0];
        whole.extend(encoded.iter().scan(0, |end, element| { *end += element.len(); Some(*end) }));
        let bytes = encoded.concat();
        let at = at % (bytes.len() + 1);
        let mut splitter = Splitter::new(coder);
        let pushed = splitter.push(Bytes::copy_from_slice(&bytes[..at])).unwrap();
        let finished = splitter.finish();
        if whole.contains(&at) {
            let elements = pushed.map_or(0, |batch| batch.len()) + finished.unwrap().map_or(0, |batch| batch.len());
            prop_assert_eq!(Some(elements), whole.iter().position(|end| *end == at));
        } else {
            prop_assert_eq!(finished, Err(ElementError::Incomplete));
        }
    }

    #[test]
    fn hostile_bytes_never_panic(
        coder in element_coder(),
        bytes in vec(prop_oneof![any::<u8>(), Just(0xff), Just(0), Just(0x7f)], 0..200),
        cuts in vec(any::<usize>(), 0..5),
    ) {
        let _ = coder.value.skip(&bytes);
        let _ = coder.value.key_value(&bytes);
        let _ = coder.value.iterate(&bytes);
        let _ = coder.skip(&bytes);
        let _ = coder.window.skip(&bytes);
        let _ = coder.window.max_timestamp(&bytes);
        if let Ok(view) = coder.parse(&bytes) {
            prop_assert!(view.windows.count() <= bytes.len());
        }
        let mut splitter = Splitter::new(coder.clone());
        let mut found = 0;
        for chunk in cut(&bytes, &cuts) {
            match splitter.push(chunk) {
                Ok(batch) => found += batch.map_or(0, |batch| batch.data().len()),
                Err(_) => return Ok(()),
            }
        }
        found += splitter.finish().ok().flatten().map_or(0, |batch| batch.data().len());
        prop_assert!(found <= bytes.len());
    }

    #[test]
    fn damaged_elements_never_panic(
        (coder, elements) in elements(), at in any::<usize>(), with in any::<u8>()
    ) {
        let mut bytes: Vec<u8> = elements.iter().flat_map(|element| element.encode()).collect();
        prop_assume!(!bytes.is_empty());
        let at = at % bytes.len();
        bytes[at] = with;
        let mut splitter = Splitter::new(coder.clone());
        if let Ok(Some(batch)) = splitter.push(bytes.into()) {
            for element in batch.elements() {
                let view = coder.parse(element);
                prop_assert!(view.is_ok(), "a border was found and the element does not parse: {:?}", view);
            }
        }
        let _ = splitter.finish();
    }

    #[test]
    fn spill_queue_keeps_order_and_content(
        // 0 takes a batch away, others add one of that size.
        steps in vec(prop_oneof![2 => Just(0), 3 => 1..200usize, 1 => 2000..5000usize], 0..120),
        limit in 0..20_000usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::with_floor(limit, 1000, folder.path());
        let mut queue = SpillQueue::new(&budget);
        let mut model = VecDeque::new();
        for (index, size) in steps.into_iter().enumerate() {
            if size == 0 {
                prop_assert_eq!(queue.pop().unwrap(), model.pop_front());
            } else {
                let batch = batch(index, size);
                queue.push(batch.clone()).unwrap();
                model.push_back(batch);
            }
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            prop_assert_eq!(queue.elements(), model.iter().map(Batch::len).sum::<usize>());
            prop_assert_eq!(queue.bytes(), model.iter().map(|batch| batch.data().len()).sum::<usize>());
            prop_assert!(budget.used() <= limit.max(1000));
        }
        while let Some(batch) = queue.pop().unwrap() {
            prop_assert_eq!(Some(batch), model.pop_front());
        }
        prop_assert!(model.is_empty());
        prop_assert_eq!(budget.used(), 0);
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_batch_crosses_processes_unchanged(sizes in vec(0..50usize, 0..20), target in 0..9usize) {
        let mut builder = BatchBuilder::new();
        for (index, size) in sizes.iter().enumerate() {
            builder.push(&vec![index as u8; *size], Timestamp(100 - index as i64));
        }
        let batch = builder.finish().to(target);
        let mut bytes = Vec::new();
        batch.into_bytes(&mut bytes);
        prop_assert_eq!(bytes.len(), batch.length_in_bytes());
        let arrived = Batch::from_bytes(timely::bytes::arc::BytesMut::from(bytes).freeze());
        prop_assert_eq!(arrived.elements().collect::<Vec<_>>(), batch.elements().collect::<Vec<_>>());
        prop_assert_eq!(arrived, batch);
    }

    #[test]
    fn split_off_splits(sizes in vec(0..50usize, 0..20), at in 0..25usize) {
        let mut builder = BatchBuilder::new();
        let elements: Vec<Vec<u8>> = sizes.iter().zip(0..).map(|(size, index)| vec![index; *size]).collect();
        elements.iter().for_each(|element| builder.push(element, Timestamp(0)));
        let mut head = builder.finish();
        let tail = head.split_off(at);
        let at = at.min(elements.len());
        prop_assert_eq!(head.elements().collect::<Vec<_>>(), &elements[..at]);
        prop_assert_eq!(tail.elements().collect::<Vec<_>>(), &elements[at..]);
    }
}

/// A batch of a few elements that differ from those of other numbers.
fn batch(number: usize, size: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    for part in 0..=size % 4 {
        let element: Vec<u8> = (0..size / 4 + part).map(|at| (number * 31 + at) as u8).collect();
        builder.push(&element, Timestamp(number as i64 - part as i64));
    }
    builder.finish().to(number % 5)
}

#[test]
fn an_element_of_many_chunks_is_found_without_walking_it_for_each() {
    // An iterable of a million small values gives no hint of its length: a walk for each chunk would be quadratic, and
    // this test would take minutes.
    let value = [(1u32 << 20).to_be_bytes().to_vec(), vec![0; 1 << 20]].concat();
    let mut element = Vec::new();
    encode_windowed_value(&mut element, Timestamp(7), &[b""], PANE_NO_FIRING, &value);
    let coder = ElementCoder::new(WireCoder::Iterable(WireCoder::Prefixed.into()), WindowCoder::Global);
    let mut splitter = Splitter::new(coder);
    let mut found = Vec::new();
    for chunk in element.chunks(64).chain(element.chunks(64)) {
        found.extend(splitter.push(Bytes::copy_from_slice(chunk)).unwrap());
    }
    found.extend(splitter.finish().unwrap());
    let found: Vec<&[u8]> = found.iter().flat_map(Batch::elements).collect();
    assert_eq!(found, [&element, &element]);
}

#[test]
fn a_count_of_values_without_bytes_takes_no_time() {
    let coder = WireCoder::Iterable(WireCoder::GlobalWindow.into());
    assert_eq!(coder.skip(&i32::MAX.to_be_bytes()), Ok(4));
    let chunked =
        WireCoder::Iterable(WireCoder::Kv(WireCoder::GlobalWindow.into(), WireCoder::GlobalWindow.into()).into());
    let mut bytes = (-1i32).to_be_bytes().to_vec();
    put_varint(&mut bytes, i64::MAX as u64);
    bytes.push(0);
    assert_eq!(chunked.skip(&bytes), Ok(bytes.len()));
    // The same count of windows would be walked by whoever takes the element apart: refused.
    let element = ElementCoder::new(WireCoder::Bool, WindowCoder::Global);
    let mut bytes = Timestamp(0).to_wire().to_vec();
    bytes.extend(u32::MAX.to_be_bytes());
    bytes.extend([0x0f, 1]);
    assert!(matches!(element.skip(&bytes), Err(ElementError::Malformed(_))));
}

#[test]
fn a_coder_nested_too_deeply_is_refused() {
    let deep = |levels: usize| (0..levels).fold(WireCoder::Bool, |coder, _| WireCoder::Nullable(coder.into()));
    assert_eq!(deep(MAX_DEPTH - 1).skip(&[1; MAX_DEPTH]), Ok(MAX_DEPTH));
    assert!(matches!(deep(MAX_DEPTH).skip(&[1; MAX_DEPTH + 1]), Err(ElementError::Malformed(_))));
    let depth = 10_000;
    let deep = deep(depth);
    assert!(matches!(deep.skip(&vec![1; depth + 1]), Err(ElementError::Malformed(_))));
    assert_eq!(deep.fixed_length(), None);
}

#[test]
fn lengths_that_no_sdk_writes_are_refused() {
    for bytes in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff; 10], &[0x80; 11]] {
        assert!(matches!(WireCoder::Prefixed.skip(bytes), Err(ElementError::Malformed(_))), "{bytes:?}");
    }
    assert!(matches!(
        WireCoder::Iterable(WireCoder::Bool.into()).skip(&[0x80, 0, 0, 0]),
        Err(ElementError::Malformed(_))
    ));
    assert!(matches!(WireCoder::Bool.skip(&[2]), Err(ElementError::Malformed(_))));
    assert!(matches!(WireCoder::Nullable(WireCoder::Bool.into()).skip(&[2]), Err(ElementError::Malformed(_))));
}

#[test]
fn outputs_beyond_the_limit_of_a_bundle_go_to_disk() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::new(usize::MAX, folder.path());
    let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Global);
    let mut outputs = Outputs::new(vec![coder.clone(), coder], &budget);
    let mut element = Vec::new();
    let value = [varint(1 << 20), vec![3; 1 << 20]].concat();
    encode_windowed_value(&mut element, Timestamp(7), &[b""], PANE_NO_FIRING, &value);
    let element = Bytes::from(element);
    for index in 0..100 {
        outputs.push(index % 2, element.slice(..1000)).unwrap();
        outputs.push(index % 2, element.slice(1000..)).unwrap();
        assert!(budget.used() <= MEMORY_LIMIT + (1 << 20), "{} bytes after {index}", budget.used());
    }
    outputs.finish().unwrap();
    assert!(budget.used() > MEMORY_LIMIT / 2);
    assert_eq!((outputs.elements(0), outputs.elements(1)), (50, 50));
    for mut port in outputs.into_ports() {
        let mut elements = 0;
        while let Some(batch) = port.pop().unwrap() {
            assert!(batch.elements().all(|found| found == element));
            elements += batch.len();
        }
        assert_eq!(elements, 50);
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn outputs_name_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::new(0, folder.path());
    let outputs = || Outputs::new(vec![ElementCoder::new(WireCoder::Bool, WindowCoder::Global)], &budget);
    let mut element = Vec::new();
    encode_windowed_value(&mut element, Timestamp(7), &[b""], PANE_NO_FIRING, &[1]);
    let whole = Bytes::from(element);

    let mut unknown = outputs();
    assert_eq!(unknown.push(1, whole.clone()).unwrap_err().to_string(), "output 1 of a stage with 1 outputs");

    let mut short = outputs();
    short.push(0, whole.clone()).unwrap();
    short.push(0, whole.slice(..5)).unwrap();
    let error = short.finish().unwrap_err().to_string();
    assert_eq!(error, "output 0, after 1 elements (14 bytes): the bytes end inside an element");

    let mut wrong = outputs();
    let mut bytes = whole.to_vec();
    bytes[13] = 9;
    let error = wrong.push(0, bytes.into()).unwrap_err().to_string();
    assert_eq!(error, "output 0, after 0 elements (0 bytes): malformed element: a boolean that is neither 0 nor 1");
}

#[test]
fn a_queue_that_cannot_spill_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let mut queue = SpillQueue::new(&Budget::with_floor(0, 0, &missing));
    let error = queue.push(batch(1, 100)).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
}
