use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;
use tower::Service;

use super::{
    AdmissionLayer, Config, View,
    future::ResponseFuture,
    metrics::{Handles, Refused},
    place::Place,
    queue::{Outcome, Urgency},
    shared::Shared,
    state::{Arrival, State, Told},
};
use crate::{
    deadline::Expired,
    inference::{Error, Infer, Request, Response},
    overload::{Bound, Overloaded, Reserved},
};

/// Lets as many calls to an endpoint be under way as make it answer more; the others wait, the most
/// urgent first, as long as they can be answered in time.
///
/// Clones share one queue, on whichever runtime they are.
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Admission<S> {
    /// Puts the filter in front of `inner`, which calls one endpoint of a model.
    pub fn new(inner: S, config: Config, metrics: Handles) -> Self {
        Self::layered(inner, &AdmissionLayer::new(config, metrics))
    }

    pub(super) fn layered(inner: S, layer: &AdmissionLayer) -> Self {
        Self {
            inner,
            shared: Arc::new(Shared::new(layer)),
        }
    }

    /// Returns what has been learned and what waits.
    pub fn view(&self) -> View {
        self.shared.view()
    }

    /// Returns the requests that wait or are under way: the less, the sooner a new request is
    /// answered, among endpoints that are equally fast. Of calls that are stuck nobody knows.
    pub fn load(&self) -> usize {
        let state = self.shared.state.lock();
        state.in_flight + state.queue.len()
    }

    /// Returns how long a request that comes now would take, by what calls take and by what is
    /// before it; `None` before the first answer.
    pub fn completion(&self, now: Instant) -> Option<Duration> {
        self.shared.state.lock().completion(now)
    }

    /// Tells whether the endpoint would hardly notice one call more: a second try of a request that
    /// is under way elsewhere shall not delay those that are not.
    pub fn has_spare(&self) -> bool {
        self.shared.state.lock().has_spare()
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl<S: Infer + 'static> Service<Request> for Admission<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture<S> {
        let shared = &self.shared;
        let now = Instant::now();
        let urgency = Urgency {
            priority: request.head.priority,
            deadline: request.head.deadline,
            arrived: now,
            in_sequence: request.is_in_sequence(),
        };
        if urgency.deadline.is_some_and(|at| at <= now) {
            shared.metrics.expired.inc();
            return ResponseFuture::refused(Expired::passed());
        }
        let mut told = Told::default();
        let mut state = shared.state.lock();
        match state.arrive(&urgency, &mut told) {
            Arrival::Go(call) => {
                shared.tell(state, told);
                shared.metrics.queue.observe(0.);
                let place = Place::new(Arc::clone(shared), call);
                ResponseFuture::sent(self.inner.clone(), request, place)
            }
            Arrival::Hopeless => {
                shared.tell(state, told);
                shared.metrics.expired.inc();
                ResponseFuture::refused(Expired::hopeless())
            }
            Arrival::Late(overloaded) => {
                shared.tell(state, told);
                shared.metrics.refused(Refused::Late).inc();
                ResponseFuture::refused(overloaded)
            }
            Arrival::Wait { overdue } => {
                let held = request.held_len();
                let reserved = match shared.room(&mut state, &urgency, overdue, held, &mut told) {
                    Ok(reserved) => reserved,
                    Err(overloaded) => {
                        shared.tell(state, told);
                        return ResponseFuture::refused(overloaded);
                    }
                };
                let node = state.push(
                    &urgency,
                    overdue,
                    Some(reserved),
                    held,
                    Waker::noop().clone(),
                );
                // Those before it may wait for a call that is stuck.
                let watched = state.watch(now, &mut told);
                let alarm = state.alarm(urgency.deadline, watched);
                shared.tell(state, told);
                let inner = self.inner.clone();
                ResponseFuture::waiting(shared, node, inner, request, now, alarm)
            }
        }
    }
}

impl Shared {
    /// Finds room for a request that has to wait: those of a later class make way for it, and
    /// those that are overdue; nobody does where all of them together would not be enough.
    fn room(
        &self,
        state: &mut State,
        urgency: &Urgency,
        overdue: bool,
        held: usize,
        told: &mut Told,
    ) -> Result<Reserved, Overloaded> {
        loop {
            let full = match self.room.reserve(1, held) {
                Ok(reserved) => return Ok(reserved),
                Err(full) => full,
            };
            let wait = state.wait(state.queue.len() as f64, urgency.arrived);
            let wait = wait.max(state.took.mean().unwrap_or_default());
            let full = full.with_retry_after(Some(wait));
            self.metrics
                .refused(match full.bound() {
                    Bound::Bytes => Refused::Bytes,
                    Bound::Rows | Bound::Requests | Bound::Wait => Refused::Requests,
                })
                .inc();
            let Some(last) = state.queue.behind(urgency, overdue) else {
                return Err(full);
            };
            let freed = state.queue.room_behind(urgency, overdue);
            if !self.room.would_have((1, held), freed) {
                return Err(full);
            }
            let waker = state.queue.settle(last, Outcome::Refused(full));
            told.wakers.push(waker);
        }
    }
}

impl<S> std::fmt::Debug for Admission<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Admission").field(&self.view()).finish()
    }
}
