//! The coders of a plan: which are the same, and what they become at a border.
//!
//! Coders are compared by form (URN, payload, forms of the components), because SDKs give equal coders many ids. At a
//! border the runner must find where a value, a key or a window ends: coders it cannot walk are wrapped in
//! `length_prefix` there, wherever they stand within the ones it can.
//!
//! The alternative that other runners have, telling each SDK a coder of its own for a border between two SDKs, was set
//! aside: both ends would have to agree on the bytes anyway, so one wire coder for each collection is enough. A coder
//! counts as walkable only if every environment of the pipeline announces it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::standard_coders as urn;
use hashbrown::HashMap;

use super::copies::{Copies, numbered};
use crate::element::WireCoder;
use crate::pipeline::{CoderName, KNOWN_CODERS, Pipeline, REQUIRED_CODERS};
use crate::windowing::WindowCoder;

/// Which coders are equal: those of one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form(u32);

/// Coders by id, old and new.
pub(super) struct CoderTable {
    protos: BTreeMap<CoderName, pb::Coder>,
    /// URNs of the coders that are left as they are at a border.
    walkable: BTreeSet<&'static str>,
    forms: HashMap<(String, Bytes, Vec<Form>), Form>,
    form_of: HashMap<CoderName, Form>,
    /// One coder of each form, to be used for all that are made anew.
    of_form: Vec<CoderName>,
    wired: HashMap<CoderName, CoderName>,
    copies: Copies,
}

// Recursion below goes no deeper than validation let coders be.
impl CoderTable {
    pub(super) fn new(pipeline: &Pipeline) -> CoderTable {
        let mut walkable: BTreeSet<&'static str> = KNOWN_CODERS.iter().map(|(urn, _)| *urn).collect();
        let used: BTreeSet<_> = pipeline.transforms.iter().filter_map(|t| t.environment.as_ref()).collect();
        for environment in used.into_iter().filter_map(|name| pipeline.environments.get(name)) {
            walkable.retain(|urn| {
                REQUIRED_CODERS.contains(urn) || environment.capabilities.iter().any(|capability| capability == urn)
            });
        }
        CoderTable {
            protos: pipeline.coders.clone(),
            walkable,
            forms: HashMap::new(),
            form_of: HashMap::new(),
            of_form: Vec::new(),
            wired: HashMap::new(),
            copies: Copies::default(),
        }
    }

    fn urn(&self, id: &CoderName) -> &str {
        self.protos.get(id).and_then(|coder| coder.spec.as_ref()).map_or("", |spec| spec.urn.as_str())
    }

    /// Whether a coder has this URN.
    pub(super) fn is(&self, id: &CoderName, urn: &str) -> bool {
        self.urn(id) == urn
    }

    /// What a coder says besides its URN.
    pub(super) fn payload(&self, id: &CoderName) -> Option<Bytes> {
        Some(self.protos.get(id)?.spec.as_ref()?.payload.clone())
    }

    pub(super) fn component(&self, id: &CoderName, index: usize) -> Option<CoderName> {
        self.protos.get(id)?.component_coder_ids.get(index).map(|id| CoderName::from(id.as_str()))
    }

    /// The form of a coder; equal forms encode equally.
    pub(super) fn form(&mut self, id: &CoderName) -> Form {
        if let Some(form) = self.form_of.get(id) {
            return *form;
        }
        let coder = self.protos.get(id).cloned().unwrap_or_default();
        let spec = coder.spec.unwrap_or_default();
        let components =
            coder.component_coder_ids.iter().map(|component| self.form(&CoderName::from(component.as_str()))).collect();
        let next = Form(self.of_form.len() as u32);
        let form = *self.forms.entry((spec.urn, spec.payload, components)).or_insert(next);
        if form == next {
            self.of_form.push(id.clone());
        }
        self.form_of.insert(id.clone(), form);
        form
    }

    /// A coder made of others; one of that form which exists already is taken. `like` is what a new id is made from.
    pub(super) fn make(
        &mut self,
        urn: &str,
        payload: &'static [u8],
        components: &[&CoderName],
        like: &str,
    ) -> CoderName {
        let payload = Bytes::from_static(payload);
        let forms = components.iter().map(|component| self.form(component)).collect();
        if let Some(form) = self.forms.get(&(urn.to_owned(), payload.clone(), forms)) {
            return self.of_form[form.0 as usize].clone();
        }
        let short = urn.trim_start_matches("beam:coder:").trim_end_matches(":v1");
        let taken = |id: &str| self.protos.contains_key(id);
        let id = CoderName(self.copies.free(format!("{like}/{short}"), numbered, taken));
        let proto = pb::Coder {
            spec: Some(pb::FunctionSpec { urn: urn.to_owned(), payload }),
            component_coder_ids: components.iter().map(|component| component.0.clone()).collect(),
        };
        self.protos.insert(id.clone(), proto);
        self.form(&id);
        id
    }

    /// What a value's coder becomes at a border.
    pub(super) fn wire(&mut self, id: &CoderName) -> CoderName {
        if let Some(wired) = self.wired.get(id) {
            return wired.clone();
        }
        let urn = self.urn(id).to_owned();
        let wired = if urn == urn::LENGTH_PREFIX {
            id.clone()
        } else if self.walkable.contains(urn.as_str()) {
            let coder = self.protos.get(id).cloned().unwrap_or_default();
            let components: Vec<CoderName> = coder
                .component_coder_ids
                .iter()
                .map(|component| self.wire(&CoderName::from(component.as_str())))
                .collect();
            if components.iter().zip(&coder.component_coder_ids).all(|(wired, plain)| wired.0 == *plain) {
                id.clone()
            } else {
                self.make(&urn, b"", &components.iter().collect::<Vec<_>>(), &id.0)
            }
        } else {
            self.make(urn::LENGTH_PREFIX, b"", &[id], &id.0)
        };
        self.wired.insert(id.clone(), wired.clone());
        wired
    }

    /// What a value's coder becomes inside a bundle: itself, unless it is one of windowed values. Java and Python take
    /// such a coder of a PCollection for the coder of the elements with their windows, which in a pipeline it never is.
    pub(super) fn inside(&mut self, id: &CoderName) -> CoderName {
        match self.urn(id) {
            urn::WINDOWED_VALUE | urn::PARAM_WINDOWED_VALUE => self.wire(id),
            _ => id.clone(),
        }
    }

    /// What a window's coder becomes at a border: one of which the runner can tell the greatest timestamp.
    pub(super) fn wire_window(&mut self, id: &CoderName) -> CoderName {
        match self.urn(id) {
            urn::GLOBAL_WINDOW | urn::INTERVAL_WINDOW | urn::CUSTOM_WINDOW => self.wire(id),
            _ => {
                let window = self.wire(id);
                self.make(urn::CUSTOM_WINDOW, b"", &[&window], &id.0)
            }
        }
    }

    /// The same wire coder of `KV<K, Iterable<V>>`, with an iterable that may continue in state. The payload says to
    /// Python from how many elements on it would itself write one by reference; it only reads them.
    pub(super) fn state_backed(&mut self, wired: &CoderName) -> Option<CoderName> {
        let (key, iterable) = (self.component(wired, 0)?, self.component(wired, 1)?);
        let element = self.component(&iterable, 0)?;
        let iterable = self.make(urn::STATE_BACKED_ITERABLE, b"1", &[&element], &iterable.0);
        Some(self.make(urn::KV, b"", &[&key, &iterable], &wired.0))
    }

    /// How the runner walks a value in a wire coder.
    pub(super) fn structure(&self, wired: &CoderName) -> WireCoder {
        let component = |index| {
            Box::new(self.component(wired, index).map_or(WireCoder::Prefixed, |component| self.structure(&component)))
        };
        match self.urn(wired) {
            urn::BOOL => WireCoder::Bool,
            urn::VARINT => WireCoder::VarInt,
            urn::DOUBLE => WireCoder::Double,
            urn::KV => WireCoder::Kv(component(0), component(1)),
            urn::ITERABLE => WireCoder::Iterable(component(0)),
            urn::STATE_BACKED_ITERABLE => WireCoder::StateBackedIterable(component(0)),
            urn::NULLABLE => WireCoder::Nullable(component(0)),
            urn::SHARDED_KEY => WireCoder::ShardedKey(component(0)),
            urn::GLOBAL_WINDOW => WireCoder::GlobalWindow,
            urn::INTERVAL_WINDOW => WireCoder::IntervalWindow,
            urn::CUSTOM_WINDOW => WireCoder::CustomWindow(component(0)),
            // Bytes, strings, and what was wrapped.
            _ => WireCoder::Prefixed,
        }
    }

    /// How the runner walks a value in a coder just as an SDK has it; none if it cannot.
    pub(super) fn known_structure(&self, id: &CoderName) -> Option<WireCoder> {
        let coder = self.protos.get(id)?;
        let urn = self.urn(id);
        let known = KNOWN_CODERS.iter().any(|(known, _)| *known == urn);
        // What is behind a length does not matter.
        let parts = if urn == urn::LENGTH_PREFIX { &[][..] } else { &coder.component_coder_ids[..] };
        let all_known = parts.iter().all(|part| self.known_structure(&CoderName::from(part.as_str())).is_some());
        (known && all_known).then(|| self.structure(id))
    }

    /// How the runner walks a window in a wire window coder.
    pub(super) fn window_structure(&self, wired: &CoderName) -> WindowCoder {
        match self.structure(wired) {
            WireCoder::GlobalWindow => WindowCoder::Global,
            WireCoder::IntervalWindow => WindowCoder::Interval,
            WireCoder::CustomWindow(window) => WindowCoder::Custom(window),
            // A wire window coder is one of the three.
            other @ (WireCoder::Prefixed
            | WireCoder::Bool
            | WireCoder::VarInt
            | WireCoder::Double
            | WireCoder::Kv(..)
            | WireCoder::Iterable(_)
            | WireCoder::StateBackedIterable(_)
            | WireCoder::Nullable(_)
            | WireCoder::ShardedKey(_)) => WindowCoder::Custom(Box::new(other)),
        }
    }

    /// The named coders and all that they are made of.
    pub(super) fn closure<'a>(&self, ids: impl IntoIterator<Item = &'a CoderName>) -> BTreeMap<String, pb::Coder> {
        let mut closure = BTreeMap::new();
        let mut todo: Vec<CoderName> = ids.into_iter().cloned().collect();
        while let Some(id) = todo.pop() {
            let Some(coder) = self.protos.get(&id) else { continue };
            if closure.insert(id.0, coder.clone()).is_none() {
                todo.extend(coder.component_coder_ids.iter().map(|component| CoderName::from(component.as_str())));
            }
        }
        closure
    }
}
