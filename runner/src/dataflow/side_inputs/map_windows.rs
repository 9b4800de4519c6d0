//! Windows of side inputs that only the SDK finds: asks it, for each window of the main input.
//!
//! Windows are asked about in bundles of the planner's stage for the mapping (`beam:transform:map_windows:v1`), each as
//! `KV<nonce, main window>`; the answer is `KV<nonce, side window>`.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use bytes::Bytes;
use timely::dataflow::Scope;

use super::super::Job;
use super::super::bundle_state::StageState;
use super::super::bundles::{Bundles, element_coder};
use super::super::run::Reporter;
use crate::element::{BatchBuilder, ElementCoder, ElementError, PANE_NO_FIRING, encode_windowed_header};
use crate::plan::StageId;
use crate::time::{Moment, Timestamp};

/// Most windows asked about in one bundle.
const WINDOWS: usize = 1000;
/// Answers that are remembered; then they are forgotten, all at once.
const REMEMBERED: usize = 10_000;

/// See the module.
pub(crate) struct Mapper {
    bundles: Bundles,
    answer: ElementCoder,
    known: HashMap<Bytes, Bytes>,
    /// To be asked about next.
    next: Vec<Bytes>,
    /// What the open bundle asks about.
    asked: Vec<Bytes>,
    /// All of both.
    awaited: HashSet<Bytes>,
}

impl Mapper {
    /// Asks by bundles of the mapping's `stage`, for the operator at `address`.
    pub(crate) fn new<'scope>(
        scope: Scope<'scope, Moment>,
        address: Rc<[usize]>,
        (job, stage): (&Job, StageId),
        state: &StageState,
        reporter: Rc<Reporter>,
    ) -> Mapper {
        let bundles = Bundles::new(scope, address, job.clone(), stage, state.bundle(None), reporter);
        // The planner gives it one output.
        let answer = element_coder(&job.plan, job.plan.stages[stage.0 as usize].outputs[0].collection);
        Mapper { bundles, answer, known: HashMap::new(), next: Vec::new(), asked: Vec::new(), awaited: HashSet::new() }
    }

    /// True while an answer is awaited.
    pub(crate) fn is_busy(&self) -> bool {
        self.bundles.busy() || !self.next.is_empty()
    }

    /// The side input's window, if the SDK has told it; else it will be asked. Who waits for it asks again when the
    /// operator is woken.
    pub(crate) fn get(&mut self, window: &[u8]) -> Option<Bytes> {
        let known = self.known.get(window).cloned();
        if known.is_none() && !self.awaited.contains(window) {
            let window = Bytes::copy_from_slice(window);
            self.awaited.insert(window.clone());
            self.next.push(window);
            self.ask();
        }
        known
    }

    /// Takes the answers that have come; true if there are any. An error without a value was reported already.
    pub(crate) fn work(&mut self) -> Result<bool, Option<ElementError>> {
        let mut heard = false;
        while let Some(finished) = self.bundles.poll() {
            heard = true;
            let asked = std::mem::take(&mut self.asked);
            if self.known.len() + asked.len() > REMEMBERED {
                self.known.clear();
            }
            let before = self.known.len();
            for mut port in finished.done.outputs.into_ports() {
                while let Some(batch) = port.pop().map_err(|error| Some(ElementError::malformed(error.to_string())))? {
                    for element in batch.elements() {
                        self.hear(element, &asked)?;
                    }
                }
            }
            if self.known.len() != before + asked.len() {
                return Err(Some(ElementError::malformed("the SDK did not map every window".into())));
            }
            for window in asked {
                self.awaited.remove(&window);
            }
        }
        if self.bundles.failed() {
            return Err(None);
        }
        self.ask();
        Ok(heard)
    }

    fn hear(&mut self, element: &[u8], asked: &[Bytes]) -> Result<(), ElementError> {
        let view = self.answer.parse(element)?;
        let (nonce, window) = self.answer.value.key_value(view.value)?;
        // The nonce comes back as it was sent: a length of 4 and the index.
        let index = nonce.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let main = index
            .and_then(|index| asked.get(index as usize))
            .ok_or_else(|| ElementError::malformed("the SDK mapped a window that it was not asked about".into()))?;
        self.known.insert(main.clone(), Bytes::copy_from_slice(window));
        Ok(())
    }

    fn ask(&mut self) {
        if self.bundles.busy() || self.next.is_empty() {
            return;
        }
        let rest = self.next.split_off(self.next.len().min(WINDOWS));
        self.asked = std::mem::replace(&mut self.next, rest);
        let mut question = BatchBuilder::default();
        for (index, window) in (0u32..).zip(&self.asked) {
            question.push_with(Timestamp::MIN, |out| {
                // In the global window, which has no bytes.
                encode_windowed_header(out, Timestamp::MIN, &[b""], PANE_NO_FIRING);
                out.push(4);
                out.extend_from_slice(&index.to_be_bytes());
                out.extend_from_slice(window);
            });
        }
        self.bundles.start(timely::progress::Timestamp::minimum(), vec![question.finish()]);
    }
}
