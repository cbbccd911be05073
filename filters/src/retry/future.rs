use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{Endpoints, again::Again, shared::Shared};
use crate::inference::{Error, Request, Response};

pin_project! {
    /// The answer to one request of a [`Retry`](super::Retry).
    ///
    /// ```text
    /// first --> answer
    ///   |-----> lost --------> again, elsewhere --> answer, or an error
    ///   '-----> slow: first and copy --> the first of two answers, or both have failed
    /// ```
    ///
    /// Dropping it drops the tries that are under way.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<E: Endpoints> {
        #[pin]
        call: Option<E::Future>,
        copy: Option<Pin<Box<E::Future>>>,
        // What a second try takes; left out for requests that are sent once.
        again: Option<Box<Again<E>>>,
    }
}

impl<E: Endpoints> ResponseFuture<E> {
    /// Waits for a call that is not made again.
    pub(super) fn once(call: E::Future) -> Self {
        Self {
            call: Some(call),
            copy: None,
            again: None,
        }
    }

    /// Waits for a call to an endpoint; the request is kept to be sent again.
    pub(super) fn repeatable(
        call: E::Future,
        kept: Request,
        endpoint: usize,
        endpoints: &Arc<E>,
        shared: &Arc<Shared>,
    ) -> Self {
        Self {
            again: Some(Box::new(Again::new(kept, endpoint, endpoints, shared))),
            ..Self::once(call)
        }
    }
}

impl<E: Endpoints> Future for ResponseFuture<E> {
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (ended, is_copy) = match this.call.as_mut().as_pin_mut().map(|call| call.poll(cx)) {
                Some(Poll::Ready(ended)) => (Some(ended), false),
                _ => match this.copy.as_mut().map(|copy| copy.as_mut().poll(cx)) {
                    Some(Poll::Ready(ended)) => (Some(ended), true),
                    _ => (None, false),
                },
            };
            let Some(again) = this.again else {
                return ended.map_or(Poll::Pending, Poll::Ready);
            };
            match ended {
                Some(Ok(answer)) => {
                    again.answered(is_copy);
                    // The other one's endpoint sees to what becomes of it.
                    this.call.set(None);
                    *this.copy = None;
                    return Poll::Ready(Ok(answer));
                }
                Some(Err(error)) => {
                    again.failed(is_copy, error);
                    match is_copy {
                        true => *this.copy = None,
                        false => this.call.set(None),
                    }
                    if this.call.is_some() || this.copy.is_some() {
                        continue;
                    }
                    match again.send() {
                        Some(call) => this.call.set(Some(call)),
                        None => return Poll::Ready(Err(again.error())),
                    }
                }
                None => match again.copy(cx) {
                    Some(copy) => *this.copy = Some(Box::pin(copy)),
                    None => return Poll::Pending,
                },
            }
        }
    }
}

impl<E: Endpoints> std::fmt::Debug for ResponseFuture<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("is_repeatable", &self.again.is_some())
            .field("is_hedged", &self.copy.is_some())
            .finish_non_exhaustive()
    }
}
