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
    error::Interrupted,
    oversize::Divided,
    queue::{Outcome, Place},
    shared::Shared,
};
use crate::{
    deadline::Expired,
    inference::{Error, Infer, Request, Response, Uneven},
    overload::{Outlive, Reserved},
};

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
            // Rings when the answer cannot come in time any more, and at the deadline.
            alarm: Option<Pin<Box<Sleep>>>,
            deadline: Option<Instant>,
            receiver: oneshot::Receiver<Outcome>,
        },
        Alone {
            #[pin]
            call: Outlive<Oneshot<S, Request>>,
            load: Load<S>,
            reason: Alone,
            contents: Option<u128>,
            // Where it is sent singly because batching does not pay.
            singly: Option<Singly>,
            // Of what may wait, where it would wait but for what was learned.
            room: Option<Reserved>,
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
    /// Whether its answer is waited for after the deadline.
    may_be_late: bool,
}

/// A request that would have been merged if that paid.
struct Singly {
    rows: usize,
    sent: Instant,
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
    pub(super) fn quarantined(
        shared: &Arc<Shared<S>>,
        request: Request,
        contents: u128,
        reserved: Option<Reserved>,
    ) -> Self {
        let mut state = State::alone(shared, request, Alone::Quarantined, Some(contents));
        if let State::Alone { room, .. } = &mut state {
            *room = reserved;
        }
        Self { state }
    }

    /// Goes alone because batching does not pay; what the model takes is still seen.
    pub(super) fn singly(
        shared: &Arc<Shared<S>>,
        request: Request,
        rows: usize,
        reserved: Option<Reserved>,
    ) -> Self {
        let mut state = State::alone(shared, request, Alone::Unprofitable, None);
        if let State::Alone { singly, room, .. } = &mut state {
            *singly = Some(Singly {
                rows,
                sent: Instant::now(),
            });
            *room = reserved;
        }
        Self { state }
    }

    /// Waits for what becomes of a member; in the queue only until its answer cannot be in time.
    pub(super) fn waiting(
        shared: &Arc<Shared<S>>,
        place: Option<Place>,
        hopeless: Option<Instant>,
        deadline: Option<Instant>,
        may_be_late: bool,
        receiver: oneshot::Receiver<Outcome>,
    ) -> Self {
        Self {
            state: State::Waiting {
                ticket: Ticket {
                    shared: Arc::clone(shared),
                    place,
                    may_be_late,
                },
                alarm: hopeless.or(deadline).map(|at| Box::pin(sleep_until(at))),
                deadline,
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
    /// Sends a request by itself that should have shared a call, if it is not too late.
    fn handed_back(shared: &Arc<Shared<S>>, request: Request, reason: Alone) -> Self {
        let deadline = request.head.deadline;
        if deadline.is_some_and(|at| at <= Instant::now()) {
            shared.metrics.expired.inc();
            return Self::Refused {
                error: Some(Expired::passed().into()),
            };
        }
        shared.metrics.alone(reason).inc();
        Self::alone(shared, request, reason, None)
    }

    fn alone(
        shared: &Arc<Shared<S>>,
        request: Request,
        reason: Alone,
        contents: Option<u128>,
    ) -> Self {
        shared.add_load(1);
        Self::Alone {
            call: {
                let (held, outliving) = (request.held_len(), shared.outliving());
                Outlive::new(shared.inner().oneshot(request), held, outliving)
            },
            load: Load {
                shared: Arc::clone(shared),
            },
            reason,
            contents,
            singly: None,
            room: None,
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
                    deadline,
                    receiver,
                } => match Pin::new(receiver).poll(cx) {
                    Poll::Ready(outcome) => {
                        // Whoever has an outcome has left the queue.
                        ticket.place = None;
                        match outcome {
                            Ok(Outcome::Answered(answer)) => (State::Done, Some(answer)),
                            Ok(Outcome::Alone(request)) => (
                                State::handed_back(&ticket.shared, request, Alone::Unbatchable),
                                None,
                            ),
                            Err(_) => (State::Done, Some(Err(Interrupted::new().into()))),
                        }
                    }
                    Poll::Pending => {
                        let Some(at) = alarm.as_mut() else {
                            return Poll::Pending;
                        };
                        ready!(at.as_mut().poll(cx));
                        match ticket.expire(*deadline) {
                            Ok(expired) => (State::Done, Some(Err(expired.into()))),
                            Err(Some(later)) => {
                                at.as_mut().reset(later);
                                continue;
                            }
                            Err(None) => {
                                *alarm = None;
                                continue;
                            }
                        }
                    }
                },
                StateProjection::Alone {
                    call,
                    load,
                    reason,
                    contents,
                    singly,
                    ..
                } => {
                    let answer = ready!(call.poll(cx)).map_err(Into::into);
                    if let Some(contents) = contents {
                        load.shared.isolation.review(*contents, &answer);
                    }
                    if let Some(singly) = singly {
                        let Singly { rows, sent } = *singly;
                        load.shared.sent_singly(rows, sent, answer.is_ok());
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
                            (State::handed_back(shared, whole, Alone::Indivisible), None)
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
    /// Gives up what cannot be answered in time: takes it out of the queue if it still waits there,
    /// or leaves it to its call when the deadline has passed. Else tells when to look again.
    fn expire(&mut self, deadline: Option<Instant>) -> Result<Expired, Option<Instant>> {
        let now = Instant::now();
        let deadline = deadline.ok_or(None)?;
        let Some(place) = self.place else {
            return self.under_way(deadline, now);
        };
        let state = self.shared.state.lock();
        let Some(rows) = state.queue.rows_of(place) else {
            drop(state);
            self.place = None;
            return self.under_way(deadline, now);
        };
        // What is known of the model may have changed since it came.
        let hopeless = state.hopeless_from(deadline, rows);
        if hopeless > now {
            return Err(Some(hopeless));
        }
        drop(state);
        let member = self.shared.take_out(place);
        self.place = None;
        if let Some(member) = member {
            self.shared.sub_load(member.rows);
            self.shared.metrics.expired.inc();
        }
        Ok(match deadline <= now {
            true => Expired::passed(),
            false => Expired::hopeless(),
        })
    }

    fn under_way(&self, deadline: Instant, now: Instant) -> Result<Expired, Option<Instant>> {
        match deadline <= now {
            _ if self.may_be_late => Err(None),
            true => Ok(Expired::under_way()),
            false => Err(Some(deadline)),
        }
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        // The member's bytes are let go of outside of the lock.
        let left = self.shared.take_out(place);
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
