//! The course of a job over its attempts, with an agent and processes that do what the test says.

use std::collections::BTreeSet;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::SystemTime;

use ferrobeam_runner::plan::Plan;

use super::*;
use crate::agent::{Ended, Order as AgentOrder, ProcessName};
use crate::artifacts::Staging;
use crate::checkpoint::Epoch;
use crate::control::v1;
use crate::control::v1::process_order::Order;
use crate::control::v1::process_report::Report;
use crate::job::{Event, Measured, Retention, Submission};
use crate::options::{CheckpointOptions, JobOptions};

const PATIENCE: Duration = Duration::from_secs(60);

/// A service with one machine.
struct Fleet {
    supervisor: Arc<Supervisor>,
    agent: AgentId,
    orders: mpsc::UnboundedReceiver<AgentOrder>,
}

/// A job process that the machine was told to start, and that has attached.
struct Fake {
    name: ProcessName,
    token: String,
    attachment: Attachment,
    orders: mpsc::UnboundedReceiver<v1::ProcessOrder>,
}

/// Keeps the manifests that it is told to write, or says what it is told to say.
#[derive(Debug, Default)]
struct FakeStore {
    written: Mutex<Vec<Manifest>>,
    errors: Mutex<Vec<ManifestError>>,
    latest: Mutex<Option<Restorable>>,
    forgotten: Mutex<Vec<JobId>>,
}

#[tonic::async_trait]
impl ManifestStore for FakeStore {
    async fn write(&self, manifest: Manifest) -> Result<(), ManifestError> {
        if let Some(error) = self.errors.lock().expect("no panic").pop() {
            return Err(error);
        }
        let restorable = Restorable { epoch: manifest.epoch, manifest: "its manifest".into() };
        self.latest.lock().expect("no panic").replace(restorable);
        self.written.lock().expect("no panic").push(manifest);
        Ok(())
    }

    async fn begin(&self, _: &JobId, _: Generation, damaged: &BTreeSet<Epoch>) -> Result<Beginning, String> {
        let latest = self.latest.lock().expect("no panic").clone();
        let taken = latest.as_ref().map(|latest| latest.epoch).unwrap_or_default();
        let restorable = latest.filter(|latest| !damaged.contains(&latest.epoch));
        let unusable = damaged.iter().map(|epoch| format!("checkpoint {epoch} of the job cannot be used")).collect();
        Ok(Beginning { restorable, taken, unusable })
    }

    async fn discard(&self, _: JobId, _: NonZeroUsize) {}

    async fn forget(&self, job: &JobId) {
        self.forgotten.lock().expect("no panic").push(job.clone());
    }
}

impl Fleet {
    fn new(processes: usize) -> Fleet {
        Fleet::with(processes, None)
    }

    /// One that keeps checkpoints.
    fn durable(processes: usize) -> (Fleet, Arc<FakeStore>) {
        let store = Arc::new(FakeStore::default());
        let storage = CheckpointStorage { url: "memory:///".into(), manifests: Arc::clone(&store) as _ };
        (Fleet::with(processes, Some(storage)), store)
    }

    fn with(processes: usize, checkpoints: Option<CheckpointStorage>) -> Fleet {
        let config = SupervisorConfig {
            max_running_jobs: 1,
            processes: NonZeroUsize::new(processes).expect("not zero"),
            workers: NonZeroUsize::MIN,
            memory: 1 << 20,
            state_backend: StateBackend::default(),
            grace: PATIENCE,
            attach_timeout: PATIENCE,
            checkpoints,
            check_against: None,
        };
        let agents = Arc::new(Agents::default());
        let jobs = Arc::new(Jobs::new(Retention::default()));
        let supervisor = Arc::new(Supervisor::new(config, jobs, agents, Arc::default()));
        let (tell, orders) = mpsc::unbounded_channel();
        // Not one place more: an attempt waits for what the one before it has given back.
        let agent = supervisor.agents().join("machine".into(), processes, tell);
        Fleet { supervisor, agent, orders }
    }

    fn run(&self, options: JobOptions) -> Arc<Job> {
        let preparation = Preparation {
            submission: Submission {
                name: "job".into(),
                options: prost_types::Struct::default(),
                pipeline: Bytes::new(),
                unbounded: false,
            },
            options,
            plan: Plan { collections: vec![], nodes: vec![], stages: vec![], environments: vec![] },
            staging: Arc::new(Staging::of(&Default::default()).expect("nothing to stage")),
            remarks: vec![],
            time: SystemTime::now(),
        };
        let jobs = &self.supervisor.jobs;
        let (job, preparation) = jobs.run(&jobs.prepare(preparation)).expect("it was prepared");
        self.supervisor.start(Arc::clone(&job), *preparation);
        job
    }

    /// The next process that is to be started.
    async fn started(&mut self) -> Fake {
        let order = tokio::time::timeout(PATIENCE, self.orders.recv()).await.expect("an order").expect("it lives");
        let AgentOrder::Start { process: name, token, .. } = order else { panic!("{order:?}") };
        let attached = self.supervisor.attach(name.clone(), &token, String::new());
        let (attachment, orders) = attached.expect("it is let in");
        Fake { name, token, attachment, orders }
    }

    fn ended(&self, name: &ProcessName, how: &str) {
        self.supervisor.agents().ended(self.agent, Ended { process: name.clone(), how: how.into() });
    }
}

impl Fake {
    async fn order(&mut self) -> Order {
        let order = tokio::time::timeout(PATIENCE, self.orders.recv()).await.expect("an order");
        order.and_then(|order| order.order).expect("the attempt lives")
    }

    /// Takes its deployment, and says that its dataflow runs.
    async fn deployed(&mut self) -> v1::Deployment {
        let Order::Deployment(deployment) = self.order().await else { panic!("a deployment comes first") };
        self.attachment.report(Report::Started(v1::Started {}));
        deployment
    }

    /// The epoch that it is to save next, after whatever is said of others.
    async fn checkpoint(&mut self) -> u64 {
        loop {
            if let Order::Checkpoint(v1::Checkpoint { epoch }) = self.order().await {
                return epoch;
            }
        }
    }

    fn saved(&self, epoch: u64) {
        let part = v1::SavedPart {
            operator: "count".into(),
            shard: self.name.index,
            shards: 2,
            files: vec![v1::SavedFile { name: "file".into(), sha256: vec![7; 32].into(), bytes: 5, epoch: 1 }],
            records: 9,
        };
        self.attachment.report(Report::Saved(v1::Saved { epoch, parts: vec![part] }));
    }

    fn save_failed(&self, epoch: u64) {
        self.attachment.report(Report::SaveFailed(v1::SaveFailed { epoch, why: "disk full".into() }));
    }

    fn says(&self, text: &str) {
        self.attachment.report(Report::Message(Message::now(Importance::Basic, text).into()));
    }

    fn measures(&self, count: u64) {
        let bundles = [("stage".to_owned(), count)].into();
        self.attachment.report(Report::Metrics(v1::Metrics { bundles, ..v1::Metrics::default() }));
    }

    fn completes(&self) {
        self.attachment.report(Report::Completed(v1::Completed {}));
    }

    /// Finds a file of the checkpoint that it starts from to be damaged.
    fn finds_damage(&self, checkpoint: u64) {
        self.attachment.report(Report::Failed(v1::Failed {
            message: "another hash".into(),
            lost_peer: true,
            damaged_checkpoint: checkpoint,
            ..v1::Failed::default()
        }));
    }

    fn fails(&self, message: &str, lost_peer: bool) {
        self.attachment.report(Report::Failed(v1::Failed {
            message: message.into(),
            lost_peer,
            ..v1::Failed::default()
        }));
    }

    /// Fails of something that is not the pipeline's fault.
    fn suffers(&self, message: &str) {
        let failed = v1::Failed { message: message.into(), may_pass: true, ..v1::Failed::default() };
        self.attachment.report(Report::Failed(failed));
    }

    /// Fails of what only its owner can mend.
    fn needs_its_owner(&self, message: &str) {
        let failed = v1::Failed { message: message.into(), needs_owner: true, ..v1::Failed::default() };
        self.attachment.report(Report::Failed(failed));
    }
}

fn retries(times: u32) -> JobOptions {
    JobOptions { retries: Some(times), retry_delay: Some(Duration::ZERO), ..JobOptions::default() }
}

/// States and texts, up to the end of the job.
async fn course(job: &Job) -> Vec<String> {
    let mut changes = job.changes();
    let ended = async {
        while !job.state().0.is_terminal() {
            changes.changed().await.expect("the job lives");
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the job ends");
    let line = |(_, event)| match event {
        Event::State(state, _) => State::to_string(&state),
        Event::Message(message) => message.text,
    };
    job.read(0, 1000).events.into_iter().map(line).collect()
}

fn bundles(job: &Job) -> u64 {
    match job.metrics() {
        Measured::Live(live) => live.values().flat_map(|metrics| metrics.bundles.values()).sum(),
        Measured::Final(_) => panic!("the job runs"),
    }
}

#[tokio::test]
async fn an_attempt_that_lost_a_process_leaves_nothing_to_the_next() {
    let mut fleet = Fleet::new(2);
    let job = fleet.run(retries(1));
    let (mut one, mut two) = (fleet.started().await, fleet.started().await);
    let deployment = one.deployed().await;
    two.deployed().await;
    assert_eq!(deployment.retrieval_token, one.token);
    one.says("first attempt");
    one.measures(5);
    two.measures(7);
    assert_eq!(bundles(&job), 12);
    two.completes();

    fleet.ended(&one.name, "was killed");
    // The other is asked to stop, and until it has there is no place for another attempt.
    assert!(matches!(two.order().await, Order::Stop(_)));
    assert!(fleet.orders.try_recv().is_err());
    fleet.ended(&two.name, "ended with exit code 0");

    let (mut three, mut four) = (fleet.started().await, fleet.started().await);
    assert_eq!((three.name.generation, four.name.generation), (Generation(2), Generation(2)));
    assert_ne!(three.token, one.token);
    let deployment = three.deployed().await;
    four.deployed().await;
    assert_eq!(deployment.retrieval_token, three.token);

    // Whatever the first attempt still says.
    one.says("too late");
    one.measures(100);
    two.measures(100);
    one.completes();
    one.fails("too late", false);
    assert_eq!(bundles(&job), 0);
    let stale = fleet.supervisor.attach(one.name.clone(), &one.token, String::new());
    let refused = AttachRefused::Stale { process: one.name.clone(), present: Generation(2) };
    assert_eq!(stale.map(|_| ()), Err(refused));

    three.measures(3);
    three.completes();
    four.completes();
    let course = course(&job).await;
    assert_eq!(course[..2], ["STOPPED", "STARTING"]);
    // The state comes from the attempt's task, and what a process says does not wait for it.
    assert_eq!(BTreeSet::from([&*course[2], &*course[3]]), BTreeSet::from(["RUNNING", "first attempt"]));
    assert!(course[4].starts_with("process 0 of the job's 2 was killed") && course[4].contains("restart 1 of 1"));
    assert_eq!(course[5..], ["DONE"]);
}

#[tokio::test]
async fn what_would_fail_again_is_not_run_again() {
    let mut fleet = Fleet::new(1);
    let job = fleet.run(retries(9));
    let mut process = fleet.started().await;
    process.deployed().await;
    process.fails("ValueError", false);
    assert!(matches!(process.order().await, Order::Stop(_)));
    fleet.ended(&process.name, "ended with exit code 1");
    assert_eq!(course(&job).await, ["STOPPED", "STARTING", "RUNNING", "ValueError", "FAILED"]);
}

#[tokio::test]
async fn who_tells_of_a_lost_process_is_believed_but_not_before_a_failure() {
    let mut fleet = Fleet::new(2);
    let job = fleet.run(retries(9));
    let (mut one, mut two) = (fleet.started().await, fleet.started().await);
    one.deployed().await;
    two.deployed().await;
    one.fails("process 1 does not answer", true);
    assert!(matches!(two.order().await, Order::Stop(_)));
    fleet.ended(&two.name, "was killed");
    fleet.ended(&one.name, "ended with exit code 1");

    let (mut one, mut two) = (fleet.started().await, fleet.started().await);
    one.deployed().await;
    two.deployed().await;
    fleet.ended(&one.name, "was killed");
    // This was on its way.
    two.fails("ValueError", false);
    fleet.ended(&two.name, "ended with exit code 1");
    let course = course(&job).await;
    assert_eq!(course[..3], ["STOPPED", "STARTING", "RUNNING"]);
    assert!(
        course[3].starts_with("process 1 does not answer\n\nMeanwhile process 1 of the job's 2 was killed"),
        "{course:?}"
    );
    assert_eq!(course[4..], ["ValueError", "FAILED"]);
}

#[tokio::test]
async fn a_job_that_waits_to_be_run_again_can_be_cancelled() {
    let mut fleet = Fleet::new(1);
    let job = fleet.run(JobOptions { retry_delay: Some(Duration::from_secs(3600)), ..retries(9) });
    let process = fleet.started().await;
    let mut changes = job.changes();
    fleet.ended(&process.name, "was killed");
    changes.changed().await.expect("the job lives");
    fleet.supervisor.cancel(&job);
    let course = course(&job).await;
    assert_eq!(course.last().map(String::as_str), Some("CANCELLED"), "{course:?}");
    assert!(course.iter().any(|line| line.contains("in 3600 s")), "{course:?}");
}

/// Its first checkpoint is complete. Then it is cancelled, and `lose` is what the service learns only now.
async fn cancelled_before_the_loss_was_known(lose: impl FnOnce(&mut Fake, &mut Fleet)) -> (Vec<String>, usize) {
    let (mut fleet, store) = Fleet::durable(1);
    let job = fleet.run(with_checkpoints(retries(9), false));
    let mut process = fleet.started().await;
    process.deployed().await;
    assert_eq!(process.checkpoint().await, 1);
    process.saved(1);
    assert_eq!(process.order().await, Order::CheckpointCommitted(v1::CheckpointCommitted { epoch: 1 }));
    fleet.supervisor.cancel(&job);
    while !matches!(process.order().await, Order::Stop(_)) {}
    lose(&mut process, &mut fleet);
    let course = course(&job).await;
    let forgotten = store.forgotten.lock().expect("no panic").len();
    (course, forgotten)
}

#[tokio::test]
async fn the_checkpoint_of_a_job_stays_that_was_cancelled_before_its_loss_was_known() {
    let exits = "ended with exit code 0";
    let (killed, forgotten) = cancelled_before_the_loss_was_known(|process, fleet| {
        fleet.ended(&process.name, "was killed");
    })
    .await;
    assert!(killed.iter().any(|line| line.contains("--savepoint_path=memory:")), "{killed:?}");
    assert_eq!((killed.last().map(String::as_str), forgotten), (Some("CANCELLED"), 0));

    let (told, forgotten) = cancelled_before_the_loss_was_known(|process, fleet| {
        process.fails("the worker pool does not answer", true);
        fleet.ended(&process.name, exits);
    })
    .await;
    assert!(told.iter().any(|line| line.contains("--savepoint_path=memory:")), "{told:?}");
    assert_eq!((told.last().map(String::as_str), forgotten), (Some("CANCELLED"), 0));

    let (whole, forgotten) = cancelled_before_the_loss_was_known(|process, fleet| {
        fleet.ended(&process.name, exits);
    })
    .await;
    assert!(!whole.iter().any(|line| line.contains("--savepoint_path")), "{whole:?}");
    assert_eq!((whole.last().map(String::as_str), forgotten), (Some("CANCELLED"), 1));
}

#[tokio::test]
async fn a_job_that_drains_goes_on_doing_so() {
    let mut fleet = Fleet::new(1);
    let job = fleet.run(retries(1));
    let mut process = fleet.started().await;
    assert!(!process.deployed().await.draining);
    assert!(fleet.supervisor.drain(&job));
    assert!(matches!(process.order().await, Order::Drain(_)));
    fleet.ended(&process.name, "was killed");
    let mut process = fleet.started().await;
    let told = match process.deployed().await.draining {
        true => true,
        false => matches!(process.order().await, Order::Drain(_)),
    };
    assert!(told);
    process.completes();
    assert_eq!(course(&job).await.last().map(String::as_str), Some("DRAINED"));
}

/// With a checkpoint every few milliseconds.
fn with_checkpoints(options: JobOptions, fail_on_errors: bool) -> JobOptions {
    let every = CheckpointOptions::every(NonZeroU64::new(10).expect("not zero"));
    JobOptions { checkpoints: Some(CheckpointOptions { fail_on_errors, ..every }), ..options }
}

#[tokio::test]
async fn a_job_goes_on_from_the_last_checkpoint_whose_manifest_is_written() {
    let (mut fleet, store) = Fleet::durable(2);
    let job = fleet.run(with_checkpoints(JobOptions { retries: None, ..retries(0) }, true));
    let (mut one, mut two) = (fleet.started().await, fleet.started().await);
    let deployment = one.deployed().await;
    two.deployed().await;
    let expected = v1::Checkpoints {
        storage_url: "memory:///".into(),
        folder: job.id().to_string(),
        interval_millis: 10,
        restore: Bytes::new(),
        restore_storage_url: String::new(),
        allow_non_restored_state: false,
        kafka_at_least_once: false,
        kafka_in_doubt: v1::KafkaInDoubt::Unspecified.into(),
        renamed_transforms: [].into(),
    };
    assert_eq!(deployment.checkpoints, Some(expected.clone()));

    assert_eq!((one.checkpoint().await, two.checkpoint().await), (1, 1));
    two.saved(1);
    // Nothing is said of it before both have saved.
    one.saved(1);
    for process in [&mut one, &mut two] {
        assert_eq!(process.order().await, Order::CheckpointCommitted(v1::CheckpointCommitted { epoch: 1 }));
    }
    {
        let written = store.written.lock().expect("no panic");
        let [manifest] = &written[..] else { panic!("{written:?}") };
        let found = (&manifest.job, manifest.generation, manifest.epoch, manifest.purpose);
        assert_eq!(found, (job.id(), Generation(1), Epoch(1), Purpose::Checkpoint));
        let shards: Vec<u32> = manifest.parts.iter().map(|part| part.shard).collect();
        assert_eq!(shards, [0, 1]);
    }

    assert_eq!((one.checkpoint().await, two.checkpoint().await), (2, 2));
    one.saved(2);
    fleet.ended(&two.name, "was killed");
    // In either order: a stop, and the end of what was begun.
    let (first, second) = (one.order().await, one.order().await);
    let aborted = Order::CheckpointAborted(v1::CheckpointAborted { epoch: 2 });
    assert!([&first, &second].contains(&&aborted), "{first:?}, {second:?}");
    fleet.ended(&one.name, "ended with exit code 0");

    let (mut one, mut two) = (fleet.started().await, fleet.started().await);
    let deployment = one.deployed().await;
    two.deployed().await;
    assert_eq!(deployment.checkpoints, Some(v1::Checkpoints { restore: "its manifest".into(), ..expected }));
    assert_eq!((one.checkpoint().await, two.checkpoint().await), (3, 3));
    one.completes();
    two.completes();
    let course = course(&job).await;
    assert!(course.iter().any(|line| line.contains("from its latest checkpoint")), "{course:?}");
    assert!(course.iter().any(|line| line == "the job goes on from checkpoint 1"), "{course:?}");
    assert_eq!(course.last().map(String::as_str), Some("DONE"));
}

#[tokio::test]
async fn a_checkpoint_that_fails_fails_the_attempt_as_in_flink() {
    let (mut fleet, store) = Fleet::durable(1);
    let job = fleet.run(with_checkpoints(retries(1), true));
    let mut process = fleet.started().await;
    process.deployed().await;
    let epoch = process.checkpoint().await;
    process.save_failed(epoch);
    fleet.ended(&process.name, "ended with exit code 0");

    let mut process = fleet.started().await;
    process.deployed().await;
    store.errors.lock().expect("no panic").push(ManifestError::Unknown("connection reset".into()));
    let epoch = process.checkpoint().await;
    process.saved(epoch);
    while !matches!(process.order().await, Order::Stop(_)) {}
    fleet.ended(&process.name, "ended with exit code 0");
    let course = course(&job).await;
    let [.., error, state] = &course[..] else { panic!("{course:?}") };
    assert_eq!(state, "FAILED");
    assert!(error.contains("manifest of checkpoint 2") && error.contains("connection reset"), "{error}");
    assert!(error.contains("attempt 1: checkpoint 1 failed: process 0: disk full"), "{error}");
}

#[tokio::test]
async fn a_checkpoint_that_may_fail_is_told() {
    let (mut fleet, store) = Fleet::durable(1);
    let job = fleet.run(with_checkpoints(retries(0), false));
    let mut process = fleet.started().await;
    process.deployed().await;
    assert_eq!(process.checkpoint().await, 1);
    process.save_failed(1);
    assert_eq!(process.order().await, Order::CheckpointAborted(v1::CheckpointAborted { epoch: 1 }));
    store.errors.lock().expect("no panic").push(ManifestError::NotWritten("403 Forbidden".into()));
    assert_eq!(process.checkpoint().await, 2);
    process.saved(2);
    assert_eq!(process.order().await, Order::CheckpointAborted(v1::CheckpointAborted { epoch: 2 }));
    assert_eq!(process.checkpoint().await, 3);
    process.completes();
    let course = course(&job).await;
    for told in ["checkpoint 1 failed: process 0: disk full", "its manifest cannot be written: 403 Forbidden"] {
        assert!(course.iter().any(|line| line.contains(told)), "{course:?}");
    }
    assert_eq!(course.last().map(String::as_str), Some("DONE"));
}

#[tokio::test]
async fn a_job_with_a_checkpoint_waits_for_an_environment_and_one_without_does_not() {
    let (mut fleet, _store) = Fleet::durable(1);
    let asked = || JobOptions { retries: None, ..retries(0) };
    let job = fleet.run(with_checkpoints(asked(), true));
    let mut process = fleet.started().await;
    process.deployed().await;
    process.suffers("its worker pool cannot be reached");
    while !matches!(process.order().await, Order::Stop(_)) {}
    fleet.ended(&process.name, "ended with exit code 1");
    assert_eq!(course(&job).await.last().map(String::as_str), Some("FAILED"));

    let job = fleet.run(with_checkpoints(asked(), true));
    for attempt in 0..3 {
        let mut process = fleet.started().await;
        process.deployed().await;
        if attempt == 0 {
            let epoch = process.checkpoint().await;
            process.saved(epoch);
            let committed = Order::CheckpointCommitted(v1::CheckpointCommitted { epoch });
            while process.order().await != committed {}
        }
        process.suffers("its worker pool cannot be reached");
        while !matches!(process.order().await, Order::Stop(_)) {}
        fleet.ended(&process.name, "ended with exit code 1");
    }
    let mut process = fleet.started().await;
    process.deployed().await;
    process.fails("ValueError", false);
    while !matches!(process.order().await, Order::Stop(_)) {}
    fleet.ended(&process.name, "ended with exit code 1");
    let course = course(&job).await;
    let again = course.iter().filter(|line| line.starts_with("its worker pool cannot be reached")).count();
    assert_eq!(
        (again, &course[course.len() - 2..]),
        (3, &["ValueError".to_owned(), "FAILED".to_owned()][..]),
        "{course:?}"
    );
}

/// Such as one whose records are gone: what is to be done is for its owner to say, and then it goes on where it was.
#[tokio::test]
async fn a_job_that_needs_its_owner_fails_and_its_checkpoints_stay() {
    let (mut fleet, store) = Fleet::durable(1);
    let job = fleet.run(with_checkpoints(JobOptions { retries: None, ..retries(0) }, true));
    let mut process = fleet.started().await;
    process.deployed().await;
    let epoch = process.checkpoint().await;
    process.saved(epoch);
    while process.order().await != Order::CheckpointCommitted(v1::CheckpointCommitted { epoch }) {}
    process.needs_its_owner("records are gone");
    while !matches!(process.order().await, Order::Stop(_)) {}
    fleet.ended(&process.name, "ended with exit code 1");
    let course = course(&job).await;
    let said = format!(
        "records are gone\n\nThe job's checkpoints stay: another goes on from them with --savepoint_path=memory:/{}",
        job.id()
    );
    assert_eq!(course[course.len() - 2..], [said, "FAILED".to_owned()]);
    assert_eq!(*store.forgotten.lock().expect("no panic"), [], "they are gone");
}

#[tokio::test]
async fn a_job_whose_only_checkpoint_is_damaged_fails_and_does_not_begin_again() {
    let (mut fleet, _store) = Fleet::durable(1);
    let job = fleet.run(with_checkpoints(JobOptions { retries: None, ..retries(0) }, true));
    let mut process = fleet.started().await;
    process.deployed().await;
    assert_eq!(process.checkpoint().await, 1);
    process.saved(1);
    assert_eq!(process.order().await, Order::CheckpointCommitted(v1::CheckpointCommitted { epoch: 1 }));
    fleet.ended(&process.name, "was killed");

    let mut process = fleet.started().await;
    process.deployed().await;
    process.finds_damage(1);
    while !matches!(process.order().await, Order::Stop(_)) {}
    fleet.ended(&process.name, "ended with exit code 1");
    let course = course(&job).await;
    let [.., error, state] = &course[..] else { panic!("{course:?}") };
    assert_eq!(state, "FAILED");
    assert!(error.contains("none of its checkpoints") && error.contains("checkpoint 1"), "{error}");
}

#[tokio::test]
async fn without_a_storage_there_are_no_checkpoints() {
    let mut fleet = Fleet::new(1);
    let job = fleet.run(with_checkpoints(JobOptions::default(), true));
    let mut process = fleet.started().await;
    assert_eq!(process.deployed().await.checkpoints, None);
    fleet.ended(&process.name, "was killed");
    let course = course(&job).await;
    // Nor is it run again without being asked.
    assert!(course.iter().any(|line| line.contains("--number_of_execution_retries")), "{course:?}");
    assert_eq!(course.last().map(String::as_str), Some("FAILED"));
}
