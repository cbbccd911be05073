use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use tower::Service;
use tracing::Span;

use super::{
    BatchLayer, Capability, Config, View,
    alone::{self, Alone},
    explain::Closed,
    future::ResponseFuture,
    key,
    metrics::Handles,
    oversize,
    queue::{self, Member},
    shared::Shared,
    state::Plan,
    worker::{self, launch},
};
use crate::{
    deadline::Expired,
    inference::{Error, Infer, Request, Response, divide},
    overload::{Bound, Overloaded, Reserved},
};

/// Merges concurrent requests for one endpoint of a model into one call.
///
/// Clones share one queue, on whichever runtime they are.
pub struct Batch<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Batch<S> {
    /// Puts the filter in front of `inner`, which calls one endpoint of a model.
    pub fn new(inner: S, config: Config, capability: Capability, metrics: Handles) -> Self {
        Self::layered(inner, &BatchLayer::new(config, capability, metrics))
    }

    pub(super) fn layered(inner: S, layer: &BatchLayer) -> Self {
        Self {
            shared: Arc::new(Shared::new(inner, layer)),
        }
    }

    /// Ends all waiting for company, from now on: what waits for nothing else goes at once.
    pub fn drain(&self) {
        self.shared.drain();
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
        // Where nothing is merged there is no queue, and load alone tells endpoints apart.
        self.shared.most_rows()?;
        self.shared.expected.completion(self.shared.load(), now)
    }

    /// Tells whether a request that comes now would be sent at once, to an endpoint that has capacity
    /// to spare.
    pub fn has_spare(&self) -> bool {
        if self.shared.load() == 0 {
            return true;
        }
        let state = self.shared.state.lock();
        // What is sent singly takes no place.
        state.in_flight > 0 && state.has_place() && state.queue.is_empty()
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared<S> {
        &self.shared
    }
}

impl<S: Infer + 'static> Batch<S> {
    /// Sends a request in parts if it has more rows than a call may have now, and all of them may
    /// wait: parts that were admitted without the others would be work for nobody.
    fn divide(&self, request: &Request, rows: usize, most: usize) -> Option<ResponseFuture<S>> {
        let shared = &self.shared;
        let now = Instant::now();
        let (limit, is_idle, refused, after) = {
            let state = shared.state.lock();
            if !state.benefit.batches(now) {
                return None;
            }
            let is_idle = state.has_place() && state.queue.is_empty();
            let limit = state.limit.limit(most);
            let refused = state.refuses(&request.head, rows, now, most);
            (limit, is_idle, refused, state.room_after(rows, now, most))
        };
        let sizes = oversize::sizes(rows, limit, most)?;
        if let Some(refused) = refused {
            return Some(self.refuse(refused));
        }
        let parts = divide(request, &sizes).ok()?;
        let reserved: Result<Vec<_>, _> = sizes
            .iter()
            .zip(&parts)
            .map(|(rows, part)| shared.room.reserve(*rows, part.held_len()))
            .collect();
        let reserved = match reserved {
            Ok(reserved) => reserved,
            // As a whole it need not wait.
            Err(_) if is_idle => return None,
            Err(overloaded) => {
                return Some(self.refuse(overloaded.with_retry_after(after).into()));
            }
        };
        let parts = sizes
            .into_iter()
            .zip(parts)
            .zip(reserved)
            .map(|((rows, part), reserved)| (rows, self.accept(part, Some(reserved))));
        let parts = parts.collect();
        Some(ResponseFuture::divided(shared, parts, request.clone()))
    }

    /// Tells a caller at once that there will be no answer.
    fn refuse(&self, error: Error) -> ResponseFuture<S> {
        let metrics = &self.shared.metrics;
        match error.downcast_ref::<Overloaded>() {
            Some(overloaded) if overloaded.bound() == Bound::Wait => metrics.shed.inc(),
            Some(_) => metrics.refused.inc(),
            None => metrics.expired.inc(),
        };
        ResponseFuture::refused(error)
    }

    /// Sends a request by itself that would be merged but for what was learned: it needs room as if
    /// it waited, unless nothing is before it.
    fn room(
        &self,
        rows: usize,
        held: usize,
        reserved: Option<Reserved>,
        send: impl FnOnce(Option<Reserved>) -> ResponseFuture<S>,
    ) -> ResponseFuture<S> {
        let shared = &self.shared;
        let room = match reserved {
            None if shared.load() > 0 => shared.room.reserve(rows, held).map(Some),
            reserved => Ok(reserved),
        };
        match room {
            Ok(room) => send(room),
            Err(overloaded) => self.refuse(overloaded.into()),
        }
    }

    /// Sends a request by itself that must not be merged: it does not wait here, and needs no room.
    fn alone(&self, request: Request, reason: Alone) -> ResponseFuture<S> {
        self.shared.metrics.alone(reason).inc();
        ResponseFuture::alone(&self.shared, request, reason)
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
        self.accept(request, None)
    }
}

impl<S: Infer + 'static> Batch<S> {
    /// Takes in a request, or a part of one, for which there is room already.
    fn accept(&self, request: Request, reserved: Option<Reserved>) -> ResponseFuture<S> {
        let shared = &self.shared;
        let arrived = Instant::now();
        if request.head.deadline.is_some_and(|at| at <= arrived) {
            shared.metrics.expired.inc();
            return ResponseFuture::refused(Expired::passed());
        }
        let rows = match alone::rows(&request) {
            Ok(rows) => rows,
            Err(reason) => return self.alone(request, reason),
        };
        let Some(most) = shared.most_rows() else {
            return self.alone(request, Alone::Unbatchable);
        };
        if reserved.is_none()
            && rows > 1
            && shared.divides()
            && let Some(divided) = self.divide(&request, rows, most)
        {
            return divided;
        }
        let held = request.held_len();
        if let Some(contents) = shared.isolation.quarantine().find(&request, arrived) {
            return self.room(rows, held, reserved, |room| {
                shared.metrics.alone(Alone::Quarantined).inc();
                ResponseFuture::quarantined(shared, request, contents, room)
            });
        }
        let digest = key::digest(&shared.hasher, &request);
        let bytes = request.payload_len();
        let deadline = request.head.deadline;
        let may_be_late = request.head.may_be_late;
        let (answer, receiver) = oneshot::channel();
        let mut member = Box::new(Member {
            request,
            rows,
            bytes,
            held,
            arrived,
            span: Span::current(),
            answer,
            reserved: None,
        });

        let mut state = shared.state.lock();
        state.delay.arrived(arrived, rows);
        state.offered.came(rows);
        if !state.benefit.batches(arrived) {
            drop(state);
            return self.room(rows, held, reserved, |room| {
                shared.metrics.alone(Alone::Unprofitable).inc();
                ResponseFuture::singly(shared, member.request, rows, room)
            });
        }
        if state.has_place() && state.queue.is_empty() && shared.config.max_delay.is_zero() {
            state.in_flight += 1;
            state.takes(arrived, rows);
            let limit = state.limit.limit(most);
            drop(state);
            let batch = queue::Batch {
                members: vec![member],
                rows,
                limit,
                closed: if rows >= limit {
                    Closed::Full
                } else {
                    Closed::Idle
                },
                held_out: None,
            };
            shared.add_load(rows);
            worker::start(shared, Plan::Send(batch));
            return ResponseFuture::waiting(shared, None, None, deadline, may_be_late, receiver);
        }
        let hopeless = deadline.map(|deadline| state.hopeless_from(deadline, rows));
        // Parts were judged as a whole.
        if reserved.is_none()
            && let Some(refused) = state.refuses(&member.request.head, rows, arrived, most)
        {
            drop(state);
            return self.refuse(refused);
        }
        match reserved.map_or_else(|| shared.room.reserve(rows, held), Ok) {
            Ok(reserved) => member.reserved = Some(reserved),
            Err(overloaded) => {
                let after = state.room_after(rows, arrived, most);
                drop(state);
                return self.refuse(overloaded.with_retry_after(after).into());
            }
        }
        shared.add_load(rows);
        let place = state.queue.push(digest, member);
        let launched = launch(shared, &mut state, shared.situation(arrived, most));
        drop(state);
        launched.start(shared);
        ResponseFuture::waiting(
            shared,
            Some(place),
            hopeless,
            deadline,
            may_be_late,
            receiver,
        )
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
