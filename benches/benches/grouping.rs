//! Grouping by key: gathering, giving out, spilling; and looking up a side input.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ferrobeam_benches::Words;
use ferrobeam_runner::element::{BatchBuilder, PANE_NO_FIRING, encode_windowed_value};
use ferrobeam_runner::grouping::{GroupBuffer, Groups};
use ferrobeam_runner::memory::Budget;
use ferrobeam_runner::plan::Access;
use ferrobeam_runner::side_input::SideInputTable;
use ferrobeam_runner::time::Timestamp;

const PAIRS: u64 = 1_000_000;

fn gather(budget: &Budget, words: Words) -> Groups {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut buffer = GroupBuffer::new(budget);
    for number in 0..PAIRS {
        words.pair(number, &mut key, &mut value);
        buffer.add(&key, b"", Timestamp(0), &value).expect("there is room on the disk");
    }
    buffer.finish().expect("the runs are readable")
}

/// Takes every value; gives how many there were.
fn drain(mut groups: Groups) -> u64 {
    let mut values = 0;
    while let Some(group) = groups.next().expect("the runs are readable") {
        for window in group.windows {
            let mut cursor = window.values.cursor();
            while let Some((page, count)) = cursor.next_page(1 << 20).expect("the runs are readable") {
                black_box(page);
                values += count;
            }
        }
    }
    values
}

/// A million pairs gathered and given out, in memory and with about a dozen runs.
fn group(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut group = criterion.benchmark_group("group_by_key");
    group.throughput(Throughput::Elements(PAIRS));
    for keys in [100, 30_000, PAIRS] {
        let words = Words { keys };
        let place = [("memory", usize::MAX), ("spilled", if keys == PAIRS { 16 << 20 } else { 1 << 20 })];
        for (place, limit) in place {
            let budget = Budget::new(limit, folder.path());
            group.bench_function(BenchmarkId::new(place, keys), |bencher| {
                bencher.iter(|| assert_eq!(drain(gather(&budget, words)), PAIRS));
            });
        }
    }
}

/// Lookups by key in a multimap of 300,000 keys.
fn look_up(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let words = Words { keys: u64::MAX };
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut batch = BatchBuilder::new();
    for number in 0..300_000 {
        words.pair(number, &mut key, &mut value);
        let pair = [&key[..], &value[..]].concat();
        batch.push_with(Timestamp(0), |out| encode_windowed_value(out, Timestamp(0), &[b""], PANE_NO_FIRING, &pair));
    }
    let batch = batch.finish();
    let mut group = criterion.benchmark_group("side_input");
    for (place, limit) in [("memory", usize::MAX), ("disk", 1 << 20)] {
        let budget = Budget::new(limit, folder.path());
        let fill = || {
            let table = SideInputTable::new(&budget, Access::Multimap, Words::coder());
            table.append(&batch).expect("well-formed elements");
            table.freeze().expect("the runs are readable");
            table
        };
        group.throughput(Throughput::Elements(batch.len() as u64));
        group.bench_function(BenchmarkId::new("fill", place), |bencher| bencher.iter(fill));
        let table = fill();
        let mut number = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("look_up", place), |bencher| {
            bencher.iter(|| {
                number = (number + 7919) % 300_000;
                words.pair(number, &mut key, &mut value);
                let page = table.values_of(b"", &key, b"").expect("a readable table");
                assert_eq!(page.data, value);
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = group, look_up
}
criterion_main!(benches);
