//! What of its input a bundle still stands for once it was split.
//!
//! What was handed back is input of its own from then on, so a bundle that fails after a split is run again over the
//! remainder only: nothing is lost, and nothing is done twice.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::bundles::Input;
use crate::element::Batch;
use crate::executor::{Residual, Split};
use crate::time::Timestamp;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Remainder {
    /// How many elements, from the first on, are whole.
    whole: usize,
    /// What there is of the element after them, if that was split.
    parts: Vec<Bytes>,
}

impl Remainder {
    /// Of a bundle that was not split yet.
    pub(super) fn of(input: &[Input]) -> Remainder {
        let elements = input.iter().map(|input| match input {
            Input::Elements(batch) => batch.len(),
            Input::Timers(..) => 0,
        });
        Remainder { whole: elements.sum(), parts: Vec::new() }
    }

    /// How many elements and parts of elements there are.
    pub(super) fn elements(&self) -> usize {
        self.whole + self.parts.len()
    }

    /// How many elements, from the first on, are whole.
    pub(super) fn whole(&self) -> usize {
        self.whole
    }

    /// Takes a split of the bundle that runs over `input`; gives everything that it handed back.
    pub(super) fn split(&mut self, split: Split, input: &[Input]) -> Vec<Residual> {
        let whole = |element| Residual { element, delay: Duration::ZERO, hold: None };
        let mut handed_back = split.residuals;
        if split.rest <= self.whole {
            // The bundle does not come to the element of which it had kept parts.
            handed_back.extend(self.parts.drain(..).map(whole));
        }
        handed_back.extend(elements(input, split.rest..self.whole).into_iter().map(whole));
        if split.whole <= self.whole {
            self.parts = split.parts;
            self.whole = split.whole;
        }
        handed_back
    }

    /// What the bundle is given when it is run again, after it was given `input`.
    pub(super) fn take(self, input: Vec<Input>) -> Vec<Input> {
        let mut left = self.whole;
        let whole = input.into_iter().map(|input| match input {
            Input::Elements(mut batch) => {
                if batch.len() > left {
                    drop(batch.split_off(left));
                }
                left -= batch.len();
                Input::Elements(batch)
            }
            timers => timers,
        });
        let whole: Vec<Input> = whole.collect();
        let parts = self.parts.into_iter().map(|part| {
            let end = part.len() as u32;
            Input::Elements(Batch::new(part, [end], Timestamp::MIN))
        });
        whole.into_iter().chain(parts).collect()
    }
}

/// The elements in `range`, sharing the bytes of their batches.
fn elements(input: &[Input], range: Range<usize>) -> Vec<Bytes> {
    let mut at = 0;
    let mut found = Vec::new();
    for input in input {
        let Input::Elements(batch) = input else { continue };
        let mut start = 0;
        for end in batch.ends().iter().map(|end| *end as usize) {
            if range.contains(&at) {
                found.push(batch.data().slice(start..end));
            }
            (start, at) = (end, at + 1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(elements: &[&str]) -> Input {
        let ends = elements.iter().scan(0, |end, element| {
            *end += element.len() as u32;
            Some(*end)
        });
        let ends: Vec<u32> = ends.collect();
        Input::Elements(Batch::new(elements.concat().into(), ends, Timestamp::MIN))
    }

    fn texts(elements: impl IntoIterator<Item = Bytes>) -> Vec<String> {
        elements.into_iter().map(|element| String::from_utf8(element.to_vec()).unwrap()).collect()
    }

    fn given(input: &[Input]) -> Vec<String> {
        texts(elements(input, 0..usize::MAX))
    }

    fn split(whole: usize, parts: &[&str], residuals: &[&str], rest: usize) -> Split {
        let bytes = |text: &&str| Bytes::copy_from_slice(text.as_bytes());
        let residual = |text| Residual { element: bytes(text), delay: Duration::ZERO, hold: None };
        Split {
            whole,
            parts: parts.iter().map(bytes).collect(),
            residuals: residuals.iter().map(residual).collect(),
            rest,
        }
    }

    fn input() -> Vec<Input> {
        vec![batch(&["a", "bb"]), batch(&[]), batch(&["ccc"]), batch(&["d", "ee"])]
    }

    /// What is handed back by each split, and what is left in the end.
    fn after(splits: &[Split]) -> (Vec<Vec<String>>, Vec<String>) {
        let mut remainder = Remainder::of(&input());
        let handed_back = splits
            .iter()
            .map(|split| texts(remainder.split(split.clone(), &input()).into_iter().map(|residual| residual.element)));
        let handed_back = handed_back.collect();
        let elements = remainder.elements();
        let left = given(&remainder.take(input()));
        assert_eq!(left.len(), elements);
        (handed_back, left)
    }

    #[test]
    fn elements_that_were_not_begun_come_back_whole() {
        for rest in 0..=5 {
            let all = given(&input());
            assert_eq!(after(&[split(rest, &[], &[], rest)]), (vec![all[rest..].to_vec()], all[..rest].to_vec()));
        }
        // Asked again, it hands back no more than is left.
        let (back, left) = after(&[split(4, &[], &[], 4), split(4, &[], &[], 4), split(2, &[], &[], 2)]);
        assert_eq!(back, [vec!["ee"], vec![], vec!["ccc", "d"]]);
        assert_eq!(left, ["a", "bb"]);
    }

    #[test]
    fn an_element_may_be_taken_apart_again_and_again() {
        let (back, left) = after(&[split(2, &["c"], &["cc"], 3), split(2, &["c1"], &["c2"], 3)]);
        assert_eq!(back, [vec!["cc", "d", "ee"], vec!["c2"]]);
        assert_eq!(left, ["a", "bb", "c1"]);
    }

    #[test]
    fn parts_go_with_their_element() {
        let first = split(2, &["c"], &["cc"], 3);
        // The element stays as it is, comes back, or comes back while the one before it is split.
        assert_eq!(after(&[first.clone(), split(3, &[], &[], 3)]).1, ["a", "bb", "c"]);
        assert_eq!(after(&[first.clone(), split(2, &[], &[], 2)]).0[1], ["c"]);
        let (back, left) = after(&[first, split(1, &["b1"], &["b2"], 2)]);
        assert_eq!((&back[1][..], &left[..]), (&["b2".into(), "c".into()][..], &["a".into(), "b1".into()][..]));
    }

    proptest! {
        #[test]
        fn whole_elements_are_never_lost_nor_doubled(cuts in proptest::collection::vec(0..6usize, 0..6)) {
            let splits: Vec<Split> = cuts.iter().map(|cut| split(*cut, &[], &[], *cut)).collect();
            let (back, left) = after(&splits);
            let mut all: Vec<String> = back.into_iter().flatten().chain(left).collect();
            let mut expected = given(&input());
            all.sort();
            expected.sort();
            prop_assert_eq!(all, expected);
        }
    }
}
