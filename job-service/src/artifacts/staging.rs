//! What a pipeline wants staged, and what it has become.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrobeam_proto::pipeline::{
    AnyOfEnvironmentPayload, ArtifactFilePayload, ArtifactInformation, ArtifactStagingToRolePayload, Environment,
    Pipeline,
};
use prost::Message;

use super::ContentHash;
use crate::job::secret;

pub(super) const TYPE_FILE: &str = "beam:artifact:type:file:v1";
pub(super) const TYPE_URL: &str = "beam:artifact:type:url:v1";
pub(super) const TYPE_EMBEDDED: &str = "beam:artifact:type:embedded:v1";
const ROLE_STAGING_TO: &str = "beam:artifact:role:staging_to:v1";
const ANY_OF: &str = "beam:env:anyof:v1";
/// Alternatives may hold alternatives, but not without end.
const MAX_NESTING: usize = 8;

/// Why artifacts of a pipeline are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactRefusal {
    /// A name that points out of the environment's folder.
    #[error("environment {environment}: the artifact name {name:?} is refused: it must be relative and without `..`")]
    Name {
        /// The environment's id.
        environment: String,
        /// The name.
        name: String,
    },
    /// A payload that does not parse.
    #[error("environment {environment}: {what}: {message}")]
    Malformed {
        /// The environment's id.
        environment: String,
        /// Which payload.
        what: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// Alternatives within alternatives within alternatives.
    #[error("environment {0}: alternatives are nested more than {MAX_NESTING} deep")]
    Nesting(String),
}

/// The artifacts of one environment, or of one alternative of one.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentArtifacts {
    /// The environment's id in the pipeline.
    pub environment: String,
    /// For an alternative of an `anyof` environment, its place; the place within that; and so on.
    pub alternative: Vec<usize>,
    /// The artifacts.
    pub artifacts: Vec<ArtifactInformation>,
}

/// Everything staged: by environment, the artifacts as [`RetrievalGrants`](super::RetrievalGrants) knows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Staged {
    /// In the order asked for.
    pub environments: Vec<EnvironmentArtifacts>,
    /// All contents that the job may read.
    pub contents: BTreeSet<ContentHash>,
}

/// The staging of one preparation.
#[derive(Debug)]
pub struct Staging {
    token: String,
    wanted: Vec<EnvironmentArtifacts>,
    staged: Mutex<Option<Staged>>,
}

impl Staging {
    /// What `pipeline` wants staged.
    pub fn of(pipeline: &Pipeline) -> Result<Staging, ArtifactRefusal> {
        let mut wanted = Vec::new();
        for (id, environment) in pipeline.components.iter().flat_map(|c| &c.environments) {
            collect(id, environment, &mut Vec::new(), &mut wanted)?;
        }
        for set in &wanted {
            set.artifacts.iter().try_for_each(|a| check_role(&set.environment, a))?;
        }
        let nothing = wanted.is_empty().then(Staged::default);
        Ok(Staging { token: secret(), wanted, staged: Mutex::new(nothing) })
    }

    /// Of a pipeline whose artifacts are all here.
    pub fn of_staged(staged: Staged) -> Staging {
        Staging { token: secret(), wanted: Vec::new(), staged: Mutex::new(Some(staged)) }
    }

    /// What the client shows to stage, and the environments to retrieve.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What is to be staged; empty for many pipelines.
    pub fn wanted(&self) -> &[EnvironmentArtifacts] {
        &self.wanted
    }

    /// Everything is here.
    pub fn complete(&self, staged: Staged) {
        *self.lock() = Some(staged);
    }

    /// Whether everything is here.
    pub fn is_complete(&self) -> bool {
        self.lock().is_some()
    }

    /// What is here, if everything is.
    pub fn staged(&self) -> Option<Staged> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Staged>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staged {
    /// Puts the staged artifacts in the place of those that the client named.
    pub fn apply(&self, id: &str, environment: &mut Environment) -> Result<(), prost::DecodeError> {
        for set in self.environments.iter().filter(|set| set.environment == id) {
            replace(environment, &set.alternative, &set.artifacts)?;
        }
        Ok(())
    }
}

fn replace(
    environment: &mut Environment,
    alternative: &[usize],
    artifacts: &[ArtifactInformation],
) -> Result<(), prost::DecodeError> {
    let Some((first, rest)) = alternative.split_first() else {
        environment.dependencies = artifacts.to_vec();
        return Ok(());
    };
    let mut payload = AnyOfEnvironmentPayload::decode(environment.payload.clone())?;
    if let Some(inner) = payload.environments.get_mut(*first) {
        replace(inner, rest, artifacts)?;
    }
    environment.payload = payload.encode_to_vec().into();
    Ok(())
}

fn collect(
    id: &str,
    environment: &Environment,
    at: &mut Vec<usize>,
    into: &mut Vec<EnvironmentArtifacts>,
) -> Result<(), ArtifactRefusal> {
    if !environment.dependencies.is_empty() {
        into.push(EnvironmentArtifacts {
            environment: id.to_owned(),
            alternative: at.clone(),
            artifacts: environment.dependencies.clone(),
        });
    }
    if environment.urn != ANY_OF {
        return Ok(());
    }
    if at.len() >= MAX_NESTING {
        return Err(ArtifactRefusal::Nesting(id.to_owned()));
    }
    let payload = AnyOfEnvironmentPayload::decode(environment.payload.clone())
        .map_err(|e| malformed(id, "the payload of its alternatives", &e))?;
    for (index, inner) in payload.environments.iter().enumerate() {
        at.push(index);
        collect(id, inner, at, into)?;
        at.pop();
    }
    Ok(())
}

fn malformed(environment: &str, what: &'static str, error: &dyn std::fmt::Display) -> ArtifactRefusal {
    ArtifactRefusal::Malformed { environment: environment.to_owned(), what, message: error.to_string() }
}

/// Refuses names that an environment would follow out of its folder. Here, no name becomes part of a path.
pub(super) fn check_role(environment: &str, artifact: &ArtifactInformation) -> Result<(), ArtifactRefusal> {
    if artifact.role_urn != ROLE_STAGING_TO {
        return Ok(());
    }
    let role = ArtifactStagingToRolePayload::decode(artifact.role_payload.clone())
        .map_err(|e| malformed(environment, "the role of an artifact", &e))?;
    if is_safe(&role.staged_name) {
        return Ok(());
    }
    Err(ArtifactRefusal::Name { environment: environment.to_owned(), name: role.staged_name })
}

/// Backslashes count as separators: an environment may run on a system where they are.
fn is_safe(name: &str) -> bool {
    let absolute = name.starts_with(['/', '\\']) || name.as_bytes().get(1) == Some(&b':');
    !name.is_empty() && !absolute && !name.contains('\0') && name.split(['/', '\\']).all(|part| part != "..")
}

/// The artifact as an environment may ask for it: a file named by its content.
pub(super) fn as_content(artifact: &ArtifactInformation, hash: ContentHash) -> ArtifactInformation {
    let payload = ArtifactFilePayload { path: hash.to_string(), sha256: hash.to_string() };
    ArtifactInformation {
        type_urn: TYPE_FILE.to_owned(),
        type_payload: payload.encode_to_vec().into(),
        role_urn: artifact.role_urn.clone(),
        role_payload: artifact.role_payload.clone(),
    }
}

/// The content that an artifact made by [`as_content`] names.
pub(super) fn content_of(artifact: &ArtifactInformation) -> Option<ContentHash> {
    if artifact.type_urn != TYPE_FILE {
        return None;
    }
    ContentHash::parse(&ArtifactFilePayload::decode(artifact.type_payload.clone()).ok()?.sha256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrobeam_proto::pipeline::Components;

    fn artifact(name: &str) -> ArtifactInformation {
        let role = ArtifactStagingToRolePayload { staged_name: name.to_owned() };
        ArtifactInformation {
            type_urn: TYPE_FILE.to_owned(),
            type_payload: ArtifactFilePayload { path: "/somewhere".into(), sha256: String::new() }
                .encode_to_vec()
                .into(),
            role_urn: ROLE_STAGING_TO.to_owned(),
            role_payload: role.encode_to_vec().into(),
        }
    }

    fn pipeline(environment: Environment) -> Pipeline {
        let environments = [("env".to_owned(), environment)].into();
        Pipeline { components: Some(Components { environments, ..Default::default() }), ..Default::default() }
    }

    fn any_of(environments: Vec<Environment>) -> Environment {
        let payload = AnyOfEnvironmentPayload { environments };
        Environment { urn: ANY_OF.into(), payload: payload.encode_to_vec().into(), ..Default::default() }
    }

    fn with(artifacts: Vec<ArtifactInformation>) -> Environment {
        Environment { urn: "beam:env:external:v1".into(), dependencies: artifacts, ..Default::default() }
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        for name in ["../x", "a/../../x", "/etc/passwd", "\\x", "c:\\x", "a\\..\\x", "..", "", "a\0b"] {
            let refused = Staging::of(&pipeline(with(vec![artifact("good"), artifact(name)])));
            let expected = ArtifactRefusal::Name { environment: "env".into(), name: name.into() };
            assert_eq!(refused.map(|_| ()), Err(expected), "{name:?}");
        }
        for name in ["x", "a/b", "..x", "a..b/c...", "classpath/x-1.0.jar"] {
            assert!(Staging::of(&pipeline(with(vec![artifact(name)]))).is_ok(), "{name}");
        }
    }

    #[test]
    fn alternatives_are_found_and_replaced() {
        let inner = any_of(vec![with(vec![artifact("deep")])]);
        let mut environment = any_of(vec![with(vec![artifact("first")]), inner]);
        let staging = Staging::of(&pipeline(environment.clone())).expect("good names");
        let at: Vec<_> = staging.wanted().iter().map(|set| set.alternative.clone()).collect();
        assert_eq!(at, [vec![0], vec![1, 0]]);
        assert!(!staging.is_complete());

        let hash = ContentHash::of(b"content");
        let mut staged = Staged::default();
        for set in staging.wanted() {
            let artifacts = set.artifacts.iter().map(|a| as_content(a, hash)).collect();
            staged.environments.push(EnvironmentArtifacts { artifacts, ..set.clone() });
        }
        staged.apply("env", &mut environment).expect("it parses");
        let again = Staging::of(&pipeline(environment)).expect("good names");
        for set in again.wanted() {
            assert!(set.artifacts.iter().all(|a| content_of(a) == Some(hash)));
        }
        assert_eq!(again.wanted().len(), 2);
    }

    #[test]
    fn alternatives_without_end_are_refused() {
        let mut environment = with(vec![]);
        for _ in 0..100 {
            environment = any_of(vec![environment]);
        }
        assert_eq!(Staging::of(&pipeline(environment)).map(|_| ()), Err(ArtifactRefusal::Nesting("env".into())));
    }

    #[test]
    fn a_payload_that_does_not_parse_is_refused() {
        let environment = Environment { urn: ANY_OF.into(), payload: vec![0x0a, 0xff].into(), ..Default::default() };
        assert!(matches!(Staging::of(&pipeline(environment)), Err(ArtifactRefusal::Malformed { .. })));
    }

    #[test]
    fn nothing_to_stage_is_staged_at_once() {
        assert!(Staging::of(&pipeline(with(vec![]))).expect("no names").is_complete());
    }
}
