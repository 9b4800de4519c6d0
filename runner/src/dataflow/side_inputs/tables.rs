//! The tables of a process's side inputs, and their barriers on a worker.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;

use super::super::Job;
use super::super::bundle_state::{StageState, Table};
use super::super::bundles::element_coder;
use super::super::edge::Edge;
use super::super::run::Reporter;
use super::super::saved_names;
use super::gate::{Growing, SideInputs};
use super::materialise::{self, Growth};
use crate::checkpoint::{PartHead, PartKind};
use crate::clock::Clock;
use crate::grouping::StoredIterables;
use crate::plan::{Access, CollectionId, Plan, Stage};
use crate::side_input::{GrowingTable, SideInputTable};
use crate::state::{StoreError, Stores};
use crate::time::Moment;

/// A collection read in one way.
type Key = (CollectionId, Access);

/// The tables of a process: one for each collection, and way of reading it.
pub(crate) struct Tables {
    tables: BTreeMap<Key, Table>,
    /// What those that grow are saved as.
    names: BTreeMap<Key, String>,
    /// For what waits for them.
    waiting: Stores,
}

/// What a saved table is written for: of another form it is not read.
pub(crate) fn form_of_side_input(plan: &Plan, collection: CollectionId, access: Access) -> String {
    let collection = &plan.collections[collection.0 as usize];
    let windowing = &collection.windowing;
    format!("{access} of {}, in {windowing}{}", collection.value, windowing.firing())
}

impl Tables {
    /// Empty ones for all side inputs of a job. Those that are read before their end are kept in `stores`.
    pub(crate) fn new(job: &Job, stores: &Stores) -> Result<Tables, StoreError> {
        let (mut tables, mut names) = (BTreeMap::new(), BTreeMap::new());
        let durable = job.checkpoints.are_on();
        for (stage, side_input) in
            job.plan.stages.iter().flat_map(|stage| stage.side_inputs.iter().map(move |side_input| (stage, side_input)))
        {
            let (id, access) = (side_input.collection, side_input.access);
            if tables.contains_key(&(id, access)) {
                continue;
            }
            let coder = element_coder(&job.plan, id);
            let collection = &job.plan.collections[id.0 as usize];
            // Tables that are read when they are whole are not saved.
            let table = if collection.is_read_at_its_end() && !durable {
                Table::Whole(Arc::new(SideInputTable::new(&job.budget, access, coder)))
            } else {
                let name = saved_names::of_side_input(stage, side_input);
                let windowing = collection.windowing.clone();
                let store = format!("side-input-{}-{access}", id.0);
                let restored = job.checkpoints.restore().and_then(|restore| restore.of(&name).first());
                names.insert((id, access), name);
                Table::Growing(Arc::new(match restored {
                    None => GrowingTable::new(stores.open(&store)?, access, coder, windowing),
                    Some(part) => {
                        GrowingTable::restore(stores.restore(&store, &part.folder)?, access, coder, windowing)?
                    }
                }))
            };
            tables.insert((id, access), table);
        }
        Ok(Tables { tables, names, waiting: stores.spilling() })
    }

    /// What serves a stage's bundles.
    pub(crate) fn state(&self, stage: &Stage, iterables: Arc<StoredIterables>) -> Arc<StageState> {
        let side_inputs = stage.side_inputs.iter().map(|side| {
            let name = (side.transform.clone(), side.local_name.clone());
            (name, self.tables[&(side.collection, side.access)].clone())
        });
        Arc::new(StageState::new(side_inputs, iterables))
    }
}

/// The operators that fill the tables, on one worker.
pub(crate) struct Fillers<'scope, 'a> {
    pub(crate) scope: Scope<'scope, Moment>,
    pub(crate) tables: &'a Tables,
    pub(crate) clock: Arc<dyn Clock>,
    /// Processes, and workers of each.
    pub(crate) shape: (usize, usize),
    pub(crate) reporter: Rc<Reporter>,
    pub(crate) barriers: BTreeMap<Key, Edge<'scope>>,
}

impl<'scope> Fillers<'scope, '_> {
    /// The side inputs of a stage. `edge` gives the stream of a collection; `state` serves the stages that map windows.
    pub(crate) fn of(
        &mut self,
        job: &Job,
        stage: &Stage,
        edge: impl Fn(CollectionId) -> Edge<'scope>,
        state: &Arc<StageState>,
    ) -> SideInputs<'scope> {
        let mut side_inputs = SideInputs { stores: Some(self.tables.waiting.clone()), ..SideInputs::default() };
        for side_input in &stage.side_inputs {
            let key = (side_input.collection, side_input.access);
            let barrier = match self.barriers.get(&key) {
                Some(barrier) => barrier.clone(),
                None => {
                    let barrier = self.fill(job, key, edge(side_input.collection));
                    self.barriers.insert(key, barrier.clone());
                    barrier
                }
            };
            match &self.tables.tables[&key] {
                Table::Whole(_) => side_inputs.whole.push(barrier),
                Table::Growing(table) => side_inputs.growing.push(Growing {
                    barrier,
                    table: Arc::clone(table),
                    mapping: side_input.mapping.clone(),
                    state: Arc::clone(state),
                }),
            }
        }
        side_inputs
    }

    fn fill(&self, job: &Job, key: Key, input: Edge<'scope>) -> Edge<'scope> {
        let name = &job.plan.collections[key.0.0 as usize].name;
        let (scope, shape, reporter) = (self.scope, self.shape, Rc::clone(&self.reporter));
        match &self.tables.tables[&key] {
            Table::Whole(table) => materialise::build(scope, name, input, Arc::clone(table), shape, reporter),
            Table::Growing(table) => {
                let growth = Growth {
                    table: Arc::clone(table),
                    clock: Arc::clone(&self.clock),
                    budget: job.budget.clone(),
                    // All tables of the job hold the same; that of its first worker is saved.
                    saver: (scope.index() == 0).then(|| job.checkpoints.saver(self.tables.names[&key].clone(), 0, 1)),
                    head: PartHead {
                        form: form_of_side_input(&job.plan, key.0, key.1),
                        ..PartHead::of(PartKind::SideInput)
                    },
                    first_epoch: job.checkpoints.restore().map_or(0, |restore| restore.epoch()),
                    by_epoch: job.checkpoints.are_on(),
                };
                materialise::grow(scope, name, input, growth, shape, reporter)
            }
        }
    }
}
