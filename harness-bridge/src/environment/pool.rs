//! The harnesses of one environment: started with the bridge, leased to bundles.
//!
//! A bundle takes the harness with the fewest bundles, or the one where its part of a keyed stage lives, if that is
//! hardly busier: what it has cached is worth a short wait and no more. When a harness is lost its slot starts another; only when every
//! slot has used up its restarts is the environment given up, and then every lease fails with the reason.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrobeam_proto::pipeline::Environment;
use ferrobeam_proto::urns::standard_protocols::MULTI_CORE_BUNDLE_PROCESSING;
use ferrobeam_proto::urns::standard_resource_hints::MAX_ACTIVE_BUNDLES_PER_WORKER;
use ferrobeam_runner::plan::{self, EnvironmentId};
use prost::Message;
use tokio::sync::Notify;

use super::launcher::{Choice, Launcher, choices};
use super::slot::{self, Running};
use crate::config::BridgeConfig;
use crate::error::EnvironmentError;
use crate::harness::Harness;
use crate::log::Severity;
use crate::shared::Shared;

/// How long an EXTERNAL pool that is the only choice may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take when there are other choices.
const PATIENCE_WITH_ALTERNATIVE: Duration = Duration::from_secs(2);
/// How long it may take when a lost worker is replaced.
pub(super) const PATIENCE_LATER: Duration = Duration::from_secs(5);

/// The harnesses of one environment.
pub(crate) struct Pool {
    pub(crate) environment: EnvironmentId,
    pub(crate) name: String,
    choices: Vec<Choice>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// Which of the choices runs.
    chosen: usize,
    ready: Vec<Arc<Harness>>,
    /// Slots that still have or will have a harness.
    slots: usize,
    failure: Option<EnvironmentError>,
}

/// The right to run one bundle on a harness.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    harness: Arc<Harness>,
}

impl Lease {
    pub(crate) fn harness(&self) -> &Arc<Harness> {
        &self.harness
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.harness.leases.fetch_sub(1, Ordering::Relaxed);
        self.pool.changed.notify_waiters();
    }
}

impl Pool {
    /// Reads an environment of the plan. Fails when there is no way to start it.
    pub(crate) fn prepare(
        environment: EnvironmentId,
        described: &plan::Environment,
        config: &BridgeConfig,
    ) -> Result<Pool, EnvironmentError> {
        let error = |message| EnvironmentError { environment, name: described.name.clone(), message };
        let proto = Environment::decode(described.proto.clone())
            .map_err(|problem| error(format!("its proto cannot be read: {problem}")))?;
        let choices = choices(&proto, config).map_err(error)?;
        let state = State { chosen: 0, ready: Vec::new(), slots: 0, failure: None };
        let name = described.name.clone();
        Ok(Pool { environment, name, choices, state: Mutex::new(state), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The environment that runs, or that is tried first.
    pub(crate) fn proto(&self) -> Environment {
        self.choices[self.state().chosen].environment.clone()
    }

    /// How many bundles each worker thread should keep open.
    pub(crate) fn bundles_in_flight(&self, shared: &Shared) -> usize {
        let choice = &self.choices[self.state().chosen];
        let harnesses = harnesses(choice, shared.config.sdk_worker_parallelism, shared.cores);
        in_flight(choice, shared.config.worker_threads.max(1), harnesses)
    }

    /// Starts the environment in the background, for as long as the job runs.
    pub(crate) async fn run(self: Arc<Pool>, shared: Arc<Shared>) {
        let mut problems = Vec::new();
        for (n, choice) in self.choices.iter().enumerate() {
            let patience = if n + 1 == self.choices.len() { PATIENCE } else { PATIENCE_WITH_ALTERNATIVE };
            match self.start_first(&shared, choice, patience.min(shared.config.start_timeout)).await {
                Ok(first) => return self.run_slots(&shared, n, first).await,
                Err(_) if shared.is_closing() => return,
                Err(problem) => problems.push(format!("{}: {problem}", choice.launcher)),
            }
        }
        self.give_up(problems.join("\n"));
    }

    async fn start_first(&self, shared: &Arc<Shared>, choice: &Choice, patience: Duration) -> Result<Running, String> {
        let mut failures = 0;
        loop {
            match slot::start(shared, self, choice, patience).await {
                Ok(running) => return Ok(running),
                Err(not_started) => {
                    failures += 1;
                    if !not_started.retry || failures > shared.config.restarts || shared.is_closing() {
                        return Err(not_started.message);
                    }
                    shared.config.note(Severity::Warn, &self.name, "", not_started.message);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(slot::pause(failures)) => {}
                () = shared.closing() => {}
            }
        }
    }

    async fn run_slots(self: Arc<Pool>, shared: &Arc<Shared>, chosen: usize, first: Running) {
        let choice = &self.choices[chosen];
        let slots = harnesses(choice, shared.config.sdk_worker_parallelism, shared.cores);
        {
            let mut state = self.state();
            state.chosen = chosen;
            state.slots = slots;
        }
        for _ in 1..slots {
            let (pool, sibling) = (self.clone(), shared.clone());
            shared.keepers.spawn(async move { pool.run_slot(&sibling, chosen, None).await });
        }
        self.run_slot(shared, chosen, Some(first)).await;
    }

    async fn run_slot(&self, shared: &Arc<Shared>, chosen: usize, first: Option<Running>) {
        let choice = &self.choices[chosen];
        let Err(why) = slot::keep(shared, self, choice, first).await else { return };
        let last = {
            let mut state = self.state();
            state.slots -= 1;
            state.slots == 0
        };
        if last {
            self.give_up(format!("{}: {why}", choice.launcher));
        } else {
            shared.config.note(Severity::Error, &self.name, "", format!("{why}; carrying on with fewer harnesses"));
        }
    }

    fn give_up(&self, message: String) {
        self.state().failure =
            Some(EnvironmentError { environment: self.environment, name: self.name.clone(), message });
        self.changed.notify_waiters();
    }

    pub(super) fn add(&self, harness: Arc<Harness>) {
        self.state().ready.push(harness);
        self.changed.notify_waiters();
    }

    pub(super) fn remove(&self, harness: &Arc<Harness>) {
        self.state().ready.retain(|other| !Arc::ptr_eq(other, harness));
    }

    /// Waits until the first harness is there.
    pub(crate) async fn ready(&self) -> Result<(), EnvironmentError> {
        self.wait(|state| (!state.ready.is_empty()).then_some(())).await
    }

    /// Waits for a harness that may take another bundle, `home` if it can be had.
    pub(crate) async fn lease(self: &Arc<Pool>, home: Option<&Arc<Harness>>) -> Result<Lease, EnvironmentError> {
        let harness = self
            .wait(|state| {
                let limit = limit(&self.choices[state.chosen].environment).unwrap_or(usize::MAX);
                let chosen = choose(&state.ready, home, limit)?;
                chosen.leases.fetch_add(1, Ordering::Relaxed);
                Some(chosen.clone())
            })
            .await?;
        Ok(Lease { pool: self.clone(), harness })
    }

    async fn wait<T>(&self, take: impl Fn(&State) -> Option<T>) -> Result<T, EnvironmentError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state();
                if let Some(taken) = take(&state) {
                    return Ok(taken);
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
            }
            changed.await;
        }
    }
}

/// The harness to take: the one with the fewest bundles, and of those the one where fewest parts live; but `home` if
/// that has at most one bundle more.
fn choose<'a>(ready: &'a [Arc<Harness>], home: Option<&Arc<Harness>>, limit: usize) -> Option<&'a Arc<Harness>> {
    let leases = |harness: &Harness| harness.leases.load(Ordering::Relaxed);
    let least = ready.iter().min_by_key(|harness| (leases(harness), harness.residents.load(Ordering::Relaxed)))?;
    let home = home.and_then(|home| ready.iter().find(|harness| Arc::ptr_eq(harness, home)));
    home.filter(|home| leases(home) < limit && leases(home) <= leases(least) + 1)
        .or((leases(least) < limit).then_some(least))
}

/// How many harnesses to start.
fn harnesses(choice: &Choice, parallelism: Option<usize>, cores: usize) -> usize {
    if is_multi_core(&choice.environment) {
        return 1;
    }
    match (parallelism, &choice.launcher) {
        (None, Launcher::External { .. }) => 1,
        (None, _) => cores,
        (Some(0), _) => cores.saturating_sub(1).max(1),
        (Some(asked), _) => asked,
    }
}

fn is_multi_core(environment: &Environment) -> bool {
    environment.capabilities.iter().any(|urn| urn == MULTI_CORE_BUNDLE_PROCESSING)
}

/// Two bundles keep a harness of one core busy: one runs while the other is on its way. One of many cores gets a few
/// from every worker.
fn in_flight(choice: &Choice, workers: usize, harnesses: usize) -> usize {
    let wanted = if is_multi_core(&choice.environment) { 4 } else { (2 * harnesses).div_ceil(workers).max(2) };
    match limit(&choice.environment) {
        Some(limit) => wanted.min((limit * harnesses).div_ceil(workers)).max(1),
        None => wanted,
    }
}

/// The environment's cap on the bundles that one harness runs at once.
fn limit(environment: &Environment) -> Option<usize> {
    let hint = environment.resource_hints.get(MAX_ACTIVE_BUNDLES_PER_WORKER)?;
    std::str::from_utf8(hint).ok()?.trim().parse().ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;

    fn choice(launcher: Launcher, capabilities: &[&str], limit: Option<&'static str>) -> Choice {
        let environment = Environment {
            capabilities: capabilities.iter().map(|urn| (*urn).to_owned()).collect(),
            resource_hints: limit
                .map(|limit| (MAX_ACTIVE_BUNDLES_PER_WORKER.to_owned(), Bytes::from_static(limit.as_bytes())))
                .into_iter()
                .collect(),
            ..Default::default()
        };
        Choice { launcher, environment }
    }

    fn external() -> Launcher {
        Launcher::External { endpoint: "localhost:1".into(), params: BTreeMap::new() }
    }

    fn docker() -> Launcher {
        Launcher::Docker { image: "image".into() }
    }

    #[test]
    fn home_is_preferred_unless_it_is_busy() {
        let harness = |id: &str, leases, residents| {
            let harness = Harness::new(id.into(), EnvironmentId(0), "environment".into(), false);
            harness.leases.store(leases, Ordering::Relaxed);
            harness.residents.store(residents, Ordering::Relaxed);
            Arc::new(harness)
        };
        let ready = [harness("0", 1, 1), harness("1", 2, 0), harness("2", 1, 0), harness("3", 3, 0)];
        let chosen = |home: Option<&Arc<Harness>>, limit| {
            choose(&ready, home, limit).map_or(String::new(), |harness| harness.id.clone())
        };
        assert_eq!(chosen(None, 9), "2");
        assert_eq!(chosen(Some(&ready[0]), 9), "0");
        assert_eq!(chosen(Some(&ready[1]), 9), "1");
        assert_eq!(chosen(Some(&ready[3]), 9), "2");
        assert_eq!(chosen(Some(&ready[1]), 2), "2");
        assert_eq!(chosen(Some(&harness("gone", 0, 0)), 9), "2");
        assert_eq!(chosen(None, 1), "");
        assert_eq!(chosen(Some(&ready[0]), 1), "");
    }

    #[test]
    fn an_sdk_of_one_core_gets_siblings() {
        let docker_choice = choice(docker(), &[], None);
        assert_eq!(harnesses(&docker_choice, None, 8), 8);
        assert_eq!(harnesses(&docker_choice, Some(0), 8), 7);
        assert_eq!(harnesses(&docker_choice, Some(0), 1), 1);
        assert_eq!(harnesses(&docker_choice, Some(3), 8), 3);
        assert_eq!(harnesses(&choice(docker(), &[MULTI_CORE_BUNDLE_PROCESSING], None), Some(3), 8), 1);
        assert_eq!(harnesses(&choice(external(), &[], None), None, 8), 1);
        assert_eq!(harnesses(&choice(external(), &[], None), Some(4), 8), 4);
    }

    #[test]
    fn bundles_in_flight_keep_harnesses_busy_and_respect_the_hint() {
        let python = choice(docker(), &[], None);
        assert_eq!(in_flight(&python, 1, 1), 2);
        assert_eq!(in_flight(&python, 1, 8), 16);
        assert_eq!(in_flight(&python, 4, 8), 4);
        assert_eq!(in_flight(&python, 4, 1), 2);
        assert_eq!(in_flight(&choice(docker(), &[MULTI_CORE_BUNDLE_PROCESSING], None), 4, 1), 4);
        assert_eq!(in_flight(&choice(docker(), &[MULTI_CORE_BUNDLE_PROCESSING], Some("2")), 1, 1), 2);
        assert_eq!(in_flight(&choice(docker(), &[], Some("1")), 4, 1), 1);
        assert_eq!(in_flight(&choice(docker(), &[], Some("none")), 1, 1), 2);
    }
}
