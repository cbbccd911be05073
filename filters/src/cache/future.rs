use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::util::Oneshot;

use super::ask::Led;
use crate::inference::{CacheReport, CacheResult, Error, Infer, Request, Response};

pin_project! {
    /// The answer of a [`Cache`](super::Cache).
    ///
    /// It may be dropped at any time: what the model was asked for on behalf of others, too, goes
    /// on without, and is stored.
    pub struct ResponseFuture<S: Infer> {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S: Infer> {
        Ready { answer: Option<Result<Response, Error>> },
        Passed { #[pin] inner: Oneshot<S, Request>, report: CacheReport },
        Led { #[pin] led: Led, report: CacheReport },
        Asked { answer: Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>> },
    }
}

impl<S: Infer> ResponseFuture<S> {
    pub(super) fn ready(answer: Result<Response, Error>) -> Self {
        let answer = Some(answer);
        Self {
            state: State::Ready { answer },
        }
    }

    pub(super) fn passed(inner: Oneshot<S, Request>, reason: &'static str) -> Self {
        let report = CacheReport {
            result: CacheResult::Bypass,
            hits: 0,
            joined: 0,
            sent: 0,
            reason: Some(reason),
            age: None,
        };
        Self {
            state: State::Passed { inner, report },
        }
    }

    pub(super) fn led(led: Led, report: CacheReport) -> Self {
        Self {
            state: State::Led { led, report },
        }
    }

    pub(super) fn asked(
        answer: Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>,
    ) -> Self {
        Self {
            state: State::Asked { answer },
        }
    }
}

impl<S: Infer> Future for ResponseFuture<S> {
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Ready { answer } => Poll::Ready(
                answer
                    .take()
                    .expect("a future is not polled after it was ready"),
            ),
            StateProjection::Passed { inner, report } => {
                let answer = ready!(inner.poll(cx)).map_err(Into::into);
                Poll::Ready(answer.map(|mut answer| {
                    answer.report.cache = Some(*report);
                    answer
                }))
            }
            StateProjection::Led { led, report } => {
                let mut answer = ready!(led.poll(cx))?.response;
                answer.report.cache = Some(*report);
                Poll::Ready(Ok(answer))
            }
            StateProjection::Asked { answer } => answer.as_mut().poll(cx),
        }
    }
}

impl<S: Infer> std::fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            State::Ready { .. } => "ResponseFuture(ready)",
            State::Passed { .. } => "ResponseFuture(passed)",
            State::Led { .. } => "ResponseFuture(led)",
            State::Asked { .. } => "ResponseFuture(asked)",
        })
    }
}
