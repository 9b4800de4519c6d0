//! The course of a job process: attach, connect, start environments, run, stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ferrobeam_harness_bridge::{Bridge, BridgeConfig, TestStreamServices};
use ferrobeam_runner::checkpoint::Checkpoints;
use ferrobeam_runner::dataflow::{self, Drain, Job, JobFailure, Settings, Topology};
use ferrobeam_runner::memory::Budget;
use ferrobeam_runner::plan::Plan;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::cluster::Member;
use super::reports::Reports;
use super::{Orphaned, ProcessError};
use crate::agent::Assignment;
use crate::artifacts::RemoteArtifacts;
use crate::control::v1;
use crate::control::v1::control_client::ControlClient;
use crate::control::v1::process_order::Order;
use crate::control::v1::process_report::Report;
use crate::job::Generation;

/// How often progress is reported while a job runs.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How long the other processes of a job may take to connect.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(60);
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
    reports.send(Report::Hello(hello)).await;
    let mut control =
        ControlClient::new(channel.clone()).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    let attached = control.attach(ReceiverStream::new(outgoing)).await;
    let mut orders = attached.map_err(|status| ProcessError::Refused(Box::new(status)))?.into_inner();
    let deployment = tokio::select! {
        order = next(&mut orders) => match order? {
            Some(Order::Deployment(deployment)) => deployment,
            // Stopped before it began. A drain comes only after a deployment.
            Some(Order::Stop(_) | Order::Drain(_)) | None => return Ok(ExitCode::SUCCESS),
        },
        _ = orphaned.wait_for(|gone| *gone) => return Ok(ExitCode::SUCCESS),
    };

    let drain = Drain::default();
    let mut part =
        Part { assignment, listener, channel, reports: Arc::clone(&reports), bridge: None, drain: drain.clone() };
    let ended = tokio::select! {
        ended = part.run(deployment) => Some(ended),
        // A stop, or the service is gone, which means the same.
        () = obey(&mut orders, &drain) => None,
        _ = orphaned.wait_for(|gone| *gone) => None,
    };
    let failed = matches!(ended, Some(Err(_)));
    if let Some(Err(message)) = &ended {
        // At once: other processes of the job are stopped while this one's environments are.
        reports.send(Report::Failed(v1::Failed { message: message.clone() })).await;
    }
    if ended.is_none() {
        reports.stopping();
    }
    if let Some(bridge) = part.bridge.take() {
        bridge.shutdown().await;
    }
    if let Some(Ok(plan)) = &ended {
        reports.send(reports.metrics(plan, None)).await;
        reports.send(Report::Completed(v1::Completed {})).await;
    }
    // The service ends its stream when it has taken all of this one's.
    reports.close();
    let _ = tokio::time::timeout(LAST_WORDS, async { while let Ok(Some(_)) = orders.message().await {} }).await;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn next(orders: &mut Streaming<v1::ProcessOrder>) -> Result<Option<Order>, ProcessError> {
    let order = orders.message().await.map_err(|status: Status| ProcessError::Refused(Box::new(status)))?;
    Ok(order.and_then(|order| order.order))
}

/// Passes on the order to drain; returns at a stop, or when the service is gone.
async fn obey(orders: &mut Streaming<v1::ProcessOrder>, drain: &Drain) {
    while let Ok(Some(Order::Drain(_))) = next(orders).await {
        drain.request();
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

struct Part {
    assignment: Assignment,
    listener: Option<TcpListener>,
    channel: Channel,
    reports: Arc<Reports>,
    bridge: Option<Arc<Bridge>>,
    drain: Drain,
}

impl Part {
    /// Runs to the end of the dataflow, or to a reason why it does not get there. Dropped, it leaves the dataflow's
    /// threads behind, and the bridge in place to be shut down.
    async fn run(&mut self, deployment: v1::Deployment) -> Result<Arc<Plan>, String> {
        let plan: Plan = postcard::from_bytes(&deployment.plan).map_err(|e| format!("the plan cannot be read: {e}"))?;
        let plan = Arc::new(plan);
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
            checkpoints: Checkpoints::none(),
            test_events: Arc::new(TestStreamServices::new(Handle::current())),
        };
        if deployment.draining {
            job.drain.request();
        }
        self.reports.send(Report::Started(v1::Started {})).await;
        let ended = start_dataflow(job, topology).map_err(|e| format!("cannot start a thread: {e}"))?;
        let ended = tokio::select! {
            ended = ended => ended,
            () = self.reports.keep_reporting(&plan, &bridge, REPORT_EVERY) => return Ok(plan),
        };
        match ended {
            Ok(Ok(())) => Ok(plan),
            Ok(Err(failure)) => Err(failure.message),
            Err(_) => Err("the dataflow's thread is gone".to_owned()),
        }
    }

    async fn connect(&mut self, addresses: &[String]) -> Result<Vec<Option<std::net::TcpStream>>, String> {
        let Some(listener) = self.listener.take() else { return Ok(vec![None]) };
        let member = Member {
            job: self.assignment.job.clone(),
            generation: Generation(self.assignment.generation),
            index: self.assignment.index,
            processes: self.assignment.processes,
            token: self.assignment.token.clone(),
        };
        member.connect(listener, addresses, CLUSTER_PATIENCE).await.map_err(|e| e.to_string())
    }

    async fn start_bridge(&mut self, deployment: &v1::Deployment, plan: &Arc<Plan>) -> Result<Arc<Bridge>, String> {
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
        let bridge = Arc::new(Bridge::open(config).await.map_err(|e| e.to_string())?);
        // Kept before it is ready: a stop that comes meanwhile has to end what is being started.
        self.bridge = Some(Arc::clone(&bridge));
        bridge.ready().await.map_err(|e| e.to_string())?;
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
    use super::*;
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
}
