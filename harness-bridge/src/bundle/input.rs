//! What an open bundle is sent: batches and timers on their way into data messages.
//!
//! A message holds about [`MESSAGE`] bytes. Elements are never torn apart, because one SDK (Python) reads every message
//! by itself; small batches are put together, large ones travel as they are, without a copy.
//!
//! Data and timers are processed in the order in which they were pushed. One message holds only one of the two, because
//! Java looks at the data of a message first, Python and Go at its timers. Every stream of the stage, also that of a
//! timer family that never fires, is ended, and all in the same message: Go counts the ends of timer streams by
//! transform and stops listening at the first that makes up the number.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ferrobeam_proto::fn_execution::Elements;
use ferrobeam_proto::fn_execution::elements::{Data, Timers};
use ferrobeam_runner::element::Batch;
use tokio::sync::mpsc;

use crate::stage::Stage;

/// Bytes of elements after which a message is sent off.
const MESSAGE: usize = 1 << 20;
/// Batches smaller than this are copied together.
const SMALL: usize = 32 << 10;

/// What the caller of a bundle says.
#[derive(Debug)]
pub(crate) enum Push {
    /// Here is input.
    Batch(Batch),
    /// Timers of a family fire: its position in the stage, and whole encoded timers.
    Timers(usize, Bytes),
    /// There will be no more.
    Close,
}

/// Why feeding a bundle stopped before its input was over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stopped {
    /// The caller dropped the bundle without closing it.
    #[error("the bundle was abandoned before its input was complete")]
    Abandoned,
    /// The data stream ended.
    #[error("the data stream ended before the bundle's input")]
    StreamEnded,
    /// The caller named a timer family that the stage does not have.
    #[error("the bundle was given timers of family {0}, which its stage does not have")]
    UnknownFamily(usize),
}

/// The input side of one bundle.
pub(crate) struct Input {
    instruction: String,
    stage: Arc<Stage>,
    pushes: mpsc::UnboundedReceiver<Push>,
    pending: VecDeque<Piece>,
    pending_bytes: usize,
    small: BytesMut,
    closed: bool,
    /// All batches that were pushed: a part of them may come back.
    kept: Vec<Batch>,
}

/// Elements, or timers of a family, that travel together.
enum Piece {
    Data(Bytes),
    Timers(usize, Bytes),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Data(bytes) | Piece::Timers(_, bytes) => bytes.len(),
        }
    }

    fn is_data(&self) -> bool {
        matches!(self, Piece::Data(_))
    }
}

impl Input {
    pub(crate) fn new(instruction: String, stage: Arc<Stage>, pushes: mpsc::UnboundedReceiver<Push>) -> Input {
        Input {
            instruction,
            stage,
            pushes,
            pending: VecDeque::new(),
            pending_bytes: 0,
            small: BytesMut::new(),
            closed: false,
            kept: Vec::new(),
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

    /// The whole input with its end, if all of it is here, no larger than `limit`, and fit for one message.
    pub(crate) fn embeddable(&mut self, limit: usize) -> Option<Elements> {
        if !self.closed || self.pending_bytes > limit.min(MESSAGE) {
            return None;
        }
        self.flush_small();
        let first_is_data = self.pending.front().is_none_or(Piece::is_data);
        if self.pending.iter().any(|piece| piece.is_data() != first_is_data) {
            return None;
        }
        let mut elements = self.message();
        self.add_ends(&mut elements);
        Some(elements)
    }

    /// Sends all of the input as it comes, and its end. May be dropped and called again.
    pub(crate) async fn feed(&mut self, stream: &mpsc::Sender<Elements>) -> Result<(), Stopped> {
        loop {
            while !self.closed && self.pending_bytes < MESSAGE {
                match self.pushes.try_recv() {
                    Ok(push) => self.take_in(push)?,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return Err(Stopped::Abandoned),
                }
            }
            self.flush_small();
            loop {
                let message = stream.reserve().await.map_err(|_| Stopped::StreamEnded)?;
                let mut elements = self.message();
                let is_last = self.closed && self.pending.is_empty();
                if is_last {
                    self.add_ends(&mut elements);
                }
                if !elements.data.is_empty() || !elements.timers.is_empty() {
                    message.send(elements);
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

    /// For a stage that can be split, everything that was pushed.
    pub(crate) fn kept(&self) -> &[Batch] {
        &self.kept
    }

    /// The message that ends the input.
    pub(crate) fn end(&self) -> Elements {
        let mut elements = Elements::default();
        self.add_ends(&mut elements);
        elements
    }

    /// Ends every stream of the stage. By themselves: Python reads nothing beside the mark.
    fn add_ends(&self, elements: &mut Elements) {
        elements.data.push(self.data(Bytes::new(), true));
        elements.timers.extend((0..self.stage.timers.len()).map(|family| self.timers(family, Bytes::new(), true)));
    }

    fn data(&self, data: Bytes, is_last: bool) -> Data {
        Data { instruction_id: self.instruction.clone(), transform_id: self.stage.input.clone(), data, is_last }
    }

    fn timers(&self, family: usize, timers: Bytes, is_last: bool) -> Timers {
        let port = &self.stage.timers[family];
        Timers {
            instruction_id: self.instruction.clone(),
            transform_id: port.transform.clone(),
            timer_family_id: port.family.clone(),
            timers,
            is_last,
        }
    }

    async fn receive(&mut self) -> Result<(), Stopped> {
        if !self.closed {
            let push = self.pushes.recv().await.ok_or(Stopped::Abandoned)?;
            self.take_in(push)?;
        }
        Ok(())
    }

    fn take_in(&mut self, push: Push) -> Result<(), Stopped> {
        if let Push::Batch(batch) = &push {
            self.kept.push(batch.clone());
        }
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
                self.pending.extend(pieces(&batch, MESSAGE).into_iter().map(Piece::Data));
            }
            Push::Timers(family, _) if family >= self.stage.timers.len() => return Err(Stopped::UnknownFamily(family)),
            Push::Timers(_, timers) if timers.is_empty() => {}
            Push::Timers(family, timers) => {
                self.flush_small();
                self.pending_bytes += timers.len();
                self.pending.push_back(Piece::Timers(family, timers));
            }
        }
        Ok(())
    }

    fn flush_small(&mut self) {
        if !self.small.is_empty() {
            let small = self.small.split().freeze();
            self.pending.push_back(Piece::Data(small));
        }
    }

    /// The next message: about [`MESSAGE`] bytes of what is pending, of one kind.
    fn message(&mut self) -> Elements {
        let mut elements = Elements::default();
        let Some(is_data) = self.pending.front().map(Piece::is_data) else { return elements };
        let mut bytes = 0;
        while let Some(next) = self.pending.front()
            && next.is_data() == is_data
            && (bytes == 0 || bytes + next.len() <= MESSAGE)
        {
            bytes += next.len();
            match self.pending.pop_front() {
                Some(Piece::Data(data)) => elements.data.push(self.data(data, false)),
                Some(Piece::Timers(family, timers)) => elements.timers.push(self.timers(family, timers, false)),
                None => {}
            }
        }
        self.pending_bytes -= bytes;
        elements
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
    use crate::stage::TimerPort;

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

    fn stage() -> Arc<Stage> {
        let timer = |transform: &str, family: &str| TimerPort { transform: transform.into(), family: family.into() };
        Arc::new(crate::tests::stage(vec![timer("t", "a"), timer("t", "b")]))
    }

    async fn fed(pushes: Vec<Push>) -> (Result<(), Stopped>, Vec<Elements>) {
        let (push, receiver) = mpsc::unbounded_channel();
        let mut input = Input::new("i:1".into(), stage(), receiver);
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
    async fn timers_of_no_family_are_refused() {
        let (result, _) = fed(vec![Push::Timers(2, Bytes::new()), Push::Close]).await;
        assert_eq!(result, Err(Stopped::UnknownFamily(2)));
    }

    #[tokio::test]
    async fn a_bundle_that_is_dropped_open_is_abandoned() {
        let (result, _) = fed(vec![Push::Batch(batch(&[b"a"]))]).await;
        assert_eq!(result, Err(Stopped::Abandoned));
    }

    /// Who is spoken to, what is said, and whether it is the end: `a`, `b` are timer families, `-` is data.
    fn said(message: &Elements) -> Vec<(String, Vec<u8>, bool)> {
        let data = message.data.iter().map(|data| ("-".to_owned(), data.data.to_vec(), data.is_last));
        let timers = message.timers.iter();
        data.chain(timers.map(|timers| (timers.timer_family_id.clone(), timers.timers.to_vec(), timers.is_last)))
            .collect()
    }

    fn ends() -> Vec<(String, Vec<u8>, bool)> {
        ["-", "a", "b"].map(|name| (name.to_owned(), vec![], true)).into()
    }

    fn says(name: &str, bytes: &[u8]) -> (String, Vec<u8>, bool) {
        (name.to_owned(), bytes.to_vec(), false)
    }

    #[tokio::test]
    async fn data_and_timers_keep_their_order_and_every_stream_is_ended() {
        let timers = |family, bytes| Push::Timers(family, Bytes::from_static(bytes));
        let (result, messages) = fed(vec![
            Push::Batch(batch(&[b"x"])),
            timers(1, b"one"),
            timers(0, b"two"),
            timers(1, b"three"),
            timers(0, b""),
            Push::Batch(batch(&[b"y"])),
            Push::Close,
        ])
        .await;
        assert_eq!(result, Ok(()));
        let [first, second, third] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(said(first), [says("-", b"x")]);
        assert_eq!(said(second), [says("b", b"one"), says("a", b"two"), says("b", b"three")]);
        assert_eq!(said(third), [vec![says("-", b"y")], ends()].concat());

        let (_, messages) = fed(vec![timers(0, b"only"), Push::Close]).await;
        let [message] = &messages[..] else { panic!("{messages:?}") };
        let mut expected = ends();
        expected.insert(1, says("a", b"only"));
        assert_eq!(said(message), expected);

        let (_, messages) = fed(vec![Push::Close]).await;
        let [message] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(said(message), ends());
    }

    async fn embedded(pushes: Vec<Push>) -> Option<Elements> {
        let (push, receiver) = mpsc::unbounded_channel();
        let mut input = Input::new("i:1".into(), stage(), receiver);
        for one in pushes {
            push.send(one).unwrap();
        }
        input.begin(Some(100)).await.unwrap();
        input.embeddable(100)
    }

    #[tokio::test]
    async fn what_fits_one_message_can_be_embedded() {
        let timers = |family| Push::Timers(family, Bytes::from_static(b"t"));
        let element = || Push::Batch(batch(&[b"x"]));
        let elements = embedded(vec![timers(1), timers(0), Push::Close]).await.unwrap();
        let mut expected = ends();
        expected.splice(1..1, [says("b", b"t"), says("a", b"t")]);
        assert_eq!(said(&elements), expected);
        let elements = embedded(vec![element(), element(), Push::Close]).await.unwrap();
        assert_eq!(said(&elements), [vec![says("-", b"xx")], ends()].concat());
        assert_eq!(said(&embedded(vec![Push::Close]).await.unwrap()), ends());

        assert_eq!(embedded(vec![element(), timers(0), Push::Close]).await, None);
        assert_eq!(embedded(vec![timers(0), element(), Push::Close]).await, None);
        assert_eq!(embedded(vec![Push::Batch(batch(&[&[1; 101]])), Push::Close]).await, None);
    }
}
