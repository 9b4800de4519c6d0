#!/usr/bin/env bash
# object_store 0.14.2 (Rust).
# Guess: `parse_url_opts(url, options)` refuses an option that it does not know, or at least the options of a URL are those with the
#   store's own prefix.
# Really: unknown names are dropped in silence, a misspelt one and a real setting of the client (`max_retries`) alike, while bare
#   names count: `endpoint`, `bucket`, `token`, `timeout` without any `aws_`.
# Hurt: whoever passes user settings through: a typo means defaults. Whoever passes the environment through:
#   the ENDPOINT of another program redirects the requests.
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
url = "2"
TOML
cat > src/main.rs <<'RUST'
use object_store::parse_url_opts;
use url::Url;

/// How the store of this option shows itself, or the error.
fn built(name: &str, value: &str) -> Result<String, String> {
    let url = Url::parse("s3://bucket/prefix").expect("a URL");
    let options = [("aws_access_key_id", "fake"), ("aws_secret_access_key", "fake"), ("aws_region", "region"), (name, value)];
    parse_url_opts(&url, options).map(|(store, _)| format!("{store:?}")).map_err(|error| error.to_string())
}

fn main() {
    let plain = built("aws_region", "region").expect("a store");
    let mut held = true;
    for (name, value) in [("aws_endpont", "http://127.0.0.1:9"), ("max_retries", "none at all"), ("fsync", "true")] {
        let same = built(name, value).as_ref() == Ok(&plain);
        println!("{name}={value}: Ok, and the same store as without it: {same}");
        held &= same;
    }
    let endpoint = built("ENDPOINT", "http://127.0.0.1:9").expect("a store");
    println!("ENDPOINT (of any program): used as the endpoint: {}", endpoint.contains("127.0.0.1:9"));
    let timeout = built("TIMEOUT", "30");
    println!("TIMEOUT=30 (of any program): {}", timeout.as_ref().expect_err("refused"));
    std::process::exit(i32::from(!held || !endpoint.contains("127.0.0.1:9")));
}
RUST
cargo run --quiet
# Seen:
#   aws_endpont=http://127.0.0.1:9: Ok, and the same store as without it: true
#   max_retries=none at all: Ok, and the same store as without it: true
#   fsync=true: Ok, and the same store as without it: true
#   ENDPOINT (of any program): used as the endpoint: true
#   TIMEOUT=30 (of any program): Generic Config error: failed to parse "30" as Duration
