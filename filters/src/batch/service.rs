use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use tower::Service;
use tracing::Span;

use super::{
    Capability, Config, View,
    alone::{self, Alone},
    error::DeadlineExpired,
    future::ResponseFuture,
    isolation::Isolation,
    key,
    metrics::{Closed, Handles},
    queue::{self, Member},
    shared::Shared,
    worker,
};
use crate::inference::{Error, Infer, Request, Response};

/// Merges concurrent requests for one endpoint of a model into one call.
///
/// Clones share one queue, on whichever runtime they are.
pub struct Batch<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Batch<S> {
    /// Puts the filter in front of `inner`, which calls one endpoint of a model.
    pub fn new(inner: S, config: Config, capability: Capability, metrics: Handles) -> Self {
        let isolation = Isolation::default();
        Self::isolating(inner, config, capability, metrics, isolation)
    }

    pub(super) fn isolating(
        inner: S,
        config: Config,
        capability: Capability,
        metrics: Handles,
        isolation: Isolation,
    ) -> Self {
        Self {
            shared: Arc::new(Shared::new(inner, config, capability, metrics, isolation)),
        }
    }

    /// Returns what has been learned and what waits.
    pub fn view(&self) -> View {
        self.shared.view()
    }

    /// Returns the rows that wait or are under way: the less, the sooner a new request is
    /// answered, among endpoints that are equally fast.
    pub fn load(&self) -> usize {
        self.shared.load()
    }

    /// Returns how long a request of one row that comes now would take, by what calls take and by
    /// what is before it; `None` before the first answer.
    pub fn completion(&self, now: Instant) -> Option<Duration> {
        self.shared.expected.completion(self.shared.load(), now)
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared<S> {
        &self.shared
    }
}

impl<S: Infer + 'static> Batch<S> {
    fn alone(&self, request: Request, reason: Alone) -> ResponseFuture<S> {
        self.shared.metrics.alone(reason).inc();
        ResponseFuture::alone(&self.shared, request)
    }
}

impl<S: Infer + 'static> Service<Request> for Batch<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture<S> {
        let shared = &self.shared;
        let arrived = Instant::now();
        if request.head.deadline.is_some_and(|at| at <= arrived) {
            shared.metrics.expired.inc();
            return ResponseFuture::refused(DeadlineExpired::new());
        }
        let rows = match alone::rows(&request) {
            Ok(rows) => rows,
            Err(reason) => return self.alone(request, reason),
        };
        let Some(most) = shared.most_rows() else {
            return self.alone(request, Alone::Unbatchable);
        };
        if let Some(contents) = shared.isolation.quarantine().find(&request, arrived) {
            shared.metrics.alone(Alone::Quarantined).inc();
            return ResponseFuture::quarantined(shared, request, contents);
        }
        let digest = key::digest(&shared.hasher, &request);
        let bytes = request.payload_len();
        let held = request.held_len();
        let (answer, receiver) = oneshot::channel();
        let member = Box::new(Member {
            request,
            rows,
            bytes,
            held,
            arrived,
            span: Span::current(),
            answer,
        });

        let mut state = shared.state.lock();
        if state.in_flight < shared.config.max_in_flight.max(1) && state.queue.is_empty() {
            state.in_flight += 1;
            let limit = state.limit.limit(most);
            drop(state);
            let batch = queue::Batch {
                members: vec![member],
                rows,
                closed: if rows >= limit {
                    Closed::Full
                } else {
                    Closed::Idle
                },
            };
            worker::start(shared, batch);
            return ResponseFuture::waiting(shared, None, receiver);
        }
        if let Err(overloaded) = shared.admits(&state.queue, rows, held) {
            drop(state);
            shared.metrics.refused.inc();
            return ResponseFuture::refused(overloaded);
        }
        let place = state.queue.push(digest, member);
        drop(state);
        shared.add_load(rows);
        ResponseFuture::waiting(shared, Some(place), receiver)
    }
}

impl<S> Clone for Batch<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S> std::fmt::Debug for Batch<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Batch").field(&self.view()).finish()
    }
}
