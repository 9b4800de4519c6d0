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
use crate::grouping::{Groups, KeyGroup, WindowGroup};
use crate::time::Timestamp;

/// Most keys asked about in one bundle.
const KEYS: usize = 1000;

/// See the module.
pub(crate) struct Merger {
    bundles: Bundles,
    answer: ElementCoder,
    asked: Vec<KeyGroup>,
    ready: VecDeque<KeyGroup>,
    exhausted: bool,
}

impl Merger {
    pub(crate) fn new(bundles: Bundles, answer: ElementCoder) -> Merger {
        Merger { bundles, answer, asked: Vec::new(), ready: VecDeque::new(), exhausted: false }
    }

    /// True while an answer is awaited.
    pub(crate) fn busy(&self) -> bool {
        self.bundles.busy()
    }

    /// Asks about the next keys, unless some are still to be taken.
    pub(crate) fn fill(&mut self, groups: &mut Groups) -> io::Result<()> {
        if self.busy() || !self.ready.is_empty() || self.exhausted {
            return Ok(());
        }
        let mut question = BatchBuilder::default();
        while self.asked.len() < KEYS {
            let Some(group) = groups.next()? else {
                self.exhausted = true;
                break;
            };
            question.push(&ask(self.asked.len(), &group.windows), Timestamp::MIN);
            self.asked.push(group);
        }
        if !self.asked.is_empty() {
            self.bundles.start(timely::progress::Timestamp::minimum(), vec![question.finish()]);
        }
        Ok(())
    }

    /// The next key with its windows merged. An error without a value was reported already.
    pub(crate) fn next(&mut self) -> Result<Option<KeyGroup>, Option<ElementError>> {
        while let Some(finished) = self.bundles.poll() {
            let mut asked: Vec<Option<KeyGroup>> = std::mem::take(&mut self.asked).into_iter().map(Some).collect();
            for mut port in finished.done.outputs.into_ports() {
                while let Some(batch) = port.pop().map_err(|error| Some(ElementError::malformed(error.to_string())))? {
                    self.answers(&batch, &mut asked)?;
                }
            }
            if asked.iter().any(Option::is_some) {
                return Err(Some(ElementError::malformed("the SDK did not answer for every key".into())));
            }
        }
        Ok(self.ready.pop_front())
    }

    fn answers(&mut self, batch: &Batch, asked: &mut [Option<KeyGroup>]) -> Result<(), ElementError> {
        for element in batch.elements() {
            let view = self.answer.parse(element)?;
            let (nonce, merges) = self.answer.value.key_value(view.value)?;
            let WireCoder::Kv(_, coder) = &self.answer.value else {
                return Err(ElementError::malformed("the answer is not a KV".into()));
            };
            // The nonce comes back as it was sent: a length of 4 and the index.
            let index = nonce.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            let group = index
                .and_then(|index| asked.get_mut(index as usize)?.take())
                .ok_or_else(|| ElementError::malformed("an answer for no question".into()))?;
            self.ready.push_back(apply(coder, merges, group)?);
        }
        Ok(())
    }
}

/// The question about one key, in the global window.
fn ask(index: usize, windows: &[WindowGroup]) -> Vec<u8> {
    let mut element = Timestamp::MIN.to_wire().to_vec();
    element.extend_from_slice(&[0, 0, 0, 1, 0x0f, 4]);
    element.extend_from_slice(&(index as u32).to_be_bytes());
    element.extend_from_slice(&(windows.len() as u32).to_be_bytes());
    for window in windows {
        element.extend_from_slice(&window.window);
    }
    element
}

/// Applies `KV<Iterable<unmerged>, Iterable<KV<merged, Iterable<consumed>>>>` to a key's windows.
fn apply(coder: &WireCoder, merges: &[u8], group: KeyGroup) -> Result<KeyGroup, ElementError> {
    let WireCoder::Kv(unmerged_coder, merged_coder) = coder else {
        return Err(ElementError::malformed("the answer is not a KV of iterables".into()));
    };
    let (unmerged, merged) = coder.key_value(merges)?;
    let find = |window: &[u8]| {
        group
            .windows
            .iter()
            .find(|candidate| candidate.window == window)
            .ok_or_else(|| ElementError::malformed("the SDK merged a window that it was not asked about".into()))
    };
    let mut windows = Vec::new();
    for window in unmerged_coder.iterate(unmerged)? {
        windows.push(find(window)?.clone());
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
        windows.push(unite(Bytes::copy_from_slice(window), parts.into_iter()));
    }
    Ok(KeyGroup { key: group.key, windows })
}
