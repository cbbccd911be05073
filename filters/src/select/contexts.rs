use std::hash::BuildHasher;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

use super::{Available, Learned, Shares, State};

/// What was learned of contexts: of so many, those that were asked for last.
///
/// Of five arms and names of 20 bytes a context takes about 440 bytes: 240 for the numbers and 40
/// for the shares, which are one allocation, 80 for the entry, 40 for the name and the rest for its
/// place in the table.
#[derive(Debug)]
pub(super) struct Contexts {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

/// Some of the contexts.
#[derive(Debug)]
pub(super) struct Shard {
    entries: LruCache<Box<str>, Context, RandomState>,
    most: usize,
    /// Contexts of which the keeper is to be asked.
    wanted: Vec<ByteString>,
    /// How often a context was looked at.
    looks: u32,
}

/// A context.
#[derive(Debug)]
pub(super) struct Context {
    /// All numbers of all arms, and then the share of each; nothing if nothing is known.
    numbers: Box<[f64]>,
    /// The shares where some arms are not available, as they were last asked for.
    fewer: Option<Box<(Available, Shares)>>,
    /// How many parcels were ever added to what is known.
    pub(super) version: u64,
    /// The round in which the keeper was last to be asked.
    pub(super) round: u32,
}

impl Contexts {
    /// Makes room for so many.
    pub(super) fn new(most: usize) -> Self {
        // A shard is worth its lock only if it holds some; the last one used stays then.
        let shards = (most / SHARD).clamp(1, SHARDS);
        let each = most.div_ceil(shards);
        let shard = || {
            Mutex::new(Shard {
                entries: LruCache::unbounded_with_hasher(RandomState::default()),
                most: each,
                wanted: Vec::new(),
                looks: 0,
            })
        };
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            hasher: RandomState::default(),
        }
    }

    /// Returns the shard that a context belongs to.
    pub(super) fn of(&self, context: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(context);
        self.shards[(hash >> 32) as usize % self.shards.len()].lock()
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.lock().entries.len()).sum()
    }

    /// Returns the contexts that are wanted, at most so many, beginning with another shard each
    /// round.
    pub(super) fn wanted(&self, most: usize, round: usize) -> Vec<ByteString> {
        let mut wanted = Vec::new();
        let (before, from) = self.shards.split_at(round % self.shards.len());
        for shard in from.iter().chain(before) {
            let mut shard = shard.lock();
            let taken = shard.wanted.len().min(most - wanted.len());
            wanted.extend(shard.wanted.drain(..taken));
        }
        wanted
    }

    /// Goes through all that is known, a shard at a time.
    pub(super) fn each(&self, mut visit: impl FnMut(&str, State, u64)) {
        for shard in &self.shards {
            let copy: Vec<_> = {
                let shard = shard.lock();
                let known = shard.entries.iter().rev();
                known
                    .filter_map(|(name, context)| {
                        Some((name.clone(), context.state()?, context.version))
                    })
                    .collect()
            };
            for (name, state, version) in copy {
                visit(&name, state, version);
            }
        }
    }
}

impl Shard {
    /// Returns a context, as the last one that was used.
    pub(super) fn get(&mut self, name: &str) -> Option<&mut Context> {
        self.entries.get_mut(name)
    }

    /// Looks at a context.
    ///
    /// Only one look in some counts as a use: to move an entry to the front touches its neighbours,
    /// which are anywhere in memory and cost more than all the rest. Who is looked at often stays
    /// all the same.
    pub(super) fn look(&mut self, name: &str) -> Option<&mut Context> {
        self.looks = self.looks.wrapping_add(1);
        match self.most <= SHARD || self.looks.is_multiple_of(USE) {
            true => self.entries.get_mut(name),
            false => self.entries.peek_mut(name),
        }
    }

    /// Returns a context, without a trace.
    pub(super) fn peek(&self, name: &str) -> Option<&Context> {
        self.entries.peek(name)
    }

    /// Sets what is known of a context; the one that was used least recently may have to go.
    pub(super) fn put(&mut self, name: &str, context: Context) {
        match self.entries.get_mut(name) {
            Some(entry) => *entry = context,
            None => {
                self.entries.put(name.into(), context);
                while self.entries.len() > self.most {
                    self.entries.pop_lru();
                }
            }
        }
    }

    /// Has the keeper be asked for a context; not if too many are waiting.
    pub(super) fn want(&mut self, name: &str, round: u32) {
        if self.wanted.len() >= WANTED {
            return;
        }
        self.wanted.push(name.into());
        match self.entries.get_mut(name) {
            Some(context) => context.round = round,
            None => self.put(name, Context::unknown(round)),
        }
    }
}

impl Context {
    /// Makes a context from what is known of it.
    pub(super) fn new(state: &State, shares: &Shares, version: u64, round: u32) -> Self {
        let numbers = state.arms.iter().flat_map(Learned::numbers);
        Self {
            numbers: numbers.chain(shares.iter().copied()).collect(),
            fewer: None,
            version,
            round,
        }
    }

    fn unknown(round: u32) -> Self {
        Self {
            numbers: Box::default(),
            fewer: None,
            version: 0,
            round,
        }
    }

    /// Returns the probabilities of all arms.
    pub(super) fn shares(&self) -> Option<&[f64]> {
        let arms = self.numbers.len() / (NUMBERS + 1);
        (arms > 0).then(|| &self.numbers[arms * NUMBERS..])
    }

    /// Returns the probabilities of these arms, which are not all: computed only if others were
    /// asked for last.
    pub(super) fn shares_of(
        &mut self,
        available: Available,
        compute: impl FnOnce(&State) -> Shares,
    ) -> Option<Shares> {
        if let Some(fewer) = &self.fewer
            && fewer.0 == available
        {
            return Some(fewer.1.clone());
        }
        let shares = compute(&self.state()?);
        self.fewer = Some(Box::new((available, shares.clone())));
        Some(shares)
    }

    /// Returns what was learned.
    pub(super) fn state(&self) -> Option<State> {
        let arms = self.numbers.len() / (NUMBERS + 1);
        let (numbers, _) = self.numbers.as_chunks::<NUMBERS>();
        (arms > 0).then(|| State {
            arms: numbers[..arms]
                .iter()
                .map(|arm| Learned::from(*arm))
                .collect(),
        })
    }
}

const NUMBERS: usize = Learned::NAMES.len();

/// The most shards: more than there are workers that could wait for each other.
const SHARDS: usize = 64;

/// The fewest contexts of a shard.
const SHARD: usize = 64;

/// Looks of which one counts, where there are many.
const USE: u32 = 8;

/// The most contexts of a shard that wait to be asked for.
const WANTED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_computed_once_while_the_same_arm_is_down() {
        let all = Shares::from_slice(&[0.5, 0.5]);
        let mut context = Context::new(&State::new(2), &all, 0, 0);
        let mut computed = 0;
        for available in [0, 0, 1, 1, 1].map(|arm| Available::first(2).without(arm)) {
            let shares = context.shares_of(available, |_| {
                computed += 1;
                Shares::from_slice(&[computed.into(), 0.])
            });
            assert_eq!(shares.unwrap()[0], computed.into());
        }
        assert_eq!(computed, 2);
        assert_eq!(context.shares(), Some(&*all));
    }
}
