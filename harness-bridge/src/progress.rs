//! Asks long bundles how far they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrobeam_proto::fn_execution::ProcessBundleProgressRequest;
use ferrobeam_proto::fn_execution::instruction_request::Request;
use ferrobeam_proto::fn_execution::instruction_response::Response;

use crate::bundle::Exchange;
use crate::harness::Harness;
use crate::monitoring;
use crate::shared::Shared;

/// How often, and how old a bundle is when it is asked first: short ones report at their end anyway.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs for as long as the bridge.
pub(crate) async fn poll(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        for harness in shared.harnesses.all() {
            let old = harness.open_bundles().into_iter().filter(|(_, bundle)| now - bundle.opened >= INTERVAL);
            for (instruction, bundle) in old {
                if bundle.begin_question() {
                    let harness = harness.clone();
                    shared.tasks.spawn(async move {
                        ask(&harness, instruction, &bundle).await;
                        bundle.end_question();
                    });
                }
            }
        }
    }
}

async fn ask(harness: &Harness, instruction_id: String, bundle: &Exchange) {
    let request = Request::ProcessBundleProgress(ProcessBundleProgressRequest { instruction_id });
    let Ok(response) = harness.ask(request).await else { return };
    // An error or an empty answer means that the bundle has not begun or is over: nothing to report either way.
    let Some(Response::ProcessBundleProgress(progress)) = response.response else { return };
    if let Ok(metrics) = monitoring::resolve(harness, progress.monitoring_infos, progress.monitoring_data).await
        && !metrics.is_empty()
    {
        bundle.set_attempted(metrics);
    }
}
