use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    place::{Place, Sent},
    queue::Outcome,
    shared::Shared,
    state::Told,
};
use crate::{
    deadline::Expired,
    inference::{Error, Infer, Request, Response},
    overload::Outlive,
};

pin_project! {
    /// The answer to one request of an [`Admission`](super::Admission).
    ///
    /// Dropping it while it waits takes the request out of the queue, with everything that it holds.
    /// A call that is under way goes on without its caller, and keeps its place.
    ///
    /// ```text
    /// Waiting --> Sent --> answer
    ///    '------> expired, or refused for the sake of others
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
            ticket: Ticket,
            // Taken when it is sent.
            waits: Option<Waits<S>>,
            // Rings when the answer cannot come in time any more, and to look after calls that are
            // stuck.
            #[pin]
            alarm: Sleep,
        },
        Sent {
            #[pin]
            call: Outlive<Sent<S>>,
        },
        Refused { error: Option<Error> },
        Done,
    }
}

struct Waits<S> {
    inner: S,
    request: Request,
    arrived: Instant,
}

/// The place in the queue: given back on drop.
struct Ticket {
    shared: Arc<Shared>,
    node: Option<usize>,
}

impl<S: Infer + 'static> ResponseFuture<S> {
    pub(super) fn sent(inner: S, request: Request, place: Place) -> Self {
        Self {
            state: State::sent(inner, request, place),
        }
    }

    pub(super) fn waiting(
        shared: &Arc<Shared>,
        node: usize,
        inner: S,
        request: Request,
        arrived: Instant,
        alarm: Instant,
    ) -> Self {
        // First of all, so that the node has an owner whatever happens.
        let ticket = Ticket {
            shared: Arc::clone(shared),
            node: Some(node),
        };
        Self {
            state: State::Waiting {
                ticket,
                waits: Some(Waits {
                    inner,
                    request,
                    arrived,
                }),
                alarm: sleep_until(alarm),
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
    fn sent(inner: S, request: Request, place: Place) -> Self {
        let (held, outliving) = (request.held_len(), place.shared().outliving());
        let sent = Sent::new(inner, request, place);
        Self::Sent {
            call: Outlive::new(sent, held, outliving),
        }
    }

    /// Sends a request that waited, if it is not too late.
    fn granted(waits: Waits<S>, place: Place) -> Self {
        let now = Instant::now();
        let metrics = &place.shared().metrics;
        if waits.request.head.deadline.is_some_and(|at| at <= now) {
            metrics.expired.inc();
            return Self::refused(Expired::passed());
        }
        metrics.queue.observe((now - waits.arrived).as_secs_f64());
        place.sent(now);
        Self::sent(waits.inner, waits.request, place)
    }

    fn refused(error: impl Into<Error>) -> Self {
        Self::Refused {
            error: Some(error.into()),
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
                    waits,
                    mut alarm,
                } => match ticket.poll(cx) {
                    Poll::Ready(Outcome::Granted(call)) => {
                        let place = Place::new(Arc::clone(&ticket.shared), call);
                        let waits = waits.take().expect("taken once, when it is sent");
                        (State::granted(waits, place), None)
                    }
                    Poll::Ready(Outcome::Late(expired)) => (State::refused(expired), None),
                    Poll::Ready(Outcome::Refused(full)) => (State::refused(full), None),
                    Poll::Pending => {
                        ready!(alarm.as_mut().poll(cx));
                        let deadline = waits.as_ref().and_then(|it| it.request.head.deadline);
                        match ticket.alarm(deadline) {
                            Ok(expired) => (State::refused(expired), None),
                            Err(again) => {
                                alarm.reset(again);
                                continue;
                            }
                        }
                    }
                },
                StateProjection::Sent { call } => (State::Done, Some(ready!(call.poll(cx)))),
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

impl Ticket {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let node = self.node.expect("kept until it has an outcome");
        let outcome = self.shared.state.lock().queue.poll(node, cx.waker());
        match outcome {
            Some(outcome) => {
                self.node = None;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }

    /// Gives up what cannot be answered in time, or tells when to look again.
    fn alarm(&mut self, deadline: Option<Instant>) -> Result<Expired, Instant> {
        let now = Instant::now();
        let mut told = Told::default();
        let mut state = self.shared.state.lock();
        // What is known of the model may have changed since it came.
        let hopeless = deadline.map(|deadline| state.hopeless_from(deadline));
        if hopeless.is_some_and(|at| at <= now)
            && let Some(node) = self.node
            && state.queue.waits(node)
        {
            self.node = None;
            state.queue.leave(node);
            drop(state);
            self.shared.metrics.expired.inc();
            return Ok(match deadline.is_some_and(|deadline| deadline <= now) {
                true => Expired::passed(),
                false => Expired::hopeless(),
            });
        }
        let watched = state.watch(now, &mut told);
        let again = state.alarm(deadline, watched);
        self.shared.tell(state, told);
        Err(again)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(node) = self.node else { return };
        let outcome = self.shared.state.lock().queue.leave(node);
        match outcome {
            // Who comes after has the place.
            Some(Outcome::Granted(call)) => drop(Place::new(Arc::clone(&self.shared), call)),
            Some(Outcome::Late(_) | Outcome::Refused(_)) => return,
            None => {}
        }
        self.shared.metrics.cancelled.inc();
    }
}

impl<S: Infer + 'static> std::fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            State::Waiting { .. } => "ResponseFuture(waiting)",
            State::Sent { .. } => "ResponseFuture(sent)",
            State::Refused { .. } => "ResponseFuture(refused)",
            State::Done => "ResponseFuture(done)",
        })
    }
}
