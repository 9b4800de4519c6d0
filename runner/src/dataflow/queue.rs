//! The input that waits at a stage: batches with the moments they must be held at, in order of arrival.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::element::{Batch, SpillQueue};
use crate::memory::Budget;
use crate::time::Moment;

/// A queue of batches, on disk past the budget.
pub(crate) struct InputQueue {
    batches: SpillQueue,
    /// The moments of `batches`, run-length encoded.
    moments: VecDeque<(Moment, usize)>,
    /// The rest of a batch that a bundle took only a part of.
    front: Option<(Moment, Batch)>,
}

/// Input for one bundle.
pub(crate) struct Taken {
    pub(crate) moment: Moment,
    pub(crate) batches: Vec<Batch>,
    pub(crate) elements: usize,
}

impl InputQueue {
    pub(crate) fn new(budget: &Budget) -> InputQueue {
        InputQueue { batches: SpillQueue::new(budget), moments: VecDeque::new(), front: None }
    }

    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        self.batches.push(batch)?;
        match self.moments.back_mut() {
            Some((last, count)) if *last == moment => *count += 1,
            _ => self.moments.push_back((moment, 1)),
        }
        Ok(())
    }

    fn pop(&mut self) -> io::Result<Option<(Moment, Batch)>> {
        if let Some(front) = self.front.take() {
            return Ok(Some(front));
        }
        let Some(batch) = self.batches.pop()? else { return Ok(None) };
        let Some((moment, count)) = self.moments.front_mut() else {
            return Err(io::Error::other("a queued batch has no moment"));
        };
        let moment = *moment;
        *count -= 1;
        if *count == 0 {
            self.moments.pop_front();
        }
        Ok(Some((moment, batch)))
    }

    /// Takes up to `elements` elements and about `bytes` bytes, at least one element; `None` when empty.
    pub(crate) fn take(&mut self, elements: usize, bytes: usize) -> io::Result<Option<Taken>> {
        let mut taken: Option<Taken> = None;
        let mut size = 0;
        while let Some((moment, mut batch)) = self.pop()? {
            let have = taken.as_ref().map_or(0, |taken| taken.elements);
            let room = elements.max(1) - have;
            if have > 0 && size + batch.data().len() > bytes {
                self.front = Some((moment, batch));
                break;
            }
            if batch.len() > room {
                let rest = batch.split_off(room);
                self.front = Some((moment, rest));
            }
            size += batch.data().len();
            let taken = taken.get_or_insert(Taken { moment, batches: Vec::new(), elements: 0 });
            taken.moment = least(taken.moment, moment);
            taken.elements += batch.len();
            taken.batches.push(batch);
            if taken.elements >= elements || size >= bytes {
                break;
            }
        }
        Ok(taken)
    }

    /// Takes everything, in order of arrival.
    pub(crate) fn take_all(&mut self, into: &mut Vec<(Moment, Batch)>) -> io::Result<()> {
        while let Some(next) = self.pop()? {
            into.push(next);
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_none() && self.batches.is_empty()
    }

    pub(crate) fn elements(&self) -> usize {
        self.batches.elements() + self.front.as_ref().map_or(0, |(_, batch)| batch.len())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.batches.bytes() + self.front.as_ref().map_or(0, |(_, batch)| batch.data().len())
    }

    /// Moves what waits here on to `epoch`: it no longer holds up those before.
    fn advance_to(&mut self, epoch: u64) {
        for moment in self.front.iter_mut().map(|(moment, _)| moment).chain(self.moments.iter_mut().map(|(m, _)| m)) {
            moment.epoch = moment.epoch.max(epoch);
        }
    }

    /// The moments that what waits here must be held at.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        self.front.iter().map(|(moment, _)| *moment).chain(self.moments.iter().map(|(moment, _)| *moment))
    }
}

/// Moves the input of epochs before `epoch` on to that: it waits for something that has come so far, and must not keep
/// what comes before that from ending.
pub(crate) fn move_on(queues: &mut BTreeMap<u64, InputQueue>, epoch: u64) -> io::Result<()> {
    while let Some(first) = queues.first_entry()
        && *first.key() < epoch
    {
        let mut earlier = first.remove();
        earlier.advance_to(epoch);
        match queues.get_mut(&epoch) {
            None => {
                queues.insert(epoch, earlier);
            }
            Some(queue) => {
                while let Some((moment, batch)) = earlier.pop()? {
                    queue.push(moment, batch)?;
                }
            }
        }
    }
    Ok(())
}

/// The moment that two moments of one epoch can both be held at.
fn least(a: Moment, b: Moment) -> Moment {
    Moment { epoch: a.epoch.min(b.epoch), watermark: a.watermark.min(b.watermark) }
}
