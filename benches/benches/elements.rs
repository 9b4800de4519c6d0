//! Splitting, walking, building and partitioning elements.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ferrobeam_benches::{Shape, shapes};
use ferrobeam_runner::element::{Batch, BatchBuilder, Splitter, key_hash};

const ELEMENTS: u64 = 50_000;

fn batch(shape: &Shape) -> Batch {
    let batch = Splitter::new(shape.coder.clone()).push(shape.chunk(ELEMENTS)).expect("well-formed elements");
    batch.expect("whole elements")
}

/// What arrives from a harness becomes a batch.
fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Elements(ELEMENTS));
    for shape in shapes() {
        let chunk = shape.chunk(ELEMENTS);
        let mut splitter = Splitter::new(shape.coder.clone());
        group.bench_function(BenchmarkId::from_parameter(shape.name), |bencher| {
            bencher.iter(|| splitter.push(black_box(chunk.clone())));
        });
    }
}

/// The interpreter of coders, without the loops made for common ones.
fn skip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("skip");
    group.throughput(Throughput::Elements(ELEMENTS));
    for shape in shapes() {
        let chunk = shape.chunk(ELEMENTS);
        group.bench_function(BenchmarkId::from_parameter(shape.name), |bencher| {
            bencher.iter(|| {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let length = shape.coder.skip(black_box(rest)).expect("well-formed elements");
                    rest = &rest[length..];
                }
            });
        });
    }
}

/// Elements copied one by one into a new batch.
fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.throughput(Throughput::Elements(ELEMENTS));
    for shape in shapes() {
        let batch = batch(&shape);
        let mut builder = BatchBuilder::new();
        group.bench_function(BenchmarkId::from_parameter(shape.name), |bencher| {
            bencher.iter(|| {
                for element in batch.elements() {
                    builder.push(black_box(element), batch.min_timestamp());
                }
                builder.finish()
            });
        });
    }
}

/// What an exchange by key does: take apart, hash, copy to the worker's batch.
fn partition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("partition_by_key");
    group.throughput(Throughput::Elements(ELEMENTS));
    for shape in shapes().into_iter().filter(|shape| shape.name.starts_with("kv")) {
        let batch = batch(&shape);
        for workers in [2, 16] {
            group.bench_function(BenchmarkId::new(shape.name, workers), |bencher| {
                bencher.iter_batched_ref(
                    || (0..workers).map(|_| BatchBuilder::new()).collect::<Vec<_>>(),
                    |parts| {
                        for element in batch.elements() {
                            let view = shape.coder.parse(element).expect("well-formed elements");
                            let (key, _) = shape.coder.value.key_value(view.value).expect("pairs");
                            let target = (key_hash(key) % workers) as usize;
                            parts[target].push(element, view.timestamp);
                        }
                        parts.iter_mut().map(BatchBuilder::finish).collect::<Vec<_>>()
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = split, skip, build, partition
}
criterion_main!(benches);
