//! The course of a job process: attach, connect, start environments, run, stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use ferrobeam_harness_bridge::{Bridge, BridgeConfig, BridgeError, TestStreamServices};
use ferrobeam_runner::dataflow::{self, Drain, Job, JobFailure, Settings, Topology};
use ferrobeam_runner::executor::Fault;
use ferrobeam_runner::kafka::KafkaInDoubt;
use ferrobeam_runner::leaving::Leaving;
use ferrobeam_runner::memory::Budget;
use ferrobeam_runner::plan::Plan;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tonic::transport::Channel;

use super::checkpoints::{Place, StartError, Taking};
use super::cluster::{ClusterError, Member};
use super::reports::Reports;
use super::{Orphaned, ProcessError};
use crate::agent::Assignment;
use crate::artifacts::RemoteArtifacts;
use crate::checkpoint::Epoch;
use crate::control::v1;
use crate::control::v1::control_client::ControlClient;
use crate::control::v1::process_order::Order;
use crate::control::v1::process_report::Report;
use crate::job::Generation;

/// How often progress is reported while a job runs.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How long the other processes of a job may take to connect.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(60);
/// How long is waited for transactions that are given up.
const LEAVING: Duration = Duration::from_secs(2);
/// How long the service may take to hear the last reports.
const LAST_WORDS: Duration = Duration::from_secs(10);

pub(super) async fn work(
    assignment: Assignment,
    channel: Channel,
    mut orphaned: Orphaned,
) -> Result<ExitCode, ProcessError> {
    let (reports, outgoing) = Reports::new();
    let (listener, cluster_address) = listen(&assignment).await.map_err(ProcessError::Assignment)?;
    let hello = v1::ProcessHello {
        process: Some(v1::ProcessName {
            job_id: assignment.job.clone(),
            generation: assignment.generation,
            index: assignment.index,
        }),
        token: assignment.token.clone(),
        cluster_address,
    };
    reports.send(Report::Hello(hello));
    let mut control =
        ControlClient::new(channel.clone()).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    let attached = control.attach(outgoing).await;
    let mut orders = attached.map_err(|status| ProcessError::Refused(Box::new(status)))?.into_inner();
    let drain = Drain::default();
    let deployment = tokio::select! {
        deployment = deployed(&mut orders, &drain) => match deployment? {
            Some(deployment) => deployment,
            // Stopped before it began.
            None => return Ok(ExitCode::SUCCESS),
        },
        _ = orphaned.wait_for(|gone| *gone) => return Ok(ExitCode::SUCCESS),
    };

    let leaving = Leaving::default();
    let mut part = Part {
        assignment,
        listener,
        channel,
        reports: Arc::clone(&reports),
        bridge: None,
        drain: drain.clone(),
        leaving: leaving.clone(),
        checkpoints: Arc::default(),
    };
    let checkpoints = Arc::clone(&part.checkpoints);
    let mut lost = None;
    let ended = tokio::select! {
        ended = part.run(deployment) => Some(ended),
        // A stop, or the service is gone, which means the same.
        obeyed = obey(&mut orders, &drain, &reports, &checkpoints) => {
            lost = obeyed.err();
            None
        }
        _ = orphaned.wait_for(|gone| *gone) => None,
    };
    let failed = matches!(ended, Some(Err(_)));
    if let Some(Err(Failure { message, lost_peer, may_pass, damaged_checkpoint, needs_owner })) = &ended {
        let damaged_checkpoint = damaged_checkpoint.map_or(0, |epoch| epoch.0);
        // At once: other processes of the job are stopped while this one's environments are.
        reports.send(Report::Failed(v1::Failed {
            message: message.clone(),
            lost_peer: *lost_peer,
            may_pass: *may_pass,
            damaged_checkpoint,
            needs_owner: *needs_owner,
        }));
    }
    if ended.is_none() {
        reports.stopping();
    }
    if !matches!(ended, Some(Ok(_))) {
        leaving.request();
    }
    if let Some(bridge) = part.bridge.take() {
        bridge.shutdown().await;
    }
    // Its threads are left as they are, but not what others would wait for.
    let left = tokio::task::spawn_blocking(move || leaving.wait(LEAVING)).await;
    if !left.is_ok_and(|left| left) {
        tracing::warn!("a transaction of Kafka is left open");
    }
    if let Some(Ok(plan)) = &ended {
        reports.send(reports.metrics(plan, None));
        reports.send(Report::Completed(v1::Completed {}));
    }
    // The service ends its stream when it has taken all of this one's.
    reports.close();
    let _ = tokio::time::timeout(LAST_WORDS, async { while let Ok(Some(_)) = orders.message().await {} }).await;
    if let Some(lost) = lost {
        return Err(lost);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the service said.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
enum Said {
    Order(Order),
    /// Something that this process does not know.
    Unknown,
    /// Nothing, and it says nothing more.
    Gone,
}

/// The orders for this process.
trait Orders: Stream<Item = Result<v1::ProcessOrder, Status>> + Unpin {}

impl<S: Stream<Item = Result<v1::ProcessOrder, Status>> + Unpin> Orders for S {}

async fn next(orders: &mut impl Orders) -> Result<Said, ProcessError> {
    match orders.next().await.transpose().map_err(|status| ProcessError::Lost(Box::new(status)))? {
        Some(v1::ProcessOrder { order: Some(order) }) => Ok(Said::Order(order)),
        Some(v1::ProcessOrder { order: None }) => {
            tracing::warn!("the service sent an order that this process does not know, which is ignored");
            Ok(Said::Unknown)
        }
        None => Ok(Said::Gone),
    }
}

/// Waits for the work; `None`: there is none any more.
async fn deployed(orders: &mut impl Orders, drain: &Drain) -> Result<Option<v1::Deployment>, ProcessError> {
    loop {
        match next(orders).await? {
            Said::Order(Order::Deployment(deployment)) => return Ok(Some(deployment)),
            Said::Order(Order::Drain(_)) => drain.request(),
            Said::Order(Order::Stop(_)) | Said::Gone => return Ok(None),
            Said::Order(Order::Checkpoint(_) | Order::CheckpointCommitted(_) | Order::CheckpointAborted(_)) => {
                tracing::warn!("the service speaks of a checkpoint before there is work, which is ignored");
            }
            Said::Unknown => {}
        }
    }
}

/// Carries out orders while the job runs; returns at a stop, or when the service is gone.
async fn obey(
    orders: &mut impl Orders,
    drain: &Drain,
    reports: &Reports,
    checkpoints: &OnceLock<Taking>,
) -> Result<(), ProcessError> {
    loop {
        match next(orders).await? {
            Said::Order(Order::Drain(_)) => drain.request(),
            Said::Order(Order::Stop(_)) | Said::Gone => return Ok(()),
            Said::Order(Order::Deployment(_)) => {
                tracing::warn!("the service deployed the job twice, and the second time is ignored");
            }
            Said::Order(Order::Checkpoint(v1::Checkpoint { epoch })) => match checkpoints.get() {
                Some(checkpoints) => checkpoints.begin(epoch),
                None => {
                    let why = "the job was deployed without checkpoints".to_owned();
                    reports.send(Report::SaveFailed(v1::SaveFailed { epoch, why }));
                }
            },
            Said::Order(Order::CheckpointCommitted(v1::CheckpointCommitted { epoch })) => {
                checkpoints.get().into_iter().for_each(|checkpoints| checkpoints.committed(epoch));
            }
            Said::Order(Order::CheckpointAborted(v1::CheckpointAborted { epoch })) => {
                checkpoints.get().into_iter().for_each(|checkpoints| checkpoints.aborted(epoch));
            }
            Said::Unknown => {}
        }
    }
}

/// Listens for the other processes of the job, if it has any.
async fn listen(assignment: &Assignment) -> std::io::Result<(Option<TcpListener>, String)> {
    if assignment.processes <= 1 {
        return Ok((None, String::new()));
    }
    let listener = TcpListener::bind((assignment.host.as_str(), 0)).await?;
    let port = listener.local_addr()?.port();
    let host = &assignment.host;
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok((Some(listener), address))
}

/// Why a job cannot go on.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// For the job's owner.
    message: String,
    /// Nothing is wrong here: another process does not answer.
    lost_peer: bool,
    /// Neither the pipeline nor its user code is to blame: it may go well another time.
    may_pass: bool,
    /// The checkpoint that the attempt began from, where a file of it is damaged.
    damaged_checkpoint: Option<Epoch>,
    /// The job's owner has to mend it, and then to go on from a checkpoint.
    needs_owner: bool,
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure { message, lost_peer: false, may_pass: false, damaged_checkpoint: None, needs_owner: false }
    }
}

impl From<JobFailure> for Failure {
    fn from(failure: JobFailure) -> Failure {
        let may_pass = match failure.fault {
            Fault::User => false,
            // What a harness says that makes no sense, it will say again.
            Fault::Environment => failure.environment.is_some(),
            Fault::Runner => true,
            Fault::Owner => false,
        };
        let needs_owner = failure.fault == Fault::Owner;
        Failure { may_pass, needs_owner, ..Failure::from(failure.message) }
    }
}

impl From<BridgeError> for Failure {
    fn from(error: BridgeError) -> Failure {
        let may_pass = !matches!(error, BridgeError::Stage { .. });
        Failure { may_pass, ..Failure::from(error.to_string()) }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Failure {
        let lost_peer = match &error {
            ClusterError::Io { .. } | ClusterError::Absent(_) => true,
            // It belongs to another generation, which the service knows more of, or to nobody.
            ClusterError::Refused { .. } | ClusterError::Impostor { .. } => false,
        };
        Failure { lost_peer, ..Failure::from(error.to_string()) }
    }
}

struct Part {
    assignment: Assignment,
    listener: Option<TcpListener>,
    channel: Channel,
    reports: Arc<Reports>,
    bridge: Option<Arc<Bridge>>,
    drain: Drain,
    leaving: Leaving,
    /// Once it is ready to take some, if the job does.
    checkpoints: Arc<OnceLock<Taking>>,
}

impl Part {
    /// Gets ready to take checkpoints, if the job does, and to start from one.
    async fn take_checkpoints(&self, deployment: &v1::Deployment) -> Result<(), Failure> {
        let Some(asked) = &deployment.checkpoints else { return Ok(()) };
        let Assignment { index, processes, work_dir, .. } = &self.assignment;
        let workers = deployment.workers.max(1) as usize;
        let place = Place { index: *index, processes: *processes, workers };
        let taking = Taking::start(asked, place, work_dir, &self.reports).await;
        let taking = taking.map_err(|StartError { message, damaged, is_final }| Failure {
            message,
            // What the storage fails of may not be there the next time. What another job left behind does not change.
            lost_peer: !is_final && damaged.is_none_or(|damaged| damaged.own),
            may_pass: false,
            damaged_checkpoint: damaged.filter(|damaged| damaged.own).map(|damaged| damaged.epoch),
            needs_owner: false,
        })?;
        let _ = self.checkpoints.set(taking);
        Ok(())
    }

    /// Runs to the end of the dataflow, or to a reason why it does not get there. Dropped, it leaves the dataflow's
    /// threads behind, and the bridge in place to be shut down.
    async fn run(&mut self, deployment: v1::Deployment) -> Result<Arc<Plan>, Failure> {
        let plan: Plan = postcard::from_bytes(&deployment.plan).map_err(|e| format!("the plan cannot be read: {e}"))?;
        let plan = Arc::new(plan);
        self.take_checkpoints(&deployment).await?;
        let sockets = self.connect(&deployment.cluster_addresses).await?;
        let bridge = self.start_bridge(&deployment, &plan).await?;
        let topology = Topology {
            process: self.assignment.index as usize,
            processes: self.assignment.processes as usize,
            workers: deployment.workers.max(1) as usize,
            sockets,
        };
        let budget = Budget::new(usize::try_from(deployment.memory).unwrap_or(usize::MAX), &self.assignment.work_dir);
        let job = Job {
            plan: Arc::clone(&plan),
            executor: bridge.executor(),
            budget,
            observer: self.reports.clone(),
            settings: settings(&deployment),
            drain: self.drain.clone(),
            checkpoints: self.checkpoints.get().map(Taking::handle).unwrap_or_default(),
            leaving: self.leaving.clone(),
            test_events: Arc::new(TestStreamServices::new(Handle::current())),
        };
        if deployment.draining {
            job.drain.request();
        }
        self.reports.send(Report::Started(v1::Started {}));
        let ended = start_dataflow(job, topology).map_err(|e| format!("cannot start a thread: {e}"))?;
        let ended = tokio::select! {
            ended = ended => ended,
            () = self.reports.keep_reporting(&plan, &bridge, REPORT_EVERY) => return Ok(plan),
        };
        match ended {
            Ok(Ok(())) => Ok(plan),
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err("the dataflow's thread is gone".to_owned().into()),
        }
    }

    async fn connect(&mut self, addresses: &[String]) -> Result<Vec<Option<std::net::TcpStream>>, ClusterError> {
        let Some(listener) = self.listener.take() else { return Ok(vec![None]) };
        let member = Member {
            job: self.assignment.job.clone(),
            generation: Generation(self.assignment.generation),
            index: self.assignment.index,
            processes: self.assignment.processes,
            token: self.assignment.token.clone(),
        };
        member.connect(listener, addresses, CLUSTER_PATIENCE).await
    }

    async fn start_bridge(&mut self, deployment: &v1::Deployment, plan: &Arc<Plan>) -> Result<Arc<Bridge>, Failure> {
        let artifacts = RemoteArtifacts::new(self.channel.clone(), &deployment.retrieval_token);
        let artifacts = Arc::new(artifacts.map_err(|e| e.to_string())?);
        let work_dir = self.assignment.work_dir.clone();
        let mut config =
            BridgeConfig::new(deployment.job_id.clone(), Arc::clone(plan), artifacts, self.reports.clone(), work_dir);
        config.job_name.clone_from(&deployment.job_name);
        config.options = deployment.pipeline_options.clone().unwrap_or_default();
        config.worker_threads = deployment.workers.max(1) as usize;
        if self.assignment.host != crate::agent::LOOPBACK {
            config.advertised_host.clone_from(&self.assignment.host);
            config.listen = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0));
        }
        let asked = deployment.environments.unwrap_or_default();
        config.sdk_worker_parallelism = asked.sdk_worker_parallelism.map(|n| n as usize);
        config.retain_docker_containers = asked.retain_docker_containers;
        let bridge = Arc::new(Bridge::open(config).await?);
        // Kept before it is ready: a stop that comes meanwhile has to end what is being started.
        self.bridge = Some(Arc::clone(&bridge));
        bridge.ready().await?;
        Ok(bridge)
    }
}

/// Zero means that the job did not ask.
fn settings(deployment: &v1::Deployment) -> Settings {
    let limits = deployment.limits.unwrap_or_default();
    let mut settings = Settings { store: deployment.store().into(), ..Settings::default() };
    if limits.max_bundle_elements > 0 {
        settings.max_bundle_elements = usize::try_from(limits.max_bundle_elements).unwrap_or(usize::MAX);
    }
    if limits.bundle_attempts > 0 {
        settings.retries = limits.bundle_attempts - 1;
    }
    if limits.retry_delay_millis > 0 {
        settings.retry_delay = Duration::from_millis(limits.retry_delay_millis);
    }
    settings.allow_non_restored_state = deployment.checkpoints.as_ref().is_some_and(|it| it.allow_non_restored_state);
    settings.kafka_in_doubt = match deployment.checkpoints.as_ref().map(v1::Checkpoints::kafka_in_doubt) {
        Some(v1::KafkaInDoubt::Written) => KafkaInDoubt::Written,
        Some(v1::KafkaInDoubt::Write) => KafkaInDoubt::Write,
        Some(v1::KafkaInDoubt::Unspecified) | None => KafkaInDoubt::Fail,
    };
    settings.kafka_exactly_once = !deployment.checkpoints.as_ref().is_some_and(|it| it.kafka_at_least_once);
    settings.job.clone_from(&deployment.job_id);
    if limits.max_bundle_millis > 0 {
        settings.max_bundle_time = Duration::from_millis(limits.max_bundle_millis);
    }
    settings
}

/// On a thread of its own: it blocks until the dataflow is over.
fn start_dataflow(job: Job, topology: Topology) -> std::io::Result<oneshot::Receiver<Result<(), JobFailure>>> {
    let (ended, end) = oneshot::channel();
    thread::Builder::new().name("dataflow".into()).spawn(move || {
        // Nobody listens when the job was stopped.
        let _ = ended.send(dataflow::run(job, topology));
    })?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Verdict;
    use super::*;
    use ferrobeam_runner::plan::EnvironmentId;
    use ferrobeam_runner::state::StoreKind;

    #[test]
    fn what_a_job_asks_for_reaches_the_dataflow_and_the_rest_is_the_default() {
        let unasked = settings(&v1::Deployment::default());
        let default = Settings::default();
        assert_eq!(unasked.max_bundle_elements, default.max_bundle_elements);
        assert_eq!((unasked.retries, unasked.retry_delay), (default.retries, default.retry_delay));
        assert_eq!((unasked.store, unasked.max_bundle_time), (default.store, default.max_bundle_time));

        let limits =
            v1::Limits { max_bundle_elements: 7, bundle_attempts: 1, retry_delay_millis: 20, max_bundle_millis: 30 };
        let asked =
            v1::Deployment { limits: Some(limits), store: v1::Store::RocksDb.into(), ..v1::Deployment::default() };
        let asked = settings(&asked);
        assert_eq!((asked.max_bundle_elements, asked.retries), (7, 0));
        assert_eq!(asked.retry_delay, Duration::from_millis(20));
        assert_eq!((asked.store, asked.max_bundle_time), (StoreKind::RocksDb, Duration::from_millis(30)));
    }

    /// Orders, and the end of the stream after them if there is nothing to stop at.
    fn said(orders: Vec<Option<Order>>) -> impl Orders {
        tokio_stream::iter(orders.into_iter().map(|order| Ok(v1::ProcessOrder { order })))
    }

    #[tokio::test]
    async fn only_a_stop_or_the_end_ends_the_process() {
        let (drain, stop) = (Some(Order::Drain(v1::Drain {})), Some(Order::Stop(v1::Stop {})));
        let deployment = || Some(Order::Deployment(v1::Deployment { workers: 7, ..v1::Deployment::default() }));

        // Before the work is there.
        let asked = Drain::default();
        let mut orders = said(vec![None, drain.clone(), deployment(), stop.clone()]);
        let deployed_ = deployed(&mut orders, &asked).await.expect("no error");
        assert_eq!(deployed_.map(|deployment| deployment.workers), Some(7));
        assert!(asked.requested());
        for none in [vec![stop.clone(), deployment()], vec![]] {
            assert_eq!(deployed(&mut said(none), &Drain::default()).await.expect("no error"), None);
        }

        // While it runs: what comes after an order shows whether that ended the process.
        let checkpoint = Some(Order::Checkpoint(v1::Checkpoint { epoch: 9 }));
        let committed = Some(Order::CheckpointCommitted(v1::CheckpointCommitted { epoch: 9 }));
        let aborted = Some(Order::CheckpointAborted(v1::CheckpointAborted { epoch: 9 }));
        for order in [None, drain.clone(), deployment(), checkpoint.clone(), committed, aborted] {
            let asked = Drain::default();
            let (reports, mut outgoing) = Reports::new();
            let mut orders = said(vec![order.clone(), drain.clone(), stop.clone(), drain.clone()]);
            obey(&mut orders, &asked, &reports, &OnceLock::new()).await.expect("no error");
            assert!(asked.requested(), "{order:?} ended the process");
            assert_eq!(orders.next().await.transpose().expect("no error").and_then(|o| o.order), drain);
            reports.close();
            let answer = outgoing.next().await.and_then(|report| report.report);
            let why = "the job was deployed without checkpoints".to_owned();
            let failed = Report::SaveFailed(v1::SaveFailed { epoch: 9, why });
            assert_eq!(answer, (order == checkpoint).then_some(failed));
        }
        obey(&mut said(vec![drain]), &Drain::default(), &Reports::new().0, &OnceLock::new())
            .await
            .expect("an end in order");
    }

    /// What a newer service might say: a field that this process has never heard of.
    #[test]
    fn an_order_of_another_version_is_one_without_content() {
        let encoded: &[u8] = &[0xfa, 0x3f, 0];
        let order =
            <v1::ProcessOrder as prost::Message>::decode(encoded).expect("fields that are not known are passed over");
        assert_eq!(order.order, None);
    }

    #[test]
    fn only_a_peer_that_does_not_answer_is_a_lost_one() {
        let io = |kind: std::io::ErrorKind| ClusterError::Io { peer: 1, address: "host:1".into(), source: kind.into() };
        let cases = [
            (io(std::io::ErrorKind::ConnectionRefused), true),
            (io(std::io::ErrorKind::UnexpectedEof), true),
            (ClusterError::Absent(1), true),
            (ClusterError::Refused { peer: 1, address: "host:1".into(), verdict: Verdict::Stale }, false),
            (ClusterError::Impostor { peer: 1, address: "host:1".into() }, false),
        ];
        for (error, lost_peer) in cases {
            let message = error.to_string();
            assert_eq!(Failure::from(error), Failure { lost_peer, ..Failure::from(message) });
        }
    }

    #[test]
    fn what_is_nobodys_fault_in_the_pipeline_may_pass() {
        let failure = |fault, environment| JobFailure { fault, message: "why".into(), environment };
        let environment = Some(EnvironmentId(0));
        let cases = [
            (failure(Fault::User, environment), false),
            (failure(Fault::Environment, environment), true),
            (failure(Fault::Environment, None), false),
            (failure(Fault::Runner, None), true),
        ];
        for (failure, may_pass) in cases {
            assert_eq!(Failure::from(failure), Failure { may_pass, ..Failure::from("why".to_owned()) });
        }
    }
}
