//! One place for a harness: starts it, watches it, replaces it when it is lost, and stops it with the job.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use ferrobeam_proto::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use tokio::time::timeout;

use super::external::{self, External, PoolAt, telling};
use super::launcher::{Choice, Launcher};
use super::pool::Pool;
use super::process::{Purpose, Started};
use crate::harness::{Harness, Phase};
use crate::log::Severity;
use crate::shared::Shared;

/// How long a process whose connection is lost may take to end, so that its exit status can be told.
const LAST_BREATH: Duration = Duration::from_secs(2);
/// How long a process may take between being asked to end and being killed.
const KILL_AFTER: Duration = Duration::from_secs(1);
/// The pause before the first restart; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// SDKs start within seconds. Of one that has not after so long, it is said what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(15);

/// A harness that is connected, and what runs it.
pub(super) struct Running {
    pub(super) harness: Arc<Harness>,
    host: Host,
}

enum Host {
    External(External),
    Process(Started),
}

/// Why a start failed.
pub(super) struct NotStarted {
    pub(super) message: String,
    /// Another try may go better.
    pub(super) retry: bool,
}

impl Host {
    /// Waits for the end of the process; of an external worker nothing is known.
    async fn exited(&mut self) -> String {
        match self {
            Host::Process(process) => process.exited().await,
            Host::External(_) => pending().await,
        }
    }

    async fn stop(self, grace: Duration) {
        match self {
            Host::Process(process) => process.stop(grace).await,
            Host::External(worker) => worker.stop(grace.max(Duration::from_secs(1))).await,
        }
    }
}

/// Starts a harness and waits for its control stream.
pub(super) async fn start(
    shared: &Arc<Shared>,
    pool: &Pool,
    choice: &Choice,
    patience: Duration,
) -> Result<Running, NotStarted> {
    let embedding = choice.environment.capabilities.iter().any(|urn| urn == CONTROL_REQUEST_ELEMENTS_EMBEDDING);
    let harness = Arc::new(Harness::new(shared.next_harness_id(), pool.environment, pool.name.clone(), embedding));
    shared.harnesses.add(harness.clone());
    let started = launch(shared, pool, choice, &harness, patience).await;
    if let Err(not_started) = &started {
        harness.end(not_started.message.as_str());
        shared.harnesses.retire(&harness.id);
    }
    started
}

async fn launch(
    shared: &Arc<Shared>,
    pool: &Pool,
    choice: &Choice,
    harness: &Arc<Harness>,
    patience: Duration,
) -> Result<Running, NotStarted> {
    let purpose = Purpose {
        config: &shared.config,
        tasks: &shared.tasks,
        environment: &pool.name,
        harness: &harness.id,
        endpoint: &shared.endpoint.url,
    };
    let final_word = |message| NotStarted { message, retry: false };
    let job_is_over = || final_word("the job is over".to_owned());
    let limit = shared.config.start_timeout;
    let tell = |what: String| {
        let text = format!("environment {}, {}: {what}", pool.name, choice.launcher);
        shared.config.note(Severity::Warn, &pool.name, &harness.id, text);
    };
    let mut host = match &choice.launcher {
        Launcher::External { endpoint, params } => {
            let at = PoolAt { address: endpoint, params, tell: &tell };
            tokio::select! {
                worker = external::start(at, &harness.id, &shared.endpoint, patience, limit) => {
                    Host::External(worker.map_err(final_word)?)
                }
                () = shared.closing() => return Err(job_is_over()),
            }
        }
        Launcher::Process { command, env } => Host::Process(purpose.process(command, env).map_err(final_word)?),
        Launcher::Docker { image } => Host::Process(purpose.docker(image).map_err(final_word)?),
    };
    let mut phase = harness.phase();
    let silent = || {
        tell(format!(
            "the SDK harness was started and has not opened its control stream to {} yet: it has {} s",
            shared.endpoint.url,
            limit.as_secs_f32()
        ));
    };
    let decided = telling(TOLD_AFTER.min(limit / 2), silent, phase.wait_for(|phase| !matches!(phase, Phase::Starting)));
    let not_started = tokio::select! {
        phase = decided => match phase.as_deref() {
            Ok(Phase::Disconnected(why)) => NotStarted { message: why.to_string(), retry: true },
            _ => {
                drop(phase);
                return Ok(Running { harness: harness.clone(), host });
            }
        },
        how = host.exited() => NotStarted {
            message: format!("the SDK harness did not start: {how}"),
            retry: true,
        },
        () = tokio::time::sleep(limit) => {
            let mut message = format!(
                "the SDK harness was started but did not open its control stream to {} within {} s: see what it \
                 logged, and whether it can reach that address (one on another machine needs a service that is started \
                 with --advertised-host)",
                shared.endpoint.url,
                limit.as_secs_f32()
            );
            if let Host::Process(process) = &host {
                process.add_last_lines(&mut message);
            }
            NotStarted { message, retry: false }
        }
        () = shared.closing() => job_is_over(),
    };
    host.stop(KILL_AFTER).await;
    Err(not_started)
}

/// Keeps a harness in this slot until the job is over, or until restarts are used up. Returns why in that case.
pub(super) async fn keep(
    shared: &Arc<Shared>,
    pool: &Pool,
    choice: &Choice,
    mut running: Option<Running>,
) -> Result<(), String> {
    let mut failures = 0;
    loop {
        let started = match running.take() {
            Some(running) => Ok(running),
            None => start(shared, pool, choice, super::pool::PATIENCE_LATER).await,
        };
        if shared.is_closing() {
            if let Ok(running) = started {
                running.finish(shared).await;
            }
            return Ok(());
        }
        let (why, retry) = match started {
            Err(not_started) => (not_started.message, not_started.retry),
            Ok(mut running) => {
                pool.add(running.harness.clone());
                let why = tokio::select! {
                    why = running.lost() => why,
                    () = shared.closing() => {
                        pool.remove(&running.harness);
                        running.finish(shared).await;
                        return Ok(());
                    }
                };
                pool.remove(&running.harness);
                if running.harness.is_proven() {
                    failures = 0;
                }
                (running.bury(shared, why).await, true)
            }
        };
        failures += 1;
        if !retry || failures > shared.config.restarts {
            return Err(format!("{why} (start {failures} in a row that came to nothing)"));
        }
        let again = format!("{why}; starting another");
        shared.config.note(Severity::Warn, &pool.name, "", again);
        tokio::select! {
            () = tokio::time::sleep(pause(failures)) => {}
            () = shared.closing() => return Ok(()),
        }
    }
}

pub(super) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE * 2u32.pow(failures.saturating_sub(1).min(5))
}

impl Running {
    /// Waits until the harness cannot be used any more and says why.
    async fn lost(&mut self) -> String {
        let mut phase = self.harness.phase();
        let disconnected = async {
            loop {
                if let Phase::Disconnected(why) | Phase::Over(why) = &*phase.borrow_and_update() {
                    return why.to_string();
                }
                let _ = phase.changed().await;
            }
        };
        tokio::select! {
            why = disconnected => why,
            how = self.host.exited() => how,
        }
    }

    /// Ends a lost harness, tells what waits on it, and returns what is to be said of it.
    async fn bury(mut self, shared: &Shared, why: String) -> String {
        let reason = match &mut self.host {
            Host::Process(process) => match timeout(LAST_BREATH, process.exited()).await {
                Ok(how) if how == why => how,
                Ok(how) => format!("{why}; {how}"),
                Err(_) => why,
            },
            // Nothing more will be known of it.
            Host::External(_) => why,
        };
        self.harness.end(reason.as_str());
        shared.harnesses.retire(&self.harness.id);
        let said = format!("{} was lost: {reason}", self.harness);
        self.host.stop(KILL_AFTER).await;
        said
    }

    /// Ends a harness whose job is over: its instructions end, so that it can tear down user code, and then it is stopped.
    async fn finish(mut self, shared: &Shared) {
        let grace = shared.config.stop_timeout;
        self.harness.close();
        match &mut self.host {
            Host::Process(process) => {
                let _ = timeout(grace, process.exited()).await;
            }
            Host::External(_) => {
                let _ = timeout(grace, ended_by_itself(&self.harness)).await;
            }
        }
        self.host.stop(KILL_AFTER).await;
        self.harness.end("the job is over");
        shared.harnesses.retire(&self.harness.id);
    }
}

/// Waits until the harness has ended its streams, which SDKs do once user code is torn down: the logging stream last,
/// or the others where there is none. Go's keeps them until the pool is told to stop, so there is nothing to wait for.
async fn ended_by_itself(harness: &Harness) {
    let mut streams = harness.streams();
    // The sender lives as long as the harness.
    let _ = streams
        .wait_for(|streams| {
            let go = streams.user_agent.contains("grpc-go");
            go || if streams.logged { streams.logging == 0 } else { streams.work == 0 }
        })
        .await;
}
