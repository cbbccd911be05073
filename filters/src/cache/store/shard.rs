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
/// ```text
///            no more room              asked for again
/// --> window ------------> probation ------------------> protected
///                |  ^           |   <------------------      |
///                |  |           v       no more room         |
///                |  '--- the entry that was asked for longest ago
///                v       stays if it is asked for more often
///              gone
/// ```
///
/// New entries come into a window, where what is asked for again soon is found. What the window
/// has no more room for competes with the entry on probation that was asked for longest ago:
/// the one that is asked for more often stays (W-TinyLFU: Einziger, Friedman and Manes, ACM
/// Transactions on Storage 2017). So rows that are asked for once, however many, empty the window
/// and no more.
#[derive(Debug)]
pub(super) struct Shard {
    window: Segment,
    probation: Segment,
    protected: Segment,
    frequency: Frequency,
    tenants: Tenants,
    pub(super) flights: Flights,
}

/// Entries in the order in which they were asked for.
#[derive(Debug)]
struct Segment {
    entries: LruCache<u64, Entry, BuildHasherDefault<Mixed>>,
    bytes: usize,
    /// Those of the bytes that are shares of what entries have in common.
    shares: usize,
    /// The most entries there have been: tables do not shrink.
    most: usize,
    /// Bytes of the table that finds them.
    table: usize,
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
            probation: Segment::new(),
            protected: Segment::new(),
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
        // Most of what is asked for is asked for often.
        for segment in [&mut self.protected, &mut self.window] {
            if let Some(entry) = segment.entries.get_mut(&digest) {
                return entry.sought(now, max_age, is_it);
            }
        }
        let Some(entry) = self.probation.entries.peek_mut(&digest) else {
            return Sought::Absent;
        };
        let sought = entry.sought(now, max_age, is_it);
        if let Sought::Found(_) = sought {
            self.protect(digest);
        }
        sought
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
        self.frequency.ensure(self.len());
        while self.window.bytes > bounds.bytes / WINDOW {
            let Some((digest, entry)) = self.window.pop_lru() else {
                break;
            };
            if entry.is_expired(now) {
                turnover.expired += 1;
                self.forget(&entry);
            } else if self.is_admitted(digest, &entry, bounds.bytes, now, &mut turnover) {
                self.probation.put(digest, entry);
            } else {
                turnover.not_admitted += 1;
                self.forget(&entry);
            }
        }
        self.fit(bounds.bytes, &mut turnover);
        turnover
    }

    /// Lets entries go that there is no room for: tables grow, too, and what entries have in common
    /// and nobody has taken on.
    pub(super) fn fit(&mut self, most: usize, turnover: &mut Turnover) {
        while self.bytes() > most {
            let Self {
                window,
                probation,
                protected,
                ..
            } = self;
            let segments = [probation, protected, window];
            let Some((_, entry)) = segments.into_iter().find_map(Segment::pop_lru) else {
                break;
            };
            turnover.space += 1;
            self.forget(&entry);
        }
    }

    /// Takes all entries out.
    pub(super) fn clear(&mut self) -> usize {
        let rows = self.len();
        for segment in [&mut self.window, &mut self.probation, &mut self.protected] {
            *segment = Segment::new();
        }
        self.tenants = Tenants::default();
        rows
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        let lengths = self.segments().map(|segment| segment.entries.len());
        lengths.iter().sum()
    }

    /// Returns the memory that all this takes.
    pub(super) fn bytes(&self) -> usize {
        let segments = self.segments().map(Segment::memory);
        segments.iter().sum::<usize>() + self.frequency.bytes() + self.tenants.bytes()
    }

    /// Returns how much of this is shares of what entries have in common.
    pub(super) fn shares(&self) -> usize {
        self.segments().iter().map(|segment| segment.shares).sum()
    }

    /// Goes through the entries, those first that were asked for again, and of these the last
    /// ones.
    pub(super) fn hottest(&self) -> impl Iterator<Item = &Entry> {
        let [window, probation, protected] = self.segments();
        let segments = [protected, window, probation].into_iter();
        segments.flat_map(|segment| segment.entries.iter().map(|(_, entry)| entry))
    }

    fn segments(&self) -> [&Segment; 3] {
        [&self.window, &self.probation, &self.protected]
    }

    /// Protects an entry that was on probation, and puts the one that was asked for longest ago in
    /// its place.
    fn protect(&mut self, digest: u64) {
        let Some(entry) = self.probation.pop(digest) else {
            return;
        };
        self.protected.put(digest, entry);
        while self.protected.bytes > (self.protected.bytes + self.probation.bytes) / 5 * PROTECTED {
            match self.protected.pop_lru() {
                Some((digest, entry)) => self.probation.put(digest, entry),
                None => break,
            }
        }
    }

    /// Makes room on probation for an entry, unless one that would have to go is asked for more
    /// often: then nobody goes.
    fn is_admitted(
        &mut self,
        candidate: u64,
        entry: &Entry,
        most: usize,
        now: u64,
        turnover: &mut Turnover,
    ) -> bool {
        // Its node is not counted while it stands in no segment.
        let mut wanted = (self.bytes() + entry.bytes()).saturating_sub(most);
        let mut going = 0;
        let oldest = self.probation.entries.iter().rev();
        for (victim, other) in oldest.chain(self.protected.entries.iter().rev()) {
            if wanted == 0 {
                break;
            }
            if !other.is_expired(now) && !self.frequency.admits(candidate, *victim) {
                return false;
            }
            wanted = wanted.saturating_sub(other.bytes());
            going += 1;
        }
        for _ in 0..going {
            let oldest = self.probation.pop_lru();
            let Some((_, gone)) = oldest.or_else(|| self.protected.pop_lru()) else {
                break;
            };
            match gone.is_expired(now) {
                true => turnover.expired += 1,
                false => turnover.space += 1,
            }
            self.forget(&gone);
        }
        wanted == 0
    }

    /// Lets a tenant's entries go, first those that came first, but for those that were asked for
    /// since they were looked at last.
    fn make_room_of(&mut self, tenant: u32, most: usize, turnover: &mut Turnover) {
        while self.tenants.bytes_of(tenant) > most {
            let Some(digest) = self.tenants.next(tenant) else {
                return;
            };
            let found = self
                .entry_mut(digest)
                .filter(|entry| entry.tenant == tenant);
            let Some(entry) = found else {
                continue;
            };
            if std::mem::take(&mut entry.touched) {
                self.tenants.again(tenant, digest);
            } else {
                self.remove(digest);
                turnover.quota += 1;
            }
        }
        let segments = [&self.window, &self.probation, &self.protected];
        self.tenants.tidy(tenant, |digest| {
            let mut found = segments
                .iter()
                .filter_map(|segment| segment.entries.peek(&digest));
            found.any(|entry| entry.tenant == tenant)
        });
    }

    fn entry(&self, digest: u64) -> Option<&Entry> {
        let mut segments = self.segments().into_iter();
        segments.find_map(|segment| segment.entries.peek(&digest))
    }

    fn entry_mut(&mut self, digest: u64) -> Option<&mut Entry> {
        let segments = [&mut self.window, &mut self.probation, &mut self.protected];
        let mut segments = segments.into_iter();
        segments.find_map(|segment| segment.entries.peek_mut(&digest))
    }

    fn remove(&mut self, digest: u64) {
        let segments = [&mut self.window, &mut self.probation, &mut self.protected];
        let gone = segments.into_iter().find_map(|segment| segment.pop(digest));
        if let Some(entry) = gone {
            self.forget(&entry);
        }
    }

    fn forget(&mut self, gone: &Entry) {
        self.tenants.remove(gone.tenant, gone.bytes());
    }
}

impl Entry {
    /// Tells what it is to one who looks for the answer to a row, and takes note that it was asked
    /// for.
    fn sought(&mut self, now: u64, max_age: Option<u64>, is_it: impl Fn(&Self) -> bool) -> Sought {
        if !is_it(self) {
            return Sought::Absent;
        }
        // It stays until it is replaced: whoever asks next may not mind its age.
        if self.is_expired(now) || max_age.is_some_and(|max| self.age(now) > max) {
            return Sought::Expired;
        }
        self.touched = true;
        Sought::Found(self.found())
    }
}

impl Segment {
    fn new() -> Self {
        Self {
            entries: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
            bytes: 0,
            shares: 0,
            most: 0,
            table: 0,
        }
    }

    fn put(&mut self, digest: u64, entry: Entry) {
        self.bytes += entry.bytes();
        self.shares += entry.share();
        self.entries.put(digest, entry);
        if self.entries.len() > self.most {
            self.most = self.entries.len();
            self.table = table(self.most, SLOT);
        }
    }

    fn pop(&mut self, digest: u64) -> Option<Entry> {
        let entry = self.entries.pop(&digest)?;
        self.bytes -= entry.bytes();
        self.shares -= entry.share();
        Some(entry)
    }

    fn pop_lru(&mut self) -> Option<(u64, Entry)> {
        let (digest, entry) = self.entries.pop_lru()?;
        self.bytes -= entry.bytes();
        self.shares -= entry.share();
        Some((digest, entry))
    }

    /// Returns the memory of the entries and of the table that finds them.
    fn memory(&self) -> usize {
        self.bytes + self.table
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

/// The window is one such part of a shard. The room's README has what others bring.
const WINDOW: usize = 8;
/// Fifths of the rest that are protected.
const PROTECTED: usize = 4;
/// An entry takes at most one such part of a shard, or of a tenant's share of it.
const LARGEST: usize = 4;
/// The list's table keeps pointers to a digest and to its node.
const SLOT: usize = 2 * size_of::<usize>();
