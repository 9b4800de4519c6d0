use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::task::JoinSet;

use super::*;
use crate::checkpoint::faults::NotAtomic;

fn key(name: &str) -> Key {
    Key::test(name)
}

fn body(text: &str) -> Sealed {
    Sealed::new(Nonce::new(), &text).expect("it is JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_written_read_listed_and_removed() {
    on_every_store(|storage| async move {
        for name in ["f/10", "f/2", "f/1", "f+/1", "g/1"] {
            storage.put(&key(name), Bytes::from(name.to_owned())).await.expect("written");
        }
        storage.put(&key("f/2"), Bytes::from_static(b"another")).await.expect("written over");
        assert_eq!(storage.get(&key("f/2"), 7).await.expect("read"), "another");
        assert_eq!(storage.length(&key("f/2")).await.expect("seen"), 7);
        let listed = |name: &str, bytes| Listed { key: key(name), bytes };
        let expected = [listed("f/1", 3), listed("f/10", 4), listed("f/2", 7)];
        assert_eq!(storage.list(&key("f")).await.expect("listed"), expected);
        assert_eq!(storage.list(&key("none")).await.expect("an empty folder"), []);
        assert!(matches!(storage.get(&key("f/2"), 6).await, Err(StorageError::TooLong { limit: 6, .. })));
        assert!(storage.get(&key("f/3"), 6).await.expect_err("absent").is_not_found());
        assert!(storage.length(&key("f/3")).await.expect_err("absent").is_not_found());
        let gone = ["f/0", "f/1", "f/10", "f/99"].map(key);
        storage.delete(&gone).await.expect("what is gone is no error");
        assert_eq!(storage.list(&key("f")).await.expect("listed"), [listed("f/2", 7)]);
        storage.delete(&[]).await.expect("nothing to do");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_checked() {
    on_every_store(|storage| async move {
        for length in [0, 1, 3 << 20] {
            let bytes = Bytes::from(vec![7; length]);
            let hash = ContentHash::of(&bytes);
            storage.put(&key("f/x"), bytes.clone()).await.expect("written");
            let length = length as u64;
            storage.get_checked(&key("f/x"), length, hash, None).await.expect("it is as written");
            let error = storage.get_checked(&key("f/x"), length + 1, hash, None).await.expect_err("short");
            assert!(matches!(error, StorageError::Length { .. }) && error.is_damage(), "{error}");
            let error = storage.get_checked(&key("f/x"), length, ContentHash::of(b"y"), None).await.expect_err("other");
            assert!(matches!(error, StorageError::Altered { .. }) && error.is_damage(), "{error}");
            assert!(error.to_string().contains("f/x"), "{error}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_created_once() {
    on_every_store(|storage| async move {
        let (ours, theirs) = (body("ours"), body("theirs"));
        assert!(matches!(storage.create_once(&key("m/1"), &ours).await, Claim::Won));
        assert!(matches!(storage.create_once(&key("m/1"), &ours).await, Claim::Won), "the same bytes win again");
        let Claim::Lost { held: Some(held) } = storage.create_once(&key("m/1"), &theirs).await else { panic!("lost") };
        assert_eq!(held, ours.bytes());
        assert_eq!(storage.get(&key("m/1"), 1 << 20).await.expect("read"), ours.bytes());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_create_one_wins() {
    on_every_store(|storage| async move {
        for round in 0..4 {
            let at = key(&format!("m/{round}"));
            let mut race = JoinSet::new();
            for writer in 0..16 {
                let (storage, at) = (storage.clone(), at.clone());
                let body = body(&format!("{writer}{}", " ".repeat(100_000)));
                race.spawn(async move { (storage.create_once(&at, &body).await, body) });
            }
            let told = race.join_all().await;
            let held = storage.get(&at, 1 << 20).await.expect("one won");
            for (claim, body) in &told {
                match claim {
                    Claim::Won => assert_eq!(body.bytes(), &held),
                    Claim::Lost { held: theirs } => assert_eq!(theirs.as_ref(), Some(&held)),
                    Claim::Unknown(error) => panic!("{error}"),
                }
            }
            assert_eq!(told.iter().filter(|(claim, _)| matches!(claim, Claim::Won)).count(), 1);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_atomic_creates_passes_the_probe() {
    on_every_store(|storage| async move {
        storage.probe().await.expect("it is atomic");
        assert_eq!(storage.list(&key(".probe")).await.expect("listed"), [], "the probe leaves nothing");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loses_races_fails_the_probe() {
    let storage = Storage::over(Arc::new(NotAtomic(Arc::new(InMemory::new()))), limits());
    // In turn it looks right.
    assert!(matches!(storage.create_once(&key("m/1"), &body("a")).await, Claim::Won));
    assert!(matches!(storage.create_once(&key("m/1"), &body("b")).await, Claim::Lost { .. }));
    let error = storage.probe().await.expect_err("it is not atomic");
    assert!(matches!(error, StorageError::NotAtomic { .. }), "{error}");
    assert!(error.to_string().contains("If-None-Match"), "{error}");
    assert_eq!(storage.list(&key(".probe")).await.expect("listed"), [], "the probe leaves nothing");
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_in_time_and_is_unknown() {
    let rates = Rates { hangs: 1000, ..Rates::default() };
    let storage = Storage::over(
        Faulty::new(Arc::new(InMemory::new()), rates, 1),
        Limits { operation: Duration::from_millis(20), attempts: 2, ..limits() },
    );
    assert!(matches!(storage.put(&key("f/x"), Bytes::new()).await, Err(StorageError::Late { .. })));
    assert!(matches!(storage.create_once(&key("f/x"), &body("x")).await, Claim::Unknown(StorageError::Late { .. })));
}

/// What versitygw says when the key lies below another object.
#[tokio::test]
async fn already_exists_from_a_plain_put_is_an_error() {
    let (storage, _) = faulty(Rates { plain_exists: 1000, ..Rates::default() }, 1);
    let error = storage.put(&key("f/x"), Bytes::new()).await.expect_err("not stored");
    assert!(matches!(error, StorageError::Store { action: "writing", .. }), "{error}");
}

#[tokio::test]
async fn a_key_below_an_object_is_an_error_of_the_local_store() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let storage = local(folder.path());
    storage.put(&key("f/x"), Bytes::new()).await.expect("written");
    assert!(storage.put(&key("f/x/y"), Bytes::new()).await.is_err());
}

#[tokio::test]
async fn a_name_that_no_path_has_is_an_error() {
    let storage = Storage::in_memory();
    let error = storage.put(&key("f//x"), Bytes::new()).await.expect_err("an empty part");
    assert!(error.to_string().contains("f//x"), "{error}");
}

#[tokio::test]
async fn leftovers_of_the_local_store_are_swept() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let storage = local(folder.path());
    storage.put(&key("f/1"), Bytes::from_static(b"1")).await.expect("written");
    for name in ["1#1", "2#10", "2#x", "#1", "3#"] {
        std::fs::write(folder.path().join("f").join(name), b"half").expect("it is made");
    }
    assert_eq!(storage.list(&key("f")).await.expect("listed").first().map(|l| l.key.clone()), Some(key("f/1")));
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(storage.sweep(&key("f"), old).await.expect("swept"), 0, "a young one may be on its way");
    let now = std::time::SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(storage.sweep(&key("f"), now).await.expect("swept"), 2);
    assert_eq!(storage.sweep(&key("none"), now).await.expect("no folder"), 0);
    let mut left: Vec<_> = std::fs::read_dir(folder.path().join("f")).expect("it is there").collect();
    left.sort_by_key(|entry| entry.as_ref().expect("an entry").file_name());
    let left: Vec<_> = left.into_iter().map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(left, ["#1", "1", "2#x", "3#"]);
}

/// The library's own way to leave one: an upload in parts that nobody ends.
#[tokio::test]
async fn an_upload_that_was_killed_is_invisible_and_swept() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let storage = local(folder.path());
    let client = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).expect("a folder");
    let mut upload = client.put_multipart(&ObjectPath::from("f/1")).await.expect("begun");
    upload.put_part(Bytes::from_static(b"half").into()).await.expect("sent");
    std::mem::forget(upload);
    assert_eq!(storage.list(&key("f")).await.expect("listed"), []);
    let now = std::time::SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(storage.sweep(&key("f"), now).await.expect("swept"), 1);
}

/// Every fault at once, many seeds. What writers are told is compared with what stands there in the end.
#[test]
fn no_two_writers_win_and_no_winner_is_told_that_it_lost() {
    let (mut won, mut lost, mut unknown) = (0, 0, 0);
    for seed in 0..2000 {
        on_one_thread(async {
            let rates = Rates {
                fails: 150,
                done_but_failed: 150,
                lies_exists: 100,
                done_but_exists: 100,
                late: 150,
                yields: 6,
                ..Rates::default()
            };
            let (storage, truth) = faulty(rates, seed);
            let storage = storage.with_limits(Limits { pause: Duration::ZERO, attempts: 2, ..limits() });
            let mut race = JoinSet::new();
            for writer in 0..4 {
                let (storage, body) = (storage.clone(), body(&format!("writer {writer}")));
                race.spawn(async move {
                    let mut claim = storage.create_once(&key("m/1"), &body).await;
                    if matches!(claim, Claim::Unknown(_)) {
                        claim = storage.create_once(&key("m/1"), &body).await;
                    }
                    (claim, body)
                });
            }
            let told = race.join_all().await;
            // What is late comes.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            let held = truth.get(&key("m/1"), 1 << 20).await.ok();
            for (claim, body) in &told {
                match claim {
                    Claim::Won => {
                        won += 1;
                        assert_eq!(Some(body.bytes()), held.as_ref(), "seed {seed}: it won and is not there");
                    }
                    Claim::Lost { held: theirs } => {
                        lost += 1;
                        assert_ne!(Some(body.bytes()), held.as_ref(), "seed {seed}: it lost and is there");
                        assert_eq!(theirs, &held, "seed {seed}");
                    }
                    Claim::Unknown(_) => unknown += 1,
                }
            }
        });
    }
    assert!(won > 1000 && lost > 1000 && unknown > 10, "{won} won, {lost} lost, {unknown} do not know");
}

#[test]
fn the_test_of_faults_has_a_store_that_fails() {
    on_one_thread(async {
        let (_, truth) = faulty(Rates::default(), 1);
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = Faulty::new(inner, Rates { fails: 1000, ..Rates::default() }, 1);
        assert!(Storage::over(store, limits()).put(&key("f/x"), Bytes::new()).await.is_err());
        truth.put(&key("f/x"), Bytes::new()).await.expect("without faults nothing fails");
    });
}
