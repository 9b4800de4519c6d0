//! What an open bundle is sent: batches on their way into data messages.
//!
//! A message holds about [`MESSAGE`] bytes. Elements are never torn apart, because one SDK (Python) reads every message
//! by itself; small batches are put together, large ones travel as they are, without a copy.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use ferrobeam_proto::fn_execution::{Elements, elements::Data};
use ferrobeam_runner::element::Batch;
use tokio::sync::mpsc;

/// Bytes of elements after which a message is sent off.
const MESSAGE: usize = 1 << 20;
/// Batches smaller than this are copied together.
const SMALL: usize = 32 << 10;

/// What the caller of a bundle says.
#[derive(Debug)]
pub(crate) enum Push {
    /// Here is input.
    Batch(Batch),
    /// There will be no more.
    Close,
}

/// Why feeding a bundle stopped before its input was over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The caller dropped the bundle without closing it.
    Abandoned,
    /// The data stream ended.
    StreamEnded,
}

/// The input side of one bundle.
pub(crate) struct Input {
    instruction: String,
    transform: String,
    pushes: mpsc::UnboundedReceiver<Push>,
    pending: VecDeque<Data>,
    pending_bytes: usize,
    small: BytesMut,
    closed: bool,
}

impl Input {
    pub(crate) fn new(instruction: String, transform: String, pushes: mpsc::UnboundedReceiver<Push>) -> Input {
        Input {
            instruction,
            transform,
            pushes,
            pending: VecDeque::new(),
            pending_bytes: 0,
            small: BytesMut::new(),
            closed: false,
        }
    }

    /// Waits for the first of the input, or, with a limit, for all of it as long as it is smaller.
    pub(crate) async fn begin(&mut self, limit: Option<usize>) -> Result<(), Stopped> {
        self.receive().await?;
        while !self.closed && limit.is_some_and(|limit| self.pending_bytes < limit) {
            self.receive().await?;
        }
        Ok(())
    }

    /// The whole input with its end, if all of it is here and no larger than `limit`.
    pub(crate) fn embeddable(&mut self, limit: usize) -> Option<Elements> {
        (self.closed && self.pending_bytes <= limit.min(MESSAGE)).then(|| {
            let end = self.end();
            let mut elements = self.message();
            elements.data.extend(end.data);
            elements
        })
    }

    /// Sends all of the input as it comes, and its end.
    pub(crate) async fn feed(&mut self, stream: &mpsc::Sender<Elements>) -> Result<(), Stopped> {
        loop {
            while !self.closed && self.pending_bytes < MESSAGE {
                match self.pushes.try_recv() {
                    Ok(push) => self.take_in(push),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return Err(Stopped::Abandoned),
                }
            }
            loop {
                let mut elements = self.message();
                let is_last = self.closed && self.pending.is_empty();
                if is_last {
                    elements.data.extend(self.end().data);
                }
                if !elements.data.is_empty() {
                    stream.send(elements).await.map_err(|_| Stopped::StreamEnded)?;
                }
                if is_last {
                    return Ok(());
                }
                if self.pending.is_empty() {
                    break;
                }
            }
            self.receive().await?;
        }
    }

    /// The message that ends the input. By itself: Python reads no data beside the mark.
    pub(crate) fn end(&self) -> Elements {
        let end = Data {
            instruction_id: self.instruction.clone(),
            transform_id: self.transform.clone(),
            data: Bytes::new(),
            is_last: true,
        };
        Elements { data: vec![end], timers: Vec::new() }
    }

    async fn receive(&mut self) -> Result<(), Stopped> {
        if !self.closed {
            let push = self.pushes.recv().await.ok_or(Stopped::Abandoned)?;
            self.take_in(push);
        }
        Ok(())
    }

    fn take_in(&mut self, push: Push) {
        match push {
            Push::Close => self.closed = true,
            Push::Batch(batch) if batch.is_empty() => {}
            Push::Batch(batch) if batch.data().len() <= SMALL => {
                self.pending_bytes += batch.data().len();
                self.small.extend_from_slice(batch.data());
            }
            Push::Batch(batch) => {
                self.flush_small();
                self.pending_bytes += batch.data().len();
                for piece in pieces(&batch, MESSAGE) {
                    self.add(piece);
                }
            }
        }
    }

    fn flush_small(&mut self) {
        if !self.small.is_empty() {
            let small = self.small.split().freeze();
            self.add(small);
        }
    }

    fn add(&mut self, data: Bytes) {
        self.pending.push_back(Data {
            instruction_id: self.instruction.clone(),
            transform_id: self.transform.clone(),
            data,
            is_last: false,
        });
    }

    /// The next message: about [`MESSAGE`] bytes of what is pending.
    fn message(&mut self) -> Elements {
        self.flush_small();
        let mut bytes = 0;
        let mut data = Vec::new();
        while let Some(next) = self.pending.front()
            && (bytes == 0 || bytes + next.data.len() <= MESSAGE)
        {
            bytes += next.data.len();
            data.extend(self.pending.pop_front());
        }
        self.pending_bytes -= bytes;
        Elements { data, timers: Vec::new() }
    }
}

/// The batch's bytes, cut between elements into pieces of at most `size` where elements allow it.
fn pieces(batch: &Batch, size: usize) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(batch.data().len() / size + 1);
    let (mut start, mut last) = (0, 0);
    for end in batch.ends().iter().map(|end| *end as usize) {
        if end - start > size && last > start {
            pieces.push(batch.data().slice(start..last));
            start = last;
        }
        last = end;
    }
    if last > start {
        pieces.push(batch.data().slice(start..last));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use ferrobeam_runner::time::Timestamp;

    use super::*;

    fn batch(elements: &[&[u8]]) -> Batch {
        let mut end = 0;
        let ends: Vec<u32> = elements
            .iter()
            .map(|element| {
                end += element.len() as u32;
                end
            })
            .collect();
        Batch::new(Bytes::from(elements.concat()), ends, Timestamp::MIN)
    }

    #[test]
    fn pieces_never_tear_an_element() {
        let whole = batch(&[b"aa", b"bbb", b"c", b"dddddddd", b"e"]);
        let cut: Vec<Bytes> = pieces(&whole, 4);
        assert_eq!(cut, [&b"aa"[..], b"bbbc", b"dddddddd", b"e"]);
        assert_eq!(pieces(&whole, 1 << 20), [whole.data().clone()]);
    }

    async fn fed(pushes: Vec<Push>) -> (Result<(), Stopped>, Vec<Elements>) {
        let (push, receiver) = mpsc::unbounded_channel();
        let mut input = Input::new("i:1".into(), "source".into(), receiver);
        for one in pushes {
            push.send(one).unwrap();
        }
        drop(push);
        let (stream, mut sent) = mpsc::channel(100);
        let result = input.feed(&stream).await;
        drop(stream);
        let mut messages = Vec::new();
        while let Some(message) = sent.recv().await {
            messages.push(message);
        }
        (result, messages)
    }

    #[tokio::test]
    async fn small_batches_share_a_message_that_also_ends_the_input() {
        let (result, messages) =
            fed(vec![Push::Batch(batch(&[b"a", b"b"])), Push::Batch(batch(&[b"c"])), Push::Close]).await;
        assert_eq!(result, Ok(()));
        let [message] = &messages[..] else { panic!("{messages:?}") };
        let datas: Vec<(&[u8], bool)> = message.data.iter().map(|data| (&data.data[..], data.is_last)).collect();
        assert_eq!(datas, [(&b"abc"[..], false), (&b""[..], true)]);
    }

    #[tokio::test]
    async fn large_input_is_spread_over_messages_in_order() {
        let large = vec![7; SMALL + 1];
        let pushes = (0..100).map(|_| Push::Batch(batch(&[&large]))).chain([Push::Close]).collect();
        let (result, messages) = fed(pushes).await;
        assert_eq!(result, Ok(()));
        assert!(messages.len() > 2);
        let sizes: Vec<usize> = messages.iter().map(|m| m.data.iter().map(|data| data.data.len()).sum()).collect();
        assert!(sizes.iter().all(|size| *size <= MESSAGE + SMALL + 1), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 100 * (SMALL + 1));
        assert!(messages.last().unwrap().data.last().unwrap().is_last);
    }

    #[tokio::test]
    async fn a_batch_larger_than_a_message_becomes_several() {
        let elements: Vec<&[u8]> = vec![&[1; 1000]; 5000];
        let (result, messages) = fed(vec![Push::Batch(batch(&elements)), Push::Close]).await;
        assert_eq!(result, Ok(()));
        let sizes: Vec<usize> = messages.iter().map(|m| m.data.iter().map(|data| data.data.len()).sum()).collect();
        assert!(sizes.iter().all(|size| *size <= MESSAGE && size % 1000 == 0), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 5_000_000);
        let ends = messages.iter().flat_map(|message| &message.data).filter(|data| data.is_last).count();
        assert_eq!(ends, 1);
    }

    #[tokio::test]
    async fn a_bundle_that_is_dropped_open_is_abandoned() {
        let (result, _) = fed(vec![Push::Batch(batch(&[b"a"]))]).await;
        assert_eq!(result, Err(Stopped::Abandoned));
    }
}
