use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::{sync::oneshot, time::Instant};
use tower::{ServiceExt, util::Oneshot};

use super::{
    error::{DeadlineExpired, Interrupted},
    queue::{Outcome, Place},
    shared::Shared,
};
use crate::inference::{Error, Infer, Request, Response};

pin_project! {
    /// The answer to one request of a [`Batch`](super::Batch).
    ///
    /// Dropping it takes the request out of the queue, with everything that it holds. If the
    /// request is under way in a batch, the call goes on for the others, if there are any.
    ///
    /// ```text
    /// Waiting --> answer
    ///    '------> Alone --> answer      the model turned out to take no batches
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Infer> {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S: Infer> {
        Waiting { ticket: Ticket<S>, receiver: oneshot::Receiver<Outcome> },
        Alone { #[pin] call: Oneshot<S, Request>, load: Load<S>, contents: Option<u128> },
        Refused { error: Option<Error> },
        Done,
    }
}

/// The place in the queue: given back on drop.
struct Ticket<S> {
    shared: Arc<Shared<S>>,
    place: Option<Place>,
}

/// A row under way: counted until dropped.
struct Load<S> {
    shared: Arc<Shared<S>>,
}

impl<S: Infer> ResponseFuture<S> {
    pub(super) fn alone(shared: &Arc<Shared<S>>, request: Request) -> Self {
        Self {
            state: State::alone(shared, request, None),
        }
    }

    /// Contents that failed go alone, and are forgiven when they fail no more.
    pub(super) fn quarantined(shared: &Arc<Shared<S>>, request: Request, contents: u128) -> Self {
        Self {
            state: State::alone(shared, request, Some(contents)),
        }
    }

    pub(super) fn waiting(
        shared: &Arc<Shared<S>>,
        place: Option<Place>,
        receiver: oneshot::Receiver<Outcome>,
    ) -> Self {
        Self {
            state: State::Waiting {
                ticket: Ticket {
                    shared: Arc::clone(shared),
                    place,
                },
                receiver,
            },
        }
    }

    pub(super) fn refused(error: impl Into<Error>) -> Self {
        Self {
            state: State::Refused {
                error: Some(error.into()),
            },
        }
    }
}

impl<S: Infer> State<S> {
    fn handed_back(ticket: &Ticket<S>, request: Request) -> Self {
        let deadline = request.head.deadline;
        if deadline.is_some_and(|at| at <= Instant::now()) {
            ticket.shared.metrics.expired.inc();
            return Self::Refused {
                error: Some(DeadlineExpired::new().into()),
            };
        }
        Self::alone(&ticket.shared, request, None)
    }

    fn alone(shared: &Arc<Shared<S>>, request: Request, contents: Option<u128>) -> Self {
        shared.add_load(1);
        Self::Alone {
            call: shared.inner().oneshot(request),
            load: Load {
                shared: Arc::clone(shared),
            },
            contents,
        }
    }
}

impl<S: Infer> Future for ResponseFuture<S> {
    type Output = Result<Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.as_mut().project().state;
        loop {
            let (next, answer) = match state.as_mut().project() {
                StateProjection::Waiting { ticket, receiver } => {
                    let outcome = ready!(Pin::new(receiver).poll(cx));
                    // Whoever has an outcome has left the queue.
                    ticket.place = None;
                    match outcome {
                        Ok(Outcome::Answered(answer)) => (State::Done, Some(answer)),
                        Ok(Outcome::Alone(request)) => (State::handed_back(ticket, request), None),
                        Err(_) => (State::Done, Some(Err(Interrupted::new().into()))),
                    }
                }
                StateProjection::Alone {
                    call,
                    load,
                    contents,
                } => {
                    let answer = ready!(call.poll(cx)).map_err(Into::into);
                    if let Some(contents) = contents {
                        load.shared.isolation.review(*contents, &answer);
                    }
                    (State::Done, Some(answer))
                }
                StateProjection::Refused { error } => (State::Done, error.take().map(Err)),
                StateProjection::Done => panic!("polled after it was ready"),
            };
            // What the state held is let go of before the caller goes on.
            state.set(next);
            if let Some(answer) = answer {
                return Poll::Ready(answer);
            }
        }
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        // The member's bytes are let go of outside of the lock.
        let left = self.shared.state.lock().queue.remove(place);
        if let Some(member) = left {
            self.shared.sub_load(member.rows);
            self.shared.metrics.cancelled.inc();
        }
    }
}

impl<S> Drop for Load<S> {
    fn drop(&mut self) {
        self.shared.sub_load(1);
    }
}

impl<S: Infer> std::fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            State::Waiting { .. } => "ResponseFuture(waiting)",
            State::Alone { .. } => "ResponseFuture(alone)",
            State::Refused { .. } => "ResponseFuture(refused)",
            State::Done => "ResponseFuture(done)",
        })
    }
}
