//! The job service as a whole: its listeners, its supervisor, and an agent of its own.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrobeam_proto::expansion::expansion_service_server::ExpansionServiceServer;
use ferrobeam_proto::job::artifact_retrieval_service_server::ArtifactRetrievalServiceServer;
use ferrobeam_proto::job::artifact_staging_service_server::ArtifactStagingServiceServer;
use ferrobeam_proto::job::job_service_server::JobServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::agent::{Agent, AgentConfig};
use crate::api::JobApi;
use crate::artifacts::{Retrieval, RetrievalGrants, StagingService, Store, StoreError};
use crate::checkpoint::{Options, Storage};
use crate::control::v1::control_server::ControlServer;
use crate::control::v1::savepoints_server::SavepointsServer;
use crate::control::{ControlService, SavepointService};
use crate::expansion::KafkaExpansion;
use crate::job::{Jobs, Retention};
use crate::options::StateBackend;
use crate::recovery::{self, Ballot, Election, JobStore, SaveError, Term};
use crate::supervisor::{Agents, CheckpointStorage, Records, Supervisor, SupervisorConfig};
use crate::temporary::{TempError, TempRoot};

/// Bytes of a transform that is to be expanded, with all that its pipeline has so far.
const LARGEST_EXPANSION: usize = 64 << 20;

/// How a job service is set up. [`ServiceConfig::default`] listens on free ports of the loopback address.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Where to listen: a host name or an address.
    pub host: String,
    /// The port of the Job API and of everything else; 0 takes any free one.
    pub job_port: u16,
    /// The port that clients are sent to to stage artifacts, which serves the same; 0 takes any free one.
    pub artifact_port: u16,
    /// The port of the expansion service, which serves the same; 0 takes any free one.
    pub expansion_port: u16,
    /// The host under which clients and other machines reach the service; `None`: `host`, or this machine's name when
    /// `host` stands for every address.
    pub advertised_host: Option<String>,
    /// Where artifacts are kept; `None`: in a temporary folder, removed at the end.
    pub artifacts_dir: Option<PathBuf>,
    /// URL of the storage for checkpoints, and for the jobs themselves, which the next service on it goes on with; `None`:
    /// a temporary folder, which goes with the service, as its jobs do.
    pub checkpoint_storage: Option<String>,
    /// Another service on the storage takes over from this one when it has not heard of it for so long.
    pub term: Duration,
    /// Where temporary folders are made; `None`: where the system says.
    pub temp_dir: Option<PathBuf>,
    /// What agents from other machines have to show; `None`: there are none.
    pub join_token: Option<String>,
    /// How many job processes this machine takes; 0 leaves all to agents that join.
    pub capacity: usize,
    /// How many idle job processes to keep for jobs to come.
    pub spares: usize,
    /// How long job processes of this machine go on without a sign of the service.
    pub lease: Duration,
    /// The binary of job processes.
    pub program: PathBuf,
    /// How jobs are run.
    pub supervisor: SupervisorConfig,
    /// What is kept of jobs that ended.
    pub retention: Retention,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        ServiceConfig {
            host: "localhost".to_owned(),
            job_port: 0,
            artifact_port: 0,
            expansion_port: 0,
            advertised_host: None,
            artifacts_dir: None,
            checkpoint_storage: None,
            term: recovery::TERM,
            temp_dir: None,
            join_token: None,
            capacity: 64,
            spares: 1,
            lease: crate::agent::LEASE,
            program: AgentConfig::this_program(),
            supervisor: SupervisorConfig {
                max_running_jobs: 16,
                processes: NonZeroUsize::MIN,
                workers: cores,
                memory: default_memory(),
                state_backend: StateBackend::default(),
                grace: Duration::from_secs(15),
                attach_timeout: Duration::from_secs(60),
                checkpoints: None,
                check_against: None,
            },
            retention: Retention::default(),
        }
    }
}

/// A quarter of the machine's memory, and at most 512 MiB: what is buffered is not all that a process holds, and
/// several may run beside each other and beside the harnesses.
pub fn default_memory() -> u64 {
    const MOST: u64 = 512 << 20;
    const LEAST: u64 = 64 << 20;
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(MOST, |kib| (kib * 1024 / 4).clamp(LEAST, MOST))
}

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host's name is unknown.
    #[error("cannot find an address for host {host:?}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}; choose another port with --{flag}, or 0 for any free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that chooses it.
        flag: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The artifact store cannot be opened.
    #[error(transparent)]
    Artifacts(#[from] StoreError),
    /// No temporary folder can be made.
    #[error(transparent)]
    TempDir(#[from] TempError),
    /// The storage of checkpoints cannot be opened.
    #[error("the storage of checkpoints: {0}")]
    Checkpoints(#[from] crate::checkpoint::OpenError),
    /// The jobs of an earlier service cannot be taken over.
    #[error("the jobs in the storage cannot be taken over: {0}")]
    Recovery(#[from] SaveError),
    /// No folder for checkpoints can be made.
    #[error("a folder for checkpoints cannot be made: {0}")]
    CheckpointFolder(#[source] std::io::Error),
}

/// A running job service.
#[derive(Debug)]
pub struct Service {
    job_address: SocketAddr,
    artifact_address: SocketAddr,
    expansion_endpoint: String,
    endpoint: String,
    jobs: Arc<Jobs>,
    supervisor: Arc<Supervisor>,
    stop: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    agent: Option<(JoinHandle<()>, mpsc::UnboundedSender<crate::agent::Order>)>,
    leading: Option<Leading>,
    _temp: TempRoot,
}

/// Of a service whose jobs outlive it.
#[derive(Debug)]
struct Leading {
    storage: Storage,
    /// Whether another service has the jobs, and why that is known.
    replaced: watch::Sender<Option<String>>,
    resign: watch::Sender<bool>,
    ballot: Ballot,
    keeping: JoinHandle<()>,
}

impl Leading {
    /// Waits until this service leads those on its storage.
    async fn begin(url: &str, endpoint: String, term: Duration) -> Result<Leading, ServeError> {
        let storage = Storage::open(url, &Options::of_environment())?;
        storage.keep_records_private()?;
        let election = Election::new(storage.clone(), Term::of_this_process(endpoint), term);
        let leadership = election.win(|other| {
            tracing::info!(
                "the service at {} has the jobs in {url}: this one waits, and goes on with them when that one is gone",
                other.endpoint
            );
        });
        let leadership = leadership.await?;
        let (replaced, resign) = (watch::Sender::new(None), watch::Sender::new(false));
        let (tell, resigned) = (replaced.clone(), resign.subscribe());
        let ballot = leadership.ballot();
        let keeping = tokio::spawn(async move {
            if let Some(why) = leadership.keep(resigned).await {
                tell.send_replace(Some(why));
            }
        });
        Ok(Leading { storage, replaced, resign, ballot, keeping })
    }

    /// Lets the next service begin at once.
    async fn resign(self) {
        self.resign.send_replace(true);
        let _ = self.keeping.await;
    }
}

impl Service {
    /// Starts it. It serves when this returns. One with a storage first waits until no other service has the jobs there.
    pub async fn start(config: ServiceConfig) -> Result<Service, ServeError> {
        let ip = resolve(&config.host).await?;
        let leading = match &config.checkpoint_storage {
            Some(url) if config.supervisor.checkpoints.is_none() => {
                let endpoint = host_port(&advertised_host(&config, ip), config.job_port);
                Some(Leading::begin(url, endpoint, config.term).await?)
            }
            _ => None,
        };
        match (Service::start_leading(config, ip, leading.as_ref()).await, leading) {
            (Ok(service), leading) => Ok(Service { leading, ..service }),
            (Err(error), leading) => {
                if let Some(leading) = leading {
                    leading.resign().await;
                }
                Err(error)
            }
        }
    }

    async fn start_leading(
        config: ServiceConfig,
        ip: IpAddr,
        leading: Option<&Leading>,
    ) -> Result<Service, ServeError> {
        let job = listen(ip, config.job_port, "job-port").await?;
        let artifact = listen(ip, config.artifact_port, "artifact-port").await?;
        let expansion = listen(ip, config.expansion_port, "expansion-port").await?;
        let (job, job_address) = job;
        let (expansion, expansion_address) = expansion;
        let (artifact, artifact_address) = artifact;
        let advertised = advertised_host(&config, ip);
        let endpoint = host_port(&advertised, job_address.port());
        let temp = TempRoot::create(config.temp_dir.as_deref())?;
        let store_dir = config.artifacts_dir.clone().unwrap_or_else(|| temp.path().join("artifacts"));
        let store = Store::open(store_dir)?;

        let mut supervised = config.supervisor.clone();
        let is_temporary = supervised.checkpoints.is_none() && config.checkpoint_storage.is_none();
        if supervised.checkpoints.is_none() {
            let url = match &config.checkpoint_storage {
                Some(url) => url.clone(),
                None => {
                    // They outlive a job's processes, but not the service.
                    let folder = temp.path().join("checkpoints");
                    std::fs::create_dir_all(&folder).map_err(ServeError::CheckpointFolder)?;
                    format!("file://{}", folder.display())
                }
            };
            supervised.checkpoints = Some(CheckpointStorage::open(&url)?);
        }
        let jobs = Arc::new(Jobs::new(config.retention));
        let grants = Arc::new(RetrievalGrants::default());
        let agents = Arc::new(Agents::default());
        let mut supervisor = Supervisor::new(supervised, Arc::clone(&jobs), agents, Arc::clone(&grants));
        let recorded = leading.map(|leading| {
            (Arc::new(JobStore::new(leading.storage.clone(), store.clone(), Some(leading.ballot.clone()))), leading)
        });
        if let Some((records, leading)) = &recorded {
            supervisor = supervisor.recording(Records::new(Arc::clone(records), leading.replaced.clone()));
        }
        let supervisor = Arc::new(supervisor);
        if let Some((records, _)) = recorded {
            go_on(&supervisor, &records).await?;
        }
        let api =
            JobApi::new(Arc::clone(&jobs), Arc::clone(&supervisor), host_port(&advertised, artifact_address.port()));
        let staging = StagingService::new(Arc::clone(&jobs), store.clone());
        let savepoints = SavepointService::new(Arc::clone(&supervisor), Arc::clone(&jobs), is_temporary);
        let control = ControlService::new(Arc::clone(&supervisor), config.join_token.clone());
        let routes = Routes::new(JobServiceServer::new(api).max_decoding_message_size(usize::MAX))
            .add_service(ArtifactStagingServiceServer::new(staging).max_decoding_message_size(usize::MAX))
            .add_service(ArtifactRetrievalServiceServer::new(Retrieval::new(store, grants)))
            .add_service(SavepointsServer::new(savepoints))
            .add_service(ExpansionServiceServer::new(KafkaExpansion).max_decoding_message_size(LARGEST_EXPANSION))
            .add_service(ControlServer::new(control).max_decoding_message_size(usize::MAX))
            .prepare();

        let (stop, stopped) = watch::channel(false);
        let servers = [job, artifact, expansion]
            .map(|l| tokio::spawn(serve(l, routes.clone(), stopped.clone())))
            .into_iter()
            .collect();
        let agent = (config.capacity > 0).then(|| {
            let own = AgentConfig {
                program: config.program.clone(),
                service: format!("http://{}", host_port(&reachable(ip).to_string(), job_address.port())),
                host: if ip.is_loopback() { crate::agent::LOOPBACK.to_owned() } else { advertised.clone() },
                work_root: temp.path().to_owned(),
                spares: config.spares,
                lease: config.lease,
            };
            start_agent(own, config.capacity, &supervisor)
        });
        Ok(Service {
            job_address,
            artifact_address,
            expansion_endpoint: host_port(&advertised, expansion_address.port()),
            endpoint,
            jobs,
            supervisor,
            stop,
            servers,
            agent,
            leading: None,
            _temp: temp,
        })
    }

    /// Where the Job API listens.
    pub fn job_address(&self) -> SocketAddr {
        self.job_address
    }

    /// Where artifacts are staged.
    pub fn artifact_address(&self) -> SocketAddr {
        self.artifact_address
    }

    /// Where transforms are expanded, as clients name it, HOST:PORT.
    pub fn expansion_endpoint(&self) -> &str {
        &self.expansion_endpoint
    }

    /// The job endpoint as clients name it, HOST:PORT.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its jobs.
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// What runs them.
    pub fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }

    /// Returns when another service has the jobs, with why that is known. This one is to be stopped then.
    pub async fn replaced(&self) -> String {
        let Some(leading) = &self.leading else { return std::future::pending().await };
        let mut replaced = leading.replaced.subscribe();
        let why = replaced.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// Ends all processes, and removes what is temporary. Jobs are cancelled, unless there is a storage in which the next
    /// service finds them.
    pub async fn stop(mut self) {
        match &self.leading {
            None => self.supervisor.stop().await,
            Some(leading) if leading.replaced.borrow().is_some() => self.supervisor.abandon(),
            Some(_) => self.supervisor.suspend().await,
        }
        if let Some((agent, orders)) = self.agent.take() {
            drop(orders);
            for id in self.supervisor.agents().ids() {
                self.supervisor.agents().leave(id);
            }
            let _ = agent.await;
        }
        self.stop.send_replace(true);
        for mut server in self.servers.drain(..) {
            // Clients that follow a stream to its end have had it; one that keeps its connection does not hold us.
            if tokio::time::timeout(Duration::from_millis(500), &mut server).await.is_err() {
                server.abort();
            }
        }
        if let Some(leading) = self.leading.take() {
            leading.resign().await;
        }
    }
}

/// Takes the jobs over that an earlier service left.
async fn go_on(supervisor: &Arc<Supervisor>, records: &JobStore) -> Result<(), ServeError> {
    let (jobs, bad) = records.load().await?;
    for error in bad {
        tracing::error!(%error, "a job in the storage cannot be read, and is left as it is");
    }
    let mut going_on = 0;
    for job in jobs {
        let id = job.id.clone();
        going_on += usize::from(job.end.is_none());
        if let Err(error) = supervisor.resume(job).await {
            tracing::error!(job = %id, %error, "a job cannot be taken over, and is left as it is");
        }
    }
    if going_on > 0 {
        tracing::info!("going on with {going_on} jobs of an earlier service");
    }
    Ok(())
}

fn start_agent(
    config: AgentConfig,
    capacity: usize,
    supervisor: &Arc<Supervisor>,
) -> (JoinHandle<()>, mpsc::UnboundedSender<crate::agent::Order>) {
    let (orders, taken) = mpsc::unbounded_channel();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let agents = Arc::clone(supervisor.agents());
    let id = agents.join(config.host.clone(), capacity, orders.clone());
    let running = tokio::spawn(Agent::new(config).run(taken, ended));
    tokio::spawn(async move {
        while let Some(end) = ends.recv().await {
            agents.ended(id, end);
        }
    });
    (running, orders)
}

async fn serve(listener: TcpListener, routes: Routes, mut stopped: watch::Receiver<bool>) {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        // A client that is gone without a word is noticed, and what is kept for it is let go.
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(30)))
        // Artifacts come in large pieces.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .add_routes(routes);
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop).await {
        tracing::error!(%error, "a listener of the job service ended");
    }
}

async fn resolve(host: &str) -> Result<IpAddr, ServeError> {
    let failed = |source| ServeError::Resolve { host: host.to_owned(), source };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await.map_err(failed)?.collect();
    // Names such as localhost have both kinds, and some clients try only the older.
    let address = addresses.iter().find(|a| a.is_ipv4()).or(addresses.first());
    let none = || failed(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    address.map(SocketAddr::ip).ok_or_else(none)
}

async fn listen(ip: IpAddr, port: u16, flag: &'static str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let address = SocketAddr::new(ip, port);
    let failed = |source| ServeError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn advertised_host(config: &ServiceConfig, ip: IpAddr) -> String {
    if let Some(host) = &config.advertised_host {
        return host.clone();
    }
    if !ip.is_unspecified() {
        return config.host.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where this machine itself finds a listener.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
