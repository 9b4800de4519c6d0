//! What operators are called in a checkpoint: by the pipeline's own names, and by no position in it. The names are a part of
//! the format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

const STAGE: &str = "stage ";
const GROUPING: &str = "group ";
const SIDE_INPUT: &str = "side input ";
const KAFKA_READ: &str = "Kafka read ";
const KAFKA_WRITE: &str = "Kafka write ";
const OF: &str = " of ";
const AS: &str = ", as ";

/// Of a stage, which is called after its first transform.
pub(crate) fn of_stage(name: &str) -> String {
    format!("{STAGE}{name}")
}

/// Of the grouping that a transform is.
pub(crate) fn of_grouping(transform: &str) -> String {
    format!("{GROUPING}{transform}")
}

/// Of the table of a side input, which is called after the first transform that reads it.
pub(crate) fn of_side_input(local_name: &str, transform: &str, access: impl Display) -> String {
    format!("{SIDE_INPUT}{local_name}{OF}{transform}{AS}{access}")
}

/// Of a Kafka source.
pub(crate) fn of_kafka_read(transform: &str) -> String {
    format!("{KAFKA_READ}{transform}")
}

/// Of a Kafka sink.
pub(crate) fn of_kafka_write(transform: &str) -> String {
    format!("{KAFKA_WRITE}{transform}")
}

/// New names of transforms, by the names that a checkpoint has for them. What is within a transform is renamed with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renames(BTreeMap<String, String>);

impl FromIterator<(String, String)> for Renames {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Renames {
        Renames(pairs.into_iter().collect())
    }
}

impl Renames {
    /// Whether nothing is renamed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The new name of a transform; none if it has none. Notes what was used.
    pub(super) fn of_transform<'a>(&'a self, name: &str, used: &mut BTreeSet<&'a str>) -> Option<String> {
        let renamed = self.0.iter().rev().find_map(|(old, new)| {
            let within = name.strip_prefix(old.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            Some((old, format!("{new}{within}")))
        });
        let (old, new) = renamed?;
        used.insert(old);
        Some(new)
    }

    /// The new name of an operator; none if it has none.
    pub(super) fn of_operator<'a>(&'a self, name: &str, used: &mut BTreeSet<&'a str>) -> Option<String> {
        for kind in [STAGE, GROUPING, KAFKA_READ, KAFKA_WRITE] {
            if let Some(transform) = name.strip_prefix(kind) {
                return self.of_transform(transform, used).map(|new| format!("{kind}{new}"));
            }
        }
        let (read, access) = name.strip_prefix(SIDE_INPUT)?.rsplit_once(AS)?;
        // The local name may hold the word, too.
        read.match_indices(OF).find_map(|(at, _)| {
            let (local, transform) = (&read[..at], &read[at + OF.len()..]);
            self.of_transform(transform, used).map(|new| of_side_input(local, &new, access))
        })
    }

    /// The names that are not in `used`.
    pub(super) fn unused(&self, used: &BTreeSet<&str>) -> Vec<String> {
        self.0.keys().filter(|old| !used.contains(old.as_str())).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_are_renamed_with_what_is_within_them() {
        let renames: Renames = [("Count", "Tally"), ("Count/Sum", "Tally/Total"), ("Side of it", "Side")]
            .map(|(old, new)| (old.to_owned(), new.to_owned()))
            .into_iter()
            .collect();
        let mut used = BTreeSet::new();
        for (operator, renamed) in [
            ("stage Count", Some("stage Tally")),
            ("stage Count/ParDo(Fn)", Some("stage Tally/ParDo(Fn)")),
            ("group Count/Sum/Group", Some("group Tally/Total/Group")),
            ("group Counter", None),
            ("Kafka read Count/Read", Some("Kafka read Tally/Read")),
            ("Kafka write Count", Some("Kafka write Tally")),
            ("side input a of b of Side of it/Map, as iterable", Some("side input a of b of Side/Map, as iterable")),
            ("side input a of Others, as multimap", None),
        ] {
            assert_eq!(renames.of_operator(operator, &mut used).as_deref(), renamed, "{operator}");
        }
        assert!(renames.unused(&used).is_empty());
        assert_eq!(renames.unused(&BTreeSet::from(["Count"])), ["Count/Sum", "Side of it"]);
    }
}
