use std::{future::Future, pin::Pin, sync::Arc, task::Context};

use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

use super::{
    Endpoints,
    metrics::{Forgone, Kind, Outcome},
    shared::Shared,
};
use crate::{
    deadline::Expired,
    inference::{Error, Request},
    overload::Overloaded,
};

/// A request that is kept to be sent again, and what became of it so far.
pub(super) struct Again<E> {
    request: Request,
    endpoints: Arc<E>,
    shared: Arc<Shared>,
    /// Where it was sent first.
    endpoint: usize,
    /// How often it was sent.
    tries: u32,
    /// Whether it has been sent to a second endpoint.
    elsewhere: bool,
    /// The second try under way.
    second: Option<Kind>,
    /// What the caller is told if no more comes.
    error: Option<(Error, Told)>,
    /// Since when the first try has been under way, where that is learned from; until it has ended.
    since: Option<Instant>,
    alarm: Alarm,
}

/// What a try that failed says; what is worth more to the caller comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// It was not sent: a queue of ours had no place for it, or no time.
    Refused,
    /// Its connection was lost.
    Lost,
    /// The server's own word.
    Said,
}

/// When a copy is sent.
enum Alarm {
    /// The first try has just begun: most end without a timer.
    Unset,
    Set(Pin<Box<Sleep>>),
    /// There is no copy, or it has been sent.
    Over,
}

impl<E: Endpoints> Again<E> {
    pub(super) fn new(
        request: Request,
        endpoint: usize,
        endpoints: &Arc<E>,
        shared: &Arc<Shared>,
    ) -> Self {
        let hedges = shared.hedging.is_some();
        Self {
            request,
            endpoints: Arc::clone(endpoints),
            shared: Arc::clone(shared),
            endpoint,
            tries: 1,
            elsewhere: false,
            second: None,
            error: None,
            since: hedges.then(Instant::now),
            alarm: match hedges && endpoints.count() > 1 {
                true => Alarm::Unset,
                false => Alarm::Over,
            },
        }
    }

    /// Takes note of an answer.
    pub(super) fn answered(&mut self, is_copy: bool) {
        if is_copy {
            self.second_ended(Outcome::Answered);
            self.first_ended(false);
        } else {
            if self.second == Some(Kind::Lost) {
                self.second_ended(Outcome::Answered);
            }
            self.first_ended(true);
        }
    }

    /// Takes note of a try that failed.
    pub(super) fn failed(&mut self, is_copy: bool, error: Error) {
        if is_copy || self.second == Some(Kind::Lost) {
            self.second_ended(Outcome::Failed);
        } else {
            self.first_ended(false);
        }
        self.alarm = Alarm::Over;
        let told = if (self.shared.knows.is_lost)(&error) {
            Told::Lost
        } else if is_refused(&error) {
            // No server has seen that one.
            if is_copy {
                self.elsewhere = false;
            }
            Told::Refused
        } else {
            Told::Said
        };
        // Of several that say the same the first.
        if self.error.as_ref().is_none_or(|(_, before)| told > *before) {
            self.error = Some((error, told));
        }
    }

    /// Returns what the caller is told.
    pub(super) fn error(&mut self) -> Error {
        let error = self.error.take().map(|(error, _)| error);
        error.expect("a try has failed")
    }

    /// Sends the request again if all tries so far were lost, and one more is of use and allowed.
    pub(super) fn send(&mut self) -> Option<E::Future> {
        let told = self.error.as_ref().map(|(_, told)| *told);
        if told != Some(Told::Lost) || !self.shared.resends() {
            return None;
        }
        let now = Instant::now();
        if self
            .request
            .head
            .deadline
            .is_some_and(|deadline| deadline <= now)
        {
            return None;
        }
        // Who has met two servers and lost both is more likely the cause than unlucky twice.
        if self.elsewhere || self.tries >= MOST_TRIES {
            self.forgo(Kind::Lost, Forgone::Tries);
            return None;
        }
        if !self.shared.spend(now) {
            self.forgo(Kind::Lost, Forgone::Budget);
            return None;
        }
        let sent = self
            .endpoints
            .send_elsewhere(self.request.clone(), self.endpoint, false);
        let (endpoint, call) = sent.unwrap_or_else(|request| self.endpoints.send(request));
        self.elsewhere = endpoint != self.endpoint;
        self.begun(Kind::Lost, endpoint);
        Some(call)
    }

    /// Sends a copy once the first try has taken longer than usual, and one is of use and allowed;
    /// wakes the task when it has.
    pub(super) fn copy(&mut self, cx: &mut Context<'_>) -> Option<E::Future> {
        if let Alarm::Unset = self.alarm {
            self.alarm = self.set_alarm();
        }
        let Alarm::Set(timer) = &mut self.alarm else {
            return None;
        };
        if timer.as_mut().poll(cx).is_pending() {
            return None;
        }
        self.alarm = Alarm::Over;
        let shared = self.shared.clone();
        let hedging = shared.hedging.as_ref()?;
        let now = Instant::now();
        if !self.has_time(now) {
            return None;
        }
        if !hedging.spend(now) {
            self.forgo(Kind::Hedge, Forgone::Budget);
            return None;
        }
        let request = self.request.clone();
        match self.endpoints.send_elsewhere(request, self.endpoint, true) {
            Ok((endpoint, call)) => {
                self.elsewhere = true;
                self.begun(Kind::Hedge, endpoint);
                Some(call)
            }
            Err(_) => {
                hedging.give_back();
                self.forgo(Kind::Hedge, Forgone::Nowhere);
                None
            }
        }
    }

    fn set_alarm(&self) -> Alarm {
        let at = self.since.zip(self.shared.hedges_after());
        let at = at.and_then(|(since, after)| since.checked_add(after));
        match at.filter(|at| self.has_time(*at)) {
            Some(at) => Alarm::Set(Box::pin(sleep_until(at))),
            None => Alarm::Over,
        }
    }

    /// Tells whether a copy that is sent then has at least even odds to be answered in time.
    fn has_time(&self, then: Instant) -> bool {
        let hedging = self.shared.hedging.as_ref();
        let usual = hedging.and_then(|hedging| hedging.learned.usual());
        let answered = then.checked_add(usual.unwrap_or_default());
        let deadline = self.request.head.deadline;
        deadline.is_none_or(|deadline| answered.is_some_and(|answered| answered < deadline))
    }

    fn begun(&mut self, kind: Kind, endpoint: usize) {
        self.tries += 1;
        self.second = Some(kind);
        debug!(
            kind = kind.name(),
            endpoint,
            tries = self.tries,
            "sent again"
        );
    }
}

impl<E> Again<E> {
    fn second_ended(&mut self, outcome: Outcome) {
        if let Some(kind) = self.second.take() {
            self.shared.metrics.tried(kind, outcome).inc();
        }
    }

    fn first_ended(&mut self, answered: bool) {
        let Some((since, hedging)) = self.since.take().zip(self.shared.hedging.as_ref()) else {
            return;
        };
        match answered {
            true => hedging.learned.answered(since.elapsed()),
            // Had it been left alone, it would have taken longer; how much is not known.
            false => hedging.learned.cut(since.elapsed()),
        }
    }

    fn forgo(&self, kind: Kind, reason: Forgone) {
        self.shared.metrics.forgone(kind, reason).inc();
    }
}

/// Tells whether a queue of ours has refused a request, which then was not sent.
fn is_refused(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = &**error;
    std::iter::successors(Some(first), |&cause| cause.source()).any(|cause| {
        let expired = cause.downcast_ref::<Expired>();
        cause.is::<Overloaded>() || expired.is_some_and(Expired::is_unsent)
    })
}

impl<E> Drop for Again<E> {
    fn drop(&mut self) {
        self.second_ended(Outcome::Dropped);
        self.first_ended(false);
    }
}

/// How often a request is sent at most. A second loss at the same endpoint may be another of its
/// connections of before; a third is none.
const MOST_TRIES: u32 = 3;
