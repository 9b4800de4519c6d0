#!/usr/bin/env bash
# object_store 0.14.2 (Rust), LocalFileSystem.
# Guess: `complete()` of a multipart upload fails when a part was never written, as S3 and Azure do ("missing part").
# Really: parts are written at their offsets into one staging file, and complete() only renames it. A part whose future was
#   dropped is a run of zeros, and when it was the last one the object is just shorter; both are Ok.
# Hurt: whoever tests against local files and trusts complete(): a cancelled part (a timeout around put_part, a select that
#   moved on) becomes a published object with a hole. Abort after any part that failed, compare the length and a hash.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
object_store = "=0.14.2"
tokio = { version = "1", features = ["rt", "macros"] }
TOML
cat > src/main.rs <<'RUST'
use object_store::{local::LocalFileSystem, path::Path, ObjectStore, ObjectStoreExt};

/// Uploads three parts of four bytes, dropping the future of one unpolled, and gives what is there after complete().
async fn upload(store: &LocalFileSystem, dropped: usize) -> Result<Vec<u8>, object_store::Error> {
    let path = Path::from(format!("object-{dropped}"));
    let mut upload = store.put_multipart(&path).await?;
    for (at, part) in ["aaaa", "bbbb", "cccc"].into_iter().enumerate() {
        let put = upload.put_part(part.into());
        if at != dropped {
            put.await?;
        }
    }
    upload.complete().await?;
    Ok(store.get(&path).await?.bytes().await?.to_vec())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let store = LocalFileSystem::new_with_prefix(".").expect("a store");
    let second = upload(&store, 1).await.expect("complete() is Ok without the second part");
    let last = upload(&store, 2).await.expect("complete() is Ok without the last part");
    println!("second part dropped: Ok, {:?}", String::from_utf8_lossy(&second));
    println!("last part dropped: Ok, {:?}", String::from_utf8_lossy(&last));
    std::process::exit(i32::from(second != b"aaaa\0\0\0\0cccc" || last != b"aaaabbbb"));
}
RUST
cargo run --quiet
# Seen:
#   second part dropped: Ok, "aaaa\0\0\0\0cccc"
#   last part dropped: Ok, "aaaabbbb"
