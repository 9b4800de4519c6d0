//! Byte strings that are allocated one after the other and freed all at once.

use bytes::Bytes;

/// Addresses are in units of eight bytes, so that a [`Spot`] of four bytes reaches 32 GiB.
const UNIT: usize = 8;
/// Units in a block's address range.
const BLOCK_UNITS: usize = 1 << 17;
/// Bytes of a full block.
const BLOCK: usize = BLOCK_UNITS * UNIT;
/// Bytes of the first block; each further one is twice as large, up to [`BLOCK`].
const FIRST_BLOCK: usize = 4 << 10;

/// Where an allocation starts. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot(pub(super) u32);

impl Spot {
    /// No allocation.
    pub(super) const NONE: Spot = Spot(0);
}

/// Blocks that allocations are cut from. A block's place in the list is the high part of its spots, so a block that is
/// longer than [`BLOCK`] is followed by empty ones that only fill its address range.
#[derive(Debug, Default)]
pub(super) struct Arena {
    blocks: Vec<Vec<u8>>,
    /// The block that allocations are cut from, and how much of it is taken.
    current: usize,
    taken: usize,
    /// The block to return to after one that was made for a single large request.
    parked: Option<(usize, usize)>,
}

/// What [`Arena::fit`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// There is room.
    Room,
    /// A block of this many bytes must be added.
    Block(usize),
    /// Addresses have run out.
    Full,
}

/// The bytes that an allocation of `length` takes.
pub(super) fn padded(length: usize) -> usize {
    length.next_multiple_of(UNIT)
}

impl Arena {
    /// Whether allocations of `length` bytes in total (padded each) can be made now.
    #[inline]
    pub(super) fn fit(&self, length: usize) -> Fit {
        let block = self.blocks.get(self.current).map_or(0, Vec::len);
        if self.taken + length <= block {
            return Fit::Room;
        }
        self.next_block(length)
    }

    #[cold]
    fn next_block(&self, length: usize) -> Fit {
        if let Some((block, taken)) = self.parked
            && taken + length <= self.blocks[block].len()
        {
            return Fit::Block(0);
        }
        if (self.blocks.len() + 1) * BLOCK_UNITS + length / UNIT >= u32::MAX as usize {
            return Fit::Full;
        }
        let regular = FIRST_BLOCK << self.blocks.len().min(8);
        // The first unit of the first block is left out, so that no spot is zero.
        let first = if self.blocks.is_empty() { UNIT } else { 0 };
        if length > regular / 4 { Fit::Block(length + first) } else { Fit::Block(regular) }
    }

    /// Adds the block of `bytes` that [`Arena::fit`] asked for.
    pub(super) fn add(&mut self, bytes: usize) {
        if let Some((block, taken)) = self.parked.take() {
            (self.current, self.taken) = (block, taken);
        }
        if bytes == 0 {
            return;
        }
        let regular = FIRST_BLOCK << self.blocks.len().min(8);
        if bytes != regular && !self.blocks.is_empty() {
            self.parked = Some((self.current, self.taken));
        }
        self.current = self.blocks.len();
        self.taken = if self.blocks.is_empty() { UNIT } else { 0 };
        self.blocks.push(vec![0; bytes]);
        for _ in 1..bytes.div_ceil(BLOCK) {
            self.blocks.push(Vec::new());
        }
    }

    /// Cuts off `length` bytes, for which there is room.
    #[inline]
    pub(super) fn allocate(&mut self, length: usize) -> Spot {
        let spot = Spot((self.current * BLOCK_UNITS + self.taken / UNIT) as u32);
        self.taken += padded(length);
        spot
    }

    /// The bytes at `offset` of an allocation.
    #[inline]
    pub(super) fn get(&self, spot: Spot, offset: usize, length: usize) -> &[u8] {
        let (block, start) = locate(spot, |block| self.blocks[block].is_empty());
        &self.blocks[block][start + offset..start + offset + length]
    }

    /// As [`Arena::get`], to write.
    #[inline]
    pub(super) fn get_mut(&mut self, spot: Spot, offset: usize, length: usize) -> &mut [u8] {
        let (block, start) = locate(spot, |block| self.blocks[block].is_empty());
        &mut self.blocks[block][start + offset..start + offset + length]
    }

    /// Makes it immutable and shareable, without a copy.
    pub(super) fn seal(self) -> SealedArena {
        SealedArena { blocks: self.blocks.into_iter().map(Bytes::from).collect() }
    }
}

/// The block of a spot and the offset in it. Second and later allocations of a long block may start in the address
/// range of the empty blocks behind it.
#[inline]
fn locate(spot: Spot, is_empty: impl Fn(usize) -> bool) -> (usize, usize) {
    let mut block = spot.0 as usize / BLOCK_UNITS;
    let mut start = spot.0 as usize % BLOCK_UNITS * UNIT;
    while is_empty(block) {
        block -= 1;
        start += BLOCK;
    }
    (block, start)
}

/// An [`Arena`] whose parts can be given out.
#[derive(Debug, Default)]
pub(super) struct SealedArena {
    blocks: Vec<Bytes>,
}

impl SealedArena {
    /// The bytes at `offset` of an allocation.
    pub(super) fn get(&self, spot: Spot, offset: usize, length: usize) -> &[u8] {
        let (block, start) = locate(spot, |block| self.blocks[block].is_empty());
        &self.blocks[block][start + offset..start + offset + length]
    }

    /// The same bytes, shared.
    pub(super) fn share(&self, spot: Spot, offset: usize, length: usize) -> Bytes {
        let (block, start) = locate(spot, |block| self.blocks[block].is_empty());
        self.blocks[block].slice(start + offset..start + offset + length)
    }
}
