//! Whole lives of jobs: checkpoints, savepoints, crashes, failures and collections, with uploads running beside them.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;

use super::*;

/// Contents are few, so that what was removed comes back.
fn change(folder: &Path, dice: &mut Dice) {
    let name = folder.join(format!("{:06}.sst", dice.below(4)));
    match dice.below(3) {
        0 => drop(fs::remove_file(name)),
        _ => {
            // As RocksDB does it: files are not written again, but replaced by others.
            let _ = fs::remove_file(&name);
            fs::write(name, format!("content {}", dice.below(5))).expect("written");
        }
    }
    fs::write(folder.join("CURRENT"), format!("{}", dice.below(3))).expect("written");
}

/// What must be there: the files of every checkpoint that stands in the journal and can be read.
async fn all_are_whole(truth: &Storage, seed: u64) -> (Vec<Epoch>, Vec<Epoch>) {
    let journal = Journal::of(truth, &job()).expect("a good id");
    let (mut checkpoints, mut savepoints) = (Vec::new(), Vec::new());
    for epoch in journal.epochs().await.expect("listed") {
        if let Entry::Checkpoint(manifest) = journal.read(epoch).await.expect("read").expect("good") {
            for file in manifest.files() {
                let key = journal.layout().file(file.key());
                let fetched = truth.get_checked(&key, file.bytes, file.sha256, None).await;
                fetched.unwrap_or_else(|e| panic!("seed {seed}: checkpoint {epoch} stands and is not whole: {e}"));
            }
            match manifest.kind {
                Kind::Checkpoint => checkpoints.push(epoch),
                Kind::Savepoint => savepoints.push(epoch),
            }
        }
    }
    (checkpoints, savepoints)
}

#[test]
fn after_any_history_the_files_of_what_is_retained_are_there() {
    let (mut collected, mut committed) = (0, 0);
    for seed in 0..80 {
        on_one_thread(async {
            let mut dice = Dice::new(seed);
            let rates =
                Rates { fails: 20, done_but_failed: 20, done_but_exists: 20, late: 20, yields: 4, ..Rates::default() };
            let (storage, truth) = faulty(rates, seed);
            let storage = storage.with_limits(Limits { attempts: 3, pause: Duration::ZERO, ..limits() });
            let files = Files::of(&storage, &job()).expect("a good id");
            let journal = Journal::of(&storage, &job()).expect("a good id");
            let retained = NonZeroUsize::new(1 + dice.below(3) as usize).expect("at least one");
            let folder = tempfile::tempdir().expect("a temporary directory");
            let (mut kept_savepoints, mut newest) = (BTreeSet::new(), None);
            for _ in 0..4 {
                let Ok(mut writer) = journal.begin(Generation(1)).await else { continue };
                let Ok(found) = journal.newest().await else { continue };
                let restored = found.manifest.as_ref().map(|manifest| manifest.epoch);
                assert!(newest <= restored, "seed {seed}: {newest:?} was committed, {restored:?} is found");
                let (mut base, mut hashes, mut collector) = (found.manifest, FileHashes::default(), Collector::new());
                for _ in 0..12 {
                    change(folder.path(), &mut dice);
                    let epoch = Epoch(writer.next().0 + u64::from(dice.below(5) == 0));
                    let known = base.as_ref().map_or_else(Known::nothing, Known::of);
                    let pinned = base.iter().map(|base| base.epoch).collect();
                    let upload = files.upload(folder.path(), epoch, &known, &mut hashes);
                    let collect = collector.collect(&writer, retained, &pinned);
                    let (uploaded, swept) = tokio::join!(upload, collect);
                    collected += swept.map_or(0, |swept| swept.files);
                    let Ok(uploaded) = uploaded else { continue };
                    if dice.below(6) == 0 {
                        continue;
                    }
                    let kind = if dice.below(6) == 0 { Kind::Savepoint } else { Kind::Checkpoint };
                    let manifest = Manifest { kind, ..manifest(&writer, epoch, uploaded.files) };
                    let done = match writer.commit(&manifest).await {
                        Ok(_) => true,
                        Err(CommitError::Unknown { .. }) => match writer.settle().await {
                            Ok(Some(Settled::Committed(_))) => true,
                            Ok(_) => false,
                            Err(_) => break,
                        },
                        Err(_) => false,
                    };
                    if done {
                        committed += 1;
                        newest = Some(epoch);
                        if kind == Kind::Savepoint {
                            kept_savepoints.insert(epoch);
                        }
                        base = Some(manifest);
                    }
                    let (checkpoints, savepoints) = all_are_whole(&truth, seed).await;
                    let stand: BTreeSet<_> = checkpoints.iter().chain(&savepoints).copied().collect();
                    assert!(newest.is_none_or(|newest| stand.contains(&newest)), "seed {seed}: the newest went");
                    assert!(kept_savepoints.is_subset(&stand), "seed {seed}: a savepoint went");
                }
            }
        });
    }
    assert!(collected > 1000 && committed > 2000, "{collected} files collected, {committed} checkpoints");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_removed_and_no_more() {
    on_every_store(|storage| async move {
        let mut writer = begin(&storage).await;
        let files = Files::of(&storage, &job()).expect("a good id");
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::write(folder.path().join("000001.sst"), "always").expect("written");
        let (mut known, mut hashes, mut collector) = (Known::nothing(), FileHashes::default(), Collector::new());
        for epoch in 1..=5 {
            fs::write(folder.path().join("CURRENT"), format!("{epoch}")).expect("written");
            let uploaded = files.upload(folder.path(), Epoch(epoch), &known, &mut hashes).await.expect("stored");
            let kind = if epoch == 2 { Kind::Savepoint } else { Kind::Checkpoint };
            let manifest = Manifest { kind, ..manifest(&writer, Epoch(epoch), uploaded.files) };
            writer.commit(&manifest).await.expect("committed");
            known = Known::of(&manifest);
        }
        // On its way.
        files.upload(folder.path(), Epoch(6), &Known::nothing(), &mut hashes).await.expect("stored");
        let two = NonZeroUsize::new(2).expect("two");
        let collected = collector.collect(&writer, two, &BTreeSet::new()).await.expect("collected");
        assert_eq!(collected, Collected { entries: 2, files: 2 });
        assert_eq!(writer.journal().epochs().await.expect("listed"), [0, 2, 4, 5].map(Epoch));
        let stored = storage.list(&writer.journal().layout().folders()[2]).await.expect("listed");
        // The shared one, those of 2, 4 and 5, and two of 6.
        assert_eq!(stored.len(), 6, "{stored:?}");
        let again = collector.collect(&writer, two, &BTreeSet::new()).await.expect("collected");
        assert_eq!(again, Collected::default());

        let later = begin(&storage).await;
        let none = collector.collect(&writer, NonZeroUsize::MIN, &BTreeSet::new()).await.expect("not its turn");
        assert_eq!(none, Collected::default(), "an attempt that was replaced removes nothing");
        let rest = Collector::new().collect(&later, NonZeroUsize::MIN, &BTreeSet::new()).await.expect("collected");
        assert_eq!(rest, Collected { entries: 1, files: 3 }, "of 4, and of the upload that never ended");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_collected_beside_an_entry_of_a_later_version() {
    let storage = Storage::in_memory();
    let mut writer = begin(&storage).await;
    for epoch in 1..=3 {
        let manifest = manifest(&writer, Epoch(epoch), Vec::new());
        writer.commit(&manifest).await.expect("committed");
    }
    let layout = writer.journal().layout().clone();
    storage.put(&layout.manifest(Epoch(1)), "{\"format\":7,}".into()).await.expect("written");
    let error = Collector::new().collect(&writer, NonZeroUsize::MIN, &BTreeSet::new()).await;
    assert!(matches!(error, Err(JournalError::Format { .. })));
    assert_eq!(writer.journal().epochs().await.expect("listed").len(), 4);
}
