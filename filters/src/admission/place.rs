use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{ServiceExt, util::Oneshot};

use super::shared::Shared;
use crate::inference::{Error, Infer, Request, Response};

/// A place for a call, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    call: usize,
    /// Whether its call was sent, and then whether it was answered.
    answered: Option<bool>,
}

pin_project! {
    /// A call with its place, which it keeps until it ends: with its caller or without.
    pub(super) struct Sent<S>
    where
        S: Infer,
    {
        #[pin]
        call: Oneshot<S, Request>,
        place: Option<Place>,
    }
}

impl Place {
    pub(super) fn new(shared: Arc<Shared>, call: usize) -> Self {
        Self {
            shared,
            call,
            answered: None,
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Takes note that its call is sent now, and not when it was given.
    pub(super) fn sent(&self, now: Instant) {
        self.shared.state.lock().sent(self.call, now);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.end(self.call, self.answered);
    }
}

impl<S: Infer> Sent<S> {
    pub(super) fn new(inner: S, request: Request, mut place: Place) -> Self {
        place.answered = Some(false);
        Self {
            call: inner.oneshot(request),
            place: Some(place),
        }
    }
}

impl<S: Infer> Future for Sent<S> {
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.call.poll(cx));
        if let Some(mut place) = this.place.take() {
            place.answered = Some(answer.is_ok());
        }
        Poll::Ready(answer.map_err(Into::into))
    }
}
