//! Names for what the planner adds, where the first choice may be taken.

use std::collections::HashMap;

/// Where the search for a free copy of each name goes on, so that many of one name do not each begin anew.
#[derive(Debug, Default)]
pub(super) struct Copies(HashMap<String, u32>);

impl Copies {
    /// `name`, or the first `copy` of it (from the second on) that is not `taken`.
    pub(super) fn free(
        &mut self,
        name: String,
        copy: impl Fn(&str, u32) -> String,
        taken: impl Fn(&str) -> bool,
    ) -> String {
        if !taken(&name) {
            return name;
        }
        let next = self.0.entry(name.clone()).or_insert(2);
        loop {
            let candidate = copy(&name, *next);
            *next += 1;
            if !taken(&candidate) {
                return candidate;
            }
        }
    }
}

/// As the ids of components are copied.
pub(super) fn numbered(name: &str, copy: u32) -> String {
    format!("{name}/{copy}")
}
