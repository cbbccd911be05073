use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use foldhash::quality::RandomState;
use lru::LruCache;
use parking_lot::Mutex;

/// What many entries share: its bytes are counted as long as there is one that holds it.
#[derive(Debug)]
pub(in crate::cache) struct Counted<T> {
    value: T,
    bytes: usize,
    total: Arc<AtomicUsize>,
}

/// The values that were used last, so that equal ones are the same.
#[derive(Debug)]
pub(super) struct Interner<T> {
    known: Mutex<LruCache<u64, Arc<Counted<T>>, RandomState>>,
    total: Arc<AtomicUsize>,
}

impl<T> Interner<T> {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        let known = LruCache::unbounded_with_hasher(RandomState::default());
        Self {
            known: Mutex::new(known),
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
        if let Some(found) = known.get(&digest)
            && is_same(found)
        {
            return found.clone();
        }
        let (value, bytes) = make();
        self.total.fetch_add(bytes, Ordering::Relaxed);
        let made = Arc::new(Counted {
            value,
            bytes,
            total: self.total.clone(),
        });
        known.put(digest, made.clone());
        let forgotten = (known.len() > MOST).then(|| known.pop_lru());
        drop(known);
        drop(forgotten);
        made
    }

    /// Forgets all; who holds one keeps it.
    pub(super) fn clear(&self) {
        self.known.lock().clear();
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
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Values that are known at a time: callers with headers of their own have questions of their own.
const MOST: usize = 256;
