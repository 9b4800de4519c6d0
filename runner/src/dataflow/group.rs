//! GroupByKey over bounded input: everything is gathered, on disk past the budget, and each key comes out once per
//! window when the input has ended.
//!
//! A group that is too large to send whole leaves as its first page and a token; the harness asks for the rest through
//! the state API. Triggers have nothing to decide here: the watermark jumps from its least to its greatest value, so
//! every window fires exactly once, on time, with its last pane.

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::Activator;

use super::edge::{Edge, Output, exchange};
use super::flow::{Flow, VISIT_LIMIT};
use super::merge::Merger;
use super::route::{self, Route};
use super::run::Reporter;
use crate::element::{Batch, BatchBuilder, ElementCoder, MAX_ELEMENT, WireCoder, put_varint};
use crate::grouping::{GroupBuffer, Groups, KeyGroup, StoredIterables, Values, WindowGroup};
use crate::memory::Budget;
use crate::time::{self, Moment, Timestamp};
use crate::windowing::{Merging, Windowing, merge_sessions};

/// Values above this many bytes are sent by reference where the coder allows it.
const INLINE_LIMIT: u64 = 1 << 20;
/// Windows of one key taken at once, where they do not merge.
const WINDOWS: usize = 16;
/// A batch is sent on once it holds this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The pane of a window's only firing: first, last, on time, index 0 (pane encoding of the windowed value coder).
const ONLY_PANE: &[u8] = &[0x07];

/// What a grouping is made of.
pub(crate) struct Grouping {
    pub(crate) name: String,
    pub(crate) input: ElementCoder,
    pub(crate) output: WireCoder,
    pub(crate) windowing: Windowing,
    pub(crate) budget: Budget,
    pub(crate) iterables: Arc<StoredIterables>,
    /// Stages that read the output.
    pub(crate) readers: u32,
}

/// Builds the grouping. `merger` makes what asks the SDK, for custom merging windows.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    grouping: Grouping,
    input: Edge<'scope>,
    merger: impl FnOnce(Rc<[usize]>) -> Option<Merger>,
    flow: Flow,
    reporter: Rc<Reporter>,
) -> Edge<'scope> {
    let by_key = Route::ByKey(grouping.input.clone());
    let routed = route::address(scope, &grouping.name, input, by_key, Rc::clone(&reporter));
    let mut builder = OperatorBuilder::new(grouping.name.clone(), scope);
    let mut input = builder.new_input(routed, exchange());
    let (mut output, stream) = Output::new(&mut builder);
    let address = builder.operator_info().address;
    let merger = merger(Rc::clone(&address));
    let mut operator = Operator {
        phase: Phase::Gathering(Box::new(GroupBuffer::new(&grouping.budget))),
        encoder: Encoder {
            state_backed: is_state_backed(&grouping.output),
            windowing: grouping.windowing.clone(),
            iterables: Arc::clone(&grouping.iterables),
            readers: grouping.readers,
            batch: BatchBuilder::default(),
            scratch: Vec::new(),
        },
        flow: flow.waking(scope.worker().sync_activator_for(address.to_vec())),
        activator: scope.activator_for(address),
        grouping,
        merger,
        reporter,
    };
    builder.build_reschedule(move |mut capabilities| {
        let mut capability = capabilities.pop();
        move |frontiers| {
            input.for_each(|_, batch| operator.gather(&std::mem::take(batch)));
            if time::watermark(frontiers[0].frontier()).is_none()
                && let Some(held) = &capability
            {
                match operator.send(|batch| output.give(held, batch)) {
                    Ok(true) => capability = None,
                    Ok(false) => {}
                    Err(()) => operator.phase = Phase::Failed,
                }
            }
            capability.is_some()
        }
    });
    stream
}

/// Whether the iterable of a grouping's output may be sent by reference.
pub(crate) fn is_state_backed(output: &WireCoder) -> bool {
    matches!(output, WireCoder::Kv(_, values) if matches!(**values, WireCoder::StateBackedIterable(_)))
}

enum Phase {
    Gathering(Box<GroupBuffer>),
    Sending(Groups),
    Failed,
}

struct Operator {
    grouping: Grouping,
    phase: Phase,
    encoder: Encoder,
    merger: Option<Merger>,
    flow: Flow,
    reporter: Rc<Reporter>,
    activator: Activator,
}

impl Operator {
    fn gather(&mut self, batch: &Batch) {
        let Phase::Gathering(buffer) = &mut self.phase else { return };
        let coder = &self.grouping.input;
        for element in batch.elements() {
            let added = coder.parse(element).and_then(|view| {
                let (key, value) = coder.value.key_value(view.value)?;
                Ok((view, key, value))
            });
            match added {
                Ok((view, key, value)) => {
                    for window in view.windows.clone() {
                        if let Err(error) = buffer.add(key, window, view.timestamp, value) {
                            self.reporter.storage(&self.grouping.name, &error);
                            self.phase = Phase::Failed;
                            return;
                        }
                    }
                }
                Err(error) => {
                    self.reporter.malformed(&self.grouping.name, &error);
                    self.phase = Phase::Failed;
                    return;
                }
            }
        }
    }

    /// Sends as much as there is room for. True when all is sent; an error was reported already.
    fn send(&mut self, mut give: impl FnMut(Batch)) -> Result<bool, ()> {
        if let Phase::Gathering(_) = self.phase {
            let Phase::Gathering(buffer) = std::mem::replace(&mut self.phase, Phase::Failed) else { return Err(()) };
            self.phase =
                Phase::Sending(buffer.finish().map_err(|error| self.reporter.storage(&self.grouping.name, &error))?);
        }
        let Phase::Sending(groups) = &mut self.phase else { return Ok(false) };
        let mut sent = 0;
        loop {
            // All of it is of the first epoch.
            if !self.flow.has_room(0) {
                return Ok(false);
            }
            if sent > VISIT_LIMIT {
                self.activator.activate();
                return Ok(false);
            }
            let storage = |error: std::io::Error| self.reporter.storage(&self.grouping.name, &error);
            let ready = match &mut self.merger {
                None if self.encoder.windowing.merging == Merging::None => {
                    groups.next_part(WINDOWS).map_err(storage)?
                }
                None => groups.next().map_err(storage)?,
                Some(merger) => {
                    merger.fill(groups).map_err(storage)?;
                    let ready = merger.next().map_err(|error| {
                        if let Some(error) = error {
                            self.reporter.malformed(&self.grouping.name, &error);
                        }
                    })?;
                    if ready.is_none() && merger.busy() {
                        return Ok(false);
                    }
                    ready
                }
            };
            let done = ready.is_none();
            let mut give = |batch: Batch| {
                sent += batch.data().len();
                give(batch);
            };
            if let Some(group) = ready {
                self.encoder.group(group, &mut give).map_err(storage)?;
            }
            if done {
                give(self.encoder.batch.finish());
            }
            if done {
                return Ok(true);
            }
        }
    }
}

/// Turns groups into windowed values.
struct Encoder {
    windowing: Windowing,
    state_backed: bool,
    iterables: Arc<StoredIterables>,
    readers: u32,
    batch: BatchBuilder,
    scratch: Vec<u8>,
}

impl Encoder {
    /// Encodes a key's groups, and gives every batch that is full with them.
    fn group(&mut self, group: KeyGroup, give: &mut impl FnMut(Batch)) -> std::io::Result<()> {
        let KeyGroup { key, windows } = group;
        let windows = match self.windowing.merging {
            Merging::Sessions => sessions(windows)?,
            Merging::None | Merging::Custom => windows,
        };
        for window in windows {
            self.window(&key, window)?;
            if self.batch.bytes() >= BATCH_BYTES {
                give(self.batch.finish());
            }
        }
        Ok(())
    }

    fn window(&mut self, key: &[u8], group: WindowGroup) -> std::io::Result<()> {
        let last = self.windowing.window_coder.max_timestamp(&group.window).map_err(std::io::Error::other)?;
        let timestamp = self.windowing.timestamp_combiner.apply(last, group.earliest, group.latest);
        let out = &mut self.scratch;
        out.clear();
        out.extend_from_slice(&timestamp.to_wire());
        out.extend_from_slice(&1u32.to_be_bytes());
        out.extend_from_slice(&group.window);
        out.extend_from_slice(ONLY_PANE);
        out.extend_from_slice(key);
        let by_reference = self.state_backed && group.bytes > INLINE_LIMIT;
        if !by_reference && group.bytes > MAX_ELEMENT as u64 {
            let (count, bytes) = (group.count, group.bytes);
            let what = format!("a group of {count} values ({bytes} bytes) is too long to be one element");
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, what));
        }
        encode_values(out, &group, by_reference.then_some((&*self.iterables, self.readers)))?;
        self.batch.push(out, Timestamp::MIN);
        Ok(())
    }
}

/// An iterable: counted and whole, or, given where to store it and for how many readers, its first page and a token for
/// the rest.
fn encode_values(
    out: &mut Vec<u8>,
    group: &WindowGroup,
    stored: Option<(&StoredIterables, u32)>,
) -> std::io::Result<()> {
    let counted = i32::try_from(group.count).ok().filter(|_| stored.is_none());
    match counted {
        Some(count) => out.extend_from_slice(&count.to_be_bytes()),
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
    let mut position = Some(0);
    while let Some(at) = position {
        let (bytes, elements, next) = group.values.page(at, INLINE_LIMIT as usize)?;
        if counted.is_none() {
            put_varint(out, elements);
        }
        out.extend_from_slice(&bytes);
        position = next;
        if let (Some((iterables, readers)), Some(rest)) = (stored, next) {
            let token = iterables.insert(&group.values, rest, readers)?;
            put_varint(out, u64::MAX);
            put_varint(out, token.len() as u64);
            out.extend_from_slice(&token);
            return Ok(());
        }
    }
    if counted.is_none() {
        put_varint(out, 0);
    }
    Ok(())
}

fn sessions(windows: Vec<WindowGroup>) -> std::io::Result<Vec<WindowGroup>> {
    if windows.len() == 1 {
        return Ok(windows);
    }
    let encoded = windows.iter().map(|group| group.window.clone()).collect();
    let merged = merge_sessions(encoded).map_err(std::io::Error::other)?;
    Ok(merged.into_iter().map(|(window, parts)| unite(window, parts.iter().map(|part| &windows[*part]))).collect())
}

/// One group of several windows that merged into `window`.
pub(crate) fn unite<'a>(window: bytes::Bytes, parts: impl Iterator<Item = &'a WindowGroup> + Clone) -> WindowGroup {
    WindowGroup {
        window,
        earliest: parts.clone().map(|part| part.earliest).min().unwrap_or(Timestamp::MAX),
        latest: parts.clone().map(|part| part.latest).max().unwrap_or(Timestamp::MIN),
        count: parts.clone().map(|part| part.count).sum(),
        bytes: parts.clone().map(|part| part.bytes).sum(),
        values: Values::chain(parts.map(|part| part.values.clone()).collect()),
    }
}
