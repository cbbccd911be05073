use std::{collections::HashMap, sync::Arc};

use bytestring::ByteString;
use parking_lot::Mutex;

use super::{
    Base, Batch, BoxFuture, Id, Keeper, Kept, Parcel, Part, Repeated, Reply, State, Topic, Unkept,
    Version,
};

/// A keeper in memory, for replicas in one process: the rules that every keeper follows.
///
/// A part of a batch is handled as one step:
///
/// 1. Where there is no state, or one that makes no sense, or one of a lower version than the base
///    that is given, the base takes its place, with its version and its clocks.
/// 2. If the clock of the replica is below what it believes that was added already, that was lost:
///    nothing is added before it has been brought again.
/// 3. Each parcel whose number is not above the clock of its replica was added before. Of the others
///    the first of which some feedback is known, as brought by another parcel, is refused, with all
///    that follow. All others are added, the policy's rule is applied, their ids are noted, the
///    clock is set to their number, and the version counts one more.
///
/// So a parcel that is sent again is added once, also where the state was lost and restored in
/// between: what the base holds of each replica is what its clocks say.
#[derive(Debug, Default)]
pub struct Pool {
    states: Mutex<HashMap<Key, Entry>>,
}

type Key = (ByteString, &'static str, Option<ByteString>);

#[derive(Clone, Debug, Default)]
struct Entry {
    state: State,
    version: Version,
    clocks: HashMap<u64, u64>,
    ids: HashMap<Id, (u64, u64)>,
}

impl Pool {
    /// Handles a batch.
    pub fn keep(&self, batch: &Batch) -> Reply {
        let mut states = self.states.lock();
        let parts = batch.parts.iter().map(|part| {
            let topic = &*batch.topic;
            let key = (topic.model.clone(), topic.policy, part.context.clone());
            let entry = states.get(&key);
            let lacks = |base: &Arc<Base>| {
                entry.is_none_or(|entry| entry.version.count < base.version.count)
            };
            if let Some(base) = part.base.as_ref().filter(|base| lacks(base)) {
                let entry = states.entry(key.clone()).or_default();
                entry.state = base.state.clone();
                entry.version = base.version;
                entry.clocks = base.clocks.iter().copied().collect();
            }
            match states.get_mut(&key) {
                Some(entry) => entry.keep(batch, part),
                None => Kept::Missing,
            }
        });
        Reply {
            parts: parts.collect(),
            failed: None,
        }
    }

    /// Forgets everything.
    pub fn flush(&self) {
        self.states.lock().clear();
    }

    /// Returns what is kept, to go back to it later.
    pub fn snapshot(&self) -> Self {
        Self {
            states: Mutex::new(self.states.lock().clone()),
        }
    }

    /// Goes back to what was kept once.
    pub fn go_back(&self, snapshot: &Self) {
        *self.states.lock() = snapshot.states.lock().clone();
    }

    /// Returns a state.
    pub fn state(&self, topic: &Topic, context: Option<&str>) -> Option<State> {
        let key = (
            topic.model.clone(),
            topic.policy,
            context.map(ByteString::from),
        );
        Some(self.states.lock().get(&key)?.state.clone())
    }
}

impl Keeper for Pool {
    fn exchange(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Unkept>> {
        let reply = self.keep(&batch);
        Box::pin(async { Ok(reply) })
    }
}

impl Entry {
    fn keep(&mut self, batch: &Batch, part: &Part) -> Kept {
        let mut repeated = None;
        let clock = self.clocks.get(&batch.replica).copied().unwrap_or(0);
        let whole = clock >= part.after;
        for parcel in part.parcels.iter().filter(|_| whole) {
            if parcel.number <= clock {
                continue;
            }
            let known = self.known(batch.replica, parcel);
            if !known.is_empty() {
                repeated = Some(Repeated {
                    number: parcel.number,
                    ids: known,
                });
                break;
            }
            self.add(batch, parcel);
        }
        if part.parcels.is_empty() && part.known == self.version && self.version.count > 0 {
            return Kept::Same;
        }
        Kept::State {
            state: self.state.clone(),
            version: self.version,
            clock: self.clocks.get(&batch.replica).copied().unwrap_or(0),
            clocks: (part.clocks || self.clocks.len() <= FEW)
                .then(|| self.clocks.iter().map(|(of, is)| (*of, *is)).collect()),
            repeated,
        }
    }

    fn known(&self, replica: u64, parcel: &Parcel) -> Vec<usize> {
        let brought = (replica, parcel.number);
        let ids = parcel.ids.iter().enumerate();
        ids.filter(|(_, id)| self.ids.get(id).is_some_and(|by| *by != brought))
            .map(|(place, _)| place)
            .collect()
    }

    fn add(&mut self, batch: &Batch, parcel: &Parcel) {
        self.state += &parcel.difference;
        batch.topic.rule.apply(&mut self.state);
        let brought = (batch.replica, parcel.number);
        self.ids.extend(parcel.ids.iter().map(|id| (*id, brought)));
        self.clocks.insert(batch.replica, parcel.number);
        self.version = Version {
            count: self.version.count + 1,
            replica: batch.replica,
            number: parcel.number,
        };
    }
}

/// So many clocks are told each time.
const FEW: usize = 16;
