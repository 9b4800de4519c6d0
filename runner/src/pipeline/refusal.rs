//! [`Refusal`]: why a pipeline is not run, in one message.

use std::fmt;

/// Why a pipeline cannot run here. Its message names every transform concerned and what each needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    reasons: Vec<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reason {
    /// Unique name, where a transform is at fault.
    transform: Option<String>,
    what: String,
}

impl Refusal {
    /// A refusal of the pipeline as a whole.
    pub(crate) fn of_pipeline(what: impl Into<String>) -> Refusal {
        Refusal { reasons: vec![Reason { transform: None, what: what.into() }] }
    }

    /// A refusal because of one transform.
    pub(crate) fn of_transform(name: &str, what: impl Into<String>) -> Refusal {
        Refusal { reasons: vec![Reason { transform: Some(name.to_owned()), what: what.into() }] }
    }

    /// The unique names of the transforms at fault.
    pub fn transforms(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().filter_map(|reason| reason.transform.as_deref())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this pipeline cannot run here: ")?;
        // One line for each distinct reason, with all who share it, in the order of first appearance.
        let mut lines: Vec<(&str, Vec<&str>)> = Vec::new();
        for reason in &self.reasons {
            let name = reason.transform.as_deref();
            match lines.iter_mut().find(|(what, _)| *what == reason.what) {
                Some((_, names)) => names.extend(name),
                None => lines.push((&reason.what, name.into_iter().collect())),
            }
        }
        for (index, (what, names)) in lines.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            match names.as_slice() {
                [] => f.write_str(what)?,
                [name] => write!(f, "transform \"{name}\" {what}")?,
                names => write!(f, "transforms \"{}\" each {what}", names.join("\", \""))?,
            }
        }
        Ok(())
    }
}

/// Gathers reasons over a whole pass.
#[derive(Default)]
pub(crate) struct Findings(Vec<Reason>);

impl Findings {
    /// The pipeline as a whole is at fault.
    pub(crate) fn pipeline(&mut self, what: impl Into<String>) {
        self.add(None, what.into());
    }

    /// A transform is at fault; `what` continues a sentence that begins with its name.
    pub(crate) fn transform(&mut self, name: &str, what: impl Into<String>) {
        self.add(Some(name.to_owned()), what.into());
    }

    fn add(&mut self, transform: Option<String>, what: String) {
        let reason = Reason { transform, what };
        if self.0.last() != Some(&reason) {
            self.0.push(reason);
        }
    }

    /// Ends a pass: the refusal if anything was found.
    pub(crate) fn conclude(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal { reasons: self.0 }) }
    }
}
