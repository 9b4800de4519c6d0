//! Saved state, for whoever asks: what there is, whether it fits a pipeline, and running a job again from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ferrobeam_runner::checkpoint::{HEAD, Renames, Restore};
use ferrobeam_runner::dataflow::{self, Fit};
use ferrobeam_runner::plan::Plan;
use prost_types::Value;
use prost_types::value::Kind as Json;

use super::attempt::Outcome;
use super::{Supervisor, manifests};
use crate::artifacts::Staging;
use crate::checkpoint::{self, Files, Manifest, Options, SavedState, Storage};
use crate::job::{Importance, Job, JobId, Message, Preparation, State};
use crate::options::{self, CheckpointOptions, StartFrom};
use crate::planning::{self, Understood};
use crate::process::METRICS;

/// Why a job is not run again.
#[derive(Debug, thiserror::Error)]
pub enum RestoreRefused {
    /// It has not ended.
    #[error("job {job} is {state}: cancel it or let it drain first, so that it does not run twice")]
    Runs {
        /// The job.
        job: JobId,
        /// Where it is.
        state: State,
    },
    /// There is nothing to start from.
    #[error(
        "job {0} left no saved state: a job that ends does so only with externalized_checkpoints_enabled (and \
         retain_externalized_checkpoints_on_cancellation) or when a savepoint was taken of it"
    )]
    Nothing(JobId),
    /// Whatever else is wrong.
    #[error("{0}")]
    Other(String),
}

fn other(error: impl std::fmt::Display) -> RestoreRefused {
    RestoreRefused::Other(error.to_string())
}

impl Supervisor {
    /// What a job has saved and is there, the oldest first.
    pub async fn saved_states(&self, job: &Job) -> Result<Vec<SavedState>, String> {
        let (options, _) = options::parse(&job.submission().options).map_err(|error| error.to_string())?;
        let own = options.checkpoints.and_then(|checkpoints| checkpoints.storage);
        let Some(url) = own.or_else(|| self.config.checkpoints.as_ref().map(|kept| kept.url.clone())) else {
            return Ok(Vec::new());
        };
        let storage = Storage::open_to_read(&url, &Options::of_environment()).map_err(|error| error.to_string())?;
        checkpoint::saved_states(&storage, job.id()).await.map_err(|error| error.to_string())
    }

    /// Runs the pipeline of a job that has ended as a new job, from what `path` names or else the newest that it saved,
    /// with these options in the place of its own.
    pub async fn restore(
        self: &Arc<Self>,
        job: &Job,
        path: Option<String>,
        changed: BTreeMap<String, String>,
    ) -> Result<Arc<Job>, RestoreRefused> {
        let state = job.state().0;
        if !state.is_terminal() {
            return Err(RestoreRefused::Runs { job: job.id().clone(), state });
        }
        let path = match path {
            Some(path) => path,
            None => {
                let newest = self.saved_states(job).await.map_err(other)?.pop();
                newest.ok_or_else(|| RestoreRefused::Nothing(job.id().clone()))?.path
            }
        };
        let mut submission = job.submission().clone();
        // What they say is of what the job itself was started from.
        for of_start in ["transform_name_mapping", "allow_non_restored_state"] {
            submission.options.fields.remove(&format!("beam:option:{of_start}:v1"));
        }
        set_options(&mut submission.options, changed.into_iter().chain([("savepoint_path".to_owned(), path)]));
        let staged = job.staged();
        if let Some(records) = &self.records {
            records.fetch(&staged).await.map_err(other)?;
        }
        let understood = tokio::task::spawn_blocking(move || {
            let pipeline = submission.pipeline().map_err(other)?;
            let understood = planning::understand(&pipeline, &submission.options).map_err(other)?;
            Ok((submission, understood))
        });
        let (submission, understood) = understood.await.map_err(other)??;
        let Understood { options, remarks, plan } = understood;
        let staging = Arc::new(Staging::of_staged(staged));
        let time = SystemTime::now();
        let preparation = Preparation { submission, options, plan, staging, remarks, time };
        let (again, preparation) = self.jobs.run(&self.jobs.prepare(preparation)).map_err(other)?;
        self.run_recorded(Arc::clone(&again), *preparation).await.map_err(other)?;
        Ok(again)
    }

    /// Ends a job as it would begin: told what of the saved state that it names it would take over, or what does not fit.
    pub(super) async fn check(&self, job: &Job, preparation: Preparation) -> Outcome {
        let Some(asked) = preparation.options.checkpoints else {
            return Outcome::Failed("there is no saved state to compare with".to_owned());
        };
        match compare(preparation.plan, asked).await {
            Ok(fit) => {
                job.enter(State::Running);
                for line in lines(&fit) {
                    job.say(Message::now(Importance::Basic, line));
                }
                Outcome::Done
            }
            Err(why) => Outcome::Failed(why),
        }
    }
}

/// Sets pipeline options, as a client would.
pub(crate) fn set_options(options: &mut prost_types::Struct, changed: impl IntoIterator<Item = (String, String)>) {
    for (name, value) in changed {
        let value = Value { kind: Some(Json::StringValue(value)) };
        options.fields.insert(format!("beam:option:{name}:v1"), value);
    }
}

/// How often the newest checkpoint of a running job is looked for that makes room for a later one while it is read.
const LOOKS: usize = 5;

/// Compares saved state with a plan, of which only the heads of its parts are fetched.
async fn compare(plan: Plan, asked: CheckpointOptions) -> Result<Fit, String> {
    let start_from = asked.start_from.as_ref().ok_or("there is no saved state to compare with")?;
    let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder cannot be made: {error}"))?;
    let mut looks = 1;
    let (epoch, folders) = loop {
        match heads(start_from, &folder.path().join(looks.to_string())).await {
            Ok(found) => break found,
            Err(_) if start_from.epoch.is_none() && looks < LOOKS => looks += 1,
            Err(why) => return Err(why),
        }
    };
    tokio::task::spawn_blocking(move || {
        let renames: Renames = asked.renamed.into_iter().collect();
        let restore = Restore::read(epoch, folders).and_then(|restore| restore.renamed(&renames));
        let fit = restore.and_then(|restore| dataflow::compare(&plan, &restore, asked.allow_non_restored_state));
        drop(folder);
        fit.map_err(|error| error.to_string())
    })
    .await
    .map_err(|error| error.to_string())?
}

/// Fetches what a checkpoint says of its parts; gives its number, and a folder for each part.
async fn heads(start_from: &StartFrom, into: &Path) -> Result<(u64, Vec<PathBuf>), String> {
    let found = manifests::find(start_from).await;
    let found = found.map_err(|why| format!("{start_from} cannot be started from: {why}"))?;
    let manifest: Manifest = serde_json::from_slice(&found.manifest).map_err(|error| error.to_string())?;
    let storage = Storage::open_to_read(&start_from.storage, &Options::of_environment());
    let storage = storage.map_err(|error| error.to_string())?;
    let files = Files::of(&storage, &start_from.job).map_err(|error| error.to_string())?;
    let folders = files.download_parts(&manifest, into, |file| file.name == HEAD).await;
    let folders = manifest.operators.iter().zip(folders.map_err(|error| error.to_string())?);
    let folders = folders.filter(|(part, _)| part.operator != METRICS).map(|(_, folder)| folder);
    Ok((manifest.epoch.0, folders.collect()))
}

fn lines(fit: &Fit) -> Vec<String> {
    let line = |what: &str, names: &[String]| match names {
        [] => None,
        names => Some(format!("{what}:\n  {}", names.join("\n  "))),
    };
    [
        line("goes on with what was saved", &fit.taken_over),
        line("is new, and begins with nothing", &fit.begins_empty),
        line("was saved, and would be dropped", &fit.dropped),
    ]
    .into_iter()
    .flatten()
    .collect()
}
