//! The agents that offered their machines, and which process runs on which.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::agent::{Ended, Order, ProcessName};

/// One agent, as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(u64);

/// Told of the end of a process.
pub(super) type OnEnd = Box<dyn FnOnce(String) + Send>;

/// See the module.
#[derive(Default)]
pub struct Agents {
    inner: Mutex<Inner>,
    freed: Notify,
}

impl std::fmt::Debug for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agents").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    agents: BTreeMap<AgentId, Agent>,
    next: u64,
}

struct Agent {
    host: String,
    capacity: usize,
    /// Bounded by its places: each has at most a start and a kill that are not taken, because it is given back only when
    /// the agent tells of the end.
    orders: mpsc::UnboundedSender<Order>,
    /// Its processes; a place that is reserved counts too.
    places: usize,
    running: HashMap<ProcessName, OnEnd>,
}

/// A reserved place for one process; given back when dropped unused.
#[derive(Debug)]
pub(super) struct Place {
    agents: Arc<Agents>,
    agent: AgentId,
    used: bool,
}

impl Agents {
    /// An agent is there. It gets its orders by the channel's other end.
    pub fn join(&self, host: String, capacity: usize, orders: mpsc::UnboundedSender<Order>) -> AgentId {
        let mut inner = self.lock();
        inner.next += 1;
        let id = AgentId(inner.next);
        inner.agents.insert(id, Agent { host, capacity, orders, places: 0, running: HashMap::new() });
        drop(inner);
        self.freed.notify_waiters();
        id
    }

    /// An agent is gone, and its processes with it.
    pub fn leave(&self, id: AgentId) {
        let Some(agent) = self.lock().agents.remove(&id) else { return };
        for on_end in agent.running.into_values() {
            on_end(format!("is lost: its agent on {} is gone", agent.host));
        }
        self.freed.notify_waiters();
    }

    /// The agents that are there.
    pub fn ids(&self) -> Vec<AgentId> {
        self.lock().agents.keys().copied().collect()
    }

    /// A process of an agent is gone.
    pub fn ended(&self, id: AgentId, ended: Ended) {
        let on_end = self.lock().agents.get_mut(&id).and_then(|agent| {
            let on_end = agent.running.remove(&ended.process);
            agent.places -= usize::from(on_end.is_some());
            on_end
        });
        if let Some(on_end) = on_end {
            self.freed.notify_waiters();
            on_end(ended.how);
        }
    }

    /// How many processes all agents together can run.
    pub fn capacity(&self) -> usize {
        self.lock().agents.values().map(|agent| agent.capacity).sum()
    }

    /// Waits for places for `count` processes, on the machines that have most room, and reserves them.
    pub(super) async fn reserve(self: &Arc<Self>, count: usize) -> Vec<Place> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before looking: a place that is freed in between is then not missed.
            freed.as_mut().enable();
            if let Some(places) = self.try_reserve(count) {
                return places;
            }
            freed.await;
        }
    }

    fn try_reserve(self: &Arc<Self>, count: usize) -> Option<Vec<Place>> {
        let mut inner = self.lock();
        let free: usize = inner.agents.values().map(|a| a.capacity.saturating_sub(a.places)).sum();
        if free < count {
            return None;
        }
        let mut places = Vec::with_capacity(count);
        for _ in 0..count {
            let roomy = inner.agents.iter_mut().filter(|(_, a)| a.places < a.capacity);
            let (id, agent) = roomy.max_by_key(|(_, a)| a.capacity - a.places)?;
            agent.places += 1;
            places.push(Place { agents: Arc::clone(self), agent: *id, used: false });
        }
        Some(places)
    }

    /// Asks for the end of a process, if it is still there.
    pub(super) fn kill(&self, process: &ProcessName) {
        let inner = self.lock();
        let agent = inner.agents.values().find(|agent| agent.running.contains_key(process));
        // Fails when the agent is about to leave, and its processes are lost with it.
        if let Some(agent) = agent
            && agent.orders.send(Order::Kill(process.clone())).is_err()
        {
            tracing::warn!(%process, host = %agent.host, "an agent takes no orders");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Starts a process there. `on_end` is called exactly once, also when the agent is gone by now.
    pub(super) fn start(mut self, process: ProcessName, token: String, processes: u32, on_end: OnEnd) {
        let mut inner = self.agents.lock();
        let Some(agent) = inner.agents.get_mut(&self.agent) else {
            self.used = true;
            drop(inner);
            on_end("is lost: its agent is gone".to_owned());
            return;
        };
        let order = Order::Start { process: process.clone(), token, processes };
        if agent.orders.send(order).is_err() {
            let host = agent.host.clone();
            // Not used: the place is given back on return.
            drop(inner);
            on_end(format!("cannot be started: the agent on {host} takes no orders"));
            return;
        }
        agent.running.insert(process, on_end);
        self.used = true;
        drop(inner);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        if let Some(agent) = self.agents.lock().agents.get_mut(&self.agent) {
            agent.places -= 1;
        }
        self.agents.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Generation, JobId};
    use std::sync::mpsc as sync;

    fn process(index: u32) -> ProcessName {
        ProcessName { job: JobId::named("job"), generation: Generation(1), index }
    }

    fn agents(capacities: &[usize]) -> (Arc<Agents>, Vec<(AgentId, mpsc::UnboundedReceiver<Order>)>) {
        let agents = Arc::new(Agents::default());
        let joined = capacities.iter().map(|capacity| {
            let (orders, taken) = mpsc::unbounded_channel();
            (agents.join("host".into(), *capacity, orders), taken)
        });
        let joined = joined.collect();
        (agents, joined)
    }

    fn start(place: Place, index: u32, ends: &sync::Sender<(u32, String)>) {
        let ends = ends.clone();
        place.start(
            process(index),
            "token".into(),
            1,
            Box::new(move |how| ends.send((index, how)).expect("test waits")),
        );
    }

    #[test]
    fn the_machine_with_most_room_comes_first() {
        let (agents, mut joined) = agents(&[1, 3]);
        let (ends, _ended) = sync::channel();
        for (index, place) in agents.try_reserve(3).expect("room").into_iter().enumerate() {
            start(place, index as u32, &ends);
        }
        let counts: Vec<usize> = joined.iter_mut().map(|(_, orders)| orders.len()).collect();
        assert_eq!(counts, [0, 3]);
        assert!(agents.try_reserve(2).is_none());
    }

    #[test]
    fn places_come_back() {
        let (agents, joined) = agents(&[2]);
        let (ends, ended) = sync::channel();
        let mut places = agents.try_reserve(2).expect("room");
        assert!(agents.try_reserve(1).is_none());
        drop(places.pop());
        start(places.pop().expect("two"), 7, &ends);
        assert!(agents.try_reserve(2).is_none());
        agents.ended(joined[0].0, Ended { process: process(7), how: "ended".into() });
        assert_eq!(ended.try_recv(), Ok((7, "ended".to_owned())));
        // Told twice, it counts once.
        agents.ended(joined[0].0, Ended { process: process(7), how: "ended".into() });
        assert!(ended.try_recv().is_err());
        assert_eq!(agents.try_reserve(2).map(|p| p.len()), Some(2));
        assert!(agents.try_reserve(3).is_none());
    }

    #[test]
    fn the_processes_of_an_agent_that_leaves_are_lost() {
        let (agents, joined) = agents(&[2]);
        let (ends, ended) = sync::channel();
        let mut places = agents.try_reserve(2).expect("room");
        let late = places.pop().expect("two");
        start(places.pop().expect("two"), 1, &ends);
        agents.leave(joined[0].0);
        assert_eq!(ended.try_recv().map(|(index, _)| index), Ok(1));
        start(late, 2, &ends);
        assert_eq!(ended.try_recv().map(|(index, _)| index), Ok(2));
        assert_eq!(agents.capacity(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it() {
        let (agents, _joined) = agents(&[1]);
        let held = agents.try_reserve(1).expect("room");
        let waiting = tokio::spawn({
            let agents = Arc::clone(&agents);
            async move { agents.reserve(1).await.len() }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiting.await.expect("no panic"), 1);
    }
}
