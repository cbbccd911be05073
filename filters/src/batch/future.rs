use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep_until},
};
use tower::{ServiceExt, util::Oneshot};
use tracing::warn;

use super::{
    alone::Alone,
    error::{DeadlineExpired, Interrupted},
    outlive::Outlive,
    oversize::Divided,
    queue::{Outcome, Place},
    shared::Shared,
};
use crate::inference::{Error, Infer, Request, Response, Uneven};

pin_project! {
    /// The answer to one request of a [`Batch`](super::Batch).
    ///
    /// Dropping it takes the request out of the queue, with everything that it holds. If the
    /// request is under way in a batch, the call goes on for the others, if there are any.
    ///
    /// ```text
    /// Waiting --> answer
    ///    |------> Alone --> answer      the model turned out to take no batches
    ///    '------> expired               it still waits, and the model cannot be in time any more
    ///
    /// Parts ----> answer
    ///    '------> Alone --> answer      the answers to the parts cannot be joined
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S>
    where
        S: Infer,
        S: 'static,
    {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S>
    where
        S: Infer,
        S: 'static,
    {
        Waiting {
            ticket: Ticket<S>,
            // Rings when the answer cannot come in time any more.
            alarm: Option<Pin<Box<Sleep>>>,
            receiver: oneshot::Receiver<Outcome>,
        },
        Alone {
            #[pin]
            call: Outlive<Oneshot<S, Request>>,
            load: Load<S>,
            reason: Alone,
            contents: Option<u128>,
            // Where it is sent singly because batching does not pay: its rows, and since when.
            seen: Option<(usize, Instant)>,
        },
        // A request in parts; kept whole, to be sent so where their answers cannot be joined.
        Parts {
            parts: Divided<ResponseFuture<S>>,
            whole: Option<Request>,
            shared: Arc<Shared<S>>,
        },
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

impl<S: Infer + 'static> ResponseFuture<S> {
    pub(super) fn alone(shared: &Arc<Shared<S>>, request: Request, reason: Alone) -> Self {
        Self {
            state: State::alone(shared, request, reason, None),
        }
    }

    /// Contents that failed go alone, and are forgiven when they fail no more.
    pub(super) fn quarantined(shared: &Arc<Shared<S>>, request: Request, contents: u128) -> Self {
        Self {
            state: State::alone(shared, request, Alone::Quarantined, Some(contents)),
        }
    }

    /// Goes alone because batching does not pay; what the model takes is still seen.
    pub(super) fn singly(shared: &Arc<Shared<S>>, request: Request, rows: usize) -> Self {
        let mut state = State::alone(shared, request, Alone::Unprofitable, None);
        if let State::Alone { seen, .. } = &mut state {
            *seen = Some((rows, Instant::now()));
        }
        Self { state }
    }

    /// Waits for what becomes of a member; in the queue only until its answer cannot be in time.
    pub(super) fn waiting(
        shared: &Arc<Shared<S>>,
        place: Option<Place>,
        hopeless: Option<Instant>,
        receiver: oneshot::Receiver<Outcome>,
    ) -> Self {
        Self {
            state: State::Waiting {
                ticket: Ticket {
                    shared: Arc::clone(shared),
                    place,
                },
                alarm: hopeless.map(|at| Box::pin(sleep_until(at))),
                receiver,
            },
        }
    }

    /// Waits for the parts of a request, each with its rows.
    pub(super) fn divided(
        shared: &Arc<Shared<S>>,
        parts: Vec<(usize, Self)>,
        whole: Request,
    ) -> Self {
        Self {
            state: State::Parts {
                parts: Divided::new(parts),
                whole: Some(whole),
                shared: Arc::clone(shared),
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

impl<S: Infer + 'static> State<S> {
    fn handed_back(ticket: &Ticket<S>, request: Request) -> Self {
        let deadline = request.head.deadline;
        if deadline.is_some_and(|at| at <= Instant::now()) {
            ticket.shared.metrics.expired.inc();
            return Self::Refused {
                error: Some(DeadlineExpired::passed().into()),
            };
        }
        Self::alone(&ticket.shared, request, Alone::Unbatchable, None)
    }

    fn alone(
        shared: &Arc<Shared<S>>,
        request: Request,
        reason: Alone,
        contents: Option<u128>,
    ) -> Self {
        shared.add_load(1);
        Self::Alone {
            call: Outlive::new(shared.inner().oneshot(request), shared.outliving()),
            load: Load {
                shared: Arc::clone(shared),
            },
            reason,
            contents,
            seen: None,
        }
    }
}

impl<S: Infer + 'static> Future for ResponseFuture<S> {
    type Output = Result<Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.as_mut().project().state;
        loop {
            let (next, answer) = match state.as_mut().project() {
                StateProjection::Waiting {
                    ticket,
                    alarm,
                    receiver,
                } => match Pin::new(receiver).poll(cx) {
                    Poll::Ready(outcome) => {
                        // Whoever has an outcome has left the queue.
                        ticket.place = None;
                        match outcome {
                            Ok(Outcome::Answered(answer)) => (State::Done, Some(answer)),
                            Ok(Outcome::Alone(request)) => {
                                (State::handed_back(ticket, request), None)
                            }
                            Err(_) => (State::Done, Some(Err(Interrupted::new().into()))),
                        }
                    }
                    Poll::Pending => {
                        let Some(at) = alarm.as_mut() else {
                            return Poll::Pending;
                        };
                        ready!(at.as_mut().poll(cx));
                        *alarm = None;
                        match ticket.expire() {
                            Some(expired) => (State::Done, Some(Err(expired.into()))),
                            // It is under way: its answer may still be in time.
                            None => continue,
                        }
                    }
                },
                StateProjection::Alone {
                    call,
                    load,
                    reason,
                    contents,
                    seen,
                } => {
                    let answer = ready!(call.poll(cx)).map_err(Into::into);
                    if let Some(contents) = contents {
                        load.shared.isolation.review(*contents, &answer);
                    }
                    if let Some((rows, sent)) = seen {
                        load.shared.sent_singly(*rows, *sent, answer.is_ok());
                    }
                    let answer = answer.map(|mut response| {
                        response.report.batch_reason = Some(reason.name());
                        response
                    });
                    (State::Done, Some(answer))
                }
                StateProjection::Parts {
                    parts,
                    whole,
                    shared,
                } => {
                    let answer = ready!(Pin::new(parts).poll(cx));
                    match (&answer, whole.take()) {
                        (Err(error), Some(whole)) if error.is::<Uneven>() => {
                            shared.divide_no_more();
                            warn!(reason = %error, "the answers to parts of a request cannot be joined: requests are divided no more");
                            (State::alone(shared, whole, Alone::Indivisible, None), None)
                        }
                        _ => (State::Done, Some(answer)),
                    }
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

impl<S> Ticket<S> {
    /// Takes the member out of the queue because its answer cannot be in time, if it still waits.
    fn expire(&mut self) -> Option<DeadlineExpired> {
        let place = self.place.take()?;
        let member = self.shared.state.lock().queue.remove(place)?;
        self.shared.sub_load(member.rows);
        self.shared.metrics.expired.inc();
        let passed = member
            .request
            .head
            .deadline
            .is_none_or(|at| at <= Instant::now());
        Some(match passed {
            true => DeadlineExpired::passed(),
            false => DeadlineExpired::hopeless(),
        })
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

impl<S: Infer + 'static> std::fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            State::Waiting { .. } => "ResponseFuture(waiting)",
            State::Alone { .. } => "ResponseFuture(alone)",
            State::Parts { .. } => "ResponseFuture(parts)",
            State::Refused { .. } => "ResponseFuture(refused)",
            State::Done => "ResponseFuture(done)",
        })
    }
}
