//! What an environment's proto says about how to start it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use bytes::Bytes;
use ferrobeam_proto::pipeline::{
    AnyOfEnvironmentPayload, ApiServiceDescriptor, DockerPayload, Environment, ExternalPayload, ProcessPayload,
};
use ferrobeam_proto::urns::standard_environments::{ANYOF, DEFAULT, DOCKER, EXTERNAL, PROCESS};
use prost::Message;

use crate::config::BridgeConfig;

/// A way to start the harnesses of an environment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Launcher {
    /// Ask a worker pool that is running somewhere.
    External { endpoint: String, params: BTreeMap<String, String> },
    /// Run a command on this machine.
    Process { command: String, env: BTreeMap<String, String> },
    /// Run a container on this machine.
    Docker { image: String },
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Launcher::External { endpoint, .. } => write!(f, "EXTERNAL {endpoint}"),
            Launcher::Process { command, .. } => write!(f, "PROCESS {command}"),
            Launcher::Docker { image } => write!(f, "DOCKER {image}"),
        }
    }
}

/// A way to start an environment, with the proto that offered it.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) launcher: Launcher,
    /// The environment, or the alternative of it: says capabilities and dependencies.
    pub(crate) environment: Environment,
}

/// The ways to start `environment`, best first. Fails with what is wrong when there is none.
pub(crate) fn choices(environment: &Environment, config: &BridgeConfig) -> Result<Vec<Choice>, String> {
    let (mut choices, mut problems) = (Vec::new(), Vec::new());
    collect(environment, config, true, &mut choices, &mut problems);
    if choices.is_empty() {
        return Err(problems.join("; "));
    }
    choices.sort_by_key(|choice| match choice.launcher {
        // What the submitter runs already, or what is installed here, starts faster than a container.
        Launcher::External { .. } => 0,
        Launcher::Process { .. } => 1,
        Launcher::Docker { .. } => 2,
    });
    Ok(choices)
}

fn collect(
    environment: &Environment,
    config: &BridgeConfig,
    outermost: bool,
    choices: &mut Vec<Choice>,
    problems: &mut Vec<String>,
) {
    match environment.urn.as_str() {
        ANYOF if outermost => match AnyOfEnvironmentPayload::decode(environment.payload.clone()) {
            Ok(payload) => {
                for mut alternative in payload.environments {
                    // What is said of all holds for each.
                    if alternative.capabilities.is_empty() {
                        alternative.capabilities = environment.capabilities.clone();
                    }
                    if alternative.dependencies.is_empty() {
                        alternative.dependencies = environment.dependencies.clone();
                    }
                    if alternative.resource_hints.is_empty() {
                        alternative.resource_hints = environment.resource_hints.clone();
                    }
                    collect(&alternative, config, false, choices, problems);
                }
                if choices.is_empty() && problems.is_empty() {
                    problems.push("it offers no environment to choose from".into());
                }
            }
            Err(error) => problems.push(format!("its payload cannot be read: {error}")),
        },
        DEFAULT if outermost => match &config.default_environment {
            Some(default) => match Environment::decode(default.clone()) {
                Ok(mut default) => {
                    default.capabilities.clone_from(&environment.capabilities);
                    default.dependencies.clone_from(&environment.dependencies);
                    default.resource_hints.clone_from(&environment.resource_hints);
                    collect(&default, config, default.urn == ANYOF, choices, problems);
                }
                Err(error) => problems.push(format!("the configured default environment cannot be read: {error}")),
            },
            None => problems.push(
                "it leaves the environment to the runner, and this runner has no default: \
                 name one, for example with --environment_type=LOOPBACK, PROCESS or DOCKER"
                    .into(),
            ),
        },
        urn => match launcher(urn, environment.payload.clone()) {
            Ok(launcher) => match obstacle(&launcher, config) {
                None => choices.push(Choice { launcher, environment: environment.clone() }),
                // Without an alternative, trying it says best what is wrong.
                Some(_) if outermost => choices.push(Choice { launcher, environment: environment.clone() }),
                Some(problem) => problems.push(problem),
            },
            Err(problem) => problems.push(problem),
        },
    }
}

fn launcher(urn: &str, payload: Bytes) -> Result<Launcher, String> {
    let unreadable = |error| format!("its payload cannot be read: {error}");
    match urn {
        EXTERNAL => {
            let payload = ExternalPayload::decode(payload).map_err(unreadable)?;
            match payload.endpoint {
                Some(ApiServiceDescriptor { url, authentication: None }) if !url.is_empty() => {
                    Ok(Launcher::External { endpoint: url, params: payload.params })
                }
                Some(ApiServiceDescriptor { authentication: Some(_), .. }) => {
                    Err("its worker pool asks for authentication, which is not supported".into())
                }
                _ => Err("it is EXTERNAL but names no worker pool: set --environment_config to its host:port".into()),
            }
        }
        PROCESS => {
            let payload = ProcessPayload::decode(payload).map_err(unreadable)?;
            if payload.command.is_empty() {
                return Err(
                    "it is PROCESS but names no command: set --environment_options=process_command=COMMAND".into()
                );
            }
            for (what, asked, here) in
                [("os", &payload.os, std::env::consts::OS), ("arch", &payload.arch, std::env::consts::ARCH)]
            {
                if !same_platform(asked, here) {
                    return Err(format!("it is PROCESS for {what} {asked}, and this machine is {here}"));
                }
            }
            Ok(Launcher::Process { command: payload.command, env: payload.env })
        }
        DOCKER => {
            let payload = DockerPayload::decode(payload).map_err(unreadable)?;
            if payload.container_image.is_empty() {
                return Err("it is DOCKER but names no container image".into());
            }
            Ok(Launcher::Docker { image: payload.container_image })
        }
        other => Err(format!("environments of type {other:?} are not supported")),
    }
}

/// SDKs name platforms as Java or Go do.
fn same_platform(asked: &str, here: &str) -> bool {
    let asked = asked.to_ascii_lowercase();
    let known = match asked.as_str() {
        "" => return true,
        "mac os x" | "darwin" => "macos",
        "amd64" | "x64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    known == here
}

/// Why a way to start cannot work on this machine, if that is plain to see.
fn obstacle(launcher: &Launcher, config: &BridgeConfig) -> Option<String> {
    match launcher {
        Launcher::External { .. } => None,
        Launcher::Process { command, .. } => {
            (!is_command(command)).then(|| format!("PROCESS {command}: there is no such command here"))
        }
        Launcher::Docker { image } => (!is_command(&config.docker_command))
            .then(|| format!("DOCKER {image}: the command {} is not installed here", config.docker_command)),
    }
}

/// Whether `command` (up to its first space) is a file, or one on the search path.
fn is_command(command: &str) -> bool {
    if Path::new(command).is_file() {
        return true;
    }
    let program = command.split_whitespace().next().unwrap_or_default();
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    !program.is_empty()
        && std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tests::{Collected, config};

    fn environment(urn: &str, payload: &impl Message) -> Environment {
        Environment { urn: urn.into(), payload: payload.encode_to_vec().into(), ..Default::default() }
    }

    fn external(url: &str) -> Environment {
        let endpoint = ApiServiceDescriptor { url: url.into(), authentication: None };
        environment(EXTERNAL, &ExternalPayload { endpoint: Some(endpoint), params: BTreeMap::new() })
    }

    fn docker() -> Environment {
        environment(DOCKER, &DockerPayload { container_image: "image".into() })
    }

    fn process(command: &str, os: &str, arch: &str) -> Environment {
        environment(
            PROCESS,
            &ProcessPayload { os: os.into(), arch: arch.into(), command: command.into(), env: BTreeMap::new() },
        )
    }

    fn any_of(environments: Vec<Environment>) -> Environment {
        environment(ANYOF, &AnyOfEnvironmentPayload { environments })
    }

    fn shown(environment: &Environment) -> Result<Vec<String>, String> {
        let mut config = config(Arc::new(Collected::default()));
        config.docker_command = "no-such-docker-command".into();
        choices(environment, &config).map(|all| all.iter().map(|choice| choice.launcher.to_string()).collect())
    }

    #[test]
    fn each_type_is_read() {
        assert_eq!(shown(&external("localhost:1")).unwrap(), ["EXTERNAL localhost:1"]);
        assert_eq!(shown(&docker()).unwrap(), ["DOCKER image"]);
        assert_eq!(shown(&process("/bin/boot", "Linux", "amd64")).unwrap(), ["PROCESS /bin/boot"]);
    }

    #[test]
    fn of_several_the_nearest_that_can_work_here_comes_first() {
        let all = any_of(vec![docker(), process("sh", "", ""), external("localhost:1")]);
        assert_eq!(shown(&all).unwrap(), ["EXTERNAL localhost:1", "PROCESS sh"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (environment, expected) in [
            (environment("beam:env:vm:v1", &DockerPayload::default()), "beam:env:vm:v1"),
            (environment(DOCKER, &DockerPayload::default()), "container image"),
            (environment(EXTERNAL, &ExternalPayload::default()), "worker pool"),
            (process("", "", ""), "process_command"),
            (process("sh", "plan9", ""), "plan9"),
            (environment(DEFAULT, &DockerPayload::default()), "environment_type"),
            (any_of(vec![]), "no environment to choose from"),
            (any_of(vec![docker()]), "no-such-docker-command"),
            (Environment { urn: DOCKER.into(), payload: Bytes::from_static(b"\xff"), ..Default::default() }, "read"),
            (any_of(vec![any_of(vec![external("localhost:1")])]), "not supported"),
        ] {
            let problem = shown(&environment).unwrap_err();
            assert!(problem.contains(expected), "{problem:?} does not say {expected:?}");
        }
    }
}
