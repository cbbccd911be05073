use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;
use tracing::{Instrument, warn};

use super::{
    answers::Answers,
    call::{merge, span},
};
use crate::{
    batch::{
        controller::Call,
        expected::UnderWay,
        queue::{BoxMember, Late},
        search::Search,
        shared::Shared,
        state::{Plan, Shown, Situation, State},
    },
    inference::Infer,
};

/// Starts a task that holds a place, which is counted already, and goes on with a plan.
///
/// The task belongs to nobody: it ends when nothing waits. A caller that leaves does not end it.
pub(in crate::batch) fn start<S: Infer + 'static>(shared: &Arc<Shared<S>>, plan: Plan) {
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
pub(in crate::batch) fn launch<S>(
    shared: &Shared<S>,
    state: &mut State,
    situation: Situation,
) -> Launched {
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
pub(in crate::batch) struct Launched {
    plans: SmallVec<[Plan; 1]>,
    late: Vec<Late>,
}

impl Launched {
    pub(in crate::batch) fn start<S: Infer + 'static>(self, shared: &Arc<Shared<S>>) {
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
pub(super) struct Lead<S> {
    pub(super) shared: Arc<Shared<S>>,
    /// Of the members that it has: those under way, and those of the search that are not.
    rows: usize,
    pub(super) search: Option<Box<Search<BoxMember>>>,
    held: bool,
    /// Whether it goes on beside the places: its call takes too long, or its search does.
    pub(super) beside: bool,
    /// Whether it waits for company.
    waits: bool,
    /// Parts that the search has sent.
    parts: usize,
    under_way: Option<UnderWay>,
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
                self.shared.state.lock().unsent(&batch);
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

    /// Gives the place of a call that takes too long to whoever waits, as long as not too many such
    /// calls are under way: the server may have lost it, and nobody shall wait for that. Tells
    /// whether it has.
    pub(super) fn give_way(&mut self) -> bool {
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
                state.takes(now, part.rows);
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

/// Calls beside which others are sent. A server that loses so many will not be helped by more.
const MOST_BESIDE: usize = 8;
/// Parts of a batch that failed for which others wait: enough to find two guilty ones among 256.
const MOST_PARTS: usize = 16;
