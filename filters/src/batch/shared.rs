use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    BatchLayer, Batchable, Capability, Config, View,
    benefit::Called,
    expected::Expected,
    isolation::Isolation,
    latency::Latency,
    metrics::Handles,
    queue::{BoxMember, Place},
    state::{Situation, State},
};
use crate::overload::{Abandoned, Cancel, Room};

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
    pub(super) room: Arc<Room>,
    pub(super) hasher: RandomState,
    /// Wakes whoever holds a place to wait for company.
    pub(super) company: Notify,
    /// Calls that nobody waits for any more.
    pub(super) abandoned: Abandoned,
    /// Set when nothing is waited for any more.
    draining: AtomicBool,
    /// Set when the answers to parts of a request could not be joined.
    indivisible: AtomicBool,
    /// Rows that wait or are under way, outside of the lock for whoever compares endpoints.
    load: AtomicUsize,
    /// When a request that comes now would be answered.
    pub(super) expected: Arc<Expected>,
}

impl<S> Shared<S> {
    pub(super) fn new(inner: S, layer: &BatchLayer) -> Self {
        let shared = Self {
            inner: Mutex::new(inner),
            state: Mutex::new(State::new(&layer.config)),
            latency: Mutex::default(),
            config: layer.config.clone(),
            capability: layer.capability.clone(),
            metrics: layer.metrics.clone(),
            isolation: layer.isolation.clone(),
            room: layer.room.clone(),
            hasher: RandomState::default(),
            company: Notify::new(),
            abandoned: Abandoned::default(),
            draining: AtomicBool::new(false),
            indivisible: AtomicBool::new(false),
            load: AtomicUsize::new(0),
            expected: Expected::new(Instant::now()),
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

    /// Ends all waiting for company, from now on.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.company.notify_one();
    }

    /// Tells whether requests with more rows than calls may have are divided.
    pub(super) fn divides(&self) -> bool {
        self.config.split && !self.indivisible.load(Ordering::Relaxed)
    }

    /// Divides no more requests.
    pub(super) fn divide_no_more(&self) {
        self.indivisible.store(true, Ordering::Relaxed);
    }

    /// Takes a member out of the queue, if it still waits. Who waits for company for nobody is told.
    pub(super) fn take_out(&self, place: Place) -> Option<BoxMember> {
        let mut state = self.state.lock();
        let member = state.queue.remove(place);
        if state.waits_until.is_some() && state.queue.is_empty() {
            self.company.notify_one();
        }
        member
    }

    /// Returns how things stand for a plan.
    pub(super) fn situation(&self, now: Instant, most: usize) -> Situation {
        Situation {
            now,
            most,
            fresh: false,
            waited: false,
            draining: self.draining.load(Ordering::Relaxed),
        }
    }

    /// Returns where calls are counted that go on without their callers, if they do.
    pub(super) fn outliving(&self) -> Option<Abandoned> {
        match self.config.cancel {
            Cancel::Never => Some(self.abandoned.clone()),
            Cancel::Abandoned => None,
        }
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

    /// Learns from a call of one request that was not merged because batching does not pay.
    pub(super) fn sent_singly(&self, rows: usize, sent: Instant, answered: bool) {
        let now = Instant::now();
        self.record(std::iter::once(now - sent));
        let called = Called {
            requests: 1,
            rows,
            held_out: None,
            model: now - sent,
            answered,
        };
        self.state.lock().benefit.called(now, &called);
        self.expected.forget();
        if answered {
            self.metrics.lone(rows, now - sent);
        }
    }

    pub(super) fn view(&self) -> View {
        let (p50, p99) = {
            let latency = self.latency.lock();
            (latency.percentile(50), latency.p99())
        };
        let most = self.most_rows().unwrap_or(1);
        let state = self.state.lock();
        View {
            controller: self.config.controller,
            batch_limit: state.limit.limit(most),
            queue_rows: state.queue.rows(),
            queue_bytes: state.queue.bytes(),
            in_flight: state.in_flight,
            places: state.flight.places(),
            beside: state.beside,
            p50,
            p99,
            benefit: state.benefit.view(Instant::now()),
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
