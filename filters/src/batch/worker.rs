use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::Instant;
use tower::ServiceExt;
use tracing::{Instrument, Span, debug, debug_span, error, trace, warn};

use super::{
    Batchable, Unbatchable,
    controller::Call,
    error::{CallFailed, DeadlineExpired, Interrupted},
    key,
    metrics::Closed,
    queue::{Batch, BoxMember, Limits, Member, Outcome},
    shared::Shared,
};
use crate::inference::{Error, Infer, Parameter, Request, RequestParts, Response, concat, split};

/// Starts a task that sends a batch, and then whatever has come to wait meanwhile.
///
/// The task belongs to nobody: it ends when nothing waits. A caller that leaves does not end it,
/// and drops the call under way only if it is the last one.
pub(super) fn start<S: Infer + 'static>(shared: &Arc<Shared<S>>, batch: Batch) {
    shared.add_load(batch.rows);
    let lead = Lead {
        shared: Arc::clone(shared),
        rows: batch.rows,
        held: true,
    };
    tokio::spawn(lead.run(batch));
}

/// One of the endpoint's places for a call. Its task holds it; dropped with the task, it frees
/// the place and sends those who still wait to the server by themselves, each by its own future,
/// because nobody else may be there to send them.
struct Lead<S> {
    shared: Arc<Shared<S>>,
    rows: usize,
    held: bool,
}

/// The members of a call that has ended, until each has its own answer.
struct Answers<S> {
    shared: Arc<Shared<S>>,
    batch: Batch,
    result: Result<Response, Error>,
    sent: Instant,
    upstream: Duration,
}

impl<S: Infer + 'static> Lead<S> {
    async fn run(mut self, mut batch: Batch) {
        let mut ended: Option<Answers<S>> = None;
        loop {
            let sent = Instant::now();
            self.count(&batch, sent);
            let span = span(&batch);
            let request = merge(&mut batch, sent);
            let call = self.call(request, &mut batch.members, &mut ended);
            let result = call.instrument(span).await;
            let answered = Instant::now();
            let (next, expired) = self.next(&batch, result.is_ok(), sent, answered);
            for member in expired {
                self.shared.metrics.expired.inc();
                member.refuse(DeadlineExpired::new());
            }
            let answers = Answers {
                shared: Arc::clone(&self.shared),
                batch,
                result,
                sent,
                upstream: answered - sent,
            };
            match next {
                Some(next) => {
                    ended = Some(answers);
                    batch = next;
                }
                None => return answers.deliver(),
            }
        }
    }

    /// Makes the call. Once it is under way, the answers of the call before are handed out: the
    /// model need not wait for that. When its last member has left, the call is dropped.
    async fn call(
        &self,
        request: Request,
        members: &mut [BoxMember],
        ended: &mut Option<Answers<S>>,
    ) -> Result<Response, Error> {
        let mut call = pin!(self.shared.inner().oneshot(request));
        let mut left = 0;
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

    /// Learns from a call, and takes the next batch or frees the place: at once, so that nobody
    /// comes to wait in between.
    fn next(
        &mut self,
        batch: &Batch,
        answered_well: bool,
        sent: Instant,
        answered: Instant,
    ) -> (Option<Batch>, Vec<BoxMember>) {
        let shared = &*self.shared;
        let most = shared.most_rows();
        let oldest = batch.members.first().map_or(sent, |member| member.arrived);
        let call = Call {
            rows: batch.rows,
            // Errors come fast: they say nothing of what the model can do.
            full: batch.closed == Closed::Full && answered_well,
            queue: sent - oldest,
            model: answered - sent,
            most: most.unwrap_or(1),
        };
        let mut expired = Vec::new();
        let mut state = shared.state.lock();
        state.limit.observe(&call);
        shared.show_limit(&mut state);
        let released = match most {
            Some(_) => Vec::new(),
            None => state.queue.drain(),
        };
        let next = most.and_then(|most| {
            let limits = Limits {
                rows: state.limit.limit(most),
                bytes: shared.config.max_batch_bytes,
            };
            state.queue.take(answered, limits, &mut expired)
        });
        if next.is_none() {
            state.in_flight -= 1;
            self.held = false;
        }
        drop(state);

        let left: usize = expired
            .iter()
            .chain(&released)
            .map(|member| member.rows)
            .sum();
        shared.sub_load(left + self.rows);
        // The rows of the next batch were counted as waiting, and go on to be counted as under way.
        self.rows = next.as_ref().map_or(0, |next| next.rows);
        released.into_iter().for_each(|member| member.release());
        (next, expired)
    }

    fn count(&self, batch: &Batch, sent: Instant) {
        let metrics = &self.shared.metrics;
        metrics.rows.observe(batch.rows as f64);
        metrics.closed(batch.closed).inc();
        for member in &batch.members {
            metrics.queue.observe((sent - member.arrived).as_secs_f64());
        }
        trace!(
            batch.rows = batch.rows,
            batch.members = batch.members.len(),
            closed = ?batch.closed,
            "dispatched"
        );
    }
}

impl<S> Drop for Lead<S> {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        let mut state = self.shared.state.lock();
        state.in_flight -= 1;
        // Another call under way takes the next batch when it ends.
        let released = match state.in_flight {
            0 => state.queue.drain(),
            _ => Vec::new(),
        };
        drop(state);
        let rows: usize = released.iter().map(|member| member.rows).sum();
        self.shared.sub_load(rows + self.rows);
        released.into_iter().for_each(|member| member.release());
    }
}

impl<S> Answers<S> {
    fn deliver(self) {
        let Self {
            shared,
            batch,
            result,
            sent,
            upstream,
        } = self;
        shared.record(
            batch
                .members
                .iter()
                .map(|member| (sent - member.arrived) + upstream),
        );
        let batch_rows = batch.rows;
        let report = move |response: &mut Response, member: &Member| {
            response.report.batch_rows = Some(batch_rows);
            response.report.queue = Some(sent - member.arrived);
            response.report.upstream = Some(upstream);
        };
        let mut members = batch.members;
        if members.len() <= 1 {
            if let Some(member) = members.pop() {
                let result = result.map(|mut response| {
                    report(&mut response, &member);
                    response
                });
                member.answer(result);
            }
            return;
        }
        let response = match result {
            Ok(response) => response,
            Err(cause) => {
                let failed = CallFailed::new(cause);
                members
                    .into_iter()
                    .for_each(|member| member.refuse(failed.clone()));
                return;
            }
        };
        let rows: Vec<usize> = members.iter().map(|member| member.rows).collect();
        match split(response, &rows) {
            Ok(parts) => {
                for (member, mut part) in members.into_iter().zip(parts) {
                    part.id = member.request.head.id.clone();
                    report(&mut part, &member);
                    member.answer(Ok(part));
                }
            }
            Err(uneven) => {
                shared.metrics.uneven.inc();
                shared
                    .capability
                    .set(Batchable::No(Unbatchable::UnevenOutput));
                warn!(
                    reason = %uneven,
                    "the answer to a batch cannot be divided: the model's requests go alone from here on"
                );
                members.into_iter().for_each(|member| member.release());
            }
        }
    }
}

impl Member {
    /// Gives the caller its answer, if it is still there.
    fn answer(self: Box<Self>, answer: Result<Response, Error>) {
        let _gone = self.answer.send(Outcome::Answered(answer));
    }

    fn refuse(self: Box<Self>, cause: impl Into<Error>) {
        self.answer(Err(cause.into()));
    }

    /// Hands the request back to the caller's own future, to be sent by itself.
    fn release(self: Box<Self>) {
        let Self {
            request, answer, ..
        } = *self;
        let _gone = answer.send(Outcome::Alone(request));
    }
}

/// Makes the message of a batch: of one member its own, unchanged, of several a new one.
fn merge(batch: &mut Batch, now: Instant) -> Request {
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
            key::timeout(&member.request.parameters)
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

fn span(batch: &Batch) -> Span {
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

/// Collectors keep about so many links of a span, and drop those that come after.
const MAX_LINKS: usize = 128;
