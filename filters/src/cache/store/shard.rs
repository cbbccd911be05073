use std::hash::{BuildHasherDefault, Hasher};

use lru::LruCache;

use super::{
    entry::{Entry, Found},
    size::table,
    sketch::Frequency,
    tenants::Tenants,
};
use crate::cache::flight::Flights;

/// A part of the store, behind a lock of its own.
///
/// New entries come into a window, where what is asked for again at once is found. What the window
/// has no more room for competes with the entry of the main part that was asked for longest ago:
/// the one that is asked for more often stays (W-TinyLFU: Einziger, Friedman and Manes, ACM
/// Transactions on Storage 2017). So rows that are asked for once, however many, empty the window
/// and not the main part.
#[derive(Debug)]
pub(super) struct Shard {
    window: Segment,
    main: Segment,
    frequency: Frequency,
    tenants: Tenants,
    pub(super) flights: Flights,
}

/// Entries in the order in which they were asked for.
#[derive(Debug)]
struct Segment {
    entries: LruCache<u64, Entry, BuildHasherDefault<Mixed>>,
    bytes: usize,
    /// The most entries there have been: tables do not shrink.
    most: usize,
}

/// What has been found under a digest.
#[derive(Debug)]
pub(super) enum Sought {
    Found(Found),
    /// There is one whose time is over, or too old for the caller.
    Expired,
    Absent,
}

/// What a shard may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes: usize,
    /// Of one tenant; 0 where they are not told apart.
    pub(super) of_tenant: usize,
}

/// Why entries went, or did not come in.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cache) struct Turnover {
    pub(in crate::cache) space: u64,
    pub(in crate::cache) expired: u64,
    pub(in crate::cache) quota: u64,
    /// Others were asked for more often.
    pub(in crate::cache) not_admitted: u64,
    /// It would have taken too much of the shard.
    pub(in crate::cache) too_large: u64,
}

/// Digests are keys as they are: they are mixed well.
#[derive(Debug, Default)]
pub(in crate::cache) struct Mixed(u64);

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            window: Segment::new(),
            main: Segment::new(),
            frequency: Frequency::default(),
            tenants: Tenants::default(),
            flights: Flights::default(),
        }
    }

    /// Looks for the entry with a digest that is the one in question, and counts that it was
    /// asked for.
    pub(super) fn find(
        &mut self,
        digest: u64,
        now: u64,
        max_age: Option<u64>,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Sought {
        self.frequency.touch(digest);
        let found = match self.window.entries.get_mut(&digest) {
            Some(entry) => Some(entry),
            None => self.main.entries.get_mut(&digest),
        };
        match found {
            // It stays until it is replaced: whoever asks next may not mind its age.
            Some(entry) if is_it(entry) => {
                if entry.is_expired(now) || max_age.is_some_and(|max| entry.age(now) > max) {
                    return Sought::Expired;
                }
                entry.touched = true;
                Sought::Found(entry.found())
            }
            _ => Sought::Absent,
        }
    }

    /// Looks for an entry without counting it.
    pub(super) fn peek(
        &self,
        digest: u64,
        now: u64,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Option<Found> {
        let entry = self.entry(digest)?;
        (is_it(entry) && !entry.is_expired(now)).then(|| entry.found())
    }

    /// Takes in an entry, and lets others go for it.
    pub(super) fn insert(
        &mut self,
        digest: u64,
        entry: Entry,
        bounds: Bounds,
        now: u64,
    ) -> Turnover {
        let mut turnover = Turnover::default();
        // What stood there answered another row, or is older.
        self.remove(digest);
        let (bytes, tenant) = (entry.bytes(), entry.tenant);
        if bytes > bounds.bytes / LARGEST
            || bounds.of_tenant > 0 && bytes > bounds.of_tenant / LARGEST
        {
            turnover.too_large += 1;
            return turnover;
        }
        if bounds.of_tenant > 0 {
            self.make_room_of(
                tenant,
                bounds.of_tenant.saturating_sub(bytes),
                &mut turnover,
            );
            self.tenants.add(tenant, digest, bytes);
        }
        self.window.put(digest, entry);
        self.frequency
            .ensure(self.window.entries.len() + self.main.entries.len());
        while self.window.bytes > bounds.bytes / WINDOW {
            let Some((digest, entry)) = self.window.pop_lru() else {
                break;
            };
            if entry.is_expired(now) {
                turnover.expired += 1;
                self.forget(&entry);
            } else if self.is_admitted(digest, &entry, bounds.bytes, now, &mut turnover) {
                self.main.put(digest, entry);
            } else {
                turnover.not_admitted += 1;
                self.forget(&entry);
            }
        }
        // Tables grow, too.
        while self.bytes() > bounds.bytes {
            let Some((_, entry)) = self.main.pop_lru().or_else(|| self.window.pop_lru()) else {
                break;
            };
            turnover.space += 1;
            self.forget(&entry);
        }
        turnover
    }

    /// Takes all entries out.
    pub(super) fn clear(&mut self) -> usize {
        let rows = self.len();
        let window = std::mem::replace(&mut self.window, Segment::new());
        let main = std::mem::replace(&mut self.main, Segment::new());
        self.tenants = Tenants::default();
        drop((window, main));
        rows
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        self.window.entries.len() + self.main.entries.len()
    }

    /// Returns the memory that all this takes.
    pub(super) fn bytes(&self) -> usize {
        self.window.memory() + self.main.memory() + self.frequency.bytes() + self.tenants.bytes()
    }

    /// Goes through the entries, those first that were asked for last.
    pub(super) fn hottest(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.main.entries.iter().chain(self.window.entries.iter());
        entries.map(|(_, entry)| entry)
    }

    /// Makes room for an entry in the main part, unless those that would have to go are asked for
    /// more often.
    fn is_admitted(
        &mut self,
        candidate: u64,
        entry: &Entry,
        most: usize,
        now: u64,
        turnover: &mut Turnover,
    ) -> bool {
        // Its node is not counted while it stands in neither part.
        while self.bytes() + entry.bytes() > most {
            let Some((victim, other)) = self.main.entries.peek_lru() else {
                return false;
            };
            if other.is_expired(now) {
                turnover.expired += 1;
            } else if self.frequency.admits(candidate, *victim) {
                turnover.space += 1;
            } else {
                return false;
            }
            if let Some((_, gone)) = self.main.pop_lru() {
                self.forget(&gone);
            }
        }
        true
    }

    /// Lets a tenant's entries go, first those that came first, but for those that were asked for
    /// since they were looked at last.
    fn make_room_of(&mut self, tenant: u64, most: usize, turnover: &mut Turnover) {
        while self.tenants.bytes_of(tenant) > most {
            let Some(digest) = self.tenants.next(tenant) else {
                return;
            };
            let segments = [&mut self.window, &mut self.main];
            let found = segments
                .into_iter()
                .find_map(|segment| segment.entries.peek_mut(&digest));
            match found {
                Some(entry) if entry.tenant == tenant && entry.touched => {
                    entry.touched = false;
                    self.tenants.again(tenant, digest);
                }
                Some(entry) if entry.tenant == tenant => {
                    self.remove(digest);
                    turnover.quota += 1;
                }
                _ => {}
            }
        }
        let (window, main) = (&self.window, &self.main);
        self.tenants.tidy(tenant, |digest| {
            let entry = window.entries.peek(&digest);
            let entry = entry.or_else(|| main.entries.peek(&digest));
            entry.is_some_and(|entry| entry.tenant == tenant)
        });
    }

    fn entry(&self, digest: u64) -> Option<&Entry> {
        let in_window = self.window.entries.peek(&digest);
        in_window.or_else(|| self.main.entries.peek(&digest))
    }

    fn remove(&mut self, digest: u64) {
        let gone = self.window.pop(digest).or_else(|| self.main.pop(digest));
        if let Some(entry) = gone {
            self.forget(&entry);
        }
    }

    fn forget(&mut self, gone: &Entry) {
        self.tenants.remove(gone.tenant, gone.bytes());
    }
}

impl Segment {
    fn new() -> Self {
        Self {
            entries: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
            bytes: 0,
            most: 0,
        }
    }

    fn put(&mut self, digest: u64, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.put(digest, entry);
        self.most = self.most.max(self.entries.len());
    }

    fn pop(&mut self, digest: u64) -> Option<Entry> {
        let entry = self.entries.pop(&digest)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    fn pop_lru(&mut self) -> Option<(u64, Entry)> {
        let (digest, entry) = self.entries.pop_lru()?;
        self.bytes -= entry.bytes();
        Some((digest, entry))
    }

    /// Returns the memory of the entries and of the table that finds them.
    fn memory(&self) -> usize {
        self.bytes + table(self.most, SLOT)
    }
}

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        // Only digests are keys; whatever else comes is mixed in somehow.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The window's share of a shard. The room's README has what others bring.
const WINDOW: usize = 16;
/// An entry takes at most one such part of a shard, or of a tenant's share of it.
const LARGEST: usize = 4;
/// The list's table keeps pointers to a digest and to its node.
const SLOT: usize = 2 * size_of::<usize>();
