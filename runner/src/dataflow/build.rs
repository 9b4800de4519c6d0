//! Walks a plan and builds its operators on one worker.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::Concatenate;
use timely::worker::Worker;

use super::Job;
use super::backlog_exchange;
use super::bundle_state::StageState;
use super::bundles::{Bundles, element_coder};
use super::edge::Edge;
use super::epochs::{self, Epochs};
use super::flow::{Backlogs, Flow, Shape};
use super::group::{self, Grouping};
use super::impulse;
use super::kafka;
use super::keyed;
use super::links::Links;
use super::merge::{Merger, WindowMerges};
use super::quiescence::{self, Quiescence, Watcher};
use super::route::{self, Route};
use super::run::Reporter;
use super::saved_names;
use super::side_inputs::{Fillers, Tables};
use super::test_stream;
use super::windowed;
use crate::clock::{Clock, TestClock, WallClock};
use crate::grouping::StoredIterables;
use crate::plan::{CollectionId, Node, Plan, Stage, StageId};
use crate::state::{StoreError, Stores};
use crate::time::Moment;

/// What all workers of a process share.
pub(crate) struct Shared {
    backlogs: Arc<Backlogs>,
    iterables: Arc<StoredIterables>,
    tables: Tables,
    /// Opens the stores of keyed state.
    pub(crate) stores: Stores,
    /// The processing time that operators of this process go by.
    pub(crate) clock: Arc<dyn Clock>,
    /// The same clock where the plan has a TestStream, which moves it.
    pub(crate) test_clock: Option<Arc<TestClock>>,
}

impl Shared {
    /// Of a process among so many, with so many workers. Fails when a store cannot be opened.
    pub(crate) fn new(job: &Job, (processes, workers): (usize, usize)) -> Result<Shared, StoreError> {
        let test_clock = job.plan.is_test_driven().then(|| Arc::new(TestClock::default()));
        let clock: Arc<dyn Clock> = match &test_clock {
            Some(clock) => Arc::clone(clock) as Arc<dyn Clock>,
            None => Arc::new(WallClock),
        };
        let stores = Stores::new(job.settings.store, &job.budget);
        Ok(Shared {
            backlogs: Arc::new(Backlogs::new(
                &job.plan,
                Shape { processes, workers: workers.max(1) },
                job.checkpoints.are_on(),
            )),
            iterables: Arc::new(StoredIterables::new(&job.budget)),
            tables: Tables::new(job, &stores)?,
            stores,
            clock,
            test_clock,
        })
    }

    fn state(&self, stage: &Stage) -> Arc<StageState> {
        self.tables.state(stage, Arc::clone(&self.iterables))
    }
}

/// Builds the whole plan on `worker`.
pub(crate) fn build(worker: &mut Worker, job: &Job, shared: &Shared, shape: (usize, usize), reporter: Reporter) {
    let reporter = Rc::new(reporter);
    worker.dataflow::<Moment, _, _>(|scope| {
        let fillers = Fillers {
            scope,
            tables: &shared.tables,
            clock: Arc::clone(&shared.clock),
            shape,
            reporter: Rc::clone(&reporter),
            barriers: BTreeMap::new(),
        };
        let edges = BTreeMap::new();
        let mut builder =
            Builder { scope, job, shared, shape, reporter, edges, fillers, ends: Vec::new(), epochs: None, node: 0 };
        let mut watchers: Vec<Box<dyn Watcher>> = Vec::new();
        if let Some(clock) = &shared.test_clock {
            watchers.push(Box::new(builder.test_streams(Arc::clone(clock))));
        } else if job.checkpoints.are_on() {
            let Epochs { edge, end } = epochs::build(scope, &job.checkpoints);
            builder.ends.push(edge.clone());
            builder.epochs = Some(edge);
            watchers.push(Box::new(end));
        }
        let (processes, workers) = shape;
        if processes > 1 {
            let shape = Shape { processes, workers };
            let end = backlog_exchange::build(scope, &shared.backlogs, shape, Rc::clone(&builder.reporter));
            watchers.push(Box::new(end));
        }
        for (index, node) in job.plan.nodes.iter().enumerate() {
            builder.node = index;
            builder.node(node);
        }
        if !watchers.is_empty() {
            let edges = builder.edges.into_values().chain(builder.fillers.barriers.into_values()).chain(builder.ends);
            quiescence::watch(scope, edges.collect(), watchers);
        }
    });
    job.checkpoints.worker_is_built();
}

struct Builder<'scope, 'a> {
    scope: Scope<'scope, Moment>,
    job: &'a Job,
    shared: &'a Shared,
    shape: (usize, usize),
    reporter: Rc<Reporter>,
    edges: BTreeMap<CollectionId, Edge<'scope>>,
    fillers: Fillers<'scope, 'a>,
    /// Outputs without data, of operators that have no others.
    ends: Vec<Edge<'scope>>,
    /// A part of every source, where there are epochs: says which one it is.
    epochs: Option<Edge<'scope>>,
    /// The index of the node that is built.
    node: usize,
}

/// The stream of a collection. The plan is in topological order; a collection that nothing produces is empty.
fn edge<'scope>(
    scope: Scope<'scope, Moment>,
    edges: &BTreeMap<CollectionId, Edge<'scope>>,
    epochs: Option<&Edge<'scope>>,
    collection: CollectionId,
) -> Edge<'scope> {
    match edges.get(&collection) {
        Some(edge) => edge.clone(),
        None => scope.concatenate(epochs.cloned()),
    }
}

impl<'scope> Builder<'scope, '_> {
    fn plan(&self) -> &Plan {
        &self.job.plan
    }

    fn edge(&self, collection: CollectionId) -> Edge<'scope> {
        edge(self.scope, &self.edges, self.epochs.as_ref(), collection)
    }

    /// What ties the operator of the present node, which makes `outputs` and saves as `name`, to its process.
    fn links(&self, name: String, outputs: impl IntoIterator<Item = CollectionId>) -> Links {
        Links {
            flow: self.flow(outputs),
            reporter: Rc::clone(&self.reporter),
            saver: self.job.checkpoints.saver(name, self.scope.index(), self.scope.peers()),
        }
    }

    fn flow(&self, outputs: impl IntoIterator<Item = CollectionId>) -> Flow {
        self.shared.backlogs.flow(self.node, outputs, self.scope.index())
    }

    /// How many stages read a collection.
    fn readers(&self, collection: CollectionId) -> u32 {
        let reads = |node: &&Node| match node {
            Node::Stage(id) => self.plan().stages[id.0 as usize].input.collection == collection,
            _ => false,
        };
        self.plan().nodes.iter().filter(reads).count() as u32
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Impulse { output } => {
                let impulse = impulse::build(self.scope, self.job.checkpoints.restore().is_some());
                let edge = self.scope.concatenate(std::iter::once(impulse).chain(self.epochs.clone()));
                self.edges.insert(*output, edge);
            }
            Node::Flatten { inputs, output } => {
                let inputs: Vec<_> = inputs.iter().map(|input| self.edge(*input)).collect();
                let edge = self.scope.concatenate(inputs);
                self.edges.insert(*output, edge);
            }
            Node::Redistribute { name, input, output, by_key } => {
                let coder = element_coder(self.plan(), *input);
                let route = if *by_key { Route::ByKey(coder) } else { Route::Evenly };
                let edge = route::redistribute(self.scope, name, self.edge(*input), route, Rc::clone(&self.reporter));
                self.edges.insert(*output, edge);
            }
            Node::GroupByKey { name, input, output, windowing, merge, bounded } => {
                let grouping = Grouping {
                    name: name.clone(),
                    input: element_coder(self.plan(), *input),
                    output: self.plan().collections[output.0 as usize].value.clone(),
                    windowing: windowing.clone(),
                    budget: self.job.budget.clone(),
                    iterables: Arc::clone(&self.shared.iterables),
                    readers: self.readers(*output),
                };
                let merges = |address: Rc<[usize]>| merge.and_then(|stage| self.window_merges(stage, address));
                let edge = if *bounded && !self.job.checkpoints.are_on() {
                    group::build(
                        self.scope,
                        grouping,
                        self.edge(*input),
                        |address| merges(address).map(Merger::new),
                        self.flow([*output]),
                        Rc::clone(&self.reporter),
                    )
                } else {
                    let links = self.links(saved_names::of_grouping(name), [*output]);
                    let means = windowed::Means {
                        stores: self.shared.stores.clone(),
                        clock: Arc::clone(&self.shared.clock),
                        observer: Arc::clone(&self.job.observer),
                    };
                    windowed::build(self.scope, grouping, means, self.edge(*input), merges, links)
                };
                self.edges.insert(*output, edge);
            }
            Node::KafkaRead { name, read, element, output, errors } => {
                let outputs = std::iter::once(*output).chain(errors.iter().map(|errors| errors.output));
                let links = self.links(saved_names::of_kafka_read(name), outputs);
                let source = kafka::read::Source { name, read, element, errors: errors.as_ref().map(|it| it.element) };
                let edges = kafka::read::build(self.scope, self.job, source, self.epochs.clone(), links);
                self.edges.insert(*output, edges.records);
                self.edges.extend(errors.as_ref().map(|errors| errors.output).zip(edges.errors));
            }
            Node::KafkaWrite { name, write, element, input, output, errors } => {
                let links = self.links(saved_names::of_kafka_write(name), errors.iter().map(|errors| errors.output));
                let coder = element_coder(self.plan(), *input);
                let errors_of = errors.as_ref().map(|errors| errors.element);
                let sink = kafka::write::Sink { name, write, element, coder, errors: errors_of };
                let edges = kafka::write::build(self.scope, self.job, sink, self.edge(*input), links);
                self.edges.insert(*output, edges.written);
                self.edges.extend(errors.as_ref().map(|errors| errors.output).zip(edges.errors));
            }
            // All at once: `Builder::test_streams`.
            Node::TestStream { .. } => {}
            Node::Stage(id) => self.stage(*id),
        }
    }

    /// Builds all TestStreams; the result is to be told of the frontiers of everything.
    fn test_streams(&mut self, clock: Arc<TestClock>) -> Quiescence {
        let reporter = Rc::clone(&self.reporter);
        let sources = test_stream::build(self.scope, self.job, clock, self.shape, reporter);
        self.edges.extend(sources.outputs);
        self.ends.push(sources.clocks);
        self.ends.push(sources.epochs.clone());
        self.epochs = Some(sources.epochs);
        sources.quiescence
    }

    fn window_merges(&self, id: StageId, address: Rc<[usize]>) -> Option<WindowMerges> {
        let stage = &self.plan().stages[id.0 as usize];
        let answer = element_coder(self.plan(), stage.outputs.first()?.collection);
        let state = self.shared.state(stage).bundle(None);
        let bundles = Bundles::new(self.scope, address, self.job.clone(), id, state, Rc::clone(&self.reporter));
        Some(WindowMerges::new(bundles, answer))
    }

    fn stage(&mut self, id: StageId) {
        let plan = Arc::clone(&self.job.plan);
        let stage = &plan.stages[id.0 as usize];
        let state = self.shared.state(stage);
        let (edges, epochs) = (&self.edges, self.epochs.as_ref());
        let side_inputs = self.fillers.of(self.job, stage, |id| edge(self.scope, edges, epochs, id), &state);
        let input = self.edge(stage.input.collection);
        let links = self.links(saved_names::of_stage(stage), stage.outputs.iter().map(|port| port.collection));
        let outputs = match &stage.keyed {
            None => super::stage::build(self.scope, self.job, id, input, side_inputs, state, links),
            Some(keyed) => {
                let parts =
                    keyed::Parts { state, clock: Arc::clone(&self.shared.clock), stores: self.shared.stores.clone() };
                keyed::build(self.scope, self.job, (id, keyed), input, side_inputs, parts, links)
            }
        };
        let mut outputs = outputs.into_iter();
        for (port, edge) in stage.outputs.iter().zip(&mut outputs) {
            // Several sinks may feed one collection (a flatten inside the stage): they add up.
            let edge = match self.edges.remove(&port.collection) {
                Some(other) => self.scope.concatenate([other, edge]),
                None => edge,
            };
            self.edges.insert(port.collection, edge);
        }
        self.ends.extend(outputs);
    }
}
