use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::inference::{Error, Response};

/// The answer of the arm that was chosen, or of several.
///
/// Dropping it gives up the calls that are under way; copies for shadows go on.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>);

impl ResponseFuture {
    pub(super) fn new(
        answer: impl Future<Output = Result<Response, Error>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(answer))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResponseFuture(..)")
    }
}
