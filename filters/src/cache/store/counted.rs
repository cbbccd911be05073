use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use foldhash::quality::RandomState;
use lru::LruCache;
use parking_lot::Mutex;
use smallvec::SmallVec;

/// What many entries share: its bytes are counted from the first entry that takes it on, as long as
/// somebody holds it. Before, it belongs to a request that is under way.
#[derive(Debug)]
pub(in crate::cache) struct Counted<T> {
    value: T,
    bytes: usize,
    is_counted: AtomicBool,
    total: Arc<AtomicUsize>,
}

/// The values that were used last, so that equal ones are the same. Their bytes are counted for that.
#[derive(Debug)]
pub(super) struct Interner<T> {
    known: Mutex<Known<T>>,
    /// Bytes that the known values take at most.
    most_bytes: usize,
    total: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Known<T> {
    values: LruCache<u64, Arc<Counted<T>>, RandomState>,
    bytes: usize,
}

impl<T> Interner<T> {
    pub(super) fn new(total: Arc<AtomicUsize>, most_bytes: usize) -> Self {
        let known = Known {
            values: LruCache::unbounded_with_hasher(RandomState::default()),
            bytes: 0,
        };
        Self {
            known: Mutex::new(known),
            most_bytes,
            total,
        }
    }

    /// Returns the known value that is the same, or makes one, whose bytes `make` counts.
    pub(super) fn get(
        &self,
        digest: u64,
        is_same: impl Fn(&T) -> bool,
        make: impl FnOnce() -> (T, usize),
    ) -> Arc<Counted<T>> {
        let mut known = self.known.lock();
        if let Some(found) = known.values.get(&digest)
            && is_same(found)
        {
            return found.clone();
        }
        let (value, bytes) = make();
        let made = Arc::new(Counted {
            value,
            bytes,
            is_counted: AtomicBool::new(false),
            total: self.total.clone(),
        });
        if bytes > self.most_bytes {
            return made;
        }
        let before = known.bytes;
        let mut forgotten: SmallVec<[_; 2]> = SmallVec::new();
        forgotten.extend(known.values.put(digest, made.clone()));
        known.bytes += bytes;
        known.bytes -= forgotten.iter().map(|gone| gone.bytes).sum::<usize>();
        while known.values.len() > MOST || known.bytes > self.most_bytes {
            let Some((_, gone)) = known.values.pop_lru() else {
                break;
            };
            known.bytes -= gone.bytes;
            forgotten.push(gone);
        }
        self.total.fetch_add(known.bytes, Ordering::Relaxed);
        self.total.fetch_sub(before, Ordering::Relaxed);
        drop(known);
        drop(forgotten);
        made
    }

    /// Forgets all; who holds one keeps it.
    pub(super) fn clear(&self) {
        let mut known = self.known.lock();
        known.values.clear();
        let bytes = std::mem::take(&mut known.bytes);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<T> Counted<T> {
    /// Counts the value, and returns the bytes that an entry takes on that is about to hold it, too:
    /// an equal part with the others that do. The first of many takes on all; what nobody takes on,
    /// because those who did are gone, is counted for itself.
    pub(super) fn take_on(this: &Arc<Self>) -> usize {
        let is_counted = &this.is_counted;
        // Looked at first: to write there is to wait for what was written before, such as a row.
        if !is_counted.load(Ordering::Relaxed) && !is_counted.swap(true, Ordering::Relaxed) {
            this.total.fetch_add(this.bytes, Ordering::Relaxed);
        }
        this.bytes / Arc::strong_count(this).saturating_sub(BESIDES).max(1)
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        if *self.is_counted.get_mut() {
            self.total.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Who holds a value besides entries and rows under way while an entry is made: the interner, the
/// call, and the one who makes it.
const BESIDES: usize = 3;
/// Values that are known at a time: callers with headers of their own have questions of their own.
const MOST: usize = 256;
