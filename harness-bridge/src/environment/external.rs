//! Worker pools that somebody else runs (`BeamFnExternalWorkerPool`): LOOPBACK, sidecars.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrobeam_proto::fn_execution::beam_fn_external_worker_pool_client::BeamFnExternalWorkerPoolClient;
use ferrobeam_proto::fn_execution::{StartWorkerRequest, StopWorkerRequest};
use ferrobeam_proto::pipeline::ApiServiceDescriptor;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::error::chain;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(20);
/// How long one try to connect may take: a host that is not there does not answer at all.
const CONNECT: Duration = Duration::from_secs(3);
/// The pause between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// After so long without a worker, it is said what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// A worker that a pool started for us.
#[derive(Debug)]
pub(crate) struct External {
    pool: BeamFnExternalWorkerPoolClient<Channel>,
    worker_id: String,
}

/// A pool, and who hears of it.
pub(crate) struct PoolAt<'a> {
    pub(crate) address: &'a str,
    pub(crate) params: &'a BTreeMap<String, String>,
    /// Told once what is waited for, if that takes long.
    pub(crate) tell: &'a (dyn Fn(String) + Sync),
}

/// Asks a pool for a worker. One that does not listen yet is waited for until `patience` is over, and an answer until
/// `limit` is.
pub(crate) async fn start(
    at: PoolAt<'_>,
    worker_id: &str,
    services: &ApiServiceDescriptor,
    patience: Duration,
    limit: Duration,
) -> Result<External, String> {
    let mut pool = BeamFnExternalWorkerPoolClient::new(connect(&at, patience).await?);
    let request = StartWorkerRequest {
        worker_id: worker_id.to_owned(),
        control_endpoint: Some(services.clone()),
        logging_endpoint: Some(services.clone()),
        artifact_endpoint: Some(services.clone()),
        provision_endpoint: Some(services.clone()),
        params: at.params.clone(),
    };
    let address = at.address;
    let limit = limit.min(CALL);
    let asked = tokio::time::timeout(limit, pool.start_worker(request));
    let slow = || {
        let limit = limit.as_secs_f32();
        (at.tell)(format!("its worker pool at {address} has not answered yet: it has {limit} s to start a worker"));
    };
    let response = match telling(TOLD_AFTER.min(limit / 2), slow, asked).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => {
            return Err(format!(
                "its worker pool at {address} failed to start a worker: {}: {:?}: see what the pool, or the program \
                 that submitted the pipeline, logged, and whether another program listens there",
                status.code(),
                status.message()
            ));
        }
        Err(_) => {
            return Err(format!(
                "its worker pool at {address} did not answer a request to start a worker within {} s: is it a worker \
                 pool that listens there, and is it alive?",
                limit.as_secs_f32()
            ));
        }
    };
    if response.error.is_empty() {
        Ok(External { pool, worker_id: worker_id.to_owned() })
    } else {
        Err(format!(
            "its worker pool at {address} refused to start a worker: {}: see what the pool, or the program that \
             submitted the pipeline, logged",
            response.error
        ))
    }
}

async fn connect(at: &PoolAt<'_>, patience: Duration) -> Result<Channel, String> {
    let address = at.address;
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| format!("its worker pool address {address:?} is none: {error}"))?
        .tcp_nodelay(true);
    let began = Instant::now();
    let deadline = began + patience;
    let mut told = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A deadline of none would be no deadline.
        let one_try = endpoint.clone().connect_timeout(CONNECT.min(left).max(PAUSE));
        let error = match one_try.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => error,
        };
        let unreachable = format!("its worker pool at {address} cannot be reached ({})", chain(&error));
        if Instant::now() + PAUSE >= deadline {
            return Err(format!(
                "{unreachable}: with LOOPBACK that is the program that submitted the pipeline, which has to run until \
                 the job has ended; any other pool has to be started before. Where neither can be reached from this \
                 machine, have workers started here, by --environment_type=PROCESS or DOCKER"
            ));
        }
        if !told && began.elapsed() >= TOLD_AFTER.min(patience / 2) {
            told = true;
            (at.tell)(format!("{unreachable}: it is tried for {} s in all", patience.as_secs_f32()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does `work`, and `tell`s if it takes longer than `after`.
pub(super) async fn telling<T>(after: Duration, tell: impl FnOnce(), work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(after) => tell(),
    }
    work.await
}

impl External {
    /// Tells the pool that the worker is not needed any more. Best effort: the pool may be gone.
    pub(crate) async fn stop(mut self, grace: Duration) {
        let request = StopWorkerRequest { worker_id: self.worker_id };
        match tokio::time::timeout(grace, self.pool.stop_worker(request)).await {
            Ok(Ok(response)) if response.get_ref().error.is_empty() => {}
            other => tracing::debug!(?other, "a worker pool did not stop a worker"),
        }
    }
}
