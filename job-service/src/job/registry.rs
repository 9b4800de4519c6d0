//! All jobs of the service, and the pipelines prepared but not run.
//!
//! Records of ended jobs are kept for whoever asks later, up to a [`Retention`]; the ones that started first go first. A
//! preparation that nobody runs goes likewise. Both are bounded by number and by bytes, so that no client can fill the
//! service's memory by submitting.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ferrobeam_runner::plan::Plan;

use super::{Job, JobId, LogLimits, Message, PreparationId, Restored, Submission};
use crate::artifacts::Staging;
use crate::options::JobOptions;

/// How much is kept of what is over.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Most ended jobs.
    pub jobs: usize,
    /// Most bytes of ended jobs: their pipelines, messages and metrics.
    pub bytes: usize,
    /// Most pipelines that were prepared and not run.
    pub preparations: usize,
    /// Most bytes of such pipelines; one larger one is kept alone.
    pub preparation_bytes: usize,
    /// What each job keeps of its log.
    pub log: LogLimits,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            jobs: 1000,
            bytes: 256 << 20,
            preparations: 1000,
            preparation_bytes: 1 << 30,
            log: LogLimits::default(),
        }
    }
}

/// A validated pipeline that waits for `Run`.
#[derive(Debug)]
pub struct Preparation {
    /// What was submitted.
    pub submission: Submission,
    /// Its options, understood.
    pub options: JobOptions,
    /// Its plan.
    pub plan: Plan,
    /// Its artifacts.
    pub staging: Arc<Staging>,
    /// What the job's log starts with.
    pub remarks: Vec<Message>,
    /// When it was prepared.
    pub time: SystemTime,
}

/// Why a preparation cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// There is none of that id.
    #[error("no pipeline was prepared as {0}, or it was not run for so long that it was dropped: prepare it again")]
    Unknown(PreparationId),
    /// It was run.
    #[error("the pipeline prepared as {0} was run already, as job {1}: prepare it again to run it again")]
    Already(PreparationId, JobId),
    /// Its artifacts are not all here.
    #[error("the artifacts of {0} are not staged: call ReverseArtifactRetrievalService with its staging token first")]
    NotStaged(PreparationId),
}

/// See the module.
#[derive(Debug)]
pub struct Jobs {
    retention: Retention,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    preparations: HashMap<PreparationId, Prepared>,
    /// In the order of their start.
    jobs: BTreeMap<u64, Arc<Job>>,
    numbers: HashMap<JobId, u64>,
    next: u64,
    /// How many preparations wait, and the bytes of their pipelines.
    waiting: usize,
    waiting_bytes: usize,
}

#[derive(Debug)]
enum Prepared {
    Waiting { number: u64, bytes: usize, preparation: Box<Preparation> },
    Ran(JobId),
}

impl Jobs {
    /// No jobs yet.
    pub fn new(retention: Retention) -> Jobs {
        Jobs { retention, inner: Mutex::default() }
    }

    /// Keeps a pipeline until it is run.
    pub fn prepare(&self, preparation: Preparation) -> PreparationId {
        let mut inner = self.lock();
        let number = inner.take_number();
        let id = PreparationId(format!("prepared-{}", uuid::Uuid::new_v4().simple()));
        let bytes = preparation.submission.pipeline.len();
        let preparation = Box::new(preparation);
        while inner.waiting >= self.retention.preparations.max(1)
            || (inner.waiting > 0 && inner.waiting_bytes + bytes > self.retention.preparation_bytes)
        {
            inner.drop_oldest_preparation();
        }
        inner.waiting += 1;
        inner.waiting_bytes += bytes;
        inner.preparations.insert(id.clone(), Prepared::Waiting { number, bytes, preparation });
        id
    }

    /// The staging that belongs to a token.
    pub fn staging(&self, token: &str) -> Option<Arc<Staging>> {
        let inner = self.lock();
        inner.preparations.values().find_map(|prepared| match prepared {
            Prepared::Waiting { preparation, .. } => {
                let staging = &preparation.staging;
                super::same_secret(staging.token().as_bytes(), token.as_bytes()).then(|| Arc::clone(staging))
            }
            Prepared::Ran(_) => None,
        })
    }

    /// Turns a preparation into a job. Exactly one caller gets it.
    pub fn run(&self, id: &PreparationId) -> Result<(Arc<Job>, Box<Preparation>), RunError> {
        let mut inner = self.lock();
        match inner.preparations.get(id) {
            None => return Err(RunError::Unknown(id.clone())),
            Some(Prepared::Ran(job)) => return Err(RunError::Already(id.clone(), job.clone())),
            Some(Prepared::Waiting { preparation, .. }) if !preparation.staging.is_complete() => {
                return Err(RunError::NotStaged(id.clone()));
            }
            Some(Prepared::Waiting { .. }) => {}
        }
        let number = inner.take_number();
        let Some(preparation) = inner.remove_waiting(id) else { return Err(RunError::Unknown(id.clone())) };
        let submission = preparation.submission.clone();
        let job_id = JobId(format!("{}-{}", id_part(&submission.name), uuid::Uuid::new_v4().simple()));
        let job = Arc::new(Job::new(job_id.clone(), submission, preparation.time, self.retention.log));
        inner.preparations.insert(id.clone(), Prepared::Ran(job_id.clone()));
        inner.jobs.insert(number, Arc::clone(&job));
        inner.numbers.insert(job_id, number);
        Ok((job, preparation))
    }

    /// Takes in a job that an earlier service had. Its preparation is gone: nobody asks for that again.
    pub fn adopt(&self, job: Restored) -> Arc<Job> {
        let job = Arc::new(Job::restored(job, self.retention.log));
        let mut inner = self.lock();
        let number = inner.take_number();
        inner.numbers.insert(job.id().clone(), number);
        inner.jobs.insert(number, Arc::clone(&job));
        job
    }

    /// A job by its id.
    pub fn get(&self, id: &JobId) -> Option<Arc<Job>> {
        let inner = self.lock();
        inner.jobs.get(inner.numbers.get(id)?).cloned()
    }

    /// Every job, in the order of their start.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.lock().jobs.values().cloned().collect()
    }

    /// Drops records beyond the retention: called when a job ends. Returns the ids of those that went.
    pub fn retire(&self) -> Vec<JobId> {
        let mut inner = self.lock();
        let ended: Vec<(u64, usize)> =
            inner.jobs.iter().filter(|(_, job)| job.state().0.is_terminal()).map(|(n, job)| (*n, job.size())).collect();
        let mut bytes: usize = ended.iter().map(|(_, size)| size).sum();
        let mut count = ended.len();
        let mut gone = Vec::new();
        for (number, size) in ended {
            if count <= self.retention.jobs && bytes <= self.retention.bytes {
                break;
            }
            if let Some(job) = inner.jobs.remove(&number) {
                inner.numbers.remove(job.id());
                inner.preparations.retain(|_, p| !matches!(p, Prepared::Ran(id) if id == job.id()));
                gone.push(job.id().clone());
            }
            count -= 1;
            bytes -= size;
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn drop_oldest_preparation(&mut self) {
        let waiting = self.preparations.iter().filter_map(|(id, p)| match p {
            Prepared::Waiting { number, .. } => Some((*number, id)),
            Prepared::Ran(_) => None,
        });
        if let Some(id) = waiting.min().map(|(_, id)| id.clone()) {
            self.remove_waiting(&id);
        }
    }

    fn remove_waiting(&mut self, id: &PreparationId) -> Option<Box<Preparation>> {
        let Some(Prepared::Waiting { bytes, preparation, .. }) = self.preparations.remove(id) else { return None };
        self.waiting -= 1;
        self.waiting_bytes -= bytes;
        Some(preparation)
    }
}

/// A job's name as the readable part of its id.
fn id_part(name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' })
        .take(48)
        .collect();
    // It names a folder, and a flag of a command it must not look like.
    let kept = kept.trim_start_matches('-');
    if kept.is_empty() { "job".to_owned() } else { kept.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Importance, State};

    fn preparation(name: &str) -> Preparation {
        Preparation {
            submission: Submission {
                name: name.into(),
                options: prost_types::Struct::default(),
                pipeline: bytes::Bytes::new(),
                unbounded: false,
            },
            options: JobOptions::default(),
            plan: Plan { collections: vec![], nodes: vec![], stages: vec![], environments: vec![] },
            staging: Arc::new(Staging::of(&Default::default()).expect("nothing to stage")),
            remarks: vec![],
            time: SystemTime::now(),
        }
    }

    fn end(job: &Job) {
        assert!(job.enter(State::Starting) && job.enter(State::Running) && job.enter(State::Done));
    }

    #[test]
    fn every_name_makes_an_id_that_names_a_folder() {
        for name in ["", "_under", "-dash", "(My Job)", "ümlaut", "日本", "a/b", "..", &"x".repeat(500)] {
            let jobs = Jobs::new(Retention::default());
            let (job, _) = jobs.run(&jobs.prepare(preparation(name))).expect("it was prepared");
            assert!(crate::checkpoint::Layout::of(job.id()).is_ok(), "{name:?}: {}", job.id());
        }
    }

    #[test]
    fn a_preparation_runs_once() {
        let jobs = Jobs::new(Retention::default());
        let id = jobs.prepare(preparation("Word Count"));
        let (job, _) = jobs.run(&id).expect("it was prepared");
        assert!(job.id().as_str().starts_with("word-count-"), "{}", job.id());
        assert_eq!(jobs.run(&id).map(|_| ()), Err(RunError::Already(id, job.id().clone())));
        let unknown = PreparationId::named("none such");
        assert_eq!(jobs.run(&unknown).map(|_| ()), Err(RunError::Unknown(unknown)));
    }

    #[test]
    fn the_oldest_ended_job_goes_first_and_live_ones_stay() {
        let jobs = Jobs::new(Retention { jobs: 2, ..Retention::default() });
        let run = |name: &str| jobs.run(&jobs.prepare(preparation(name))).expect("it was prepared").0;
        let (live, a, b, c) = (run("live"), run("a"), run("b"), run("c"));
        for job in [&b, &a, &c] {
            end(job);
        }
        assert_eq!(jobs.retire(), [a.id().clone()]);
        assert!(jobs.get(live.id()).is_some() && jobs.get(b.id()).is_some() && jobs.get(c.id()).is_some());
        assert!(jobs.get(a.id()).is_none());
        assert_eq!(jobs.retire(), []);
    }

    #[test]
    fn ended_jobs_are_bounded_in_bytes() {
        let jobs = Jobs::new(Retention { bytes: 1500, ..Retention::default() });
        for _ in 0..10 {
            let (job, _) = jobs.run(&jobs.prepare(preparation("a"))).expect("it was prepared");
            job.say(Message::now(Importance::Basic, "x".repeat(500)));
            end(&job);
            jobs.retire();
            assert!(jobs.all().len() <= 3);
        }
    }

    #[test]
    fn preparations_that_nobody_runs_are_bounded() {
        let jobs = Jobs::new(Retention { preparations: 2, ..Retention::default() });
        let ids: Vec<_> = (0..3).map(|_| jobs.prepare(preparation("a"))).collect();
        assert!(matches!(jobs.run(&ids[0]), Err(RunError::Unknown(_))));
        assert!(jobs.run(&ids[1]).is_ok() && jobs.run(&ids[2]).is_ok());
    }
}
