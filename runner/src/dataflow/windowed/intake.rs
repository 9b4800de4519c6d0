//! Taking elements in: those that are too late are dropped, windows merge, values are added.

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Trouble;
use super::engine::Engine;
use super::windows::Window;
use crate::dataflow::merge::Merged;
use crate::element::{Batch, ElementError};
use crate::state::put_scope;
use crate::time::Timestamp;
use crate::windowing::{Merging, merge_sessions};

/// A batch that is taken in, part by part where triggers are to be asked in between.
pub(super) struct Intake {
    batch: Batch,
    /// The element to begin with.
    next: usize,
}

/// A key of which new windows have come, so that its windows may merge.
pub(super) struct Question {
    key: Bytes,
    /// The windows that take elements.
    active: Vec<Window>,
    /// Those whose trigger has finished. They merge with nothing.
    closed: Vec<Window>,
    new: Vec<Bytes>,
}

/// The windows, by key and window as [`put_scope`] has them, that elements go to in place of their own.
type Redirects = HashMap<Bytes, Bytes, RandomState>;

/// The windows that the elements of a batch go to, in the order in which they came.
#[derive(Default)]
struct Touched {
    places: HashMap<Bytes, usize, RandomState>,
    windows: Vec<Window>,
}

impl Intake {
    pub(super) fn new(batch: Batch) -> Intake {
        Intake { batch, next: 0 }
    }

    pub(super) fn is_over(&self) -> bool {
        self.next >= self.batch.len()
    }
}

impl Question {
    /// The windows that may merge: the active ones, then the new ones.
    pub(super) fn windows(&self) -> Vec<Bytes> {
        self.active.iter().map(|window| window.window.clone()).chain(self.new.iter().cloned()).collect()
    }

    /// What becomes of them if they are sessions.
    pub(super) fn sessions(&self) -> Result<Merged, ElementError> {
        merge_sessions(self.windows())
    }
}

impl Engine {
    /// Whether elements of a window come too late for it.
    fn is_late(&self, window: &[u8]) -> Result<bool, ElementError> {
        Ok(self.watermark > self.windows.windowing.expiry(window)?)
    }

    /// Most elements of the next part of a batch: one where merges come between the elements that a trigger counts.
    fn most(&self) -> usize {
        if self.counts && self.windows.windowing.merging != Merging::None { 1 } else { usize::MAX }
    }

    /// The keys whose windows may merge because of the next part of a batch.
    pub(super) fn questions(&self, intake: &Intake) -> Result<Vec<Question>, Trouble> {
        if self.windows.windowing.merging == Merging::None {
            return Ok(Vec::new());
        }
        let mut questions: Vec<Question> = Vec::new();
        let mut places: HashMap<&[u8], usize, RandomState> = HashMap::default();
        for element in intake.batch.elements_from(intake.next).take(self.most()) {
            let view = self.input.parse(element)?;
            let (key, _) = self.input.value.key_value(view.value)?;
            for window in view.windows {
                if self.is_late(window)? {
                    continue;
                }
                let place = match places.get(key) {
                    Some(place) => *place,
                    None => {
                        let key_bytes = Bytes::copy_from_slice(key);
                        let (active, closed) = self
                            .windows
                            .of_key(&key_bytes)?
                            .into_iter()
                            .partition(|window| !self.windows.machine.is_finished(&window.state.trigger));
                        questions.push(Question { key: key_bytes, active, closed, new: Vec::new() });
                        places.insert(key, questions.len() - 1);
                        questions.len() - 1
                    }
                };
                let question = &mut questions[place];
                let known = question.active.iter().any(|known| known.window == window)
                    || question.new.iter().any(|known| known == window);
                if !known {
                    question.new.push(Bytes::copy_from_slice(window));
                }
            }
        }
        questions.retain(|question| !question.new.is_empty());
        Ok(questions)
    }

    /// Takes in the next part of a batch, whose questions are answered. Where a trigger counts elements, the part ends
    /// with one that makes a window ready to fire.
    pub(super) fn take(
        &mut self,
        intake: &mut Intake,
        answers: Vec<(Question, Merged)>,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let mut touched = Touched::default();
        let mut redirects = Redirects::default();
        for (question, merged) in answers {
            self.merge(question, merged, &mut touched, &mut redirects, now)?;
        }
        let mut scope = Vec::new();
        // For the time of the loop, which changes the rest of the engine.
        let input = self.input.clone();
        let mut ready = false;
        for element in intake.batch.elements_from(intake.next).take(self.most()) {
            let view = input.parse(element)?;
            let (key, value) = input.value.key_value(view.value)?;
            intake.next += 1;
            for window in view.windows {
                scope.clear();
                put_scope(&mut scope, key, window);
                let place = match touched.places.get(&scope[..]) {
                    Some(place) => *place,
                    None if self.is_late(window)? => {
                        self.dropped.late += 1;
                        continue;
                    }
                    None => {
                        let target = redirects.get(&scope[..]).cloned();
                        self.place(&mut touched, key, window, target, &scope)?
                    }
                };
                ready |= self.add(&mut touched.windows[place], view.timestamp, value, now);
            }
            if ready {
                break;
            }
        }
        for window in &mut touched.windows {
            self.windows.settle(window);
        }
        self.windows.commit()?;
        self.touched.extend(touched.windows);
        Ok(())
    }

    /// Finds the place of the window that elements of `window`, whose scope is `scope`, go to: that window, or `target`.
    fn place(
        &self,
        touched: &mut Touched,
        key: &[u8],
        window: &[u8],
        target: Option<Bytes>,
        scope: &[u8],
    ) -> Result<usize, Trouble> {
        let place = match target {
            None => touched.push(self.open(key, window)?),
            Some(target) => {
                let mut target_scope = Vec::new();
                put_scope(&mut target_scope, key, &target);
                match touched.places.get(&target_scope[..]) {
                    Some(place) => *place,
                    None => touched.push(self.open(key, &target)?),
                }
            }
        };
        touched.places.insert(Bytes::copy_from_slice(scope), place);
        Ok(place)
    }

    fn open(&self, key: &[u8], window: &[u8]) -> Result<Window, Trouble> {
        match self.windows.find(key, window)? {
            Some(known) => Ok(known),
            None => self.windows.begin(Bytes::copy_from_slice(key), Bytes::copy_from_slice(window)),
        }
    }

    /// Adds an element to a window. True if a trigger is to be asked before the next one.
    fn add(&mut self, window: &mut Window, timestamp: Timestamp, value: &[u8], now: Timestamp) -> bool {
        if self.windows.machine.is_finished(&window.state.trigger) {
            self.dropped.closed += 1;
            return false;
        }
        let look = self.look(window, now);
        self.windows.machine.on_element(&mut window.state.trigger, look);
        window.state.fresh += 1;
        // An element that is behind the output watermark cannot hold it, and after the end of the window nothing says
        // when the pane will be fired.
        let pane = self.windows.windowing.timestamp_combiner.apply(window.end, timestamp, timestamp).min(window.end);
        if pane >= self.output && !look.ended {
            let (earliest, latest) = window.state.on_time.unwrap_or((timestamp, timestamp));
            window.state.on_time = Some((earliest.min(timestamp), latest.max(timestamp)));
        }
        self.windows.add(window, value);
        self.counts && self.windows.machine.should_fire(&window.state.trigger, look)
    }

    /// Merges the windows of a key.
    fn merge(
        &mut self,
        question: Question,
        merged: Merged,
        touched: &mut Touched,
        redirects: &mut Redirects,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let Question { key, active, mut closed, new } = question;
        let mut active: Vec<Option<Window>> = active.into_iter().map(Some).collect();
        for (result, members) in merged {
            let mut parts = Vec::new();
            for member in members {
                let window = match active.get_mut(member) {
                    Some(slot) => {
                        let twice = || ElementError::malformed("the SDK merged a window into two".into());
                        let part = slot.take().ok_or_else(twice)?;
                        let window = part.window.clone();
                        parts.push(part);
                        window
                    }
                    // The indices were checked where the answer was read.
                    None => new[member - active.len()].clone(),
                };
                if window != result {
                    let mut scope = Vec::new();
                    put_scope(&mut scope, &key, &window);
                    redirects.insert(scope.into(), result.clone());
                }
            }
            match &parts[..] {
                [] => {}
                [same] if same.window == result => parts.into_iter().for_each(|same| {
                    touched.push(same);
                }),
                _ => {
                    // A window of the same bounds that was over is no part of this one.
                    if let Some(at) = closed.iter().position(|window| window.window == result) {
                        let over = closed.swap_remove(at);
                        self.windows.remove(over);
                    }
                    let mut into = self.windows.begin(key.clone(), result)?;
                    let look = self.look(&into, now);
                    let states: Vec<_> = parts.iter().map(|part| part.state.trigger.clone()).collect();
                    into.state.trigger = self.windows.machine.merge(&states, look);
                    into.state.pane =
                        parts.iter().find(|part| part.window == into.window).and_then(|part| part.state.pane);
                    self.windows.unite(&mut into, parts);
                    touched.push(into);
                }
            }
        }
        Ok(())
    }
}

impl Touched {
    fn push(&mut self, window: Window) -> usize {
        let mut scope = Vec::new();
        put_scope(&mut scope, &window.key, &window.window);
        let place = self.windows.len();
        self.places.insert(scope.into(), place);
        self.windows.push(window);
        place
    }
}
