//! Why a bridge, or an environment of it, does not run.

use ferrobeam_runner::executor::{BundleError, Fault};
use ferrobeam_runner::plan::EnvironmentId;

/// Why [`Bridge::start`](crate::Bridge::start) failed.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The servers cannot listen.
    #[error("cannot listen on {address} for SDK harnesses: {source}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A stage of the plan cannot be given to a harness.
    #[error("stage {stage}: {message}")]
    Stage {
        /// The stage's name.
        stage: String,
        /// What is wrong with it.
        message: String,
    },
    /// An environment cannot be started, or did not start.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

impl BridgeError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            BridgeError::Listen { .. } | BridgeError::Stage { .. } => Fault::Runner,
            BridgeError::Environment(_) => Fault::Environment,
        }
    }

    /// The environment concerned, if one is.
    pub fn environment(&self) -> Option<EnvironmentId> {
        match self {
            BridgeError::Environment(error) => Some(error.environment),
            _ => None,
        }
    }
}

/// Why an environment has no running harness.
#[derive(Clone, Debug, thiserror::Error)]
#[error("environment {name}: {message}")]
pub struct EnvironmentError {
    /// Which one.
    pub environment: EnvironmentId,
    /// Its id in the pipeline.
    pub name: String,
    /// What was tried, what came of it, what to do.
    pub message: String,
}

impl EnvironmentError {
    /// How a bundle that needed the environment failed. No retry: the starts have been retried already.
    pub(crate) fn to_bundle_error(&self) -> BundleError {
        BundleError {
            fault: Fault::Environment,
            retry: false,
            message: self.to_string(),
            environment: Some(self.environment),
        }
    }
}

/// An error with its causes: tonic's own text says only that something went wrong.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
