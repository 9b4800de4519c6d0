//! Custom merging windows: asks the SDK which windows of a key become one.
//!
//! Keys are asked about in bundles of the planner's merge stage (`beam:transform:merge_windows:v1`), each as
//! `KV<nonce, Iterable<window>>`; the answer names the windows that stay and those that were merged into a new one.
//! Keys of a single window are asked about too: a window function may move even that one.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use super::bundles::Bundles;
use super::group::unite;
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementError, WireCoder};
use crate::grouping::{Groups, KeyGroup};
use crate::time::{Moment, Timestamp};

/// Most keys of a bounded grouping asked about in one bundle.
const KEYS: usize = 1000;

/// What becomes of the windows of a key: those that are left, each with the indices of what it was made of.
pub(crate) type Merged = Vec<(Bytes, Vec<usize>)>;

/// Asks the SDK, about some keys at a time.
pub(crate) struct WindowMerges {
    bundles: Bundles,
    answer: ElementCoder,
    /// The windows of each key that was asked about.
    asked: Vec<Vec<Bytes>>,
}

impl WindowMerges {
    pub(crate) fn new(bundles: Bundles, answer: ElementCoder) -> WindowMerges {
        WindowMerges { bundles, answer, asked: Vec::new() }
    }

    /// True while an answer is awaited, and for ever after a failure, which was reported.
    pub(crate) fn busy(&self) -> bool {
        self.bundles.busy()
    }

    /// Asks about the windows of each of some keys. Only while nothing is awaited.
    pub(crate) fn ask(&mut self, moment: Moment, keys: Vec<Vec<Bytes>>) {
        let mut question = BatchBuilder::default();
        for (index, windows) in keys.iter().enumerate() {
            question.push(&encode_question(index, windows), Timestamp::MIN);
        }
        self.asked = keys;
        self.bundles.start(moment, vec![question.finish()]);
    }

    /// The answers, in the order of the keys, once they are there. An error without a value was reported already.
    pub(crate) fn poll(&mut self) -> Result<Option<Vec<Merged>>, Option<ElementError>> {
        let Some(finished) = self.bundles.poll() else {
            return if self.bundles.failed() { Err(None) } else { Ok(None) };
        };
        let mut merged: Vec<Option<Merged>> = vec![None; self.asked.len()];
        for mut port in finished.done.outputs.into_ports() {
            while let Some(batch) = port.pop().map_err(|error| Some(ElementError::malformed(error.to_string())))? {
                self.answers(&batch, &mut merged)?;
            }
        }
        self.asked.clear();
        let all: Option<Vec<Merged>> = merged.into_iter().collect();
        all.map(Some).ok_or_else(|| Some(ElementError::malformed("the SDK did not answer for every key".into())))
    }

    fn answers(&self, batch: &Batch, merged: &mut [Option<Merged>]) -> Result<(), ElementError> {
        for element in batch.elements() {
            let view = self.answer.parse(element)?;
            let (nonce, merges) = self.answer.value.key_value(view.value)?;
            let WireCoder::Kv(_, coder) = &self.answer.value else {
                return Err(ElementError::malformed("the answer is not a KV".into()));
            };
            // The nonce comes back as it was sent: a length of 4 and the index.
            let index = nonce.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            let (windows, place) = index
                .and_then(|index| Some((self.asked.get(index as usize)?, merged.get_mut(index as usize)?)))
                .filter(|(_, place)| place.is_none())
                .ok_or_else(|| ElementError::malformed("an answer for no question".into()))?;
            *place = Some(read_answer(coder, merges, windows)?);
        }
        Ok(())
    }
}

/// Merges the windows of the groups of a bounded grouping.
pub(crate) struct Merger {
    merges: WindowMerges,
    asked: Vec<KeyGroup>,
    ready: VecDeque<KeyGroup>,
    exhausted: bool,
}

impl Merger {
    pub(crate) fn new(merges: WindowMerges) -> Merger {
        Merger { merges, asked: Vec::new(), ready: VecDeque::new(), exhausted: false }
    }

    /// True while an answer is awaited.
    pub(crate) fn busy(&self) -> bool {
        self.merges.busy()
    }

    /// Asks about the next keys, unless some are still to be taken.
    pub(crate) fn fill(&mut self, groups: &mut Groups) -> io::Result<()> {
        if self.busy() || !self.ready.is_empty() || self.exhausted {
            return Ok(());
        }
        while self.asked.len() < KEYS {
            let Some(group) = groups.next()? else {
                self.exhausted = true;
                break;
            };
            self.asked.push(group);
        }
        if !self.asked.is_empty() {
            let windows = |group: &KeyGroup| group.windows.iter().map(|group| group.window.clone()).collect();
            let keys = self.asked.iter().map(windows).collect();
            self.merges.ask(timely::progress::Timestamp::minimum(), keys);
        }
        Ok(())
    }

    /// The next key with its windows merged. An error without a value was reported already.
    pub(crate) fn next(&mut self) -> Result<Option<KeyGroup>, Option<ElementError>> {
        if !self.asked.is_empty()
            && let Some(answers) = self.merges.poll()?
        {
            for (group, merged) in std::mem::take(&mut self.asked).into_iter().zip(answers) {
                let parts =
                    |members: Vec<usize>| members.into_iter().map(|member| &group.windows[member]).collect::<Vec<_>>();
                let windows = merged.into_iter().map(|(window, members)| unite(window, parts(members).into_iter()));
                self.ready.push_back(KeyGroup { key: group.key.clone(), windows: windows.collect() });
            }
        }
        Ok(self.ready.pop_front())
    }
}

/// The question about one key, in the global window.
fn encode_question(index: usize, windows: &[Bytes]) -> Vec<u8> {
    let mut element = Timestamp::MIN.to_wire().to_vec();
    element.extend_from_slice(&[0, 0, 0, 1, 0x0f, 4]);
    element.extend_from_slice(&(index as u32).to_be_bytes());
    element.extend_from_slice(&(windows.len() as u32).to_be_bytes());
    for window in windows {
        element.extend_from_slice(window);
    }
    element
}

/// Reads `KV<Iterable<unmerged>, Iterable<KV<merged, Iterable<consumed>>>>`, the answer about a key's windows.
fn read_answer(coder: &WireCoder, merges: &[u8], windows: &[Bytes]) -> Result<Merged, ElementError> {
    let WireCoder::Kv(unmerged_coder, merged_coder) = coder else {
        return Err(ElementError::malformed("the answer is not a KV of iterables".into()));
    };
    let (unmerged, merged) = coder.key_value(merges)?;
    let find = |window: &[u8]| {
        windows
            .iter()
            .position(|candidate| candidate == window)
            .ok_or_else(|| ElementError::malformed("the SDK merged a window that it was not asked about".into()))
    };
    let mut left = Merged::new();
    for window in unmerged_coder.iterate(unmerged)? {
        left.push((Bytes::copy_from_slice(window), vec![find(window)?]));
    }
    let WireCoder::Iterable(pair) = &**merged_coder else {
        return Err(ElementError::malformed("the merged windows are not an iterable".into()));
    };
    let WireCoder::Kv(_, consumed_coder) = &**pair else {
        return Err(ElementError::malformed("a merged window is not a KV".into()));
    };
    for entry in merged_coder.iterate(merged)? {
        let (window, consumed) = pair.key_value(entry)?;
        let parts = consumed_coder.iterate(consumed)?.into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
        left.push((Bytes::copy_from_slice(window), parts));
    }
    Ok(left)
}
