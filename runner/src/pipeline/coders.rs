//! What can be said about coders before planning: that they exist, end, and have the components they should.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::standard_coders as urn;

use super::refusal::Findings;

/// Coders whose values the runner can walk, and with how many components.
pub(crate) const KNOWN_CODERS: &[(&str, usize)] = &[
    (urn::BYTES, 0),
    (urn::STRING_UTF8, 0),
    (urn::BOOL, 0),
    (urn::VARINT, 0),
    (urn::DOUBLE, 0),
    (urn::KV, 2),
    (urn::ITERABLE, 1),
    (urn::NULLABLE, 1),
    (urn::SHARDED_KEY, 1),
    (urn::LENGTH_PREFIX, 1),
    (urn::GLOBAL_WINDOW, 0),
    (urn::INTERVAL_WINDOW, 0),
    (urn::CUSTOM_WINDOW, 1),
];

/// Those that every SDK must know, announced or not: without them there is no Fn API.
pub(crate) const REQUIRED_CODERS: &[&str] = &[
    urn::BYTES,
    urn::KV,
    urn::ITERABLE,
    urn::DOUBLE,
    urn::LENGTH_PREFIX,
    urn::GLOBAL_WINDOW,
    urn::INTERVAL_WINDOW,
    urn::CUSTOM_WINDOW,
];

/// Whether the runner can tell where a value ends, just as an SDK writes it: of a coder that [`CoderCheck::check`] found
/// good.
pub(super) fn is_walkable(coders: &BTreeMap<String, pb::Coder>, id: &str) -> bool {
    let Some(coder) = coders.get(id) else { return false };
    let urn = coder.spec.as_ref().map_or("", |spec| spec.urn.as_str());
    // What is behind a length does not matter.
    let parts = if urn == urn::LENGTH_PREFIX { &[][..] } else { &coder.component_coder_ids[..] };
    KNOWN_CODERS.iter().any(|(known, _)| *known == urn) && parts.iter().all(|part| is_walkable(coders, part))
}

/// No type that a person writes comes near; a walk of this depth is safe on any thread's stack.
const MAX_DEPTH: usize = 64;
/// Components may be shared, so that few coders stand for a value of astronomic size: this bounds what they stand for.
const MAX_SIZE: usize = 4096;

/// Checks coders and all that they are made of, each once.
pub(super) struct CoderCheck<'a> {
    coders: &'a BTreeMap<String, pb::Coder>,
    /// Depth and size of those found good; none for those found bad, and reported.
    measured: BTreeMap<&'a str, Option<(usize, usize)>>,
}

impl<'a> CoderCheck<'a> {
    pub(super) fn new(coders: &'a BTreeMap<String, pb::Coder>) -> Self {
        CoderCheck { coders, measured: BTreeMap::new() }
    }

    /// Checks the coder `id`, which `user` (a phrase for messages) names. False if it is unfit, which was then reported.
    pub(super) fn check(&mut self, id: &str, user: &str, findings: &mut Findings) -> bool {
        let Some((id, _)) = self.coders.get_key_value(id) else {
            findings.pipeline(format!("{user} names coder \"{id}\", which the pipeline does not contain"));
            return false;
        };
        // Depth first without recursion. A coder is on the path from its first visit until all its components are done.
        let mut path: Vec<&'a str> = Vec::new();
        let mut on_path: BTreeSet<&'a str> = BTreeSet::new();
        let mut todo: Vec<(&'a str, bool)> = vec![(id, false)];
        while let Some((id, components_done)) = todo.pop() {
            if components_done {
                path.pop();
                on_path.remove(id);
                let measure = self.measure(id, findings);
                self.measured.insert(id, measure);
                continue;
            }
            if self.measured.contains_key(id) {
                continue;
            }
            if on_path.contains(id) {
                findings.pipeline(format!("coder \"{id}\" contains itself"));
                // Unfit, and so is every coder on the path that leads back to it.
                for coder in &path {
                    self.measured.insert(coder, None);
                }
                return false;
            }
            path.push(id);
            on_path.insert(id);
            todo.push((id, true));
            let Some(coder) = self.coders.get(id) else { continue };
            for component in &coder.component_coder_ids {
                match self.coders.get_key_value(component.as_str()) {
                    Some((component, _)) => todo.push((component, false)),
                    None => {
                        findings.pipeline(format!(
                            "coder \"{id}\" is made of coder \"{component}\", which the pipeline does not contain"
                        ));
                        for coder in &path {
                            self.measured.insert(coder, None);
                        }
                        return false;
                    }
                }
            }
        }
        matches!(self.measured.get(id.as_str()), Some(Some(_)))
    }

    /// Depth and size of a coder whose components were measured.
    fn measure(&self, id: &str, findings: &mut Findings) -> Option<(usize, usize)> {
        let coder = self.coders.get(id)?;
        let urn = coder.spec.as_ref().map_or("", |spec| spec.urn.as_str());
        let known = KNOWN_CODERS.iter().find(|(known, _)| *known == urn);
        if let Some((_, wanted)) = known
            && coder.component_coder_ids.len() != *wanted
        {
            findings.pipeline(format!(
                "coder \"{id}\" ({urn}) has {} component coders instead of {wanted}",
                coder.component_coder_ids.len()
            ));
            return None;
        }
        let (mut depth, mut size) = (0, 1);
        for component in &coder.component_coder_ids {
            let (component_depth, component_size) = (*self.measured.get(component.as_str())?)?;
            depth = depth.max(component_depth);
            size += component_size;
        }
        if depth + 1 > MAX_DEPTH || size > MAX_SIZE {
            findings.pipeline(format!(
                "coder \"{id}\" is nested too deeply: at most {MAX_DEPTH} levels and {MAX_SIZE} parts are accepted"
            ));
            return None;
        }
        Some((depth + 1, size))
    }
}
