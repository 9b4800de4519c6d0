//! Building batches out of single elements.

use bytes::Bytes;

use super::Batch;
use crate::time::Timestamp;

/// Collects encoded windowed values into a [`Batch`]. Reusable: a builder that was finished is empty again and expects
/// a batch of about the same size.
///
/// The owner finishes a batch when it has some megabytes; a batch must stay below 4 GiB, of which one element can be
/// at most half (see [`super::MAX_ELEMENT`]).
#[derive(Debug)]
pub struct BatchBuilder {
    data: Vec<u8>,
    ends: Vec<u32>,
    min_timestamp: Timestamp,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder { data: Vec::new(), ends: Vec::new(), min_timestamp: Timestamp(i64::MAX) }
    }
}

impl BatchBuilder {
    /// An empty builder.
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Adds one encoded windowed value.
    #[inline]
    pub fn push(&mut self, element: &[u8], timestamp: Timestamp) {
        self.data.extend_from_slice(element);
        self.close(timestamp);
    }

    /// Adds the windowed value that `encode` appends to the buffer it is given.
    #[inline]
    pub fn push_with(&mut self, timestamp: Timestamp, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.data);
        self.close(timestamp);
    }

    /// As [`BatchBuilder::push_with`]; an element whose encoding fails is taken back.
    pub fn try_push_with<E>(
        &mut self,
        timestamp: Timestamp,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.data.len();
        if let Err(error) = encode(&mut self.data) {
            self.data.truncate(start);
            return Err(error);
        }
        self.close(timestamp);
        Ok(())
    }

    #[inline]
    fn close(&mut self, timestamp: Timestamp) {
        let end = u32::try_from(self.data.len()).expect("owners finish batches long before 2 GiB");
        self.ends.push(end);
        self.min_timestamp = self.min_timestamp.min(timestamp);
    }

    /// Elements so far.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of elements so far.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Everything pushed since the last call.
    pub fn finish(&mut self) -> Batch {
        if self.ends.is_empty() {
            return Batch::default();
        }
        let next = Vec::with_capacity(self.data.len());
        let data = Bytes::from(std::mem::replace(&mut self.data, next));
        let batch = Batch::new(data, self.ends.as_slice(), self.min_timestamp);
        self.ends.clear();
        self.min_timestamp = Timestamp(i64::MAX);
        batch
    }
}
