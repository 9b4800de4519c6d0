//! Splits of a running bundle: what it was asked to hand back, and what of its input it therefore did not process.
//!
//! A bundle is not asked in its first moments: one that hands back everything before it did anything makes no progress.
//! At most one question is on its way. An answer may come after the bundle's response, because harnesses answer from
//! several threads, and it is waited for: it may say that the bundle left something out. A harness that cannot split
//! answers with nothing, or with an error; neither means more than that.

use ferrobeam_proto::fn_execution::instruction_request::Request;
use ferrobeam_proto::fn_execution::instruction_response::Response;
use ferrobeam_proto::fn_execution::process_bundle_split_request::DesiredSplit;
use ferrobeam_proto::fn_execution::process_bundle_split_response::ChannelSplit;
use ferrobeam_proto::fn_execution::{
    DelayedBundleApplication, InstructionResponse, ProcessBundleSplitRequest, ProcessBundleSplitResponse,
};
use ferrobeam_runner::element::Batch;
use ferrobeam_runner::executor::Split;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};

use super::residual;
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
}

impl Splits {
    pub(super) fn new(wishes: mpsc::UnboundedReceiver<Wish>) -> Splits {
        Splits { wishes, not_before: Instant::now(), wish: None, answer: None }
    }

    /// The harness was asked to process the bundle.
    pub(super) fn begin(&mut self) {
        self.not_before = Instant::now() + HEAD_START;
    }

    /// Asks as it is wished; gives the next split, or what the harness said if that was nonsense. May be dropped and
    /// called again.
    pub(super) async fn next(
        &mut self,
        harness: &Harness,
        instruction: &str,
        stage: &Stage,
    ) -> Result<ProcessBundleSplitResponse, String> {
        loop {
            if let Some(split) = self.take_answer(stage).await? {
                return Ok(split);
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
    pub(super) async fn take_answer(&mut self, stage: &Stage) -> Result<Option<ProcessBundleSplitResponse>, String> {
        let Some(answer) = &mut self.answer else { return Ok(None) };
        let response = answer.await;
        self.answer = None;
        match response {
            Ok(response) if !response.error.is_empty() => {
                tracing::debug!(stage = stage.name, error = response.error, "a bundle could not be split");
                Ok(None)
            }
            Ok(InstructionResponse { response: Some(Response::ProcessBundleSplit(split)), .. }) => Ok(Some(split)),
            Ok(_) => Err("was asked to split and answered with something else".into()),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Reads a split of a bundle that was given `input`. `None`: it was none.
pub(super) fn from_proto(
    split: ProcessBundleSplitResponse,
    stage: &Stage,
    input: &[Batch],
) -> Result<Option<Split>, String> {
    let ProcessBundleSplitResponse { channel_splits, primary_roots, residual_roots, .. } = split;
    let of_roots = primary_roots.len() + residual_roots.len();
    let (whole, rest) = match &channel_splits[..] {
        [] if of_roots == 0 => return Ok(None),
        [] => return Err("handed back a part of an element and did not say of which".into()),
        [channel] => bounds(channel, stage)?,
        _ => return Err("was split in its one input several times at once".into()),
    };
    let roots = primary_roots
        .into_iter()
        .map(|root| DelayedBundleApplication { application: Some(root), requested_time_delay: None });
    let parts =
        roots.map(|root| Ok(residual::from_proto(root, stage, input)?.element)).collect::<Result<_, String>>()?;
    let residuals = residual_roots.into_iter().map(|root| residual::from_proto(root, stage, input));
    Ok(Some(Split { whole, parts, residuals: residuals.collect::<Result<_, String>>()?, rest }))
}

/// How many elements stay whole, and the first of those that come back whole.
fn bounds(channel: &ChannelSplit, stage: &Stage) -> Result<(usize, usize), String> {
    // Java leaves the name out.
    if !channel.transform_id.is_empty() && channel.transform_id != stage.input {
        return Err(format!("was split at {:?}, which is not its source", channel.transform_id));
    }
    let (last, first) = (channel.last_primary_element, channel.first_residual_element);
    match (usize::try_from(last.saturating_add(1)), usize::try_from(first)) {
        // Between them lies at most the element that the roots are about.
        (Ok(whole), Ok(rest)) if rest == whole || rest == whole.saturating_add(1) => Ok((whole, rest)),
        _ => Err(format!("was split behind element {last} and before element {first}")),
    }
}

#[cfg(test)]
mod tests {
    use ferrobeam_proto::fn_execution::BundleApplication;
    use ferrobeam_runner::time::Timestamp;

    use super::*;

    fn batches(elements: &[usize]) -> Vec<Batch> {
        let batch = |elements: &usize| {
            let ends: Vec<u32> = (1..=*elements as u32).collect();
            Batch::new(vec![0; *elements].into(), ends, Timestamp::MIN)
        };
        elements.iter().map(batch).collect()
    }

    fn channel(last: i64, first: i64) -> ChannelSplit {
        ChannelSplit { transform_id: String::new(), last_primary_element: last, first_residual_element: first }
    }

    fn read(split: ProcessBundleSplitResponse, input: &[usize]) -> Result<Option<(usize, usize)>, String> {
        let split = from_proto(split, &crate::tests::stage(vec![]), &batches(input))?;
        Ok(split.map(|split| (split.whole, split.rest)))
    }

    #[test]
    fn a_split_says_what_is_kept_and_what_is_not() {
        let of = |channel_splits: &[ChannelSplit]| {
            let channel_splits = channel_splits.to_vec();
            read(ProcessBundleSplitResponse { channel_splits, ..Default::default() }, &[2, 0, 3])
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[channel(2, 3)]), Ok(Some((3, 3))));
        assert_eq!(of(&[channel(-1, 1)]), Ok(Some((0, 1))));
        assert_eq!(of(&[ChannelSplit { transform_id: "source".into(), ..channel(0, 1) }]), Ok(Some((1, 1))));
        assert!(of(&[ChannelSplit { transform_id: "elsewhere".into(), ..channel(0, 1) }]).is_err());
        for (last, first) in [(-2, -1), (-1, -1), (0, 3), (2, 2), (i64::MAX, 0), (i64::MIN, 0)] {
            assert!(of(&[channel(last, first)]).is_err(), "{last}, {first}");
        }
        assert!(of(&[channel(2, 3), channel(2, 3)]).is_err());
    }

    #[test]
    fn parts_of_an_element_that_is_not_named_are_refused() {
        let split =
            ProcessBundleSplitResponse { primary_roots: vec![BundleApplication::default()], ..Default::default() };
        assert!(read(split, &[1]).unwrap_err().contains("of which"));
    }
}
