//! What one service records, another finds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ferrobeam_proto::pipeline::ArtifactInformation;

use super::job_store::Loaded;
use super::saved::Piece;
use super::*;
use crate::artifacts::{ContentHash, EnvironmentArtifacts, Staged, Store};
use crate::checkpoint::{ServiceLayout, Storage};
use crate::job::{Event, Generation, Importance, Job, JobId, LogLimits, Message, Restored, State, Submission};

/// A service's machine: its disk goes with it, the storage does not.
struct Machine {
    disk: tempfile::TempDir,
    records: Arc<JobStore>,
}

impl Machine {
    fn on(storage: &Storage) -> Machine {
        Machine::led(storage, None)
    }

    fn led(storage: &Storage, ballot: Option<Ballot>) -> Machine {
        let disk = tempfile::tempdir().expect("a folder");
        let artifacts = Store::open(disk.path().join("artifacts")).expect("a folder");
        Machine { records: Arc::new(JobStore::new(storage.clone(), artifacts, ballot)), disk }
    }

    fn artifacts(&self) -> Store {
        Store::open(self.disk.path().join("artifacts")).expect("a folder")
    }

    /// Stages contents for an environment.
    fn stage(&self, contents: &[&[u8]]) -> Staged {
        let stored = contents.iter().map(|content| {
            let mut upload = self.artifacts().upload().expect("room");
            upload.write(content).expect("room");
            upload.finish(None).expect("room")
        });
        let artifact = ArtifactInformation { type_urn: "a file".into(), ..ArtifactInformation::default() };
        let environment =
            EnvironmentArtifacts { environment: "env".into(), alternative: vec![1, 0], artifacts: vec![artifact] };
        Staged { environments: vec![environment], contents: stored.collect() }
    }

    async fn load(&self) -> Vec<Loaded> {
        let (loaded, bad) = self.records.load().await.expect("a storage that works");
        assert!(bad.is_empty(), "{bad:?}");
        loaded
    }
}

fn job(name: &str) -> Arc<Job> {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(1.5)) };
    let submission = Submission {
        name: name.into(),
        options: prost_types::Struct { fields: [("an option".to_owned(), value)].into() },
        pipeline: Bytes::from_static(b"a pipeline"),
        unbounded: false,
    };
    Arc::new(Job::new(JobId::named(name), submission, SystemTime::now(), LogLimits::default()))
}

fn say(job: &Job, text: &str) {
    job.say(Message::now(Importance::Basic, text));
}

/// States and texts.
fn told<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<String> {
    let text = |event: &Event| match event {
        Event::State(state, _) => state.to_string(),
        Event::Message(message) => message.text.clone(),
    };
    events.into_iter().map(text).collect()
}

async fn keys(storage: &Storage, folder: crate::checkpoint::Key) -> Vec<String> {
    storage.list(&folder).await.expect("it works").into_iter().map(|it| it.key.name().to_owned()).collect()
}

#[tokio::test]
async fn a_job_comes_back_as_it_was() {
    let storage = Storage::in_memory();
    let first = Machine::on(&storage);
    let (one, staged) = (job("one"), first.stage(&[b"a jar", b"a wheel"]));
    first.records.add(&one, SystemTime::now(), &staged).await.expect("recorded");
    let historian = tokio::spawn(Historian::of(Arc::clone(&first.records), Arc::clone(&one)).follow());
    one.enter(State::Starting);
    one.enter(State::Running);
    say(&one, "hello");
    first.records.attempt(one.id(), Generation(3)).await.expect("recorded");
    first.records.checkpointed(one.id()).await.expect("recorded");
    one.is_recorded().await;
    historian.abort();

    let second = Machine::on(&storage);
    let mut loaded = second.load().await;
    assert_eq!(loaded.len(), 1);
    let found = &mut loaded[0];
    assert_eq!((found.id.clone(), found.attempts, &found.end), (one.id().clone(), 3, &None));
    assert!(found.has_checkpoint);
    assert_eq!(found.submission.name, "one");
    assert_eq!(found.submission.options, one.submission().options);
    assert_eq!(found.submission.pipeline, one.submission().pipeline);
    assert_eq!(found.staged, staged);
    assert_eq!(told(found.history.events.values()), ["STOPPED", "STARTING", "RUNNING", "hello"]);
    for hash in &staged.contents {
        assert!(!second.artifacts().has(*hash));
    }
    second.records.take_over(found).await.expect("taken over");
    for (hash, content) in [(ContentHash::of(b"a jar"), &b"a jar"[..]), (ContentHash::of(b"a wheel"), b"a wheel")] {
        assert_eq!(std::fs::read(second.artifacts().path(hash)).expect("fetched"), content);
    }
    let restored = Restored {
        id: found.id.clone(),
        submission: found.submission.clone(),
        created: found.created,
        events: found.history.events.clone(),
        next: found.history.next,
        metrics: None,
    };
    let again = Job::restored(restored, LogLimits::default());
    assert_eq!(again.state().0, State::Running);
    assert_eq!(told(again.read(0, 10).events.iter().map(|(_, event)| event)), told(found.history.events.values()));
    assert_eq!(again.read(0, 10).next, one.read(0, 10).next);
}

#[tokio::test]
async fn an_end_is_known_before_it_is_told() {
    let storage = Storage::in_memory();
    let first = Machine::on(&storage);
    let (one, two) = (job("one"), job("two"));
    for job in [&one, &two] {
        first.records.add(job, SystemTime::now(), &Staged::default()).await.expect("recorded");
    }
    let end = End { state: State::Failed, reason: Some("because".into()), metrics: Bytes::from_static(b"metrics") };
    first.records.end(one.id(), &end).await.expect("recorded");
    let loaded = Machine::on(&storage).load().await;
    let ends: Vec<_> = loaded.iter().map(|job| (job.id.as_str(), job.end.clone())).collect();
    assert_eq!(ends, [("one", Some(end)), ("two", None)]);
}

#[tokio::test]
async fn a_service_that_was_replaced_records_nothing_more() {
    let storage = Storage::in_memory();
    let (first, leadership) = elected(&storage, "first").await;
    let one = job("one");
    first.records.add(&one, SystemTime::now(), &Staged::default()).await.expect("recorded");
    let historian = tokio::spawn(Historian::of(Arc::clone(&first.records), Arc::clone(&one)).follow());
    one.enter(State::Starting);
    one.is_recorded().await;

    give_up(leadership).await;
    let (second, _leadership) = elected(&storage, "second").await;
    let mut loaded = second.load().await.remove(0);
    // A piece is on its way as the second takes over: it has that too.
    one.enter(State::Running);
    one.is_recorded().await;
    second.records.take_over(&mut loaded).await.expect("taken over");
    assert_eq!(told(loaded.history.events.values()), ["STOPPED", "STARTING", "RUNNING"]);
    say(&one, "nobody reads this");
    let error = tokio::time::timeout(Duration::from_secs(60), historian).await.expect("it ends").expect("no panic");
    assert!(matches!(error, Err(SaveError::Replaced)), "{error:?}");
    let third = Machine::on(&storage).load().await.remove(0);
    assert_eq!(told(third.history.events.values()), ["STOPPED", "STARTING", "RUNNING"]);
}

#[tokio::test]
async fn one_that_is_closed_writes_nothing() {
    let storage = Storage::in_memory();
    let machine = Machine::on(&storage);
    let one = job("one");
    machine.records.close();
    let end = End { state: State::Done, reason: None, metrics: Bytes::new() };
    let results = [
        machine.records.add(&one, SystemTime::now(), &Staged::default()).await,
        machine.records.attempt(one.id(), Generation(1)).await,
        machine.records.end(one.id(), &end).await,
        machine.records.remove(one.id()).await,
        Historian::of(Arc::clone(&machine.records), one).follow().await,
    ];
    for result in results {
        assert!(matches!(result, Err(SaveError::Closed)), "{result:?}");
    }
    assert!(machine.load().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_history_is_few_objects_and_says_all_the_same() {
    let storage = Storage::in_memory();
    let machine = Machine::on(&storage);
    let one = job("one");
    machine.records.add(&one, SystemTime::now(), &Staged::default()).await.expect("recorded");
    let historian = tokio::spawn(Historian::of(Arc::clone(&machine.records), Arc::clone(&one)).follow());
    one.enter(State::Starting);
    for number in 0..300 {
        say(&one, &number.to_string());
        one.is_recorded().await;
    }
    let pieces = keys(&storage, ServiceLayout::history(one.id()).expect("an id")).await;
    assert!(pieces.len() <= 66, "{} objects", pieces.len());
    let loaded = machine.load().await.remove(0);
    assert_eq!(told(loaded.history.events.values()), told(one.read(0, 1000).events.iter().map(|(_, event)| event)));
    one.fail("it is over");
    historian.await.expect("no panic").expect("it ends with the job");
    let loaded = machine.load().await.remove(0);
    assert_eq!(told(loaded.history.events.values()).last().map(String::as_str), Some("FAILED"));
}

#[tokio::test]
async fn a_job_that_is_removed_leaves_nothing_but_what_others_need() {
    let storage = Storage::in_memory();
    let machine = Machine::on(&storage);
    let (one, two) = (job("one"), job("two"));
    let end = End { state: State::Done, reason: None, metrics: Bytes::new() };
    for (job, contents) in [(&one, [&b"shared"[..], b"of one"]), (&two, [b"shared", b"of two"])] {
        let staged = machine.stage(&contents);
        machine.records.add(job, SystemTime::now(), &staged).await.expect("recorded");
        machine.records.attempt(job.id(), Generation(1)).await.expect("recorded");
        let historian = Historian::of(Arc::clone(&machine.records), Arc::clone(job));
        job.enter(State::Starting);
        job.fail("");
        historian.follow().await.expect("recorded");
        machine.records.end(job.id(), &end).await.expect("recorded");
    }
    machine.records.remove(one.id()).await.expect("removed");
    let loaded = machine.load().await;
    assert_eq!(loaded.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["two"]);
    for folder in [ServiceLayout::history(one.id()), ServiceLayout::attempts(one.id())] {
        assert!(keys(&storage, folder.expect("an id")).await.is_empty());
    }
    assert_eq!(keys(&storage, ServiceLayout::ends()).await, ["two-00000000000000000001"]);
    let contents: BTreeSet<String> =
        keys(&storage, ServiceLayout::artifacts().folders()[2].clone()).await.into_iter().collect();
    let expected = [&b"shared"[..], b"of two"].map(|content| format!("{:020}-{}", 0, ContentHash::of(content)));
    assert_eq!(contents, expected.into());

    // One whose removal was cut off is no job, and goes with the next service.
    storage.delete(&[ServiceLayout::job(two.id()).expect("an id")]).await.expect("removed");
    assert!(Machine::on(&storage).load().await.is_empty());
    assert!(keys(&storage, ServiceLayout::ends()).await.is_empty());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_told_and_left() {
    let storage = Storage::in_memory();
    let machine = Machine::on(&storage);
    for name in ["one", "two"] {
        machine.records.add(&job(name), SystemTime::now(), &Staged::default()).await.expect("recorded");
    }
    let key = ServiceLayout::job(&JobId::named("one")).expect("an id");
    storage.put(&key, Bytes::from_static(b"ferrojb1 and no more")).await.expect("written");
    let (loaded, bad) = machine.records.load().await.expect("the other can be read");
    assert_eq!(loaded.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["two"]);
    assert_eq!(bad.len(), 1);
    assert!(bad[0].to_string().contains(".service/jobs/one"), "{}", bad[0]);
    assert_eq!(keys(&storage, ServiceLayout::jobs()).await, ["one", "two"]);
}

#[test]
fn a_piece_is_sealed_anew_each_time() {
    let piece = Piece { whole: false, leader: 1, events: vec![], next: 0 };
    let sealed = || piece.sealed().expect("JSON").bytes().clone();
    assert_ne!(sealed(), sealed(), "who reads one of these knows whose it is");
}

/// A service that leads.
async fn elected(storage: &Storage, name: &str) -> (Machine, Leadership) {
    let ended = |term: &Term| panic!("{} leads", term.endpoint);
    let election = Election::new(storage.clone(), Term::of_this_process(name.into()), Duration::from_secs(3600));
    let leadership = election.win(ended).await.expect("nobody leads");
    (Machine::led(storage, Some(leadership.ballot())), leadership)
}

/// Another may lead. The one that did is still there, as one that slept is.
async fn give_up(leadership: Leadership) {
    let (resign, resigned) = tokio::sync::watch::channel(false);
    resign.send_replace(true);
    leadership.keep(resigned).await;
}

#[tokio::test]
async fn a_service_that_was_replaced_takes_no_job_and_ends_none() {
    let storage = Storage::in_memory();
    let (first, leadership) = elected(&storage, "first").await;
    give_up(leadership).await;
    let (second, _leadership) = elected(&storage, "second").await;
    let (one, two) = (job("one"), job("two"));
    let error = first.records.add(&one, SystemTime::now(), &Staged::default()).await;
    assert!(matches!(error, Err(SaveError::Replaced)), "{error:?}");
    second.records.add(&two, SystemTime::now(), &Staged::default()).await.expect("it leads");
    let end = |state| End { state, reason: None, metrics: Bytes::new() };
    let error = first.records.end(two.id(), &end(State::Done)).await;
    assert!(matches!(error, Err(SaveError::Replaced)), "{error:?}");
    // Who comes next believes the second, whether that has ended the job or only had it.
    let mut loaded = second.load().await;
    second
        .records
        .take_over(loaded.iter_mut().find(|job| job.id == *two.id()).expect("it is there"))
        .await
        .expect("its");
    let third = Machine::on(&storage);
    let of = |loaded: Vec<Loaded>| loaded.into_iter().find(|job| job.id.as_str() == "two").expect("it is there").end;
    assert_eq!(of(third.load().await), None);
    second.records.end(two.id(), &end(State::Failed)).await.expect("it leads");
    assert_eq!(of(third.load().await), Some(end(State::Failed)));
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let storage = Storage::in_memory();
    let machine = Machine::on(&storage);
    let one = job("one");
    machine.records.add(&one, SystemTime::now(), &Staged::default()).await.expect("recorded");
    let historian = tokio::spawn(Historian::of(Arc::clone(&machine.records), Arc::clone(&one)).follow());
    one.enter(State::Starting);
    one.is_recorded().await;
    // Somebody's notes, where the next piece would stand, and among the ends.
    let folder = ServiceLayout::history(one.id()).expect("an id");
    let pieces = keys(&storage, folder.clone()).await.len() as u64;
    for number in [pieces + 1, pieces + 2] {
        storage.put(&ServiceLayout::numbered(&folder, number), Bytes::from_static(b"notes")).await.expect("room");
    }
    storage.put(&ServiceLayout::numbered(&ServiceLayout::ends(), 7), Bytes::from_static(b"notes")).await.expect("room");
    one.enter(State::Running);
    one.fail("it is over");
    historian.await.expect("no panic").expect("it goes on behind them");
    let loaded = Machine::on(&storage).load().await.remove(0);
    assert_eq!(told(loaded.history.events.values()), ["STOPPED", "STARTING", "RUNNING", "it is over", "FAILED"]);
    assert_eq!(keys(&storage, ServiceLayout::ends()).await.len(), 1);
}
