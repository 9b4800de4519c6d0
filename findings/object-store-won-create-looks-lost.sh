#!/usr/bin/env bash
# object_store 0.14.2 (Rust), AmazonS3.
# Guess: `PutMode::Create` answers AlreadyExists when ANOTHER writer has made the object, so a lock or lease taken by it was lost.
# Really: if the server stores the object and then answers 503, the client sends the same
#   conditional put again by itself, finds its own object, and says AlreadyExists.
# Hurt: leader election, fencing and commit logs on object stores: the winner believes that it lost, nobody leads, an epoch is
#   skipped. Put a nonce in the body and read it back before believing AlreadyExists.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
object_store = { version = "=0.14.2", features = ["aws"] }
tokio = { version = "1", features = ["rt-multi-thread", "macros"] }
TOML
cat > src/main.rs <<'RUST'
use object_store::{aws::AmazonS3Builder, path::Path, Error, ObjectStore, ObjectStoreExt, PutMode};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// An S3 of one bucket on this machine: keeps conditional puts right, but its first answer to a put is 503.
fn serve(listener: TcpListener, log: Arc<Mutex<Vec<String>>>) {
    let mut stored = None;
    for stream in listener.incoming() {
        let mut reader = BufReader::new(stream.expect("a connection"));
        let (mut line, mut length, mut create) = (String::new(), 0, false);
        let mut request = String::new();
        while reader.read_line(&mut line).expect("a line") > 2 {
            let lower = line.to_ascii_lowercase();
            if request.is_empty() {
                request = line.clone();
            }
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            create |= lower.starts_with("if-none-match: *");
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let (status, answer) = if request.starts_with("GET") {
            ("200 OK", stored.clone().expect("an object"))
        } else if create && stored.is_some() {
            ("412 Precondition Failed", Vec::new())
        } else {
            stored = Some(body);
            ("503 Service Unavailable", Vec::new())
        };
        log.lock().expect("the log").push(format!("{} -> {}", &request[..3], &status[..3]));
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"1\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        let stream = reader.get_mut();
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer)).expect("an answer");
    }
}

#[tokio::main]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let log = Arc::new(Mutex::new(Vec::new()));
    std::thread::spawn({
        let log = log.clone();
        move || serve(listener, log)
    });
    let store = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name("bucket")
        .with_region("region")
        .with_access_key_id("fake")
        .with_secret_access_key("fake")
        .build()
        .expect("a store");
    let path = Path::from("lease");
    let created = store.put_opts(&path, "holder: me".into(), PutMode::Create.into()).await;
    let holder = store.get(&path).await.expect("the object").bytes().await.expect("its bytes");
    let log = log.lock().expect("the log").join(", ");
    println!("on the wire: {log}\nCreate says: {}", created.as_ref().map(|_| "Ok").unwrap_or("an error"));
    println!("AlreadyExists: {}, stored: {holder:?}", matches!(created, Err(Error::AlreadyExists { .. })));
    let held = matches!(created, Err(Error::AlreadyExists { .. })) && log.starts_with("PUT -> 503, PUT -> 412");
    std::process::exit(i32::from(!held || &holder[..] != b"holder: me"));
}
RUST
cargo run --quiet
# Seen:
#   on the wire: PUT -> 503, PUT -> 412, GET -> 200
#   Create says: an error
#   AlreadyExists: true, stored: b"holder: me"
