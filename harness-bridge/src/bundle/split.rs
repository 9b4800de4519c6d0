//! Splits of a running bundle: what it was asked to hand back, and what of its input it therefore did not process.
//!
//! A bundle is not asked in its first moments: one that hands back everything before it did anything makes no progress.
//! At most one question is on its way. An answer may come after the bundle's response, because harnesses answer from
//! several threads, and it is waited for: it may say that the bundle left something out. A harness that cannot split
//! answers with nothing, or with an error; neither means more than that.

use bytes::Bytes;
use ferrobeam_proto::fn_execution::instruction_request::Request;
use ferrobeam_proto::fn_execution::instruction_response::Response;
use ferrobeam_proto::fn_execution::process_bundle_split_request::DesiredSplit;
use ferrobeam_proto::fn_execution::{
    DelayedBundleApplication, InstructionResponse, ProcessBundleSplitRequest, ProcessBundleSplitResponse,
};
use ferrobeam_runner::element::Batch;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};

use crate::harness::Harness;
use crate::stage::Stage;

/// How long a bundle is left alone at first.
const HEAD_START: Duration = Duration::from_millis(20);

/// A wish of the bundle's caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// How much of the remaining work the bundle should keep.
    pub(super) fraction: f64,
    /// How many elements were pushed so far.
    pub(super) pushed: u64,
}

/// The splits of one bundle.
pub(super) struct Splits {
    wishes: mpsc::UnboundedReceiver<Wish>,
    /// When the bundle may be asked first.
    not_before: Instant,
    /// What is to be asked.
    wish: Option<Wish>,
    answer: Option<oneshot::Receiver<InstructionResponse>>,
    /// The first element of the input that the bundle does not process.
    cut: Option<u64>,
    /// What it handed back of elements that it began.
    roots: Vec<DelayedBundleApplication>,
}

impl Splits {
    pub(super) fn new(wishes: mpsc::UnboundedReceiver<Wish>) -> Splits {
        Splits { wishes, not_before: Instant::now(), wish: None, answer: None, cut: None, roots: Vec::new() }
    }

    /// The harness was asked to process the bundle.
    pub(super) fn begin(&mut self) {
        self.not_before = Instant::now() + HEAD_START;
    }

    /// Asks as it is wished. Returns what the harness said if that was nonsense, and never otherwise. May be dropped and
    /// called again.
    pub(super) async fn run(&mut self, harness: &Harness, instruction: &str, stage: &Stage) -> String {
        loop {
            if let Err(nonsense) = self.take_answer(stage).await {
                return nonsense;
            }
            if self.wish.is_none() {
                self.wish = self.wishes.recv().await;
                if self.wish.is_none() {
                    // The end of the bundle is told elsewhere.
                    return std::future::pending().await;
                }
            }
            tokio::time::sleep_until(self.not_before).await;
            while let Ok(later) = self.wishes.try_recv() {
                self.wish = Some(later);
            }
            let Some(wish) = self.wish.take() else { continue };
            let desired = DesiredSplit {
                fraction_of_remainder: wish.fraction.clamp(0.0, 1.0),
                allowed_split_points: Vec::new(),
                estimated_input_elements: i64::try_from(wish.pushed).unwrap_or(i64::MAX),
            };
            let request = ProcessBundleSplitRequest {
                instruction_id: instruction.to_owned(),
                desired_splits: [(stage.input.clone(), desired)].into(),
            };
            self.answer = Some(harness.instruct(harness.next_instruction(), Request::ProcessBundleSplit(request)));
        }
    }

    /// Waits for the answer that is still on its way, if one is. Nothing comes of a harness that is over.
    pub(super) async fn take_answer(&mut self, stage: &Stage) -> Result<(), String> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let response = answer.await;
        self.answer = None;
        match response {
            Ok(response) if !response.error.is_empty() => {
                tracing::debug!(stage = stage.name, error = response.error, "a bundle could not be split");
                Ok(())
            }
            Ok(InstructionResponse { response: Some(Response::ProcessBundleSplit(split)), .. }) => {
                self.take_split(split, stage)
            }
            Ok(_) => Err("was asked to split and answered with something else".into()),
            Err(_) => std::future::pending().await,
        }
    }

    fn take_split(&mut self, split: ProcessBundleSplitResponse, stage: &Stage) -> Result<(), String> {
        for channel in split.channel_splits {
            // Java leaves the name out.
            if !channel.transform_id.is_empty() && channel.transform_id != stage.input {
                return Err(format!("was split at {:?}, which is not its source", channel.transform_id));
            }
            let first = u64::try_from(channel.first_residual_element)
                .map_err(|_| format!("was split before element {}", channel.first_residual_element))?;
            self.cut = Some(self.cut.map_or(first, |cut| cut.min(first)));
        }
        self.roots.extend(split.residual_roots);
        Ok(())
    }

    /// Takes what the bundle gave back: of elements that it began, and whole elements of `input`, which is all that was
    /// pushed.
    pub(super) fn residuals(&mut self, input: &[Batch]) -> (Vec<DelayedBundleApplication>, Vec<Bytes>) {
        (std::mem::take(&mut self.roots), self.cut.take().map_or_else(Vec::new, |cut| elements_from(input, cut)))
    }
}

/// Every element from number `first` on, sharing the batches' bytes.
fn elements_from(batches: &[Batch], first: u64) -> Vec<Bytes> {
    let mut skip = usize::try_from(first).unwrap_or(usize::MAX);
    let mut elements = Vec::new();
    for batch in batches {
        if skip >= batch.len() {
            skip -= batch.len();
            continue;
        }
        let mut start = if skip == 0 { 0 } else { batch.ends()[skip - 1] as usize };
        for end in batch.ends()[skip..].iter().map(|end| *end as usize) {
            elements.push(batch.data().slice(start..end));
            start = end;
        }
        skip = 0;
    }
    elements
}

#[cfg(test)]
mod tests {
    use ferrobeam_proto::fn_execution::process_bundle_split_response::ChannelSplit;
    use ferrobeam_runner::time::Timestamp;

    use super::*;

    fn batch(elements: &[&[u8]]) -> Batch {
        let ends: Vec<u32> = elements
            .iter()
            .scan(0, |end, element| {
                *end += element.len() as u32;
                Some(*end)
            })
            .collect();
        Batch::new(elements.concat().into(), ends, Timestamp::MIN)
    }

    #[test]
    fn what_lies_behind_the_cut_comes_back_whole() {
        let batches = [batch(&[b"a", b"bb"]), batch(&[]), batch(&[b"ccc"]), batch(&[b"d", b"ee"])];
        let all: [&[u8]; 5] = [b"a", b"bb", b"ccc", b"d", b"ee"];
        for cut in 0..=5 {
            assert_eq!(elements_from(&batches, cut as u64), &all[cut..]);
        }
        assert!(elements_from(&batches, u64::MAX).is_empty());
    }

    fn split(first: i64, transform: &str) -> ProcessBundleSplitResponse {
        let channel = ChannelSplit {
            transform_id: transform.into(),
            last_primary_element: first - 1,
            first_residual_element: first,
        };
        ProcessBundleSplitResponse { channel_splits: vec![channel], ..Default::default() }
    }

    #[test]
    fn the_cut_only_moves_to_the_front() {
        let stage = crate::tests::stage(vec![]);
        let mut splits = Splits::new(mpsc::unbounded_channel().1);
        assert_eq!(splits.take_split(ProcessBundleSplitResponse::default(), &stage), Ok(()));
        assert_eq!(splits.cut, None);
        for (first, expected) in [(7, 7), (3, 3), (5, 3)] {
            assert_eq!(splits.take_split(split(first, "source"), &stage), Ok(()));
            assert_eq!(splits.cut, Some(expected));
        }
        assert_eq!(splits.take_split(split(2, ""), &stage), Ok(()));
        assert_eq!(splits.cut, Some(2));
        assert!(splits.take_split(split(1, "elsewhere"), &stage).is_err());
        assert!(splits.take_split(split(-1, "source"), &stage).is_err());
        let (roots, elements) = splits.residuals(&[batch(&[b"a", b"b", b"c"])]);
        assert!(roots.is_empty());
        assert_eq!(elements, [&b"c"[..]]);
    }
}
