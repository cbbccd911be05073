use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::size::{allocated, table};

/// What each tenant holds of a shard, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    held: HashMap<u32, Held, RandomState>,
    /// The most there have been: tables do not shrink.
    most: usize,
    /// Room for digests in all orders.
    room: usize,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    entries: usize,
    /// Digests in the order in which they came; of some the entry is gone.
    order: VecDeque<u64>,
}

impl Tenants {
    /// Returns the bytes that a tenant's entries take.
    pub(super) fn bytes_of(&self, tenant: u32) -> usize {
        self.held.get(&tenant).map_or(0, |held| held.bytes)
    }

    /// Counts an entry.
    pub(super) fn add(&mut self, tenant: u32, digest: u64, bytes: usize) {
        let held = self.held.entry(tenant).or_default();
        held.bytes += bytes;
        held.entries += 1;
        let room = held.order.capacity();
        held.order.push_back(digest);
        self.room += held.order.capacity() - room;
        self.most = self.most.max(self.held.len());
    }

    /// Counts an entry no more; its digest is forgotten when its turn comes.
    pub(super) fn remove(&mut self, tenant: u32, bytes: usize) {
        if let Some(held) = self.held.get_mut(&tenant) {
            held.bytes = held.bytes.saturating_sub(bytes);
            held.entries = held.entries.saturating_sub(1);
            if held.entries == 0 {
                self.room -= held.order.capacity();
                self.held.remove(&tenant);
            }
        }
    }

    /// Takes the digest that is first in a tenant's turn.
    pub(super) fn next(&mut self, tenant: u32) -> Option<u64> {
        self.held.get_mut(&tenant)?.order.pop_front()
    }

    /// Puts a digest at the end of its tenant's turn.
    pub(super) fn again(&mut self, tenant: u32, digest: u64) {
        if let Some(held) = self.held.get_mut(&tenant) {
            let room = held.order.capacity();
            held.order.push_back(digest);
            self.room += held.order.capacity() - room;
        }
    }

    /// Forgets the digests whose entries are gone, where they are more than the others; `is_there`
    /// knows which are there.
    pub(super) fn tidy(&mut self, tenant: u32, is_there: impl Fn(u64) -> bool) {
        if let Some(held) = self.held.get_mut(&tenant)
            && held.order.len() > 2 * held.entries + SLACK
        {
            let mut seen = std::collections::HashSet::with_hasher(RandomState::default());
            held.order
                .retain(|digest| is_there(*digest) && seen.insert(*digest));
        }
    }

    /// Returns the memory that all this takes.
    pub(super) fn bytes(&self) -> usize {
        if self.most == 0 {
            return 0;
        }
        allocated(self.room * size_of::<u64>()) + table(self.most, size_of::<(u32, Held)>())
    }
}

/// Digests of no entry that are not worth a walk.
const SLACK: usize = 64;
