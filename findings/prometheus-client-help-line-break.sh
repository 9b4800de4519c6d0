#!/usr/bin/env bash
# prometheus-client 0.26.0 (Rust), read by prometheus_client 0.23.1 (Python's OpenMetrics parser).
# Guess: the encoder escapes what OpenMetrics wants escaped, in help texts as in label values.
# Really: label values are escaped, help texts are written as they are. A line break in one makes the page invalid, and a scrape
#   takes the page whole or not at all.
# Hurt: help texts made from anything not written by hand: one description with a line break and ALL metrics of the process are
#   gone, while the endpoint answers 200.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet prometheus_client==0.23.1
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
prometheus-client = "=0.26.0"
TOML
cat > src/main.rs <<'RUST'
use prometheus_client::{encoding::text::encode, metrics::family::Family, metrics::gauge::Gauge, registry::Registry};

fn page(help: &str) -> String {
    let gauge = Family::<Vec<(String, String)>, Gauge>::default();
    gauge.get_or_create(&vec![("stage".to_owned(), "two\nlines".to_owned())]).set(1);
    let mut registry = Registry::default();
    registry.register("lag", help, gauge);
    let mut page = String::new();
    encode(&mut page, &registry).expect("a page");
    page
}

fn main() {
    std::fs::write("one-line", page("Records behind")).expect("a file");
    std::fs::write("two-lines", page("Records behind\nthe newest")).expect("a file");
}
RUST
cargo run --quiet
cat > finding.py <<'PYTHON'
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def read(name):
    with open(name, newline="") as page:
        text = page.read()
    print(text, end="")
    try:
        families = list(text_string_to_metric_families(text))
        print("-> read:", families[0].samples[0].labels)
        return True
    except ValueError as error:
        print("-> refused:", error)
        return False


raise SystemExit([read("one-line"), read("two-lines")] != [True, False])
PYTHON
venv/bin/python finding.py
# Seen, of the second page:
#   # HELP lag Records behind
#   the newest.
#   # TYPE lag gauge
#   lag{stage="two\nlines"} 1
#   # EOF
#   -> refused: could not convert string to float: 'newest.'
