use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::*;

async fn commit(writer: &mut Writer, epoch: u64) -> Result<Committed, CommitError> {
    let manifest = manifest(writer, Epoch(epoch), Vec::new());
    writer.commit(&manifest).await
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_committed_one_after_the_other() {
    on_every_store(|storage| async move {
        assert_eq!(restore_point(&storage).await, None);
        let mut writer = begin(&storage).await;
        assert_eq!((writer.generation(), writer.next()), (Generation(1), Epoch(1)));
        assert_eq!(restore_point(&storage).await, None);
        let committed = commit(&mut writer, 1).await.expect("committed");
        assert_eq!(committed, Committed { epoch: Epoch(1), superseded: None });
        commit(&mut writer, 2).await.expect("committed");
        assert_eq!(restore_point(&storage).await, Some(Epoch(2)));
        assert_eq!(commit(&mut writer, 2).await.expect("again"), Committed { epoch: Epoch(2), superseded: None });
        let error = commit(&mut writer, 1).await.expect_err("it is over");
        assert!(matches!(error, CommitError::Manifest { .. }) && error.is_definite(), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_without_a_checkpoint_are_taken_up() {
    on_every_store(|storage| async move {
        let mut writer = begin(&storage).await;
        commit(&mut writer, 1).await.expect("committed");
        commit(&mut writer, 4).await.expect("committed");
        let journal = writer.journal();
        assert_eq!(journal.epochs().await.expect("listed"), [0, 1, 2, 3, 4].map(Epoch));
        for epoch in [2, 3].map(Epoch) {
            let entry = journal.read(epoch).await.expect("read").expect("good");
            let expected = Marker { job: job(), generation: Generation(1), epoch, reason: Reason::Abandoned };
            assert_eq!(entry, Entry::Marker(expected));
        }
        assert!(matches!(commit(&mut writer, 2000).await, Err(CommitError::Manifest { .. })));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_attempt_ends_an_earlier_one() {
    on_every_store(|storage| async move {
        let mut first = begin(&storage).await;
        commit(&mut first, 1).await.expect("committed");
        let mut second = begin(&storage).await;
        assert_eq!((second.generation(), second.next()), (Generation(2), Epoch(3)));
        assert_eq!(first.superseded().await.expect("listed"), Some(Generation(2)));
        for epoch in [2, 3, 9] {
            let error = commit(&mut first, epoch).await.expect_err("stale");
            let source = Refusal::Stale { ours: Generation(1), newer: Generation(2) };
            assert!(matches!(&error, CommitError::Refused { source: s, .. } if *s == source), "{error}");
            assert!(error.is_definite());
        }
        assert_eq!(restore_point(&storage).await, Some(Epoch(1)));
        commit(&mut second, 3).await.expect("committed");
        assert_eq!(restore_point(&storage).await, Some(Epoch(3)));
        let third = Journal::of(&storage, &job()).expect("a good id").begin(Generation(9)).await.expect("it begins");
        assert_eq!((third.generation(), third.next()), (Generation(9), Epoch(5)));
    })
    .await;
}

/// The moment that comparing generations cannot close: the earlier attempt has looked, and writes after its successor
/// has decided what to restore from.
#[tokio::test]
async fn an_attempt_that_looked_before_it_was_replaced_still_cannot_commit() {
    let storage = Storage::in_memory();
    let mut first = begin(&storage).await;
    commit(&mut first, 1).await.expect("committed");
    let epoch = first.next();
    let body = Entry::Checkpoint(manifest(&first, epoch, Vec::new())).seal(Nonce::new()).expect("good");
    let mut second = begin(&storage).await;
    let restored = restore_point(&storage).await;
    let claim = storage.create_once(&first.journal().layout().manifest(epoch), &body).await;
    assert!(matches!(claim, Claim::Lost { .. }), "{claim:?}");
    assert_eq!(restore_point(&storage).await, restored);
    let next = second.next();
    commit(&mut second, next.0).await.expect("committed");
}

#[tokio::test]
async fn what_was_written_at_the_last_moment_is_what_the_next_attempt_restores_from() {
    let storage = Storage::in_memory();
    let mut first = begin(&storage).await;
    let journal = first.journal().clone();
    // A later attempt has claimed its number, and not yet put its marker.
    let claimed = Sealed::new(Nonce::new(), &2).expect("JSON");
    assert!(matches!(storage.create_once(&journal.layout().generation(Generation(2)), &claimed).await, Claim::Won));
    let epoch = first.next();
    let body = Entry::Checkpoint(manifest(&first, epoch, Vec::new())).seal(Nonce::new()).expect("good");
    assert!(matches!(storage.create_once(&journal.layout().manifest(epoch), &body).await, Claim::Won));
    let third = begin(&storage).await;
    assert_eq!(third.generation(), Generation(3));
    assert_eq!(restore_point(&storage).await, Some(epoch));
    assert!(commit(&mut first, 2).await.is_err());
}

#[tokio::test]
async fn a_storage_that_was_emptied_takes_no_checkpoint_of_an_attempt_that_began_before() {
    let storage = Storage::in_memory();
    let mut writer = begin(&storage).await;
    commit(&mut writer, 1).await.expect("committed");
    let layout = writer.journal().layout().clone();
    for folder in layout.folders() {
        let keys: Vec<_> = storage.list(&folder).await.expect("listed").into_iter().map(|l| l.key).collect();
        storage.delete(&keys).await.expect("removed");
    }
    let error = commit(&mut writer, 2).await.expect_err("not its journal").to_string();
    assert!(error.contains("emptied"), "{error}");
}

#[tokio::test]
async fn a_commit_that_nobody_knows_of_is_settled() {
    // Created, told as failed, and reading back fails: nothing is known.
    let (storage, truth) = faulty(Rates::default(), 1);
    let mut writer = begin(&storage).await;
    for (rates, expected) in [
        (Rates { done_but_failed: 1000, ..Rates::default() }, true),
        (Rates { fails_puts_and_gets: 1000, ..Rates::default() }, false),
    ] {
        let failing = Storage::over(Faulty::new(truth.client(), rates, 1), limits());
        writer.use_storage(&failing);
        let epoch = writer.next();
        let error = commit(&mut writer, epoch.0).await.expect_err("not known");
        assert!(matches!(error, CommitError::Unknown { .. }) && !error.is_definite(), "{error}");
        let later = commit(&mut writer, epoch.0 + 1).await.expect_err("first this one");
        assert!(matches!(later, CommitError::Unsettled { .. }), "{later}");
        writer.use_storage(&truth);
        let settled = writer.settle().await.expect("settled");
        if expected {
            assert_eq!(settled, Some(Settled::Committed(Committed { epoch, superseded: None })));
            commit(&mut writer, epoch.0).await.expect("committing it again changes nothing");
        } else {
            assert_eq!(settled, Some(Settled::Abandoned(epoch)));
        }
        assert_eq!(writer.settle().await.expect("nothing is open"), None);
        assert_eq!(restore_point(&truth).await == Some(epoch), expected);
        let next = writer.next();
        assert_eq!(next, epoch.next());
    }
    commit(&mut writer, 3).await.expect("it goes on");
}

async fn upload(storage: &Storage, writer: &Writer, epoch: Epoch, content: &str) -> FileRef {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(folder.path().join("000001.sst"), content).expect("written");
    let files = Files::of(storage, &job()).expect("a good id");
    let uploaded = files.upload(folder.path(), epoch, &Known::nothing(), &mut FileHashes::default()).await;
    assert_eq!(writer.next(), epoch);
    uploaded.expect("uploaded").files.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_whole_is_skipped_and_named() {
    on_every_store(|storage| async move {
        let mut writer = begin(&storage).await;
        let layout = writer.journal().layout().clone();
        let mut files = Vec::new();
        for epoch in 1..=5 {
            let file = upload(&storage, &writer, Epoch(epoch), &format!("of {epoch}")).await;
            let manifest = manifest(&writer, Epoch(epoch), vec![file.clone()]);
            writer.commit(&manifest).await.expect("committed");
            files.push(layout.file(file.key()));
        }
        assert_eq!(restore_point(&storage).await, Some(Epoch(5)));
        let manifest = storage.get(&layout.manifest(Epoch(5)), 1 << 20).await.expect("read");
        storage.put(&layout.manifest(Epoch(5)), manifest.slice(..manifest.len() / 2)).await.expect("cut");
        storage.delete(&[files[3].clone()]).await.expect("removed");
        storage.put(&files[2], Bytes::from_static(b"o")).await.expect("cut");
        let found = writer.journal().newest().await.expect("read");
        assert_eq!(found.manifest.map(|manifest| manifest.epoch), Some(Epoch(2)));
        assert_eq!(found.skipped.iter().map(|s| s.epoch).collect::<Vec<_>>(), [5, 4, 3].map(Epoch));
        let why: Vec<_> = found.skipped.iter().map(|s| s.why.as_str()).collect();
        assert!(why[0].contains("damaged"), "{why:?}");
        assert!(why[1].contains("missing") && why[1].contains(files[3].as_str()), "{why:?}");
        assert!(why[2].contains("1 bytes instead of 4") && why[2].contains(files[2].as_str()), "{why:?}");
        // The last entry cannot be read, and an attempt begins all the same.
        assert_eq!(begin(&storage).await.next(), Epoch(7));
    })
    .await;
}

#[tokio::test]
async fn a_checkpoint_of_a_later_version_is_not_passed_over() {
    let storage = Storage::in_memory();
    let mut writer = begin(&storage).await;
    commit(&mut writer, 1).await.expect("committed");
    commit(&mut writer, 2).await.expect("committed");
    let key = writer.journal().layout().manifest(Epoch(2));
    storage.put(&key, Bytes::from_static(b"{\"format\":2,\"new\":true}")).await.expect("written");
    let error = writer.journal().newest().await.expect_err("not ours to judge").to_string();
    assert!(error.contains("format 2") && error.contains(key.as_str()), "{error}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_not_a_checkpoint_that_is_missing() {
    let (storage, truth) = faulty(Rates { fails: 1000, ..Rates::default() }, 1);
    let mut writer = begin(&truth).await;
    commit(&mut writer, 1).await.expect("committed");
    assert!(Journal::of(&storage, &job()).expect("a good id").newest().await.is_err());
    let failing = Storage::over(
        Faulty::new(truth.client(), Rates { fails_puts_and_gets: 1000, ..Rates::default() }, 1),
        limits(),
    );
    assert!(Journal::of(&failing, &job()).expect("a good id").newest().await.is_err());
}

#[tokio::test]
async fn foreign_objects_are_left_alone() {
    let storage = Storage::in_memory();
    let mut writer = begin(&storage).await;
    commit(&mut writer, 1).await.expect("committed");
    for name in ["job-1/manifests/README", "job-1/manifests/7", "job-1/files/x", "job-1/generations/z", "job-1/x"] {
        storage.put(&Key::test(name), Bytes::from_static(b"?")).await.expect("written");
    }
    commit(&mut writer, 2).await.expect("committed");
    assert_eq!(restore_point(&storage).await, Some(Epoch(2)));
    assert_eq!(begin(&storage).await.generation(), Generation(2));
}

#[derive(Default)]
struct Told {
    committed: Vec<(Generation, Epoch)>,
    /// Certainly not.
    denied: Vec<(Generation, Epoch)>,
    began: Vec<(Generation, Option<Epoch>)>,
}

/// A service that runs the job as if it were the only one, on a store that fails.
async fn serve(storage: Storage, rounds: u64, mut dice: Dice) -> Told {
    let mut told = Told::default();
    let journal = Journal::of(&storage, &job()).expect("a good id");
    for _ in 0..rounds {
        let Ok(mut writer) = journal.begin(Generation(1)).await else { continue };
        // It has decided once it has read; until then it may be replaced itself, and restores for nothing.
        let Ok(found) = journal.newest().await else { continue };
        told.began.push((writer.generation(), found.manifest.map(|manifest| manifest.epoch)));
        for _ in 0..dice.below(5) {
            let epoch = Epoch(writer.next().0 + u64::from(dice.below(4) == 0));
            let generation = writer.generation();
            // What was denied before may be granted now.
            told.denied.retain(|denied| *denied != (generation, epoch));
            let result = commit(&mut writer, epoch.0).await;
            match result {
                Ok(_) => told.committed.push((generation, epoch)),
                Err(CommitError::Unknown { .. }) => match writer.settle().await {
                    Ok(Some(Settled::Committed(Committed { epoch, .. }))) => told.committed.push((generation, epoch)),
                    Ok(Some(Settled::Abandoned(epoch))) => told.denied.push((generation, epoch)),
                    Ok(None) => panic!("something was open"),
                    Err(error) => {
                        if error.is_definite() {
                            told.denied.push((generation, epoch));
                        }
                        break;
                    }
                },
                Err(CommitError::NotCommitted { .. }) => told.denied.push((generation, epoch)),
                Err(CommitError::Refused { .. }) => {
                    told.denied.push((generation, epoch));
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    told
}

/// Three services that all believe that the job is theirs, every fault, many seeds. In the end what each was told is
/// compared with the journal.
#[test]
fn stale_generation_cannot_commit() {
    let (mut committed, mut denied, mut began) = (0, 0, 0);
    for seed in 0..600 {
        on_one_thread(async {
            let rates = Rates {
                fails: 30,
                done_but_failed: 60,
                lies_exists: 30,
                done_but_exists: 60,
                late: 60,
                yields: 8,
                ..Rates::default()
            };
            let (storage, truth) = faulty(rates, seed);
            let storage = storage.with_limits(Limits { pause: Duration::ZERO, attempts: 3, ..limits() });
            let mut services = JoinSet::new();
            for service in 0..3 {
                services.spawn(serve(storage.clone(), 4, Dice::new(seed * 3 + service)));
            }
            let told = services.join_all().await;
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }

            let journal = Journal::of(&truth, &job()).expect("a good id");
            let epochs = journal.epochs().await.expect("listed");
            assert!(epochs.iter().copied().eq((0..epochs.len() as u64).map(Epoch)), "seed {seed}: gaps in {epochs:?}");
            let mut checkpoints = BTreeMap::new();
            let mut before = Generation(0);
            for epoch in epochs {
                let entry = journal.read(epoch).await.expect("read").expect("good");
                assert!(before <= entry.generation(), "seed {seed}: generations fall at {epoch}");
                before = entry.generation();
                if let Entry::Checkpoint(manifest) = entry {
                    checkpoints.insert(epoch, manifest.generation);
                }
            }
            let all =
                |of: fn(&Told) -> &Vec<(Generation, Epoch)>| told.iter().flat_map(of).copied().collect::<Vec<_>>();
            for (generation, epoch) in all(|told| &told.committed) {
                committed += 1;
                let stands = checkpoints.get(&epoch);
                assert_eq!(stands, Some(&generation), "seed {seed}: {epoch} is told as committed");
                for (later, restored) in told.iter().flat_map(|told| &told.began) {
                    assert!(
                        *later <= generation || Some(epoch) <= *restored,
                        "seed {seed}: {generation} committed {epoch}, {later} had restored from {restored:?}"
                    );
                }
            }
            for (generation, epoch) in all(|told| &told.denied) {
                denied += 1;
                assert_ne!(checkpoints.get(&epoch), Some(&generation), "seed {seed}: {epoch} is told as not committed");
            }
            began += told.iter().map(|told| told.began.len()).sum::<usize>();
        });
    }
    assert!(committed > 500 && denied > 500 && began > 2000, "{committed} committed, {denied} denied, {began} began");
}
