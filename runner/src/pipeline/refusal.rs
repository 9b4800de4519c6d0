//! [`Refusal`]: why a pipeline is not run, in one message.

use std::collections::HashMap;
use std::fmt;

/// About how much a message says before it starts counting instead of naming. It travels as the status of a call, in
/// HTTP/2 headers, of which some clients take no more than 8 KiB.
const LONGEST: usize = 4000;

/// Why a pipeline cannot run here. Its message names the transforms concerned and what each needs;
/// [`Refusal::transforms`] has all names, were they too many for a message.
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

    /// A refusal because of several transforms, by unique name, and what is wrong with each: a phrase that continues a
    /// sentence which begins with the name. None if there is none.
    pub fn of_transforms(reasons: impl IntoIterator<Item = (String, String)>) -> Option<Refusal> {
        let mut findings = Findings::default();
        for (name, what) in reasons {
            findings.transform(&name, what);
        }
        findings.conclude().err()
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
        let mut line_of: HashMap<&str, usize> = HashMap::new();
        for reason in &self.reasons {
            let line = *line_of.entry(&reason.what).or_insert_with(|| {
                lines.push((&reason.what, Vec::new()));
                lines.len() - 1
            });
            lines[line].1.extend(reason.transform.as_deref());
        }
        let mut room = LONGEST;
        for (index, (what, names)) in lines.iter().enumerate() {
            if room == 0 {
                write!(f, "; and {} more reasons", lines.len() - index)?;
                break;
            }
            if index > 0 {
                f.write_str("; ")?;
            }
            room = room.saturating_sub(what.len());
            let fitting = names.iter().take_while(|name| {
                let fits = name.len() <= room;
                room = room.saturating_sub(name.len());
                fits
            });
            // One name at least, however long.
            let shown = fitting.count().max(1).min(names.len());
            let left = names.len() - shown;
            match &names[..shown] {
                [] => f.write_str(what)?,
                [name] if left == 0 => write!(f, "transform \"{name}\" {what}")?,
                shown => {
                    write!(f, "transforms \"{}\"", shown.join("\", \""))?;
                    if left > 0 {
                        write!(f, " and {left} more")?;
                    }
                    write!(f, " each {what}")?;
                }
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
