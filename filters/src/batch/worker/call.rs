use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tracing::{Span, debug, debug_span, error, trace};

use super::{answers::Answers, place::Lead};
use crate::{
    batch::{
        controller::Call,
        error::Interrupted,
        explain::Closed,
        key,
        queue::{Batch, BoxMember},
        state::Shown,
    },
    inference::{Error, Infer, Parameter, Request, RequestParts, Response, concat, queue_timeout},
    overload::Cancel,
};

impl<S: Infer + 'static> Lead<S> {
    pub(super) fn count(&self, batch: &Batch, sent: Instant) {
        let metrics = &self.shared.metrics;
        metrics.rows.observe(batch.rows as f64);
        metrics.closed(batch.closed).inc();
        if batch.closed != Closed::Halved {
            for member in &batch.members {
                metrics.queue.observe((sent - member.arrived).as_secs_f64());
            }
        }
        trace!(
            batch.rows = batch.rows,
            batch.members = batch.members.len(),
            closed = ?batch.closed,
            "dispatched"
        );
    }

    /// Makes the call. Once it is under way, the answers of the call before are handed out: the
    /// model need not wait for that. When its last member has left, the call is dropped, or goes on
    /// for nobody, as configured; when it takes too long, it gives way.
    pub(super) async fn call(
        &mut self,
        request: Request,
        members: &mut [BoxMember],
        patience: Duration,
        ended: &mut Option<Answers<S>>,
    ) -> Result<Response, Error> {
        let mut call = pin!(self.shared.inner().oneshot(request));
        let mut alarm = pin!(sleep(patience));
        let mut waits = true;
        let mut left = 0;
        let outlives = self.shared.config.cancel == Cancel::Never;
        poll_fn(|cx| {
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
            if let Some(ended) = ended.take() {
                // A task of its own comes after the connection's in the runtime's queue.
                tokio::spawn(async move { ended.deliver() });
            }
            match polled {
                Ok(Poll::Ready(answer)) => return Poll::Ready(answer.map_err(Into::into)),
                Ok(Poll::Pending) => {}
                Err(_) => {
                    error!("the call of a batch panicked");
                    return Poll::Ready(Err(Interrupted::new().into()));
                }
            }
            while waits && alarm.as_mut().poll(cx).is_ready() {
                waits = !self.give_way();
                // Those who are stuck now may not be for ever.
                alarm.as_mut().reset(Instant::now() + patience);
            }
            if outlives {
                return Poll::Pending;
            }
            // One member after the other is watched, so that a wake costs the same for any number.
            while let Some(member) = members.get_mut(left) {
                ready!(member.answer.poll_closed(cx));
                left += 1;
            }
            debug!("dropped a call that all its members have left");
            Poll::Ready(Err(Interrupted::new().into()))
        })
        .await
    }

    /// Tells how long a call may take before others are sent beside it.
    pub(super) fn patience(&self, rows: usize) -> Duration {
        let line = self.shared.state.lock().costs.line();
        let Some(line) = line else {
            return FIRST_PATIENCE;
        };
        let expected = Duration::try_from_secs_f64(line.time(rows as f64));
        let objective = self.shared.config.latency_objective;
        expected
            .unwrap_or(FIRST_PATIENCE)
            .max(objective)
            .saturating_mul(PATIENCE)
            .clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// Returns what a call has shown of the model: parts of a batch that failed are as small as
    /// they are for another reason than time.
    pub(super) fn shown(
        &self,
        batch: &Batch,
        answered_well: bool,
        sent: Instant,
        answered: Instant,
    ) -> Option<(Shown, Call)> {
        if self.search.is_some() {
            return None;
        }
        let arrived = batch.members.iter().map(|member| member.arrived);
        let oldest = arrived.min().unwrap_or(sent);
        let shown = Shown {
            members: batch.members.len(),
            held_out: batch.held_out,
        };
        let call = Call {
            rows: batch.rows,
            requests: batch.members.len(),
            full: batch.closed == Closed::Full && batch.held_out.is_none(),
            answered: answered_well,
            queue: sent - oldest,
            model: answered - sent,
            most: self.shared.most_rows().unwrap_or(1),
            places: self
                .shared
                .config
                .max_in_flight
                .fixed()
                .unwrap_or(usize::MAX),
        };
        Some((shown, call))
    }
}

/// Makes the message of a batch: of one member its own, unchanged, of several a new one.
pub(super) fn merge(batch: &mut Batch, now: Instant) -> Request {
    if let [only] = &mut batch.members[..] {
        return std::mem::replace(&mut only.request, RequestParts::default().into());
    }
    let mut merged = concat(batch.members.iter().map(|member| &member.request));
    let members = &batch.members;
    // Not merged unless equal, and the server's queue goes by it.
    merged.head.priority = members[0].request.head.priority;
    merged.head.deadline = members
        .iter()
        .map(|member| member.request.head.deadline)
        .reduce(|latest, deadline| Some(latest?.max(deadline?)))
        .flatten();
    // What the members have waited here comes off what they may wait in the server.
    let timeout = members
        .iter()
        .filter_map(|member| {
            let waited = u64::try_from((now - member.arrived).as_micros()).unwrap_or(u64::MAX);
            queue_timeout(&member.request.parameters)
                // Zero would mean that there is none.
                .map(|timeout| timeout.saturating_sub(waited).max(1))
        })
        .min();
    if let Some(timeout) = timeout {
        let value = match merged.parameters.get(key::TIMEOUT) {
            Some(Parameter::Int64(_)) => {
                Parameter::Int64(i64::try_from(timeout).unwrap_or(i64::MAX))
            }
            _ => Parameter::Uint64(timeout),
        };
        merged.parameters.insert(key::TIMEOUT.into(), value);
    }
    merged
}

pub(super) fn span(batch: &Batch) -> Span {
    let span = debug_span!(
        "batch",
        batch.rows = batch.rows,
        batch.members = batch.members.len(),
    );
    if !span.is_disabled() {
        for member in batch.members.iter().take(MAX_LINKS) {
            span.follows_from(&member.span);
        }
    }
    span
}

/// How many times as long as expected, and as the objective, a call may take before others are sent
/// beside it: far beyond noise and a model that has become slower.
const PATIENCE: u32 = 16;
/// No call of less is called stuck, however fast the model is: a pause of the server is not enough.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The same for the first call, with which some servers load the model.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// No call is waited for any longer than this without others beside it.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);
/// Collectors keep about so many links of a span, and drop those that come after.
const MAX_LINKS: usize = 128;
