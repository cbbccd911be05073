use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    AdmissionLayer, Config, View,
    metrics::Handles,
    state::{State, Told},
};
use crate::overload::{Abandoned, Cancel, Room};

/// What the clones of an admission filter share, on all runtimes.
///
/// The lock is held for as long as it takes to decide, never across an await, and nobody is woken
/// under it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) config: Config,
    pub(super) metrics: Handles,
    pub(super) room: Arc<Room>,
    /// Calls that nobody waits for any more.
    abandoned: Abandoned,
}

impl Shared {
    pub(super) fn new(layer: &AdmissionLayer) -> Self {
        let shared = Self {
            state: Mutex::new(State::new(&layer.config, Instant::now())),
            config: layer.config.clone(),
            metrics: layer.metrics.clone(),
            room: layer.room.clone(),
            abandoned: Abandoned::default(),
        };
        {
            let mut state = shared.state.lock();
            shared.abandoned.bound(state.longest());
            shared.show_limit(&mut state);
        }
        shared
    }

    /// Returns where calls are counted that go on without their callers, if they do.
    pub(super) fn outliving(&self) -> Option<Abandoned> {
        match self.config.cancel {
            Cancel::Never => Some(self.abandoned.clone()),
            Cancel::Abandoned => None,
        }
    }

    /// Gives a place back, and tells those who have it now.
    pub(super) fn end(&self, call: usize, answered: Option<bool>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let told = state.end(call, answered, now);
        self.abandoned.bound(state.longest());
        self.show_limit(&mut state);
        self.tell(state, told);
    }

    /// Tells those who waited what has become of them.
    pub(super) fn tell(&self, state: MutexGuard<'_, State>, told: Told) {
        drop(state);
        if told.late > 0 {
            self.metrics.expired.inc_by(told.late);
        }
        if told.stuck > 0 {
            self.metrics.stuck.inc_by(told.stuck);
            tracing::warn!(
                calls = told.stuck,
                "calls take far longer than expected: others are sent beside them"
            );
        }
        told.wakers.into_iter().for_each(std::task::Waker::wake);
    }

    pub(super) fn view(&self) -> View {
        let state = self.state.lock();
        View {
            limit: state.limit.calls(),
            in_flight: state.in_flight,
            beside: state.beside,
            queue_requests: state.queue.len(),
            queue_bytes: state.queue.bytes(),
            p50: state.took.quantile(0.5),
            p95: state.took.quantile(0.95),
        }
    }

    /// Sets this filter's part of the gauge; the gauge is the sum over the arm's endpoints.
    fn show_limit(&self, state: &mut State) {
        let limit = i64::try_from(state.limit.calls()).unwrap_or(i64::MAX);
        if limit != state.shown {
            self.metrics.limit.inc_by(limit - state.shown);
            state.shown = limit;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.metrics.limit.dec_by(self.state.get_mut().shown);
    }
}
