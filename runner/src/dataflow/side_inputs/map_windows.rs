//! Windows of side inputs that only the SDK finds: asks it, for each window of the main input.
//!
//! Windows are asked about in bundles of the planner's stage for the mapping (`beam:transform:map_windows:v1`), each as
//! `KV<nonce, main window>`; the answer is `KV<nonce, side window>`.
//!
//! Answers about windows that something waits for are kept for as long as it does: it needs them each time that it is
//! looked at, and were they forgotten because there are many, each would be asked for again in its turn, for ever. Others
//! are remembered up to a limit.

use std::collections::{HashMap, HashSet, VecDeque};
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
/// Answers that are remembered of windows that nothing waits for; then they are forgotten, all at once.
const REMEMBERED: usize = 10_000;

/// See the module.
pub(crate) struct Mapper {
    bundles: Bundles,
    answer: ElementCoder,
    answers: Answers,
}

/// What was asked and answered. Pure.
struct Answers {
    limit: usize,
    recent: HashMap<Bytes, Bytes>,
    /// Of windows that something waits for; `None` until it comes.
    kept: HashMap<Bytes, Option<Bytes>>,
    /// To be asked about next.
    next: VecDeque<Bytes>,
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
        Mapper { bundles, answer, answers: Answers::new(REMEMBERED) }
    }

    /// True while an answer is awaited.
    pub(crate) fn is_busy(&self) -> bool {
        self.bundles.busy() || !self.answers.next.is_empty()
    }

    /// The side input's window, if the SDK has told it; else it will be asked. Who waits for it asks again when the
    /// operator is woken.
    pub(crate) fn get(&mut self, window: &[u8]) -> Option<Bytes> {
        let known = self.answers.get(window);
        if known.is_none() {
            self.ask();
        }
        known
    }

    /// Something waits for this window's answer, or because of it.
    pub(crate) fn keep(&mut self, window: &Bytes) {
        self.answers.keep(window);
    }

    /// Nothing waits for this window any more.
    pub(crate) fn let_go(&mut self, window: &[u8]) {
        self.answers.let_go(window);
    }

    /// Takes the answers that have come, and says about which windows. An error without a value was reported already.
    pub(crate) fn work(&mut self) -> Result<Vec<Bytes>, Option<ElementError>> {
        let mut answered = Vec::new();
        while let Some(finished) = self.bundles.poll() {
            let mut heard = HashMap::new();
            for mut port in finished.done.outputs.into_ports() {
                while let Some(batch) = port.pop().map_err(|error| Some(ElementError::malformed(error.to_string())))? {
                    for element in batch.elements() {
                        let (nonce, window) = self.hear(element)?;
                        heard.insert(nonce, window);
                    }
                }
            }
            answered.extend(self.answers.hear(heard)?);
        }
        if self.bundles.failed() {
            return Err(None);
        }
        self.ask();
        Ok(answered)
    }

    /// The number of the question, and the window.
    fn hear(&self, element: &[u8]) -> Result<(usize, Bytes), ElementError> {
        let view = self.answer.parse(element)?;
        let (nonce, window) = self.answer.value.key_value(view.value)?;
        // The nonce comes back as it was sent: a length of 4 and the index.
        let index = nonce.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let index = index.ok_or_else(|| ElementError::malformed("the SDK mapped no window of those asked".into()))?;
        Ok((index as usize, Bytes::copy_from_slice(window)))
    }

    fn ask(&mut self) {
        if self.bundles.busy() || self.answers.next.is_empty() {
            return;
        }
        let mut question = BatchBuilder::default();
        for (index, window) in (0u32..).zip(self.answers.ask(WINDOWS)) {
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

impl Answers {
    /// Remembers about `limit` answers besides those that are kept.
    fn new(limit: usize) -> Answers {
        Answers {
            limit,
            recent: HashMap::new(),
            kept: HashMap::new(),
            next: VecDeque::new(),
            asked: Vec::new(),
            awaited: HashSet::new(),
        }
    }

    /// The answer about a window, if it is known; else that is to be asked, if it is not already.
    fn get(&mut self, window: &[u8]) -> Option<Bytes> {
        let kept = self.kept.get(window).and_then(Option::as_ref);
        let known = kept.or_else(|| self.recent.get(window)).cloned();
        if known.is_none() && !self.awaited.contains(window) {
            let window = Bytes::copy_from_slice(window);
            self.awaited.insert(window.clone());
            self.next.push_back(window);
        }
        known
    }

    fn keep(&mut self, window: &Bytes) {
        if !self.kept.contains_key(window) {
            let known = self.recent.remove(window);
            self.kept.insert(window.clone(), known);
        }
    }

    fn let_go(&mut self, window: &[u8]) {
        if let Some((window, Some(known))) = self.kept.remove_entry(window) {
            self.remember(window, known);
        }
    }

    fn remember(&mut self, window: Bytes, known: Bytes) {
        if self.recent.len() >= self.limit {
            self.recent.clear();
        }
        self.recent.insert(window, known);
    }

    /// The next windows to ask about, when none are being asked about.
    fn ask(&mut self, limit: usize) -> &[Bytes] {
        self.asked = self.next.drain(..self.next.len().min(limit)).collect();
        &self.asked
    }

    /// Takes the answers about those, each by its place among them; gives the windows.
    fn hear(&mut self, mut heard: HashMap<usize, Bytes>) -> Result<Vec<Bytes>, ElementError> {
        let asked = std::mem::take(&mut self.asked);
        if self.recent.len() + asked.len() > self.limit {
            // So that none of these is forgotten before it was looked at.
            self.recent.clear();
        }
        for (index, main) in asked.iter().enumerate() {
            let side = heard
                .remove(&index)
                .ok_or_else(|| ElementError::malformed("the SDK did not map every window".into()))?;
            self.awaited.remove(main);
            match self.kept.get_mut(main) {
                Some(kept) => *kept = Some(side),
                None => drop(self.recent.insert(main.clone(), side)),
            }
        }
        if !heard.is_empty() {
            return Err(ElementError::malformed("the SDK mapped a window that it was not asked about".into()));
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as an SDK does: each window with itself, behind a mark.
    fn answer(answers: &mut Answers, limit: usize) -> Vec<Bytes> {
        let asked = answers.ask(limit).to_vec();
        let side = |window: &Bytes| Bytes::from([b"side ", &window[..]].concat());
        answers.hear(asked.iter().map(side).enumerate().collect()).unwrap()
    }

    fn name(window: u32) -> Bytes {
        Bytes::copy_from_slice(&window.to_be_bytes())
    }

    #[test]
    fn windows_that_wait_are_asked_about_once_however_many_they_are() {
        let mut answers = Answers::new(50);
        let windows: Vec<Bytes> = (0..1000).map(name).collect();
        let mut asked = 0;
        for window in &windows {
            assert_eq!(answers.get(window), None);
            answers.keep(window);
        }
        // Whatever is answered, all of them are looked at again.
        for _ in 0..200 {
            asked += answer(&mut answers, 20).len();
            for window in &windows {
                answers.get(window);
            }
        }
        assert_eq!(asked, windows.len());
        assert!(windows.iter().all(|window| answers.get(window).is_some()));
        assert!(answers.recent.is_empty() && answers.awaited.is_empty());
        // What waits no more is remembered for a while, within the limit.
        for window in &windows {
            answers.let_go(window);
        }
        assert!(answers.kept.is_empty());
        assert!((1..=50).contains(&answers.recent.len()));
        assert!(answers.get(&windows[999]).is_some());
    }

    #[test]
    fn an_answer_lasts_until_it_was_looked_at() {
        let mut answers = Answers::new(10);
        for round in 0..100 {
            let windows: Vec<Bytes> = (0..30).map(|n| name(round * 30 + n)).collect();
            windows.iter().for_each(|window| drop(answers.get(window)));
            assert_eq!(answer(&mut answers, 100), windows);
            assert!(windows.iter().all(|window| answers.get(window).is_some()));
            assert!(answers.recent.len() <= 30);
        }
    }

    #[test]
    fn answers_must_fit_the_questions() {
        let ask = || {
            let mut answers = Answers::new(10);
            answers.get(b"a");
            answers.get(b"b");
            assert_eq!(answers.ask(10).len(), 2);
            answers
        };
        assert!(ask().hear([(0, name(0))].into()).is_err(), "one is missing");
        assert!(ask().hear([(0, name(0)), (1, name(1)), (2, name(2))].into()).is_err(), "one is too many");
    }
}
