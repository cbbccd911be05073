use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Bound, Overloaded, Scope};

/// The rows and bytes that may wait: for one arm of a model, within what may wait in the process.
///
/// ```text
///        limits.max_queue_rows, limits.max_queue_bytes
///   model A: batch.max_queue_rows, ..     model B: ..
///     endpoint 1   endpoint 2               endpoint 1
/// ```
///
/// What enters has room at both levels or at none. Nobody waits for room: who finds none is told so
/// at once.
#[derive(Debug)]
pub struct Room {
    scope: Scope,
    /// What is counted besides bytes.
    counts: Bound,
    rows: Level,
    bytes: Level,
    within: Option<Arc<Room>>,
}

#[derive(Debug)]
struct Level {
    used: AtomicUsize,
    bound: AtomicUsize,
}

/// A place in a room, given back when it is dropped.
#[derive(Debug)]
pub struct Reserved {
    room: Arc<Room>,
    rows: usize,
    bytes: usize,
}

impl Room {
    /// Makes the room that all models of a process share.
    pub fn whole(rows: usize, bytes: usize) -> Arc<Self> {
        Self::new((Scope::Process, Bound::Rows), rows, bytes, None)
    }

    /// Makes the room of one arm of a model, perhaps within a larger one.
    pub fn of_model(rows: usize, bytes: usize, within: Option<Arc<Self>>) -> Arc<Self> {
        Self::new((Scope::Model, Bound::Rows), rows, bytes, within)
    }

    /// Makes the room of one arm of a model whose rows are not merged: each request counts as one
    /// row, here and in the larger room.
    pub fn of_requests(requests: usize, bytes: usize, within: Option<Arc<Self>>) -> Arc<Self> {
        Self::new((Scope::Model, Bound::Requests), requests, bytes, within)
    }

    fn new(
        (scope, counts): (Scope, Bound),
        rows: usize,
        bytes: usize,
        within: Option<Arc<Self>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            scope,
            counts,
            rows: Level::new(rows),
            bytes: Level::new(bytes),
            within,
        })
    }

    /// Changes the bounds. What is over them already stays, and nothing enters until it has left.
    pub fn resize(&self, rows: usize, bytes: usize) {
        self.rows.bound.store(rows, Ordering::Relaxed);
        self.bytes.bound.store(bytes, Ordering::Relaxed);
    }

    /// Returns the rows and the bytes that wait.
    pub fn used(&self) -> (usize, usize) {
        let used = |level: &Level| level.used.load(Ordering::Relaxed);
        (used(&self.rows), used(&self.bytes))
    }

    /// Takes a place.
    ///
    /// # Errors
    ///
    /// Tells which bound leaves none.
    pub fn reserve(self: &Arc<Self>, rows: usize, bytes: usize) -> Result<Reserved, Overloaded> {
        self.enter(rows, bytes)?;
        Ok(Reserved {
            room: Arc::clone(self),
            rows,
            bytes,
        })
    }

    /// Tells whether so many rows and bytes would have room once others have left.
    pub(crate) fn would_have(&self, more: (usize, usize), freed: (usize, usize)) -> bool {
        self.rows.would_have(more.0, freed.0)
            && self.bytes.would_have(more.1, freed.1)
            && self
                .within
                .as_ref()
                .is_none_or(|room| room.would_have(more, freed))
    }

    fn enter(&self, rows: usize, bytes: usize) -> Result<(), Overloaded> {
        let refused = |bound, limit| Overloaded::full(self.scope, bound, limit);
        self.rows
            .add(rows)
            .map_err(|limit| refused(self.counts, limit))?;
        if let Err(limit) = self.bytes.add(bytes) {
            self.rows.sub(rows);
            return Err(refused(Bound::Bytes, limit));
        }
        if let Some(Err(full)) = self.within.as_ref().map(|room| room.enter(rows, bytes)) {
            self.rows.sub(rows);
            self.bytes.sub(bytes);
            return Err(full);
        }
        Ok(())
    }

    fn leave(&self, rows: usize, bytes: usize) {
        self.rows.sub(rows);
        self.bytes.sub(bytes);
        if let Some(room) = &self.within {
            room.leave(rows, bytes);
        }
    }
}

impl Level {
    fn new(bound: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            bound: AtomicUsize::new(bound),
        }
    }

    /// Adds to what is used, or returns the bound that would be broken.
    fn add(&self, more: usize) -> Result<(), usize> {
        let bound = self.bound.load(Ordering::Relaxed);
        let grown = |used: usize| used.checked_add(more).filter(|sum| *sum <= bound);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .map(|_| ())
            .map_err(|_| bound)
    }

    fn would_have(&self, more: usize, freed: usize) -> bool {
        let used = self.used.load(Ordering::Relaxed).saturating_sub(freed);
        let sum = used.checked_add(more);
        sum.is_some_and(|sum| sum <= self.bound.load(Ordering::Relaxed))
    }

    fn sub(&self, less: usize) {
        self.used.fetch_sub(less, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.room.leave(self.rows, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_enters_has_room_at_both_levels_or_at_none() {
        let whole = Room::whole(10, 100);
        let one = Room::of_model(8, 200, Some(whole.clone()));
        let other = Room::of_model(8, 50, Some(whole.clone()));
        let first = one.reserve(6, 10).expect("there is room");
        assert_eq!(
            one.reserve(3, 10).unwrap_err().to_string(),
            "the queue is full: max_queue_rows is 8"
        );
        assert_eq!(
            other.reserve(6, 10).unwrap_err().to_string(),
            "the queues of all models are full: limits.max_queue_rows is 10"
        );
        assert_eq!(
            other.reserve(1, 51).unwrap_err().to_string(),
            "the queue is full: max_queue_bytes is 50"
        );
        assert_eq!(
            one.reserve(1, 91).unwrap_err().to_string(),
            "the queues of all models are full: limits.max_queue_bytes is 100"
        );
        assert_eq!(whole.used(), (6, 10));
        assert_eq!(other.used(), (0, 0));
        drop(first);
        assert_eq!((whole.used(), one.used()), ((0, 0), (0, 0)));
        assert!(one.reserve(usize::MAX, 1).is_err());
        assert!(other.reserve(8, 50).is_ok());
    }

    #[test]
    fn what_would_have_room_is_told_at_both_levels() {
        let whole = Room::whole(10, 100);
        let model = Room::of_model(8, 80, Some(whole.clone()));
        let _other = whole.reserve(5, 10).expect("there is room");
        let _held = model.reserve(4, 60).expect("there is room");
        for (more, freed, has) in [
            ((1, 20), (0, 0), true),
            ((1, 21), (0, 0), false),
            ((2, 1), (0, 0), false),
            ((2, 1), (1, 0), true),
            ((5, 80), (4, 60), true),
            ((5, 81), (4, 60), false),
            ((usize::MAX, 1), (4, 60), false),
        ] {
            assert_eq!(model.would_have(more, freed), has, "{more:?} {freed:?}");
        }
    }

    #[test]
    fn bounds_that_shrink_evict_nobody_and_admit_nobody_until_there_is_room() {
        let whole = Room::whole(10, 100);
        let model = Room::of_model(10, 100, Some(whole.clone()));
        let held = model.reserve(6, 60).expect("there is room");
        whole.resize(4, 40);
        assert_eq!(model.reserve(1, 1).unwrap_err().limit(), Some(4));
        assert_eq!(whole.used(), (6, 60));
        drop(held);
        assert!(model.reserve(4, 40).is_ok());
    }
}
