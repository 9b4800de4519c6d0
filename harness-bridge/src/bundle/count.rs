//! Counting the values of a multimap at the harness that asks for its entries.
//!
//! Entries are answered as each key with an iterable of its values, which begins with their number; where the runner
//! cannot tell where a value ends, the plan has a stage for it (`StateCell::entries`). The harness runs a bundle of that
//! stage while the bundle that asked waits for the answer. So nothing on this way may wait for the other: the bundle is
//! sent to the harness without a lease, its input within the control message where the harness takes it there, and its
//! state requests, one for each entry, are answered from memory and wait behind no other ([`Exchange::at_once`]).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ferrobeam_proto::fn_execution::elements::Data;
use ferrobeam_proto::fn_execution::instruction_request::Request;
use ferrobeam_proto::fn_execution::instruction_response::Response;
use ferrobeam_proto::fn_execution::{Elements, ProcessBundleRequest};
use ferrobeam_runner::element::{
    ElementCoder, Outputs, PANE_NO_FIRING, WireCoder, encode_windowed_header, get_varint, put_varint,
};
use ferrobeam_runner::executor::{StateError, StateKey, StatePage, StateServer, UncountedEntry, UncountedPage};
use ferrobeam_runner::memory::Budget;
use ferrobeam_runner::time::Timestamp;
use ferrobeam_runner::windowing::WindowCoder;

use super::Exchange;
use crate::environment::UserStateCache;
use crate::harness::Harness;
use crate::shared::Shared;
use crate::stage::Stage;

/// Bytes of answers that are kept in memory; the rest is on disk until they are put together.
const MEMORY: usize = 16 << 20;

/// Makes a page of entries out of one whose values are not counted, by the stage for it.
pub(crate) async fn entries(
    shared: &Shared,
    harness: &Arc<Harness>,
    stage: &Arc<Stage>,
    page: UncountedPage,
) -> Result<StatePage, StateError> {
    if page.entries.is_empty() {
        return Ok(StatePage { data: Bytes::new(), continuation: page.continuation });
    }
    let failed = |why: String| StateError::Unsupported(format!("{harness} was to {}: {why}", stage.name));
    let values = Values(page.entries.iter().map(|entry| stream(&entry.values)).collect());
    let coder = answer();
    let outputs = Outputs::new(vec![coder.clone()], &Budget::new(MEMORY, shared.config.work_dir.clone()));
    let exchange = Exchange::at_once(stage.clone(), Arc::new(values), outputs, UserStateCache::default());
    let bundle =
        Counting { harness: harness.clone(), instruction: harness.next_instruction(), exchange: Arc::new(exchange) };
    let outputs = bundle.run(questions(page.entries.len())).await.map_err(failed)?;
    let mut counted = vec![None; page.entries.len()];
    for mut port in outputs.into_ports() {
        while let Some(batch) = port.pop().map_err(|error| StateError::Storage(error.to_string()))? {
            for element in batch.elements() {
                let (index, values) = read(&coder, element).map_err(failed)?;
                let place = counted.get_mut(index).filter(|place| place.is_none());
                *place.ok_or_else(|| failed("it answered what it was not asked".into()))? = Some(values);
            }
        }
    }
    let mut data = BytesMut::new();
    for (UncountedEntry { key, .. }, values) in page.entries.iter().zip(counted) {
        data.put_slice(key);
        data.put_slice(&values.ok_or_else(|| failed("it did not answer everything".into()))?);
    }
    Ok(StatePage { data: data.freeze(), continuation: page.continuation })
}

/// Values as a harness reads them, for whom one without bytes is a byte.
fn stream(values: &Bytes) -> Bytes {
    if values.is_empty() { Bytes::from_static(&[0]) } else { values.clone() }
}

/// A bundle of a stage that counts.
struct Counting {
    harness: Arc<Harness>,
    instruction: String,
    exchange: Arc<Exchange>,
}

impl Counting {
    async fn run(&self, input: Bytes) -> Result<Outputs, String> {
        let stage = &self.exchange.stage;
        let data = |data, is_last| {
            let (instruction_id, transform_id) = (self.instruction.clone(), stage.input.clone());
            Data { instruction_id, transform_id, data, is_last }
        };
        let input = Elements { data: vec![data(input, false), data(Bytes::new(), true)], timers: Vec::new() };
        let (embedded, sent) =
            if self.harness.takes_embedded_elements { (Some(input), None) } else { (None, Some(input)) };
        self.harness.open(self.instruction.clone(), self.exchange.clone());
        let request = ProcessBundleRequest {
            process_bundle_descriptor_id: stage.descriptor_id.clone(),
            elements: embedded,
            ..Default::default()
        };
        let response = self.harness.instruct(self.instruction.clone(), Request::ProcessBundle(request));
        let send = async {
            match sent {
                Some(input) => {
                    self.harness.data().await.send(input).await.map_err(|_| "its data stream ended".to_owned())
                }
                None => Ok(()),
            }
        };
        let finished = async {
            // It may fail before it has its input.
            tokio::pin!(send, response);
            let mut sending = true;
            let response = loop {
                tokio::select! {
                    response = &mut response => break response.map_err(|_| "it is over".to_owned())?,
                    sent = &mut send, if sending => {
                        sent?;
                        sending = false;
                    }
                }
            };
            if !response.error.is_empty() {
                return Err(response.error);
            }
            match response.response {
                Some(Response::ProcessBundle(response)) => {
                    if let Some(elements) = response.elements {
                        self.exchange.accept_embedded(elements);
                    }
                }
                _ => return Err("it answered with something else".to_owned()),
            }
            self.exchange.outputs().await.map(|(outputs, _)| outputs).map_err(|failure| failure.message)
        };
        tokio::select! {
            outputs = finished => outputs,
            failure = self.exchange.failed() => Err(failure.message),
            reason = self.harness.over() => Err(reason.to_string()),
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.harness.forget(&self.instruction);
    }
}

/// Serves the values of each entry under its number.
struct Values(Vec<Bytes>);

impl StateServer for Values {
    fn get(&self, key: &StateKey, _: &[u8]) -> Result<StatePage, StateError> {
        let index = match key {
            StateKey::Runner { key } => key[..].try_into().ok().map(u32::from_be_bytes),
            _ => None,
        };
        let data = index.and_then(|index| self.0.get(index as usize)).cloned();
        let data = data.ok_or_else(|| StateError::Unknown(format!("{key:?} while values are counted")))?;
        Ok(StatePage { data, continuation: Bytes::new() })
    }

    fn append(&self, key: &StateKey, _: Bytes) -> Result<(), StateError> {
        Err(StateError::Unsupported(format!("{key:?} cannot be appended to")))
    }

    fn clear(&self, key: &StateKey) -> Result<(), StateError> {
        Err(StateError::Unsupported(format!("{key:?} cannot be cleared")))
    }
}

/// The elements that ask for each of so many entries: `KV<nonce, iterable>`, the iterable by reference.
fn questions(entries: usize) -> Bytes {
    let mut input = Vec::new();
    for index in 0..entries as u32 {
        let (length, index) = (4, index.to_be_bytes());
        encode_windowed_header(&mut input, Timestamp::MIN, &[&[]], PANE_NO_FIRING);
        input.push(length);
        input.extend_from_slice(&index);
        // Of unknown length, no value in place, and where the values are.
        input.extend_from_slice(&(-1i32).to_be_bytes());
        put_varint(&mut input, -1i64 as u64);
        input.push(length);
        input.extend_from_slice(&index);
    }
    input.into()
}

/// How the answers are encoded: `KV<nonce, iterable behind its length>`.
fn answer() -> ElementCoder {
    let pair = WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::Prefixed));
    ElementCoder::new(pair, WindowCoder::Global)
}

/// The number of an entry, and the iterable of its values.
fn read(coder: &ElementCoder, element: &[u8]) -> Result<(usize, Bytes), String> {
    let text = |error: ferrobeam_runner::element::ElementError| error.to_string();
    let (nonce, values) = coder.value.key_value(coder.parse(element).map_err(text)?.value).map_err(text)?;
    let index = nonce.get(1..).and_then(|nonce| nonce.try_into().ok()).map(u32::from_be_bytes);
    let index = index.ok_or_else(|| "it answered what it was not asked".to_owned())?;
    let (_, prefix) = get_varint(values).map_err(text)?;
    Ok((index as usize, Bytes::copy_from_slice(&values[prefix..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_elements_with_iterables_by_reference() {
        let by_reference = WireCoder::StateBackedIterable(Box::new(WireCoder::Prefixed));
        let pair = WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(by_reference));
        let coder = ElementCoder::new(pair, WindowCoder::Global);
        let input = questions(300);
        let (mut at, mut count) = (0, 0u32);
        while at < input.len() {
            let end = at + coder.skip(&input[at..]).unwrap();
            let value = coder.parse(&input[at..end]).unwrap().value;
            let (nonce, iterable) = coder.value.key_value(value).unwrap();
            let index = [&[4][..], &count.to_be_bytes()].concat();
            assert_eq!(nonce, index);
            assert!(iterable.ends_with(&index));
            (at, count) = (end, count + 1);
        }
        assert_eq!(count, 300);
    }

    #[test]
    fn answers_that_were_not_asked_for_are_refused() {
        let coder = answer();
        let element = |value: &[u8]| {
            let mut element = Vec::new();
            encode_windowed_header(&mut element, Timestamp::MIN, &[&[]], PANE_NO_FIRING);
            element.extend_from_slice(value);
            element
        };
        let good = element(&[4, 0, 0, 1, 2, 3, 7, 8, 9]);
        assert_eq!(read(&coder, &good).unwrap(), (258, Bytes::from_static(&[7, 8, 9])));
        assert!(read(&coder, &element(&[3, 0, 0, 1, 3, 7, 8, 9])).is_err());
        assert!(read(&coder, &element(&[4, 0, 0])).is_err());
    }
}
