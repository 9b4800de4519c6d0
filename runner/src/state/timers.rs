//! Timers, in two orders: by identity, to replace and clear them, and by time, to fire them.
//!
//! Under the prefix of an index:
//!
//! | then | value |
//! |---|---|
//! | 0, scope, family, tag | fire, hold: to find the other records |
//! | 1, domain, fire, hold, scope, family, tag | the time that the SDK set, pane |
//! | 2, hold, scope, family, tag | nothing |
//!
//! The third is absent for timers in event time that hold back no more than their own firing, which are most: until one
//! has fired, the second has its time.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::plan::TimeDomain;
use crate::time::Timestamp;

use super::layout::{Front, Reader, after, put_scope};
use super::store::{Store, StoreError, WriteBatch};

/// What tells the timers of a stage apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    /// Index in [`crate::plan::Stage::timer_families`].
    pub family: u16,
    /// The key, encoded.
    pub key: Bytes,
    /// The window, encoded.
    pub window: Bytes,
    /// The dynamic tag, without its length.
    pub tag: Bytes,
}

/// A timer that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Index in [`crate::plan::Stage::timer_families`].
    pub family: u16,
    /// The key, encoded.
    pub key: Bytes,
    /// The window, encoded.
    pub window: Bytes,
    /// The dynamic tag, without its length.
    pub tag: Bytes,
    /// When it fires.
    pub fire: Timestamp,
    /// The output watermark that it holds back.
    pub hold: Timestamp,
    /// The pane, encoded.
    pub pane: Bytes,
    /// When it fires by what the SDK said, which a test clock may see otherwise than `fire`.
    pub sdk_fire: Timestamp,
}

impl Timer {
    /// What tells it apart.
    pub fn id(&self) -> TimerId {
        let Timer { family, key, window, tag, .. } = self;
        TimerId { family: *family, key: key.clone(), window: window.clone(), tag: tag.clone() }
    }
}

/// What becomes of timers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerChange {
    /// It fired: removed, unless it is set to another time by now.
    Fired(Timer),
    /// It is set, in place of the one of the same identity if there is one.
    Set(Timer),
    /// It is removed, if it is there.
    Clear(TimerId),
    /// All timers of a key and window are removed.
    Forget {
        /// The key, encoded.
        key: Bytes,
        /// The window, encoded.
        window: Bytes,
    },
}

pub(super) const IDS: u8 = 0;
pub(super) const TIMES: u8 = 1;
pub(super) const HOLDS: u8 = 2;

/// The timers under one prefix of a store.
#[derive(Debug)]
pub struct TimerIndex {
    prefix: Vec<u8>,
    domains: Vec<TimeDomain>,
    event: Front,
    processing: Front,
    holds: Front,
}

/// What one batch makes of a timer.
struct Fate {
    stored: Option<(Timestamp, Timestamp)>,
    timer: Option<Timer>,
}

impl TimerIndex {
    /// The timers under `prefix`, which must not consist of 0xff bytes alone; `domains` are those of the families.
    pub fn new(prefix: &[u8], domains: Vec<TimeDomain>) -> TimerIndex {
        let (event, processing, holds) = Default::default();
        TimerIndex { prefix: prefix.to_vec(), domains, event, processing, holds }
    }

    /// Adds to `batch` what the changes, in their order, come to. The batch must be written before anything else is
    /// asked of the index, and only one such call may go into a batch.
    pub fn apply(
        &mut self,
        store: &dyn Store,
        changes: impl IntoIterator<Item = TimerChange>,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let mut fates = BTreeMap::new();
        for change in changes {
            match change {
                TimerChange::Set(timer) => {
                    let key = self.id_key(timer.family, &timer.key, &timer.window, &timer.tag);
                    self.fate(store, &mut fates, key)?.timer = Some(timer);
                }
                TimerChange::Clear(id) => {
                    let key = self.id_key(id.family, &id.key, &id.window, &id.tag);
                    self.fate(store, &mut fates, key)?.timer = None;
                }
                TimerChange::Fired(fired) => {
                    let key = self.id_key(fired.family, &fired.key, &fired.window, &fired.tag);
                    let known = fates.contains_key(&key);
                    let fate = self.fate(store, &mut fates, key.clone())?;
                    let now = match &fate.timer {
                        Some(timer) => Some(timer.fire),
                        None if known => None,
                        None => fate.stored.map(|(fire, _)| fire),
                    };
                    if now == Some(fired.fire) {
                        fate.timer = None;
                    } else if !known {
                        fates.remove(&key);
                    }
                }
                TimerChange::Forget { key, window } => {
                    let scope = self.scope(&key, &window);
                    for (_, fate) in fates.range_mut(scope.clone()..after(&scope)) {
                        fate.timer = None;
                    }
                    let mut stored = Vec::new();
                    store.scan(&scope, Some(&after(&scope)), &mut |key, times| {
                        stored.push((key.to_vec(), read_times(times)));
                        true
                    })?;
                    for (key, times) in stored {
                        let stored = Some(times?);
                        fates.entry(key).or_insert(Fate { stored, timer: None });
                    }
                }
            }
        }
        for (id_key, fate) in fates {
            self.write(&id_key, fate, batch)?;
        }
        Ok(())
    }

    fn fate<'a>(
        &self,
        store: &dyn Store,
        fates: &'a mut BTreeMap<Vec<u8>, Fate>,
        key: Vec<u8>,
    ) -> Result<&'a mut Fate, StoreError> {
        use std::collections::btree_map::Entry;
        match fates.entry(key) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let stored = store.get(new.key())?.map(|times| read_times(&times)).transpose()?;
                Ok(new.insert(Fate { stored, timer: None }))
            }
        }
    }

    fn write(&mut self, id_key: &[u8], fate: Fate, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let identity = &id_key[self.prefix.len() + 1..];
        let domain = self.domain_of(identity)?;
        let times = fate.timer.as_ref().map(|timer| (timer.fire, timer.hold));
        if let Some((fire, hold)) = fate.stored.filter(|_| fate.stored != times) {
            self.front(domain).removed(fire);
            batch.delete(self.time_key(domain, fire, hold, identity));
            if holds(domain, fire, hold) {
                self.holds.removed(hold);
                batch.delete(self.hold_key(hold, identity));
            }
        }
        let Some(timer) = fate.timer else {
            if fate.stored.is_some() {
                batch.delete(id_key.to_vec());
            }
            return Ok(());
        };
        let (fire, hold) = (timer.fire, timer.hold);
        if fate.stored != times {
            self.front(domain).inserted(fire);
            batch.put(id_key.to_vec(), [fire.to_wire(), hold.to_wire()].concat());
            if holds(domain, fire, hold) {
                self.holds.inserted(hold);
                batch.put(self.hold_key(hold, identity), Bytes::new());
            }
        }
        batch.put(self.time_key(domain, fire, hold, identity), [&timer.sdk_fire.to_wire(), &timer.pane[..]].concat());
        Ok(())
    }

    /// When the first timer fires.
    pub fn earliest(&mut self, store: &dyn Store, domain: TimeDomain) -> Result<Option<Timestamp>, StoreError> {
        let times = self.times(domain);
        self.front(domain).get(|from| first_time(store, &times, from))
    }

    /// The least output watermark that a timer holds.
    pub fn least_hold(&mut self, store: &dyn Store) -> Result<Option<Timestamp>, StoreError> {
        let prefix = [&self.prefix[..], &[HOLDS]].concat();
        let held = self.holds.get(|from| first_time(store, &prefix, from))?;
        let event = self.earliest(store, TimeDomain::EventTime)?;
        Ok([held, event].into_iter().flatten().min())
    }

    /// The timers that fire before `until`, in order of their times, at most `limit`; of each key only those with the
    /// least time of that key, so that timers that these set can come between. Fewer than there are may come, but never
    /// none.
    pub fn due(
        &self,
        store: &dyn Store,
        domain: TimeDomain,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Timer>, StoreError> {
        let times = self.times(domain);
        let floor = match domain {
            TimeDomain::EventTime => self.event.floor(),
            TimeDomain::ProcessingTime => self.processing.floor(),
        };
        let from = [&times[..], &floor.to_wire()].concat();
        let to = [&times[..], &until.to_wire()].concat();
        let (mut due, mut first, mut passed) = (Vec::new(), HashMap::new(), 0);
        let mut result = Ok(());
        store.scan(&from, Some(&to), &mut |key, value| {
            match read_timer(&key[times.len()..], value) {
                Ok(timer) if *first.entry(timer.key.clone()).or_insert(timer.fire) == timer.fire => due.push(timer),
                // One key may have any number of timers.
                Ok(_) => passed += 1,
                Err(error) => result = Err(error),
            }
            result.is_ok() && due.len() < limit && passed < limit.max(1000)
        })?;
        result.map(|()| due)
    }

    /// The timers of a key and window.
    pub fn of(&self, store: &dyn Store, key: &[u8], window: &[u8]) -> Result<Vec<Timer>, StoreError> {
        let mut timers = Vec::new();
        for (identity, (fire, hold)) in self.stored_of(store, key, window)? {
            let domain = self.domain_of(&identity)?;
            let time_key = self.time_key(domain, fire, hold, &identity);
            let value = store.get(&time_key)?.ok_or_else(lost)?;
            timers.push(read_timer(&time_key[self.prefix.len() + 2..], &value)?);
        }
        Ok(timers)
    }

    /// Whether a key and window have a timer of a domain.
    pub fn has(&self, store: &dyn Store, domain: TimeDomain, key: &[u8], window: &[u8]) -> Result<bool, StoreError> {
        for (identity, _) in self.stored_of(store, key, window)? {
            if self.domain_of(&identity)? == domain {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn stored_of(&self, store: &dyn Store, key: &[u8], window: &[u8]) -> Result<Vec<Identified>, StoreError> {
        let scope = self.scope(key, window);
        let mut found = Vec::new();
        store.scan(&scope, Some(&after(&scope)), &mut |key, times| {
            found.push((key[self.prefix.len() + 1..].to_vec(), read_times(times)));
            true
        })?;
        found.into_iter().map(|(identity, times)| Ok((identity, times?))).collect()
    }

    fn domain_of(&self, identity: &[u8]) -> Result<TimeDomain, StoreError> {
        let mut reader = Reader(identity);
        reader.take_scope()?;
        let family = u16::from_be_bytes(reader.take_array()?);
        self.domains
            .get(usize::from(family))
            .copied()
            .ok_or_else(|| StoreError { doing: "set a timer", why: format!("the stage has no timer family {family}") })
    }

    fn front(&mut self, domain: TimeDomain) -> &mut Front {
        match domain {
            TimeDomain::EventTime => &mut self.event,
            TimeDomain::ProcessingTime => &mut self.processing,
        }
    }

    fn scope(&self, key: &[u8], window: &[u8]) -> Vec<u8> {
        let mut scope = Vec::with_capacity(self.prefix.len() + key.len() + window.len() + 16);
        scope.extend_from_slice(&self.prefix);
        scope.push(IDS);
        put_scope(&mut scope, key, window);
        scope
    }

    fn id_key(&self, family: u16, key: &[u8], window: &[u8], tag: &[u8]) -> Vec<u8> {
        let mut id = self.scope(key, window);
        id.extend_from_slice(&family.to_be_bytes());
        id.extend_from_slice(tag);
        id
    }

    fn times(&self, domain: TimeDomain) -> Vec<u8> {
        let domain = match domain {
            TimeDomain::EventTime => 0,
            TimeDomain::ProcessingTime => 1,
        };
        [&self.prefix[..], &[TIMES, domain]].concat()
    }

    fn time_key(&self, domain: TimeDomain, fire: Timestamp, hold: Timestamp, identity: &[u8]) -> Vec<u8> {
        [&self.times(domain)[..], &fire.to_wire(), &hold.to_wire(), identity].concat()
    }

    fn hold_key(&self, hold: Timestamp, identity: &[u8]) -> Vec<u8> {
        [&self.prefix[..], &[HOLDS], &hold.to_wire(), identity].concat()
    }
}

/// A timer by the identity part of its keys, with its times.
type Identified = (Vec<u8>, (Timestamp, Timestamp));

/// Whether a timer needs a record of what it holds.
fn holds(domain: TimeDomain, fire: Timestamp, hold: Timestamp) -> bool {
    domain == TimeDomain::ProcessingTime || hold < fire
}

/// The time behind `prefix` in the first key that has one of at least `from`.
pub(crate) fn first_time(store: &dyn Store, prefix: &[u8], from: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let mut first = None;
    store.scan(&[prefix, &from.to_wire()].concat(), Some(&after(prefix)), &mut |key, _| {
        first = Some(Reader(&key[prefix.len()..]).take_time());
        false
    })?;
    first.transpose()
}

fn read_times(value: &[u8]) -> Result<(Timestamp, Timestamp), StoreError> {
    let mut reader = Reader(value);
    Ok((reader.take_time()?, reader.take_time()?))
}

/// A timer of the key, from the fire time on, and the value in the index by time.
fn read_timer(key: &[u8], value: &[u8]) -> Result<Timer, StoreError> {
    let mut reader = Reader(key);
    let (fire, hold) = (reader.take_time()?, reader.take_time()?);
    let (key, window) = reader.take_scope()?;
    let family = u16::from_be_bytes(reader.take_array()?);
    let mut value = Reader(value);
    let sdk_fire = value.take_time()?;
    let copy = Bytes::copy_from_slice;
    Ok(Timer {
        family,
        key: copy(key),
        window: copy(window),
        tag: copy(reader.0),
        fire,
        hold,
        pane: copy(value.0),
        sdk_fire,
    })
}

fn lost() -> StoreError {
    StoreError { doing: "read a timer", why: "one of its records is missing".into() }
}
