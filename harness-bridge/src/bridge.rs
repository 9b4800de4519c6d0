//! A bridge as its job process sees it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ferrobeam_proto::pipeline::ApiServiceDescriptor;
use ferrobeam_runner::executor::StageExecutor;
use ferrobeam_runner::metrics::Metric;
use ferrobeam_runner::plan::{EnvironmentId, StageId};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::bundle::Executor;
use crate::config::BridgeConfig;
use crate::environment::{Pool, Residences};
use crate::error::{BridgeError, EnvironmentError};
use crate::harness::{Harnesses, Phase};
use crate::shared::Shared;
use crate::stage::Stage;
use crate::tasks::Tasks;
use crate::{progress, server};

/// How long callbacks of finished bundles may take at the end of a job.
const CALLBACKS: Duration = Duration::from_secs(5);
/// How long harnesses' streams may take to be cut off at the end.
const CUT_OFF: Duration = Duration::from_secs(2);

/// The Fn API side of a job process: servers, harnesses, bundles. End it with [`Bridge::shutdown`].
pub struct Bridge {
    shared: Arc<Shared>,
    executor: Arc<dyn StageExecutor>,
}

/// A bundle that runs now.
#[derive(Clone, Debug)]
pub struct RunningBundle {
    /// The stage it runs.
    pub stage: StageId,
    /// The harness that runs it.
    pub harness: String,
    /// Its id in the Fn API.
    pub instruction: String,
    /// How long it has been open.
    pub age: Duration,
    /// Its metrics when the harness was last asked: attempted, not committed. Empty for a young bundle.
    pub metrics: Vec<Metric>,
}

impl Bridge {
    /// Starts the servers and every environment that a stage of the plan needs, and waits until each has a harness. All
    /// of it runs on the current tokio runtime.
    pub async fn start(config: BridgeConfig) -> Result<Bridge, BridgeError> {
        let bridge = Bridge::open(config).await?;
        match bridge.ready().await {
            Ok(()) => Ok(bridge),
            Err(error) => {
                bridge.shutdown().await;
                Err(error)
            }
        }
    }

    /// Like [`Bridge::start`], but without waiting for harnesses: whoever may have to stop meanwhile can shut it down.
    pub async fn open(config: BridgeConfig) -> Result<Bridge, BridgeError> {
        let address = config.listen;
        let listening = server::listen(address).await;
        let (listener, bound) = listening.map_err(|source| BridgeError::Listen { address, source })?;
        let host = &config.advertised_host;
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() };
        let endpoint = ApiServiceDescriptor { url: format!("{host}:{}", bound.port()), authentication: None };

        let generation = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let plan = config.plan.clone();
        let stages = (0..)
            .zip(&plan.stages)
            .map(|(id, stage)| {
                Stage::prepare(StageId(id), stage, &plan.collections, &generation, &endpoint).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let used: BTreeSet<EnvironmentId> = stages.iter().map(|stage| stage.environment).collect();
        let mut pools = std::collections::BTreeMap::new();
        for id in used {
            let described = plan.environments.get(id.0 as usize).ok_or_else(|| EnvironmentError {
                environment: id,
                name: id.0.to_string(),
                message: "the plan has no such environment".into(),
            })?;
            pools.insert(id, Arc::new(Pool::prepare(id, described, &config)?));
        }
        let stages_by_descriptor: HashMap<String, Arc<Stage>> =
            stages.iter().map(|stage| (stage.descriptor_id.clone(), stage.clone())).collect();
        let runtime = Handle::current();
        let shared = Arc::new(Shared {
            config: Arc::new(config),
            generation,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            endpoint,
            stages,
            stages_by_descriptor,
            pools,
            harnesses: Harnesses::default(),
            residences: Residences::default(),
            tasks: Tasks::new(runtime.clone()),
            keepers: Tasks::new(runtime.clone()),
            finalizing: Tasks::new(runtime),
            closing: watch::Sender::new(false),
            next_harness: AtomicU64::new(1),
        });
        let bridge = Bridge { executor: Arc::new(Executor::new(shared.clone())), shared: shared.clone() };
        shared.tasks.spawn(server::serve(shared.clone(), listener));
        shared.tasks.spawn(progress::poll(shared.clone()));
        for pool in shared.pools.values() {
            shared.keepers.spawn(pool.clone().run(shared.clone()));
        }
        Ok(bridge)
    }

    /// Waits until every environment that a stage needs has a harness.
    pub async fn ready(&self) -> Result<(), BridgeError> {
        for pool in self.shared.pools.values() {
            pool.ready().await?;
        }
        Ok(())
    }

    /// Runs bundles of the plan's stages on the bridge's harnesses.
    pub fn executor(&self) -> Arc<dyn StageExecutor> {
        self.executor.clone()
    }

    /// The `host:port` of every service.
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint.url
    }

    /// The ids of the harnesses that take bundles now.
    pub fn harnesses(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .shared
            .harnesses
            .all()
            .iter()
            .filter(|harness| matches!(*harness.phase().borrow(), Phase::Ready))
            .map(|harness| harness.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// What a harness says it is doing: threads, bundles, caches. For people.
    pub async fn status(&self, harness: &str) -> Result<String, String> {
        match self.shared.harnesses.get(harness) {
            Some(harness) => harness.status().await,
            None => Err(format!("there is no SDK harness {harness}")),
        }
    }

    /// The bundles that run now.
    pub fn running(&self) -> Vec<RunningBundle> {
        let mut running = Vec::new();
        for harness in self.shared.harnesses.all() {
            for (instruction, bundle) in harness.open_bundles() {
                running.push(RunningBundle {
                    stage: bundle.stage.id,
                    harness: harness.id.clone(),
                    instruction,
                    age: bundle.opened.elapsed(),
                    metrics: bundle.attempted(),
                });
            }
        }
        running
    }

    /// Stops every harness (in good order as far as it takes no longer than the configured time), ends all bundles, and
    /// closes the servers. Open bundles fail. A second call does nothing.
    pub async fn shutdown(&self) {
        // Bundles that succeeded may still be told so. A callback that takes its time does not keep the job.
        let _ = tokio::time::timeout(CALLBACKS, self.shared.finalizing.finished()).await;
        self.shared.closing.send_replace(true);
        self.shared.keepers.finished().await;
        // What is left: streams of clients that do not let go, and bundles of harnesses that are gone.
        if tokio::time::timeout(CUT_OFF, self.shared.tasks.shutdown()).await.is_err() {
            tracing::warn!("tasks of the harness bridge did not end");
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Without a shutdown the slots still stop their harnesses, in the background.
        self.shared.closing.send_replace(true);
    }
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}
