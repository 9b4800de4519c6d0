#!/usr/bin/env bash
# timely 0.32.0 (Rust).
# Guess: `Activator::activate_after` asks for one wake-up of an operator, so asking again for the same moment, or for a
#   later one while an earlier is pending, costs nothing.
# Really: each call puts one more entry, with its own copy of the operator's address, on a heap, which only the passing
#   of its deadline takes away. Nothing is merged and nothing can be cancelled.
# Hurt: an operator that asks "wake me at my next timer" each time it runs: with a timer an hour away its worker
#   grows by about 80 bytes at every activation, for an hour.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
timely = "=0.32.0"
TOML
cat > src/main.rs <<'RUST'
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use timely::dataflow::operators::Input;

/// Counts what is allocated and not yet freed.
struct Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        System.alloc(layout)
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        System.dealloc(at, layout)
    }
}
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes still held after `calls` requests for the same hour and a step of the worker after each.
fn held(calls: usize) -> usize {
    timely::execute_directly(move |worker| {
        let (_input, activator) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, _stream) = scope.new_input::<Vec<u64>>();
            (input, scope.activator_for([0, 1].as_slice().into()))
        });
        let before = LIVE.load(Relaxed);
        for _ in 0..calls {
            activator.activate_after(Duration::from_secs(3600));
            worker.step();
        }
        LIVE.load(Relaxed) - before
    })
}

fn main() {
    let (few, many) = (held(10_000), held(160_000));
    println!("10,000 calls hold {few} bytes, 160,000 calls hold {many}");
    std::process::exit(i32::from(many < few * 8));
}
RUST
cargo run --quiet
# Seen: 10,000 calls hold 815424 bytes, 160,000 calls hold 13045824
