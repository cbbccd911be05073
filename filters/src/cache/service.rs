use std::task::{Context, Poll};

use tower::{Service, ServiceExt as _};

use super::{
    Store, Unit,
    ask::{ask, lead},
    future::ResponseFuture,
    plan::Plan,
};
use crate::inference::{Error, Infer, Request, Response};

/// Answers from what the model has answered before, row by row, and asks it for the rest.
///
/// Clones, and others with the same [`Store`], share what is stored, and calls that are under way.
#[derive(Clone, Debug)]
pub struct Cache<S> {
    inner: S,
    store: Store,
    unit: Unit,
}

impl<S> Cache<S> {
    pub(super) fn new(inner: S, store: Store, unit: Unit) -> Self {
        Self { inner, store, unit }
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl<S> Service<Request> for Cache<S>
where
    S: Infer + 'static,
    S::Future: 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // An answer that is stored need not wait for the model.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture<S> {
        match Plan::of(&self.store, &request, self.unit) {
            Plan::Pass(reason) => {
                let passed = self.inner.clone().oneshot(request);
                ResponseFuture::passed(passed, reason)
            }
            Plan::Ready(answer) => ResponseFuture::ready(answer),
            Plan::Lead(leading, report) => {
                let led = lead(leading, self.inner.clone(), request);
                ResponseFuture::led(led, report)
            }
            Plan::Ask(asked) => {
                let answer = ask(self.store.clone(), self.inner.clone(), request, asked);
                ResponseFuture::asked(Box::pin(answer))
            }
        }
    }
}
