use std::fs;

use super::*;

struct Bench {
    files: Files,
    hashes: FileHashes,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(storage: &Storage) -> Bench {
        let files = Files::of(storage, &job()).expect("a good id");
        Bench { files, hashes: FileHashes::default(), folder: tempfile::tempdir().expect("a temporary directory") }
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.folder.path().join(name), content).expect("written");
    }

    async fn upload(&mut self, epoch: u64, known: &Known) -> Result<Uploaded, FileError> {
        self.files.upload(self.folder.path(), Epoch(epoch), known, &mut self.hashes).await
    }

    /// Fetches everything and compares it with the folder.
    async fn comes_back(&self, files: &[FileRef]) {
        let target = tempfile::tempdir().expect("a temporary directory");
        self.files.download(files, target.path()).await.expect("it comes back");
        let read = |folder: &Path| {
            let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
            let name = |path: &Path| path.file_name().expect("a name").to_owned();
            entries.map(|path| (name(&path), fs::read(&path).expect("read"))).collect::<BTreeMap<_, _>>()
        };
        assert!(read(target.path()) == read(self.folder.path()), "what came back differs");
    }
}

fn transfer(files: u64, bytes: u64) -> Transfer {
    Transfer { files, bytes }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_comes_back() {
    on_every_store(|storage| async move {
        let mut bench = Bench::new(&storage);
        bench.write("CURRENT", b"MANIFEST-000005");
        bench.write("000008.log", b"");
        for number in 0..20 {
            bench.write(&format!("{number:06}.sst"), &vec![number; 1000 + usize::from(number)]);
        }
        let uploaded = bench.upload(3, &Known::nothing()).await.expect("stored");
        assert_eq!(uploaded.sent, transfer(22, 15 + 20 * 1000 + 190));
        assert_eq!(uploaded.shared, transfer(0, 0));
        assert!(uploaded.files.is_sorted_by(|a, b| a.name < b.name));
        assert!(uploaded.files.iter().all(|file| file.epoch == Epoch(3)));
        bench.comes_back(&uploaded.files).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_files_go_in_parts() {
    on_every_store(|storage| async move {
        let mut bench = Bench::new(&storage);
        let mut dice = Dice::new(7);
        for (name, length) in [("exact.sst", 24 << 20), ("more.sst", (24 << 20) + 1), ("edge.sst", 16 << 20)] {
            let bytes: Vec<u8> =
                (0..length / 8 + 1).flat_map(|_| dice.below(u64::MAX).to_le_bytes()).take(length).collect();
            bench.write(name, &bytes);
        }
        let uploaded = bench.upload(1, &Known::nothing()).await.expect("stored");
        assert_eq!(uploaded.sent, transfer(3, (64 << 20) + 1));
        bench.comes_back(&uploaded.files).await;
        // Again over what is there.
        let again = bench.upload(1, &Known::nothing()).await.expect("stored");
        assert_eq!(again.files, uploaded.files);
        bench.comes_back(&again.files).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_sst_files_are_shared_and_only_by_content() {
    on_every_store(|storage| async move {
        let mut bench = Bench::new(&storage);
        bench.write("000001.sst", b"first");
        bench.write("000002.sst", b"second");
        bench.write("MANIFEST-000005", b"manifest");
        let first = bench.upload(1, &Known::nothing()).await.expect("stored");
        let known: Known = first.files.iter().cloned().collect();

        // After a restore: the same name for other content, another name for the same, the same length for both.
        bench.write("000002.sst", b"sEcond");
        bench.write("000009.sst", b"first");
        let second = bench.upload(2, &known).await.expect("stored");
        assert_eq!(second.shared, transfer(2, 10));
        assert_eq!(second.sent, transfer(2, 6 + 8));
        let epochs: Vec<_> = second.files.iter().map(|file| (file.name.as_str(), file.epoch.0)).collect();
        assert_eq!(epochs, [("000001.sst", 1), ("000002.sst", 2), ("000009.sst", 1), ("MANIFEST-000005", 2)]);
        bench.comes_back(&second.files).await;
    })
    .await;
}

#[tokio::test]
async fn content_that_several_files_have_is_sent_once() {
    let storage = Storage::in_memory();
    let mut bench = Bench::new(&storage);
    bench.write("a", b"same");
    bench.write("b", b"same");
    let uploaded = bench.upload(1, &Known::nothing()).await.expect("stored");
    assert_eq!((uploaded.sent, uploaded.shared), (transfer(1, 4), transfer(1, 4)));
    bench.comes_back(&uploaded.files).await;
}

#[tokio::test]
async fn a_file_that_was_hashed_is_not_read_again() {
    let storage = Storage::in_memory();
    let mut bench = Bench::new(&storage);
    bench.write("000001.sst", b"first");
    let first = bench.upload(1, &Known::nothing()).await.expect("stored");
    let known: Known = first.files.into_iter().collect();
    // What a checkpoint is: links to the store's own files. One that cannot be read shows that it was not.
    let linked = tempfile::tempdir().expect("a temporary directory");
    fs::hard_link(bench.folder.path().join("000001.sst"), linked.path().join("000001.sst")).expect("linked");
    bench.folder = linked;
    let before = fs::metadata(bench.folder.path().join("000001.sst")).expect("it is there");
    let content = fs::File::options().write(true).open(bench.folder.path().join("000001.sst")).expect("opened");
    std::os::unix::fs::FileExt::write_all_at(&content, b"FIRST", 0).expect("written");
    content.set_modified(before.modified().expect("a time")).expect("set back");
    let second = bench.upload(2, &known).await.expect("stored");
    assert_eq!(second.shared, transfer(1, 5), "it was read again");
    // Where it is sent, what is read is compared with the hash, so that nothing false is stored.
    let error = bench.upload(3, &Known::nothing()).await.expect_err("it changed");
    assert!(matches!(error, FileError::Changed(_)), "{error}");
    // Another time is another file.
    content.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set");
    let third = bench.upload(4, &known).await.expect("stored");
    assert_eq!(third.sent, transfer(1, 5));
}

#[tokio::test]
async fn a_part_that_is_lost_fails_the_upload_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let clean = local(folder.path());
    let rates = Rates { part_fails: 1000, ..Rates::default() };
    let storage = Storage::over(Faulty::new(clean.client(), rates, 1), limits());
    let mut bench = Bench::new(&storage);
    bench.write("000001.sst", &vec![1; 40 << 20]);
    assert!(bench.upload(1, &Known::nothing()).await.is_err());
    let files = Layout::of(&job()).expect("a good id").folders()[2].clone();
    assert_eq!(clean.list(&files).await.expect("listed"), []);
    let left: Vec<_> = fs::read_dir(folder.path().join(files.as_str())).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_upload_in_parts_that_won_and_was_told_that_it_failed_counts() {
    let rates = Rates { complete_done_but_failed: 1000, ..Rates::default() };
    let (storage, truth) = faulty(rates, 1);
    let mut bench = Bench::new(&storage);
    bench.write("000001.sst", &vec![1; 20 << 20]);
    let uploaded = bench.upload(1, &Known::nothing()).await.expect("it is there");
    bench.files = Files::of(&truth, &job()).expect("a good id");
    bench.comes_back(&uploaded.files).await;
}

#[tokio::test]
async fn an_upload_in_parts_that_is_torn_does_not_count() {
    let (storage, _) = faulty(Rates { complete_short: 1000, ..Rates::default() }, 1);
    let mut bench = Bench::new(&storage);
    bench.write("000001.sst", &vec![1; 20 << 20]);
    let error = bench.upload(1, &Known::nothing()).await.expect_err("it is short");
    assert!(matches!(error, FileError::Storage(StorageError::Length { .. })), "{error}");
}

#[tokio::test]
async fn what_fails_now_and_then_is_tried_again() {
    for seed in 0..50 {
        let rates = Rates { fails: 200, done_but_failed: 100, ..Rates::default() };
        let (storage, _) = faulty(rates, seed);
        let storage = storage.with_limits(Limits { attempts: 20, pause: Duration::ZERO, ..limits() });
        let mut bench = Bench::new(&storage);
        for number in 0..10 {
            bench.write(&format!("{number}.sst"), format!("content {number}").as_bytes());
        }
        let uploaded = bench.upload(1, &Known::nothing()).await.expect("stored");
        bench.comes_back(&uploaded.files).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_or_altered_file_is_an_error_that_names_it() {
    on_every_store(|storage| async move {
        let mut bench = Bench::new(&storage);
        bench.write("good", b"good");
        bench.write("000001.sst", b"content");
        let files = bench.upload(1, &Known::nothing()).await.expect("stored").files;
        let file = files.iter().find(|file| file.name == "000001.sst").expect("it is there");
        let key = Layout::of(&job()).expect("a good id").file(file.key());
        let target = tempfile::tempdir().expect("a temporary directory");
        for (what, content) in [("short", "conten"), ("altered", "cOntent"), ("long", "content+"), ("empty", "")] {
            storage.put(&key, content.into()).await.expect("replaced");
            let error =
                bench.files.download(std::slice::from_ref(file), target.path()).await.expect_err(what).to_string();
            assert!(error.contains(key.as_str()), "{what}: {error}");
            assert!(!target.path().join("000001.sst").exists(), "{what}: it is left there");
        }
        storage.delete(std::slice::from_ref(&key)).await.expect("removed");
        let error = bench.files.download(&files, target.path()).await.expect_err("missing");
        assert!(matches!(&error, FileError::Storage(StorageError::NotFound { .. })), "{error}");
        assert!(error.to_string().contains(key.as_str()), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_download_writes_over_nothing_and_outside_of_nothing() {
    let storage = Storage::in_memory();
    let mut bench = Bench::new(&storage);
    bench.write("a", b"a");
    let files = bench.upload(1, &Known::nothing()).await.expect("stored").files;
    let error = bench.files.download(&files, bench.folder.path()).await.expect_err("it is there");
    assert!(matches!(error, FileError::Local { .. }), "{error}");
    assert_eq!(fs::read(bench.folder.path().join("a")).expect("read"), b"a");
    for name in ["../a", "/a", "..", "a/b", ""] {
        let file = FileRef { name: name.into(), ..files[0].clone() };
        let target = tempfile::tempdir().expect("a temporary directory");
        let error = bench.files.download(&[file], target.path()).await.expect_err(name);
        assert!(matches!(error, FileError::Name(_)), "{error}");
    }
}

#[tokio::test]
async fn a_folder_holds_files_only() {
    let storage = Storage::in_memory();
    let mut bench = Bench::new(&storage);
    fs::create_dir(bench.folder.path().join("sub")).expect("made");
    assert!(matches!(bench.upload(1, &Known::nothing()).await, Err(FileError::NotAFile(_))));
    fs::remove_dir(bench.folder.path().join("sub")).expect("removed");
    std::os::unix::fs::symlink("/etc/hostname", bench.folder.path().join("link")).expect("made");
    assert!(matches!(bench.upload(1, &Known::nothing()).await, Err(FileError::NotAFile(_))));
    fs::remove_file(bench.folder.path().join("link")).expect("removed");
    bench.write("a b", b"");
    assert!(matches!(bench.upload(1, &Known::nothing()).await, Err(FileError::Name(_))));
    fs::remove_file(bench.folder.path().join("a b")).expect("removed");
    assert_eq!(bench.upload(1, &Known::nothing()).await.expect("empty"), Uploaded::default());
}
