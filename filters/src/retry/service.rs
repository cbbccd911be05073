use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;

use super::{Endpoints, future::ResponseFuture, shared::Shared};
use crate::inference::{Error, Request, Response};

/// Sends a request to one of several endpoints, and where that is of use a second time to another.
///
/// Clones share everything.
#[derive(Debug)]
pub struct Retry<E> {
    endpoints: Arc<E>,
    shared: Arc<Shared>,
}

impl<E: Endpoints> Retry<E> {
    pub(super) fn new(endpoints: E, shared: Arc<Shared>) -> Self {
        Self {
            endpoints: Arc::new(endpoints),
            shared,
        }
    }
}

impl<E: Endpoints> Service<Request> for Retry<E> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<E>;

    /// Endpoints are always ready: each refuses at once what it has no place for.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture<E> {
        let shared = &self.shared;
        shared.count();
        if !shared.is_on() || !(shared.knows.is_repeatable)(&request) {
            let (_, call) = self.endpoints.send(request);
            return ResponseFuture::once(call);
        }
        // Messages are shared, not copied.
        let kept = request.clone();
        let (endpoint, call) = self.endpoints.send(request);
        ResponseFuture::repeatable(call, kept, endpoint, &self.endpoints, shared)
    }
}

impl<E> Clone for Retry<E> {
    fn clone(&self) -> Self {
        Self {
            endpoints: self.endpoints.clone(),
            shared: self.shared.clone(),
        }
    }
}
