//! What a bridge needs from the job process around it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_proto::pipeline::ArtifactInformation;
use ferrobeam_runner::plan::Plan;
use tokio_stream::Stream;

use crate::log::LogSink;

/// Everything that [`Bridge::start`](crate::Bridge::start) is told. [`BridgeConfig::new`] fills in the defaults.
#[derive(Clone)]
pub struct BridgeConfig {
    /// The job's id: given to harnesses, and their retrieval token for artifacts.
    pub job_id: String,
    /// The job's name, given to harnesses.
    pub job_name: String,
    /// The pipeline options as submitted, given to harnesses.
    pub options: prost_types::Struct,
    /// The plan whose stages are run.
    pub plan: Arc<Plan>,
    /// Where the artifacts of the job's environments come from.
    pub artifacts: Arc<dyn ArtifactSource>,
    /// Takes what harnesses log, and what is said about them.
    pub logs: Arc<dyn LogSink>,
    /// Where the servers listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The host name or address under which harnesses reach [`BridgeConfig::listen`].
    pub advertised_host: String,
    /// How many harnesses to start for an SDK that runs one bundle's user code at a time. `None`: one a core, and one
    /// for an EXTERNAL environment, whose workers may share one interpreter. `Some(0)`: one fewer than there are cores.
    pub sdk_worker_parallelism: Option<usize>,
    /// How many worker threads the dataflow has in this process; they share the harnesses.
    pub worker_threads: usize,
    /// An existing folder for files of the started processes; removing it is the caller's business.
    pub work_dir: PathBuf,
    /// The docker-compatible command that runs DOCKER environments.
    pub docker_command: String,
    /// Keep containers after they stopped, for a look at them.
    pub retain_docker_containers: bool,
    /// What to run for `beam:env:default:v1`: an encoded `Environment`. `None` refuses it.
    pub default_environment: Option<Bytes>,
    /// How long a harness may take from its start to its control stream.
    pub start_timeout: Duration,
    /// How long a harness may take to end by itself once the job is over.
    pub stop_timeout: Duration,
    /// How many times in a row a harness is started anew without one bundle having succeeded in between.
    pub restarts: u32,
}

impl BridgeConfig {
    /// A configuration with the defaults: loopback, one harness a core, a minute to start, three restarts.
    pub fn new(
        job_id: impl Into<String>,
        plan: Arc<Plan>,
        artifacts: Arc<dyn ArtifactSource>,
        logs: Arc<dyn LogSink>,
        work_dir: impl Into<PathBuf>,
    ) -> BridgeConfig {
        let job_id = job_id.into();
        BridgeConfig {
            job_name: job_id.clone(),
            job_id,
            options: prost_types::Struct::default(),
            plan,
            artifacts,
            logs,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertised_host: "localhost".into(),
            sdk_worker_parallelism: None,
            worker_threads: 1,
            work_dir: work_dir.into(),
            docker_command: "docker".into(),
            retain_docker_containers: false,
            default_environment: None,
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(5),
            restarts: 3,
        }
    }
}

/// The bytes of one artifact, in order.
pub type ArtifactBytes = Pin<Box<dyn Stream<Item = Result<Bytes, ArtifactError>> + Send>>;

/// Hands the job's artifacts to its harnesses (`ArtifactRetrievalService`). An implementation serves the artifacts of
/// this one job and no others.
#[tonic::async_trait]
pub trait ArtifactSource: Send + Sync + 'static {
    /// Replaces artifacts by ones that [`ArtifactSource::open`] can read; usually the same ones.
    async fn resolve(
        &self,
        artifacts: Vec<ArtifactInformation>,
        preferred_urns: Vec<String>,
    ) -> Result<Vec<ArtifactInformation>, ArtifactError>;

    /// Starts to read an artifact.
    async fn open(&self, artifact: ArtifactInformation) -> Result<ArtifactBytes, ArtifactError>;
}

/// Why an artifact cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The job has no such artifact.
    #[error("this job has no artifact {0}")]
    NotFound(String),
    /// The artifact is of a type that is not served.
    #[error("{0}")]
    Unsupported(String),
    /// Reading failed.
    #[error("reading an artifact: {0}")]
    Storage(String),
}
