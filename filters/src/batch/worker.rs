use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tracing::{Instrument, Span, debug, debug_span, error, trace, warn};

use super::{
    Batchable, Cancel, Unbatchable,
    controller::Call,
    error::{CallFailed, DeadlineExpired, Interrupted},
    expected::UnderWay,
    explain::Closed,
    key,
    metrics::Handles,
    queue::{Batch, BoxMember, Late, Member, Outcome},
    search::Search,
    shared::Shared,
    state::{Plan, Shown, Situation, State},
};
use crate::inference::{Error, Infer, Parameter, Request, RequestParts, Response, concat, split};

/// Starts a task that holds a place, which is counted already, and goes on with a plan.
///
/// The task belongs to nobody: it ends when nothing waits. A caller that leaves does not end it.
pub(super) fn start<S: Infer + 'static>(shared: &Arc<Shared<S>>, plan: Plan) {
    let lead = Lead {
        shared: Arc::clone(shared),
        rows: rows(&plan),
        search: None,
        held: true,
        beside: false,
        waits: matches!(plan, Plan::Wait(_)),
        parts: 0,
        under_way: None,
    };
    tokio::spawn(lead.run(plan));
}

/// Takes free places for what waits, or tells who waits for company that there is some.
pub(super) fn launch<S>(shared: &Shared<S>, state: &mut State, situation: Situation) -> Launched {
    let mut launched = Launched::default();
    if let Some(until) = state.waits_until {
        let sooner = state.company_until(situation.now, situation.most);
        if sooner.is_none_or(|sooner| sooner < until) {
            shared.company.notify_one();
        }
        return launched;
    }
    while state.has_place() && !state.queue.is_empty() {
        state.in_flight += 1;
        match state.plan(situation, &mut launched.late) {
            Plan::Rest => {
                state.in_flight -= 1;
                break;
            }
            Plan::Wait(until) => {
                launched.plans.push(Plan::Wait(until));
                break;
            }
            send @ Plan::Send(_) => launched.plans.push(send),
        }
    }
    launched
}

/// What is to be done outside of the lock.
#[derive(Debug, Default)]
#[must_use = "who is in it waits for an answer"]
pub(super) struct Launched {
    plans: SmallVec<[Plan; 1]>,
    late: Vec<Late>,
}

impl Launched {
    pub(super) fn start<S: Infer + 'static>(self, shared: &Arc<Shared<S>>) {
        for plan in self.plans {
            start(shared, plan);
        }
        shared.expire(self.late);
    }
}

impl<S> Shared<S> {
    /// Answers those who cannot be in time, and counts them no more.
    fn expire(&self, late: Vec<Late>) {
        for (member, expired) in late {
            self.sub_load(member.rows);
            member.expire(&self.metrics, expired);
        }
    }
}

fn rows(plan: &Plan) -> usize {
    match plan {
        Plan::Send(batch) => batch.rows,
        Plan::Wait(_) | Plan::Rest => 0,
    }
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
    /// Whether it goes on beside the places: its call takes too long, or its search does.
    beside: bool,
    /// Whether it waits for company.
    waits: bool,
    /// Parts that the search has sent.
    parts: usize,
    under_way: Option<UnderWay>,
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
    async fn run(mut self, mut plan: Plan) {
        let mut ended: Option<Answers<S>> = None;
        loop {
            let mut batch = match plan {
                Plan::Send(batch) => batch,
                Plan::Wait(until) => {
                    if let Some(ended) = ended.take() {
                        ended.deliver();
                    }
                    self.waits = true;
                    self.wait(until).await;
                    self.waits = false;
                    plan = self.plan_again();
                    continue;
                }
                Plan::Rest => {
                    if let Some(ended) = ended.take() {
                        ended.deliver();
                    }
                    return;
                }
            };
            let sent = Instant::now();
            // Who has left since the batch was taken is not sent.
            let gone = batch
                .members
                .extract_if(.., |member| member.answer.is_closed());
            for member in gone {
                batch.rows -= member.rows;
                self.shared.metrics.cancelled.inc();
            }
            if batch.members.is_empty() {
                self.shared.state.lock().unsent(&batch, sent);
                plan = self.next(None, sent, sent);
                continue;
            }
            self.count(&batch, sent);
            let span = span(&batch);
            let contents = self.contents(&batch);
            let request = merge(&mut batch, sent);
            let patience = self.patience(batch.rows);
            self.under_way = Some(self.shared.expected.begin(batch.rows, sent));
            let call = self.call(request, &mut batch.members, patience, &mut ended);
            let result = call.instrument(span).await;
            self.under_way = None;
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
            plan = self.next(shown, sent, answered);
        }
    }

    /// Holds the place until it is time, or there is company enough.
    async fn wait(&self, until: Instant) {
        let _either = tokio::time::timeout_at(until, self.shared.company.notified()).await;
    }

    fn plan_again(&mut self) -> Plan {
        let shared = Arc::clone(&self.shared);
        let now = Instant::now();
        let mut late = Vec::new();
        let mut state = shared.state.lock();
        let (plan, released) = match shared.most_rows() {
            Some(most) => {
                let situation = Situation {
                    waited: true,
                    fresh: state.knows_the_present(now),
                    ..shared.situation(now, most)
                };
                (state.plan(situation, &mut late), Vec::new())
            }
            None => {
                state.waits_until = None;
                (Plan::Rest, state.queue.drain())
            }
        };
        if matches!(plan, Plan::Rest) {
            self.leave(&mut state);
        }
        drop(state);
        self.rows = rows(&plan);
        shared.release(released);
        shared.expire(late);
        plan
    }

    /// Tells how long a call may take before others are sent beside it.
    fn patience(&self, rows: usize) -> Duration {
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

    /// Gives the place of a call that takes too long to whoever waits, as long as not too many such
    /// calls are under way: the server may have lost it, and nobody shall wait for that. Tells
    /// whether it has.
    fn give_way(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(most) = shared.most_rows() else {
            let released = shared.state.lock().queue.drain();
            shared.release(released);
            return false;
        };
        let situation = shared.situation(Instant::now(), most);
        let mut state = shared.state.lock();
        let steps = self.steps_aside(&mut state);
        let launched = match steps {
            true => launch(&shared, &mut state, situation),
            false => Launched::default(),
        };
        drop(state);
        launched.start(&shared);
        if !self.beside {
            return false;
        }
        if steps {
            shared.metrics.stuck.inc();
            warn!(
                rows = self.rows,
                "a call takes far longer than expected: others are sent beside it"
            );
        }
        // Those who were to be sent again after it do not wait for it either.
        if let Some(mut search) = self.search.take() {
            for (member, _) in search.give_up() {
                self.rows -= member.rows;
                shared.sub_load(member.rows);
                member.release();
            }
        }
        // Nobody who comes now waits for it.
        self.under_way = None;
        shared.sub_load(std::mem::take(&mut self.rows));
        true
    }

    /// Goes on beside the places, if not too many do so already.
    fn steps_aside(&mut self, state: &mut State) -> bool {
        if !self.held || state.beside >= MOST_BESIDE {
            return false;
        }
        state.beside += 1;
        state.in_flight -= 1;
        (self.held, self.beside) = (false, true);
        true
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

    /// Takes the members of a call into the search for the guilty if one of them may be the cause
    /// of its failure; or hands them back, to be told what came of the call.
    fn judge(
        &mut self,
        batch: Batch,
        result: Result<Response, Error>,
        contents: Option<u128>,
    ) -> Option<(Batch, Result<Response, Error>)> {
        if self.beside && self.search.is_none() {
            return Some((batch, result));
        }
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
            late.for_each(|member| {
                member.expire(&self.shared.metrics, DeadlineExpired::passed());
            });
            if !members.is_empty() {
                let rows = members.iter().map(|member| member.rows).sum();
                return Some(Batch {
                    rows,
                    limit: rows,
                    members,
                    closed: Closed::Halved,
                    held_out: None,
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
    /// model need not wait for that. When its last member has left, the call is dropped, or goes on
    /// for nobody, as configured; when it takes too long, it gives way.
    async fn call(
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

    /// Learns from a call, and takes the next batch or frees the place: at once, so that nobody
    /// comes to wait in between.
    fn next(&mut self, shown: Option<(Shown, Call)>, sent: Instant, now: Instant) -> Plan {
        let part = self.part(now);
        let shared = Arc::clone(&self.shared);
        let most = shared.most_rows();
        let mut late = Vec::new();
        let mut launched = Launched::default();
        let mut state = shared.state.lock();
        if let Some((batch, call)) = shown {
            state.learn(&batch, &call, now, sent);
            shared.show_limit(&mut state);
            shared.metrics.model(&batch, &call);
            let limit = state.limit.limit(call.most);
            let places = state.flight.places();
            shared
                .expected
                .learned(state.costs.line(), limit, places, now);
        }
        let released = match most {
            Some(_) => Vec::new(),
            None => state.queue.drain(),
        };
        // What goes on is counted as under way already, what comes was counted as waiting.
        let mut goes_on = 0;
        let plan = match (part, most) {
            (Some(part), _) => {
                self.parts += 1;
                if self.parts > MOST_PARTS && !state.queue.is_empty() {
                    // Others do not wait for all of a search.
                    self.steps_aside(&mut state);
                }
                let waits = self.search.iter().flat_map(|search| search.left());
                goes_on = part.rows + waits.map(|member| member.rows).sum::<usize>();
                Plan::Send(part)
            }
            (None, Some(most)) if self.held => {
                let situation = Situation {
                    fresh: true,
                    ..shared.situation(now, most)
                };
                match state.waits_until {
                    // Another one waits for company already.
                    Some(_) => Plan::Rest,
                    None => state.plan(situation, &mut late),
                }
            }
            (None, _) => Plan::Rest,
        };
        if matches!(plan, Plan::Rest) {
            self.leave(&mut state);
        }
        if let Some(most) = most {
            // There may be more places than before.
            launched = launch(&shared, &mut state, shared.situation(now, most));
        }
        drop(state);

        shared.sub_load(self.rows - goes_on);
        self.rows = goes_on.max(rows(&plan));
        shared.release(released);
        shared.expire(late);
        launched.start(&shared);
        plan
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

impl<S> Lead<S> {
    /// Gives back what it holds: a place, or its standing beside them.
    fn leave(&mut self, state: &mut State) {
        if self.held {
            state.in_flight -= 1;
        }
        if self.beside {
            state.beside -= 1;
        }
        if self.waits {
            state.waits_until = None;
        }
        (self.held, self.beside, self.waits) = (false, false, false);
    }
}

impl<S> Drop for Lead<S> {
    fn drop(&mut self) {
        if let Some(search) = &mut self.search {
            search.give_up().for_each(|(member, _)| member.release());
        }
        self.shared.sub_load(std::mem::take(&mut self.rows));
        if !self.held && !self.beside {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        let held = self.held;
        self.leave(&mut state);
        // Whoever has another place need not come soon, and nobody may come at all.
        let released = match held {
            true => state.queue.drain(),
            false => Vec::new(),
        };
        drop(state);
        shared.release(released);
    }
}

impl<S> Shared<S> {
    /// Hands members that waited back to their callers' own futures.
    fn release(&self, members: Vec<BoxMember>) {
        for member in members {
            self.sub_load(member.rows);
            member.release();
        }
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
        let (rows, limit, closed) = (batch.rows, batch.limit, batch.closed);
        let count = batch.members.len();
        let report = move |response: &mut Response, member: &Member| {
            response.report.batch_rows = Some(rows);
            response.report.batch_members = Some(count);
            response.report.batch_limit = Some(limit);
            response.report.batch_reason = Some(closed.name());
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

    fn expire(self: Box<Self>, metrics: &Handles, expired: DeadlineExpired) {
        metrics.expired.inc();
        self.refuse(expired);
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

/// How many times as long as expected, and as the objective, a call may take before others are sent
/// beside it: far beyond noise and a model that has become slower.
const PATIENCE: u32 = 16;
/// No call of less is called stuck, however fast the model is: a pause of the server is not enough.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The same for the first call, with which some servers load the model.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// No call is waited for any longer than this without others beside it.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);
/// Calls beside which others are sent. A server that loses so many will not be helped by more.
const MOST_BESIDE: usize = 8;
/// Parts of a batch that failed for which others wait: enough to find two guilty ones among 256.
const MOST_PARTS: usize = 16;
/// Collectors keep about so many links of a span, and drop those that come after.
const MAX_LINKS: usize = 128;
