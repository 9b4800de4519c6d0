//! What an operator carries over the border of an epoch: saving it, and starting from what was saved.

use std::io;
use std::time::Instant;

use super::queue::FrozenInput;
use crate::checkpoint::{CarriedBatch, CarriedWriter, Frozen, Saver};
use crate::clock::{Clock, WallClock};
use crate::element::{Batch, BatchBuilder, ElementCoder};
use crate::grouping::{Kept, References};
use crate::state::{FrozenStore, key_group, worker_of};
use crate::time::{Moment, Timestamp};

/// Batches that waited at some time, with the moments that they came at, to be read by another thread.
pub(crate) struct FrozenBatches(Box<Read>);

type Read = dyn FnOnce(&mut See<'_>) -> io::Result<()> + Send;
type See<'a> = dyn FnMut(Moment, Batch) -> io::Result<()> + 'a;

impl FrozenBatches {
    /// Those that `read` gives, in order.
    pub(crate) fn new(read: impl FnOnce(&mut See<'_>) -> io::Result<()> + Send + 'static) -> FrozenBatches {
        FrozenBatches(Box::new(read))
    }
}

impl From<FrozenInput> for FrozenBatches {
    fn from(input: FrozenInput) -> FrozenBatches {
        FrozenBatches::new(move |see| input.read(see))
    }
}

impl From<Vec<(Moment, Batch)>> for FrozenBatches {
    fn from(batches: Vec<(Moment, Batch)>) -> FrozenBatches {
        FrozenBatches::new(move |see| batches.into_iter().try_for_each(|(moment, batch)| see(moment, batch)))
    }
}

/// What an operator carries, as it was at the border.
pub(crate) struct Carried {
    /// All of each is carried.
    whole: Vec<FrozenBatches>,
    /// Of each, what came before the epoch `before`.
    parts: Vec<FrozenBatches>,
    before: u64,
    paused: Vec<CarriedBatch>,
    /// Elements may go on in state: the rest of them is saved with them.
    references: Option<Kept>,
}

impl Carried {
    /// What is carried over the border to epoch `before`.
    pub(crate) fn over(before: u64, references: Option<&References>) -> Carried {
        Carried {
            whole: Vec::new(),
            parts: Vec::new(),
            before,
            paused: Vec::new(),
            references: references.map(References::keep),
        }
    }

    /// Adds input that is carried.
    pub(crate) fn add_all(&mut self, inputs: impl IntoIterator<Item = FrozenInput>) {
        self.whole.extend(inputs.into_iter().map(FrozenBatches::from));
    }

    /// Adds what was kept apart, and all of which is carried.
    pub(crate) fn add_saved(&mut self, inputs: impl IntoIterator<Item = FrozenBatches>) {
        self.whole.extend(inputs);
    }

    /// Adds input that waits: of it, what came before the border.
    pub(crate) fn add(&mut self, inputs: impl IntoIterator<Item = FrozenBatches>) {
        self.parts.extend(inputs);
    }

    /// All that an operator keeps, with its store if it has one.
    pub(crate) fn frozen(self, store: Option<Box<dyn FrozenStore>>) -> Frozen {
        Frozen { store, carried: Some(Box::new(move |writer| self.write(writer))) }
    }

    /// Adds an element that is not to run before a time.
    pub(crate) fn add_paused(&mut self, watermark: i64, due: Instant, batch: Batch) {
        let due = WallClock.now().0.saturating_add(due.saturating_duration_since(Instant::now()).as_millis() as i64);
        self.paused.push(CarriedBatch { watermark, due: Some(Timestamp(due)), batch });
    }

    fn write(self, writer: &mut CarriedWriter) -> io::Result<()> {
        let Carried { whole: all, parts, before, paused, references } = self;
        let whole = |batch: Batch| match &references {
            Some(references) => references.whole(batch),
            None => Ok(batch),
        };
        let every = all.into_iter().map(|input| (input, u64::MAX)).chain(parts.into_iter().map(|part| (part, before)));
        for (input, before) in every {
            (input.0)(&mut |moment, batch| {
                if moment.epoch >= before {
                    return Ok(());
                }
                writer.push(&CarriedBatch { watermark: moment.watermark, due: None, batch: whole(batch)? })
            })?;
        }
        paused.into_iter().try_for_each(|paused| writer.push(&CarriedBatch { batch: whole(paused.batch)?, ..paused }))
    }
}

/// Which of what was carried a worker takes over, where the number of workers has changed.
pub(crate) enum Share<'a> {
    /// Every so-manieth element.
    Elements,
    /// The elements of its keys.
    Keys(&'a ElementCoder),
}

/// Input that an operator takes over.
pub(crate) struct TakenOver {
    pub(crate) moment: Moment,
    /// Not to be run before.
    pub(crate) due: Option<Instant>,
    pub(crate) batch: Batch,
}

/// Gives what the operator starts from of what was carried, in its order.
pub(crate) fn restore(
    saver: &Saver,
    share: Share<'_>,
    mut take: impl FnMut(TakenOver) -> io::Result<()>,
) -> io::Result<()> {
    let (shard, shards) = (saver.shard(), saver.shards());
    let mut next = 0;
    for part in saver.restored() {
        let same = part.head.shards as usize == shards;
        if same && part.head.shard as usize != shard {
            continue;
        }
        part.carried(|carried| {
            let CarriedBatch { watermark, due, batch } = carried;
            let batch = if same {
                batch
            } else {
                let mut mine = BatchBuilder::default();
                for element in batch.elements() {
                    let is_mine = match &share {
                        Share::Elements => {
                            next += 1;
                            (next - 1) % shards == shard
                        }
                        Share::Keys(coder) => {
                            let view = coder.parse(element).map_err(io::Error::other)?;
                            let (key, _) = coder.value.key_value(view.value).map_err(io::Error::other)?;
                            worker_of(key_group(key), shards) == shard
                        }
                    };
                    if is_mine {
                        mine.push(element, batch.min_timestamp());
                    }
                }
                mine.finish()
            };
            if !batch.is_empty() {
                let due = due.and_then(|due| Instant::now().checked_add(WallClock.wait(due)?));
                take(TakenOver { moment: Moment { epoch: saver.first_epoch(), watermark }, due, batch })?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
