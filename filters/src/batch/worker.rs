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
    metrics::{Closed, Handles},
    queue::{Batch, BoxMember, Limits, Member, Outcome},
    search::Search,
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
        search: None,
        held: true,
    };
    tokio::spawn(lead.run(batch));
}

/// One of the endpoint's places for a call. Its task holds it; dropped with the task, it frees
/// the place and sends those who still wait to the server by themselves, each by its own future,
/// because nobody else may be there to send them.
///
/// When the call of a batch fails and one row may be the cause, the task keeps the place and sends
/// the batch's members again in parts, one call after the other: they came before all that waits.
struct Lead<S> {
    shared: Arc<Shared<S>>,
    /// Of the members that it has: those under way, and those of the search that are not.
    rows: usize,
    search: Option<Box<Search<BoxMember>>>,
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
            let contents = self.contents(&batch);
            let request = merge(&mut batch, sent);
            let under_way = self.shared.expected.begin(batch.rows, sent);
            let call = self.call(request, &mut batch.members, &mut ended);
            let result = call.instrument(span).await;
            drop(under_way);
            let answered = Instant::now();
            let shown = self.shown(&batch, result.is_ok(), sent, answered);
            ended = self
                .judge(batch, result, contents)
                .map(|(batch, result)| Answers {
                    shared: Arc::clone(&self.shared),
                    batch,
                    result,
                    sent,
                    upstream: answered - sent,
                });
            match self.next(shown, answered) {
                Some(next) => batch = next,
                None => {
                    if let Some(answers) = ended {
                        answers.deliver();
                    }
                    return;
                }
            }
        }
    }

    /// Returns what the contents of a member that goes alone are known by, if it does so because a
    /// call failed.
    fn contents(&self, batch: &Batch) -> Option<u128> {
        match (&self.search, &batch.members[..]) {
            (Some(_), [only]) => Some(self.shared.isolation.quarantine().digest(&only.request)),
            _ => None,
        }
    }

    /// Returns what a call has shown of the model: parts of a batch that failed are as small as
    /// they are for another reason than time.
    fn shown(
        &self,
        batch: &Batch,
        answered_well: bool,
        sent: Instant,
        answered: Instant,
    ) -> Option<Call> {
        if self.search.is_some() {
            return None;
        }
        let oldest = batch.members.first().map_or(sent, |member| member.arrived);
        Some(Call {
            rows: batch.rows,
            full: batch.closed == Closed::Full,
            answered: answered_well,
            queue: sent - oldest,
            model: answered - sent,
            most: self.shared.most_rows().unwrap_or(1),
        })
    }

    /// Takes the members of a call into the search for the guilty if one of them may be the cause
    /// of its failure; or hands them back, to be told what came of the call.
    fn judge(
        &mut self,
        batch: Batch,
        result: Result<Response, Error>,
        contents: Option<u128>,
    ) -> Option<(Batch, Result<Response, Error>)> {
        let error = match (&result, &mut self.search) {
            (Ok(_), None) => return Some((batch, result)),
            (Ok(_), Some(search)) => {
                search.answered();
                let members = batch.members.len();
                self.shared.state.lock().budget.part_answered(members);
                return Some((batch, result));
            }
            (Err(error), _) => error,
        };
        let verdict = self.shared.isolation.blames_a_row(error);
        match &mut self.search {
            None => {
                let Some(verdict) = verdict.filter(|_| batch.members.len() > 1) else {
                    return Some((batch, result));
                };
                if !self.shared.state.lock().budget.allows_a_search() {
                    return Some((batch, result));
                }
                self.shared.metrics.halved.inc();
                debug!(
                    batch.members = batch.members.len(),
                    code = %verdict.code(),
                    "halved a batch that failed"
                );
                let failed = CallFailed::new(result.err()?);
                self.search = Some(Box::new(Search::new(batch.members, verdict, failed)));
                None
            }
            Some(search) => {
                let is_spent = self.shared.state.lock().budget.part_failed();
                let Some(verdict) = verdict else {
                    return Some((batch, result));
                };
                if is_spent && !search.has_answered() {
                    search.stop();
                }
                if let Some(contents) = contents {
                    search.failed_alone(contents, &verdict);
                    return Some((batch, result));
                }
                search.failed(batch.members, &verdict, CallFailed::new(result.err()?));
                None
            }
        }
    }

    /// Takes the next part of a batch that failed, without members that have left or whose
    /// deadlines have passed.
    fn part(&mut self, now: Instant) -> Option<Batch> {
        let search = self.search.as_mut()?;
        if self.shared.most_rows().is_none() {
            search.give_up().for_each(|(member, _)| member.release());
        }
        while let Some(mut members) = search.next() {
            members.retain(|member| !member.answer.is_closed());
            let late = members.extract_if(.., |member| member.is_late(now));
            late.for_each(|member| member.expire(&self.shared.metrics));
            if !members.is_empty() {
                return Some(Batch {
                    rows: members.iter().map(|member| member.rows).sum(),
                    members,
                    closed: Closed::Halved,
                });
            }
        }
        let mut search = self.search.take()?;
        for (member, failed) in search.give_up() {
            member.refuse(failed);
        }
        debug!(
            guilty = search.guilty().len(),
            answered = search.has_answered(),
            "searched a batch that failed"
        );
        for contents in search.guilty() {
            self.shared.metrics.isolated.inc();
            self.shared.isolation.quarantine().enter(*contents, now);
        }
        None
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
    fn next(&mut self, shown: Option<Call>, now: Instant) -> Option<Batch> {
        let part = self.part(now);
        let shared = &*self.shared;
        let most = shared.most_rows();
        let mut expired = Vec::new();
        let mut state = shared.state.lock();
        if let Some(call) = shown {
            state.limit.observe(&call);
            state.budget.ended();
            if call.answered {
                let time = call.model.as_secs_f64().max(1e-6);
                state.costs.observe(call.rows.max(1) as f64, time);
            }
            let limit = state.limit.limit(call.most);
            let places = shared.config.max_in_flight;
            shared
                .expected
                .learned(state.costs.line(), limit, places, now);
            shared.show_limit(&mut state);
        }
        let released = match most {
            Some(_) => Vec::new(),
            None => state.queue.drain(),
        };
        // What goes on is counted as under way already, what comes was counted as waiting.
        let (goes_on, next) = match part {
            Some(part) => {
                let waits = self.search.iter().flat_map(|search| search.left());
                let rows = part.rows + waits.map(|member| member.rows).sum::<usize>();
                (rows, Some(part))
            }
            None => {
                let next = most.and_then(|most| {
                    let limits = Limits {
                        rows: state.limit.limit(most),
                        bytes: shared.config.max_batch_bytes,
                    };
                    state.queue.take(now, limits, &mut expired)
                });
                (0, next)
            }
        };
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
        shared.sub_load(left + self.rows - goes_on);
        self.rows = match &next {
            Some(next) => goes_on.max(next.rows),
            None => 0,
        };
        released.into_iter().for_each(|member| member.release());
        for member in expired {
            member.expire(&shared.metrics);
        }
        next
    }

    fn count(&self, batch: &Batch, sent: Instant) {
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
}

impl<S> Drop for Lead<S> {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        if let Some(search) = &mut self.search {
            search.give_up().for_each(|(member, _)| member.release());
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

    fn is_late(&self, now: Instant) -> bool {
        self.request.head.deadline.is_some_and(|at| at <= now)
    }

    fn expire(self: Box<Self>, metrics: &Handles) {
        metrics.expired.inc();
        self.refuse(DeadlineExpired::new());
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
