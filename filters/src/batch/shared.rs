use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Batchable, Capability, Config, View,
    budget::Budget,
    config,
    controller::{Aimd, BatchLimit, Costs, Fixed, Quantile},
    error::{Bound, Overloaded},
    expected::Expected,
    isolation::Isolation,
    latency::Latency,
    metrics::Handles,
    queue::Queue,
};

/// What the clones of a batch filter share, on all runtimes.
///
/// The locks are held for as long as it takes to link or unlink requests, never across an await.
pub(super) struct Shared<S> {
    /// Cloned for each call, so that no two calls share a reservation.
    inner: Mutex<S>,
    pub(super) state: Mutex<State>,
    latency: Mutex<Latency>,
    pub(super) config: Config,
    pub(super) capability: Capability,
    pub(super) metrics: Handles,
    pub(super) isolation: Isolation,
    pub(super) hasher: RandomState,
    /// When a request that comes now would be answered.
    pub(super) expected: Arc<Expected>,
    /// Rows that wait or are under way, outside of the lock for whoever compares endpoints.
    load: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) limit: Box<dyn BatchLimit>,
    /// What calls cost, whatever the controller.
    pub(super) costs: Costs,
    /// What parts of batches that were halved may still cost.
    pub(super) budget: Budget,
    /// Calls under way. While there is room for another one, nothing waits.
    pub(super) in_flight: usize,
    /// What this filter has added to the gauge of limits.
    pub(super) shown: i64,
}

impl<S> Shared<S> {
    pub(super) fn new(
        inner: S,
        config: Config,
        capability: Capability,
        metrics: Handles,
        isolation: Isolation,
    ) -> Self {
        let limit: Box<dyn BatchLimit> = match config.controller {
            config::Controller::Aimd => Box::new(Aimd::new(config.latency_objective)),
            config::Controller::Quantile => Box::new(Quantile::new(config.latency_objective)),
            config::Controller::Fixed => Box::new(Fixed),
        };
        let shared = Self {
            inner: Mutex::new(inner),
            state: Mutex::new(State {
                queue: Queue::default(),
                limit,
                costs: Costs::default(),
                budget: Budget::default(),
                in_flight: 0,
                shown: 0,
            }),
            latency: Mutex::default(),
            config,
            capability,
            metrics,
            isolation,
            hasher: RandomState::default(),
            expected: Expected::new(Instant::now()),
            load: AtomicUsize::new(0),
        };
        shared.show_limit(&mut shared.state.lock());
        shared
    }

    /// Returns the most rows that a call may ever have, or `None` where the model takes no
    /// batches or nobody knows.
    pub(super) fn most_rows(&self) -> Option<usize> {
        let most = match (self.capability.get(), self.config.max_batch_size) {
            (Batchable::No(_) | Batchable::Unasked, _) | (Batchable::Unknown, None) => return None,
            (
                Batchable::Yes {
                    max_batch_size: Some(served),
                },
                Some(configured),
            ) => served.min(configured),
            (
                Batchable::Yes {
                    max_batch_size: Some(served),
                },
                None,
            ) => served,
            (_, Some(configured)) => configured,
            (Batchable::Yes { .. }, None) => MOST_ROWS,
        };
        Some(most.max(1))
    }

    /// Tells whether a request may wait, or which bound it would break.
    pub(super) fn admits(
        &self,
        queue: &Queue,
        rows: usize,
        bytes: usize,
    ) -> Result<(), Overloaded> {
        let bounds = [
            (Bound::Rows, queue.rows(), rows, self.config.max_queue_rows),
            (
                Bound::Bytes,
                queue.bytes(),
                bytes,
                self.config.max_queue_bytes,
            ),
        ];
        for (bound, waiting, more, limit) in bounds {
            if waiting.checked_add(more).is_none_or(|sum| sum > limit) {
                return Err(Overloaded { bound, limit });
            }
        }
        Ok(())
    }

    pub(super) fn add_load(&self, rows: usize) {
        self.load.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn sub_load(&self, rows: usize) {
        self.load.fetch_sub(rows, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn view(&self) -> View {
        let p99 = self.latency.lock().p99();
        let most = self.most_rows().unwrap_or(1);
        let state = self.state.lock();
        View {
            controller: self.config.controller,
            batch_limit: state.limit.limit(most),
            queue_rows: state.queue.rows(),
            queue_bytes: state.queue.bytes(),
            in_flight: state.in_flight,
            p99,
            capability: self.capability.get(),
        }
    }

    /// Sets this filter's part of the gauge; the gauge is the sum over the arm's endpoints.
    pub(super) fn show_limit(&self, state: &mut State) {
        let limit = state.limit.limit(self.most_rows().unwrap_or(1));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        if limit != state.shown {
            self.metrics.limit.inc_by(limit - state.shown);
            state.shown = limit;
        }
    }

    pub(super) fn record(&self, durations: impl Iterator<Item = std::time::Duration>) {
        let mut latency = self.latency.lock();
        durations.for_each(|duration| latency.record(duration));
    }
}

impl<S: Clone> Shared<S> {
    pub(super) fn inner(&self) -> S {
        self.inner.lock().clone()
    }
}

impl<S> Drop for Shared<S> {
    fn drop(&mut self) {
        self.metrics.limit.dec_by(self.state.get_mut().shown);
    }
}

/// The most rows of a call where neither the configuration nor the server names a bound: at the
/// cheapest row that was measured (12.5 us) such a call takes 50 ms, which is over any objective
/// that batching is used for.
const MOST_ROWS: usize = 4096;
