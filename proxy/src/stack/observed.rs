use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use outrigger_filters::inference::{Error, Infer, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{balance::Loaded, pace::Begun, replicas::Replicas};
use crate::upstream::{Endpoint, blames};

/// Watches the calls to one endpoint of a model: what they take, and which fail.
#[derive(Clone, Debug)]
pub(super) struct Observed<S> {
    inner: S,
    replicas: Arc<Replicas>,
    index: usize,
}

pin_project! {
    /// The answer to a watched call.
    #[must_use = "futures do nothing unless polled"]
    pub(super) struct ResponseFuture<F> {
        #[pin]
        call: F,
        watched: Watched,
    }
}

/// A call under way; dropping it unanswered gives it up.
#[derive(Debug)]
struct Watched {
    replicas: Arc<Replicas>,
    index: usize,
    begun: Begun,
    deadline: Option<Instant>,
    ended: bool,
}

impl<S> Observed<S> {
    pub(super) fn new(inner: S, replicas: Arc<Replicas>, index: usize) -> Self {
        Self {
            inner,
            replicas,
            index,
        }
    }
}

impl<S> Service<Request> for Observed<S>
where
    S: Infer,
{
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let beside = self.load();
        let watched = Watched {
            replicas: self.replicas.clone(),
            index: self.index,
            begun: self.replicas.pace(self.index).begin(beside, Instant::now()),
            deadline: request.head.deadline,
            ended: false,
        };
        ResponseFuture {
            call: self.inner.call(request),
            watched,
        }
    }
}

impl<S> Loaded for Observed<S> {
    fn load(&self) -> usize {
        self.replicas.endpoint(self.index).calls()
    }

    fn completion(&self, now: Instant) -> Option<Duration> {
        let calls = self.load();
        self.replicas.pace(self.index).completion(calls, now)
    }

    fn has_spare(&self) -> bool {
        // How many calls it can work on at a time is not known.
        self.load() == 0
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<Error>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.call.poll(cx)).map_err(Into::into);
        this.watched.end(&result, Instant::now());
        Poll::Ready(result)
    }
}

impl Watched {
    fn end(&mut self, result: &Result<Response, Error>, now: Instant) {
        self.ended = true;
        // Who could not be reached has not answered: another endpoint has.
        let elsewhere = self.endpoint().is_unreachable();
        let answered = result.is_ok() && !elsewhere;
        let pace = self.replicas.pace(self.index);
        pace.ended(self.begun, answered, now);
        match result {
            _ if elsewhere => {}
            Ok(_) => self.replicas.answered(self.index, self.begun.at(), now),
            Err(error) if blames(self.endpoint(), error) => self.fail(now),
            Err(_) => pace.refused(),
        }
    }

    fn endpoint(&self) -> &Endpoint {
        self.replicas.endpoint(self.index)
    }

    fn fail(&self, now: Instant) {
        let jitter = rand::random();
        self.replicas
            .failed(self.index, self.begun.at(), now, jitter);
    }

    /// Tells whether the call was given up because it was due: at the end of its caller's time,
    /// although that would have been enough for several calls.
    fn is_overdue(&self, now: Instant) -> bool {
        let (Some(deadline), Some(time)) = (self.deadline, self.replicas.pace(self.index).time())
        else {
            return false;
        };
        let began = self.begun.at();
        let lasted = now.saturating_duration_since(began).as_secs_f64();
        let whole = deadline.saturating_duration_since(began).as_secs_f64();
        lasted >= whole * NEARLY && lasted >= time * SEVERAL
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let now = Instant::now();
        if self.is_overdue(now) && !self.endpoint().is_unreachable() {
            self.fail(now);
        }
        self.replicas.pace(self.index).left();
    }
}

/// The part of its time after which a caller who leaves does so because its time is over: clocks
/// begin at different moments.
const NEARLY: f64 = 0.9;
/// How many times as long as others a call took that was given up for its endpoint's fault.
const SEVERAL: f64 = 4.;
