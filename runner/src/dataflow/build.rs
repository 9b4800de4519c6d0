//! Walks a plan and builds its operators on one worker.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::operators::Concatenate;
use timely::worker::Worker;

use super::Job;
use super::bundle_state::StageState;
use super::bundles::{Bundles, element_coder};
use super::edge::Edge;
use super::flow::Flow;
use super::group::{self, Grouping};
use super::impulse;
use super::keyed;
use super::merge::{Merger, WindowMerges};
use super::quiescence::{self, Quiescence};
use super::route::{self, Route};
use super::run::Reporter;
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
    /// Fails when a store cannot be opened.
    pub(crate) fn new(job: &Job) -> Result<Shared, StoreError> {
        let test_clock = job.plan.is_test_driven().then(|| Arc::new(TestClock::default()));
        let clock: Arc<dyn Clock> = match &test_clock {
            Some(clock) => Arc::clone(clock) as Arc<dyn Clock>,
            None => Arc::new(WallClock),
        };
        let stores = Stores::new(job.settings.store, &job.budget);
        Ok(Shared {
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
    let flow = Rc::new(Flow::default());
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
        let mut builder = Builder { scope, job, shared, shape, flow, reporter, edges, fillers, ends: Vec::new() };
        let quiescence = shared.test_clock.as_ref().map(|clock| builder.test_streams(Arc::clone(clock)));
        for node in &job.plan.nodes {
            builder.node(node);
        }
        if let Some(quiescence) = quiescence {
            let edges = builder.edges.into_values().chain(builder.fillers.barriers.into_values()).chain(builder.ends);
            quiescence::watch(scope, edges.collect(), quiescence);
        }
    });
}

struct Builder<'scope, 'a> {
    scope: Scope<'scope, Moment>,
    job: &'a Job,
    shared: &'a Shared,
    shape: (usize, usize),
    flow: Rc<Flow>,
    reporter: Rc<Reporter>,
    edges: BTreeMap<CollectionId, Edge<'scope>>,
    fillers: Fillers<'scope, 'a>,
    /// Outputs without data, of operators that have no others.
    ends: Vec<Edge<'scope>>,
}

/// The stream of a collection. The plan is in topological order; a collection that nothing produces is empty.
fn edge<'scope>(
    scope: Scope<'scope, Moment>,
    edges: &BTreeMap<CollectionId, Edge<'scope>>,
    collection: CollectionId,
) -> Edge<'scope> {
    match edges.get(&collection) {
        Some(edge) => edge.clone(),
        None => scope.concatenate(std::iter::empty()),
    }
}

impl<'scope> Builder<'scope, '_> {
    fn plan(&self) -> &Plan {
        &self.job.plan
    }

    fn edge(&self, collection: CollectionId) -> Edge<'scope> {
        edge(self.scope, &self.edges, collection)
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Impulse { output } => {
                let edge = impulse::build(self.scope);
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
                };
                let merges = |address: Rc<[usize]>| merge.and_then(|stage| self.window_merges(stage, address));
                let ends = (Rc::clone(&self.flow), Rc::clone(&self.reporter));
                let edge = if *bounded {
                    group::build(
                        self.scope,
                        grouping,
                        self.edge(*input),
                        |address| merges(address).map(Merger::new),
                        ends,
                    )
                } else {
                    let means = windowed::Means {
                        store: self.shared.stores.open(&format!("group-{}-{}", output.0, self.scope.index())),
                        clock: Arc::clone(&self.shared.clock),
                        observer: Arc::clone(&self.job.observer),
                    };
                    windowed::build(self.scope, grouping, means, self.edge(*input), merges, ends)
                };
                self.edges.insert(*output, edge);
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
        let edges = &self.edges;
        let side_inputs = self.fillers.of(self.job, stage, |id| edge(self.scope, edges, id), &state);
        let input = self.edge(stage.input.collection);
        let ends = (Rc::clone(&self.flow), Rc::clone(&self.reporter));
        let outputs = match &stage.keyed {
            None => super::stage::build(self.scope, self.job, id, input, side_inputs, state, ends),
            Some(keyed) => {
                let parts =
                    keyed::Parts { state, clock: Arc::clone(&self.shared.clock), stores: self.shared.stores.clone() };
                keyed::build(self.scope, self.job, (id, keyed), input, side_inputs, parts, ends)
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
