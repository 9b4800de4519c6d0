//! Bounded tries: sets of paths that lose detail instead of growing beyond a bound.

use bytes::Bytes;
use ferrobeam_proto::pipeline::{BoundedTrie, BoundedTrieNode};
use prost::Message;

/// The bound of a trie that names none.
const DEFAULT_BOUND: usize = 100;

/// Levels that a trie keeps: decoders of the proto, prost's among them, refuse messages nested much deeper, and a level
/// is two messages.
const MAX_DEPTH: usize = 40;

/// A set of paths with at most `bound` leaves. A truncated leaf stands for everything below it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trie {
    bound: usize,
    /// `None` without any path.
    root: Option<BoundedTrieNode>,
}

impl Trie {
    pub(super) fn decode(payload: &[u8]) -> Option<Trie> {
        let BoundedTrie { bound, root, singleton } = BoundedTrie::decode(payload).ok()?;
        let bound = usize::try_from(bound).ok().filter(|bound| *bound > 0).unwrap_or(DEFAULT_BOUND);
        let root = root.or_else(|| (!singleton.is_empty()).then(|| path(singleton)));
        Some(Trie { bound, root })
    }

    pub(super) fn encode(&self) -> Bytes {
        let bound = i32::try_from(self.bound).unwrap_or(i32::MAX);
        BoundedTrie { bound, root: self.root.clone(), singleton: Vec::new() }.encode_to_vec().into()
    }

    /// Adds the paths of `other`, under the tighter of the bounds.
    pub(super) fn merge(&mut self, other: Trie) {
        self.bound = self.bound.min(other.bound);
        match (&mut self.root, other.root) {
            (Some(root), Some(other)) => unite(root, other),
            (root, other) => {
                if root.is_none() {
                    *root = other;
                }
            }
        }
        if let Some(root) = &mut self.root {
            let mut leaves = leaves(root);
            while leaves > self.bound {
                let fewer = trim(root);
                if fewer == 0 {
                    break;
                }
                leaves -= fewer;
            }
        }
    }
}

/// The trie of one path.
fn path(segments: Vec<String>) -> BoundedTrieNode {
    let truncated = segments.len() > MAX_DEPTH;
    let leaf = BoundedTrieNode { truncated, ..BoundedTrieNode::default() };
    segments
        .into_iter()
        .take(MAX_DEPTH)
        .rev()
        .fold(leaf, |child, segment| BoundedTrieNode { truncated: false, children: [(segment, child)].into() })
}

fn leaves(node: &BoundedTrieNode) -> usize {
    node.children.values().map(leaves).sum::<usize>().max(1)
}

fn unite(node: &mut BoundedTrieNode, other: BoundedTrieNode) {
    if node.truncated || other.truncated {
        node.truncated = true;
        node.children.clear();
        return;
    }
    for (segment, other) in other.children {
        match node.children.get_mut(&segment) {
            Some(child) => unite(child, other),
            None => {
                node.children.insert(segment, other);
            }
        }
    }
}

/// Cuts the largest branch down to a truncated leaf, at the lowest node all of whose children are leaves; by how many
/// leaves that is less.
fn trim(node: &mut BoundedTrieNode) -> usize {
    let mut largest: Option<(&mut BoundedTrieNode, usize)> = None;
    let total = leaves(node);
    if total == 1 {
        return 0;
    }
    for child in node.children.values_mut() {
        let size = leaves(child);
        if largest.as_ref().is_none_or(|(_, most)| size > *most) {
            largest = Some((child, size));
        }
    }
    match largest {
        Some((child, size)) if size > 1 => trim(child),
        _ => {
            node.truncated = true;
            node.children.clear();
            total - 1
        }
    }
}
