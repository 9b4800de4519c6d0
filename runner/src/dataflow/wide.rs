//! Plans with very many branches, and very long ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::proof::{Logic, collection, job, stage, topologies};
use super::run;
use crate::element::WireCoder;
use crate::plan::{CollectionId, Node, Plan, StageId, TestEvent, TestEvents};

/// Branches of an impulse and a stage.
fn wide(branches: u32) -> Plan {
    let mut plan = Plan { collections: vec![], nodes: vec![], stages: vec![], environments: vec![] };
    for n in 0..branches {
        plan.collections.push(collection(&format!("c{n}"), WireCoder::Prefixed));
        plan.nodes.push(Node::Impulse { output: CollectionId(n) });
        plan.nodes.push(Node::Stage(StageId(n)));
        plan.stages.push(stage(&format!("s{n}"), n, &[]));
    }
    plan
}

/// Stages in a row, with a redistribution between two.
fn long(stages: u32) -> Plan {
    let mut plan = Plan { collections: vec![], nodes: vec![], stages: vec![], environments: vec![] };
    plan.nodes.push(Node::Impulse { output: CollectionId(0) });
    for n in 0..stages {
        plan.collections.push(collection(&format!("a{n}"), WireCoder::Prefixed));
        plan.collections.push(collection(&format!("b{n}"), WireCoder::Prefixed));
        plan.nodes.push(Node::Stage(StageId(n)));
        let mut next = stage(&format!("s{n}"), 2 * n, &[2 * n + 1]);
        if n + 1 == stages {
            next.outputs.clear();
        }
        plan.stages.push(next);
        plan.nodes.push(Node::Redistribute {
            name: format!("r{n}"),
            input: CollectionId(2 * n + 1),
            output: CollectionId(2 * n + 2),
            by_key: false,
        });
    }
    plan.nodes.pop();
    plan
}

/// Runs a plan; every stage gets one bundle.
fn check(plan: &Plan, shape: (usize, usize)) {
    let bundles = Arc::new(AtomicUsize::new(0));
    let dir = tempfile::tempdir().unwrap();
    let parts: Vec<_> = topologies(shape)
        .into_iter()
        .map(|topology| {
            let count = Arc::clone(&bundles);
            let stages = plan.stages.clone();
            let logic: Arc<Logic> = Arc::new(move |stage, batch, emit| {
                count.fetch_add(1, Ordering::Relaxed);
                if !stages[stage.0 as usize].outputs.is_empty() {
                    batch.elements().for_each(emit);
                }
            });
            let job = job(plan.clone(), logic, 0, 64 << 20, dir.path());
            thread::spawn(move || run(job, topology))
        })
        .collect();
    for part in parts {
        part.join().unwrap().unwrap();
    }
    assert_eq!(bundles.load(Ordering::Relaxed), plan.stages.len(), "with {shape:?}");
}

/// Time in proportion to the plan: with twice the stages it takes twice as long, not four times.
#[test]
fn plans_of_thousands_of_stages_run() {
    for shape in [(1, 1), (1, 2), (2, 1)] {
        check(&wide(3000), shape);
        check(&long(500), shape);
    }
}

/// With `FERROBEAM_WIDE`, numbers of stages, says how long they take.
#[test]
#[ignore = "measures"]
fn measure() {
    let sizes = std::env::var("FERROBEAM_WIDE").unwrap_or_default();
    for size in sizes.split_whitespace().map(|size| size.parse().unwrap()) {
        let mut driven = wide(size);
        driven.collections.push(collection("events", WireCoder::Prefixed));
        driven.nodes.push(Node::TestStream {
            name: "events".into(),
            events: TestEvents::Listed((0..10).map(TestEvent::ProcessingTime).collect()),
            outputs: vec![("".into(), CollectionId(size))],
        });
        for (what, plan) in [("wide", wide(size)), ("long", long(size)), ("wide, test-driven", driven)] {
            for shape in [(1, 1), (1, 2), (2, 1)] {
                let started = Instant::now();
                check(&plan, shape);
                println!("{size} stages, {what}, {shape:?}: {:?}", started.elapsed());
            }
        }
    }
}
