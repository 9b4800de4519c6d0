//! Has Kafka's transforms of a command expanded by the service, without a change to the command.
//!
//! Python takes the address of an expansion service, in place of a jar that it would start with Java, from the variable
//! `BEAM_SERVICE_OVERRIDES`. It heeds it only inside `with beam.Pipeline()`; so a module that Python imports as it starts
//! makes what the variable says hold everywhere. That module then gives way to one of the user's own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use ferrobeam_job_service::TempRoot;

/// The jar that Python's Kafka transforms would start: its Gradle target, by which overrides go.
const JAR: &str = "sdks:java:io:expansion-service:shadowJar";
const VARIABLE: &str = "BEAM_SERVICE_OVERRIDES";
/// Where our own service is, so that the module knows it among those that the user names.
const OURS: &str = "FERROBEAM_EXPANSION";
const MODULE: &str = include_str!("sitecustomize.py");

/// Variables for a command. The module is there for as long as this is.
#[derive(Debug)]
pub(super) struct Expansion {
    pub(super) variables: Vec<(&'static str, OsString)>,
    _module: Option<TempRoot>,
}

impl Expansion {
    /// By nobody else than the command would ask itself.
    pub(super) fn none() -> Expansion {
        Expansion { variables: Vec::new(), _module: None }
    }

    /// By the service at `endpoint`.
    pub(super) fn by(endpoint: &str) -> anyhow::Result<Expansion> {
        let folder = TempRoot::create(None)?;
        let module = folder.path().join("sitecustomize.py");
        std::fs::write(&module, MODULE).with_context(|| format!("cannot write {}", module.display()))?;
        let overrides = overrides(std::env::var(VARIABLE).ok().as_deref(), endpoint)?;
        let path = python_path(folder.path(), std::env::var_os("PYTHONPATH"));
        let variables = vec![(VARIABLE, overrides.into()), (OURS, endpoint.into()), ("PYTHONPATH", path)];
        Ok(Expansion { variables, _module: Some(folder) })
    }
}

/// What the user overrides stays so.
fn overrides(users: Option<&str>, endpoint: &str) -> anyhow::Result<String> {
    let mut all: BTreeMap<String, serde_json::Value> = match users.filter(|users| !users.trim().is_empty()) {
        Some(users) => serde_json::from_str(users).with_context(|| format!("{VARIABLE} is no JSON object"))?,
        None => BTreeMap::new(),
    };
    all.entry(JAR.to_owned()).or_insert_with(|| endpoint.into());
    Ok(serde_json::to_string(&all)?)
}

fn python_path(first: &Path, users: Option<OsString>) -> OsString {
    let mut path = first.as_os_str().to_owned();
    if let Some(users) = users.filter(|users| !users.is_empty()) {
        path.push(":");
        path.push(users);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_overrides_stays() {
        assert_eq!(overrides(None, "localhost:1").unwrap(), format!("{{\"{JAR}\":\"localhost:1\"}}"));
        let own = format!("{{\"{JAR}\": \"own.jar\", \"other\": \"x\"}}");
        assert_eq!(overrides(Some(&own), "localhost:1").unwrap(), format!("{{\"other\":\"x\",\"{JAR}\":\"own.jar\"}}"));
        assert!(overrides(Some("no"), "localhost:1").is_err());
        assert_eq!(python_path(Path::new("/a"), Some("/b:/c".into())), OsString::from("/a:/b:/c"));
        assert_eq!(python_path(Path::new("/a"), None), OsString::from("/a"));
    }
}
