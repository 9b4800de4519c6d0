#!/usr/bin/env bash
# object_store 0.14.2 (Rust), LocalFileSystem.
# Guess: a key that one store takes, all take; a local store stands in for S3 in tests.
# Really: names that end in `#` and digits are the local store's own staging files. put, get and delete of such a key are
#   refused, and list() leaves such files out, so what a killed writer left behind can be neither seen nor removed by it.
# Hurt: keys built from user names ("run#3"): fine in memory and on S3, an error on disk. And a sweeper of orphans by list():
#   it never finds the leftovers, which must be swept by the file system itself.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
mkdir src data
cat > Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
futures = "0.3"
object_store = "=0.14.2"
tokio = { version = "1", features = ["rt", "macros"] }
TOML
cat > src/main.rs <<'RUST'
use futures::TryStreamExt;
use object_store::{local::LocalFileSystem, memory::InMemory, path::Path, ObjectStore, ObjectStoreExt};

async fn put(store: &dyn ObjectStore, key: &str) -> Result<(), object_store::Error> {
    store.put(&Path::parse(key)?, "x".into()).await.map(|_| ())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let local = LocalFileSystem::new_with_prefix("data").expect("a store");
    let memory = put(&InMemory::new(), "run#3").await;
    let refused = put(&local, "run#3").await;
    let letters = put(&local, "run#c").await;
    println!("memory takes run#3: {memory:?}\nlocal run#c: {letters:?}\nlocal run#3: {}", refused.as_ref().unwrap_err());
    // What a writer that was killed in the middle of a put leaves.
    std::fs::write("data/object#1", "half").expect("a file");
    let listed: Vec<_> = local.list(None).try_collect().await.expect("a list");
    let names: Vec<_> = listed.iter().map(|object| object.location.to_string()).collect();
    let deleted = local.delete(&Path::parse("object#1").expect("a path")).await;
    println!("listed: {names:?}, object#1 is on disk: {}", std::path::Path::new("data/object#1").exists());
    println!("delete of object#1: {}", deleted.as_ref().unwrap_err());
    let held = memory.is_ok() && letters.is_ok() && refused.is_err() && deleted.is_err() && names == ["run#c"];
    std::process::exit(i32::from(!held));
}
RUST
cargo run --quiet
# Seen:
#   memory takes run#3: Ok(())
#   local run#c: Ok(())
#   local run#3: Generic LocalFileSystem error: Filenames containing trailing '/#\d+/' are not supported: run#3
#   listed: ["run#c"], object#1 is on disk: true
#   delete of object#1: Generic LocalFileSystem error: Filenames containing trailing '/#\d+/' are not supported: object#1
