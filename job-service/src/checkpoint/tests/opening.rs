use super::*;

fn refusal(url: &str) -> OpenError {
    match Storage::open(url, &Options::none()) {
        Err(error) => error,
        Ok(storage) => panic!("{url} is opened: {storage:?}"),
    }
}

#[test]
fn what_is_no_store_is_refused_with_what_is() {
    for url in
        ["s3n://b/x", "http://127.0.0.1/x", "https://x.s3.amazonaws.com/", "memory:///", "hdfs://x/y", "adl://x/y"]
    {
        let error = refusal(url);
        assert!(matches!(error, OpenError::Scheme { .. }), "{error}");
        assert!(error.to_string().contains("s3://") && error.to_string().contains(url), "{error}");
    }
    for url in ["", "/tmp/x", "checkpoints", "s3:///x", "file://host/x", "s3://b/x?y=1", "s3://b/x#y", "s3://u@b/x"] {
        let error = refusal(url);
        assert!(matches!(error, OpenError::Url { .. }), "{url}: {error}");
    }
}

#[test]
fn a_path_that_stores_take_differently_is_refused() {
    for url in [
        "s3://b//x",
        "s3://b/x//y",
        "s3://b/x//",
        "gs://b/a%2Fb",
        "az://c/a b",
        "s3://b/a/%2e%2e/b",
        "file:///tmp//x",
        "file:///a/../b",
        "s3://b/.",
    ] {
        let error = refusal(url);
        assert!(matches!(error, OpenError::Path { .. }), "{url}: {error}");
    }
}

#[test]
fn secrets_of_a_url_are_not_shown() {
    for url in ["s3://user:hush@b/x", "s3://b/x?sig=hush", "az://b/x#hush", "hush@::", "x y?hush"] {
        let error = refusal(url).to_string();
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn an_option_of_another_store_or_of_none_is_refused() {
    let options = Options::none().with("GOOGLE_BEARER_TOKEN", "x").expect("once");
    let error = Storage::open("s3://b/x", &options).expect_err("not of Amazon").to_string();
    assert!(error.contains("GOOGLE_BEARER_TOKEN") && error.contains("AWS_REGION"), "{error}");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let url = url::Url::from_directory_path(folder.path()).expect("a path");
    let error = Storage::open(url.as_str(), &options).expect_err("not of files").to_string();
    assert!(error.contains("GOOGLE_BEARER_TOKEN"), "{error}");
}

#[test]
fn a_value_that_the_client_does_not_take_is_told() {
    let options = Options::none().with("AWS_TIMEOUT", "30").expect("once");
    let error = Storage::open("s3://b/x", &options).expect_err("30 of what").to_string();
    assert!(error.contains("s3://b/x") && error.contains("30"), "{error}");
}

#[test]
fn every_scheme_opens() {
    let amazon = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_REGION", "r")];
    let google = [("GOOGLE_BEARER_TOKEN", "hush")];
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "x"), ("AZURE_STORAGE_ACCOUNT_KEY", "aHVzaA==")];
    let stores: [(&str, &[(&str, &str)]); 6] = [
        ("s3://b", &amazon),
        ("s3a://b/x/y/", &amazon),
        ("gs://b/x", &google),
        ("az://c/x", &azure),
        ("abfs://c/x", &azure),
        ("abfss://c@x.dfs.core.windows.net/x", &azure),
    ];
    for (url, options) in stores {
        let options = options.iter().fold(Options::none(), |all, (name, value)| all.with(name, value).expect("once"));
        let storage = Storage::open(url, &options).unwrap_or_else(|e| panic!("{url}: {e}"));
        assert_eq!(storage.url(), url);
        let shown = format!("{storage:?}");
        assert!(!shown.contains("hush") && !shown.contains("aHVzaA"), "{shown}");
    }
}

#[test]
fn a_folder_is_made_and_synced() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let folder = parent.path().join("a b").join("c");
    let storage = local(&folder);
    assert!(folder.is_dir());
    // The client syncs nothing unless it is told to, and has no option for it.
    assert!(format!("{:?}", storage.client()).contains("fsync: true"));
    let file = parent.path().join("file");
    std::fs::write(&file, b"").expect("made");
    let url = url::Url::from_directory_path(&file).expect("a path");
    let error = Storage::open(url.as_str(), &Options::none()).expect_err("a file").to_string();
    assert!(error.contains("file"), "{error}");
}

#[test]
fn records_of_jobs_are_for_no_other_user() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a folder");
    let storage = Storage::open(&format!("file://{}", folder.path().display()), &Options::none()).expect("a storage");
    storage.keep_records_private().expect("a folder");
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    let records = folder.path().join(".service");
    assert_eq!(mode(&records), 0o700);
    // Its owner has the last word.
    std::fs::set_permissions(&records, PermissionsExt::from_mode(0o750)).expect("it is ours");
    storage.keep_records_private().expect("it is there");
    assert_eq!(mode(&records), 0o750);
    Storage::in_memory().keep_records_private().expect("nothing to do");
}
