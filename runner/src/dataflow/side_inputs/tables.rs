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
use super::gate::{Growing, SideInputs};
use super::materialise;
use crate::clock::Clock;
use crate::grouping::StoredIterables;
use crate::plan::{Access, CollectionId, Stage};
use crate::side_input::{GrowingTable, SideInputTable};
use crate::state::{StoreError, Stores};
use crate::time::Moment;

/// A collection read in one way.
type Key = (CollectionId, Access);

/// The tables of a process: one for each collection, and way of reading it.
pub(crate) struct Tables(BTreeMap<Key, Table>);

impl Tables {
    /// Empty ones for all side inputs of a job. Those that are read before their end are kept in `stores`.
    pub(crate) fn new(job: &Job, stores: &Stores) -> Result<Tables, StoreError> {
        let mut tables = BTreeMap::new();
        for side_input in job.plan.stages.iter().flat_map(|stage| &stage.side_inputs) {
            let (id, access) = (side_input.collection, side_input.access);
            if tables.contains_key(&(id, access)) {
                continue;
            }
            let coder = element_coder(&job.plan, id);
            let collection = &job.plan.collections[id.0 as usize];
            let table = if collection.is_read_at_its_end() {
                Table::Whole(Arc::new(SideInputTable::new(&job.budget, access, coder)))
            } else {
                let store = stores.open(&format!("side-input-{}-{access:?}", id.0))?;
                Table::Growing(Arc::new(GrowingTable::new(store, access, coder, collection.windowing.clone())))
            };
            tables.insert((id, access), table);
        }
        Ok(Tables(tables))
    }

    /// What serves a stage's bundles.
    pub(crate) fn state(&self, stage: &Stage, iterables: Arc<StoredIterables>) -> Arc<StageState> {
        let side_inputs = stage.side_inputs.iter().map(|side| {
            let name = (side.transform.clone(), side.local_name.clone());
            (name, self.0[&(side.collection, side.access)].clone())
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
        let mut side_inputs = SideInputs::default();
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
            match &self.tables.0[&key] {
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
        match &self.tables.0[&key] {
            Table::Whole(table) => materialise::build(scope, name, input, Arc::clone(table), shape, reporter),
            Table::Growing(table) => {
                let table = (Arc::clone(table), Arc::clone(&self.clock));
                materialise::grow(scope, name, input, table, shape, reporter)
            }
        }
    }
}
