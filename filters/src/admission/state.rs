use std::{task::Waker, time::Duration};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    Config,
    durations::Durations,
    limit::{Ended, Limit},
    queue::{Next, Outcome, Queue, Rules, Urgency},
};
use crate::{
    deadline::Expired,
    overload::{Overloaded, Reserved},
};

/// What waits for an endpoint, what is under way, and what was learned: all that is behind the
/// lock. It decides, and does nothing.
///
/// While a place is free nobody waits: whoever gives one back, or makes more of them, calls
/// [`State::grant`] under the same lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) limit: Limit,
    pub(super) took: Durations,
    /// The calls that were sent and have not ended.
    calls: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    /// Of these, those that hold a place.
    pub(super) in_flight: usize,
    /// And those that have given theirs to others.
    pub(super) beside: usize,
    /// When a call ended last, or the first of those under way began.
    heard: Option<Instant>,
    /// Whether somebody found no place since a call ended.
    pressed: bool,
    /// The first class of which more has come than can be answered in time, since somebody of it
    /// waits.
    crowded: Option<u64>,
    /// No call is stuck before.
    watched: Option<Instant>,
    objective: Duration,
    /// What this filter has added to the gauge of limits.
    pub(super) shown: i64,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    began: Instant,
    time: Option<Duration>,
    /// Calls that were under way from then on, it among them.
    among: usize,
    beside: bool,
}

/// What becomes of a request that comes.
#[derive(Debug)]
pub(super) enum Arrival {
    /// It has this place for a call.
    Go(usize),
    /// It has to wait, and is hardly answered in time if it is overdue.
    Wait { overdue: bool },
    /// The model takes longer than it has time.
    Hopeless,
    /// It would be answered too late because of what is before it.
    Late(Overloaded),
}

/// Who is to be told what has become of them, once the lock is free.
pub(super) type Wakers = SmallVec<[Waker; 4]>;

/// What became of those who waited, for whoever counts.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) wakers: Wakers,
    /// Of these, those that would come too late.
    pub(super) late: u64,
    /// Calls that have given way.
    pub(super) stuck: u64,
}

impl State {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let objective = config.latency_objective;
        Self {
            queue: Queue::new(Rules::new(config.default_priority, objective, now)),
            limit: Limit::new(config.max_concurrency),
            took: Durations::default(),
            calls: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            beside: 0,
            heard: None,
            pressed: false,
            crowded: None,
            watched: None,
            objective,
            shown: 0,
        }
    }

    /// Tells whether a call may begin.
    pub(super) fn has_place(&self) -> bool {
        self.in_flight < self.limit.calls()
    }

    /// Decides what becomes of a request that comes.
    pub(super) fn arrive(&mut self, urgency: &Urgency, told: &mut Told) -> Arrival {
        let now = urgency.arrived;
        if urgency.in_sequence {
            return Arrival::Go(self.begin(now, urgency.time()));
        }
        let left = urgency.deadline.map(|at| at.saturating_duration_since(now));
        let is_hopeless = left.is_some_and(|left| self.is_hopeless(left));
        if is_hopeless || !self.has_place() {
            // Where all are sent away nobody waits, and nobody else would look after calls that
            // are stuck.
            self.watch(now, told);
        }
        // An idle endpoint may have become faster, and nobody would ever know. Calls beside which
        // others are sent say nothing of it.
        if is_hopeless && self.in_flight > 0 {
            self.pressed |= !self.has_place();
            return Arrival::Hopeless;
        }
        if self.has_place() && self.queue.is_empty() {
            return Arrival::Go(self.begin(now, urgency.time()));
        }
        self.pressed = true;
        let before = self.queue.before(urgency);
        let wait = self.wait(before as f64 / self.share(), now);
        // Who names no deadline is in time within the objective.
        let time = left.unwrap_or(self.objective);
        let chance = self.took.within(time.saturating_sub(wait));
        let is_late = time < wait || chance < self.took.within(time) * SURE;
        // Once more comes than can be answered, a long queue helps nobody: those in it are answered
        // at the last moment, or just too late, where a short one keeps the endpoint as busy.
        let class = self.queue.class(urgency);
        if is_late {
            self.crowded = Some(self.crowded.map_or(class, |first| first.min(class)));
        }
        let is_crowded = self.crowded.is_some_and(|first| first <= class);
        let is_short = before < FEW || self.took.mean().is_none_or(|call| wait <= call);
        if !is_late && (!is_crowded || is_short) {
            return Arrival::Wait { overdue: false };
        }
        let Some(left) = left else {
            return Arrival::Wait { overdue: true };
        };
        let call = self.took.mean().unwrap_or_default();
        // When as much has gone as is too much.
        let early = match is_late {
            true => (wait + call).saturating_sub(left),
            false => wait.saturating_sub(call),
        };
        // Not before a call has ended: those who miss by little would come again within it, all at
        // once.
        Arrival::Late(Overloaded::late(wait, left).with_retry_after(Some(early.max(call))))
    }

    /// Lets a request wait.
    pub(super) fn push(
        &mut self,
        urgency: &Urgency,
        overdue: bool,
        reserved: Option<Reserved>,
        held: usize,
        waker: Waker,
    ) -> usize {
        self.queue.push(urgency, overdue, reserved, held, waker)
    }

    /// Takes a place, for a call that begins.
    fn begin(&mut self, now: Instant, time: Option<Duration>) -> usize {
        if self.in_flight == 0 {
            self.heard = Some(now);
        }
        self.in_flight += 1;
        let call = Some(UnderWay {
            began: now,
            time,
            among: self.in_flight,
            beside: false,
        });
        match self.free.pop() {
            Some(index) => {
                self.calls[index] = call;
                index
            }
            None => {
                self.calls.push(call);
                self.calls.len() - 1
            }
        }
    }

    /// Takes note that a call is sent now, if not when its place was taken.
    pub(super) fn sent(&mut self, call: usize, now: Instant) {
        if let Some(call) = &mut self.calls[call] {
            call.began = now;
        }
    }

    /// Gives a place back, and learns from its call, if it was sent: whether it was answered.
    pub(super) fn end(&mut self, call: usize, answered: Option<bool>, now: Instant) -> Told {
        let mut told = Told::default();
        let Some(ended) = self.calls[call].take() else {
            return told;
        };
        self.free.push(call);
        let in_flight = self.in_flight;
        match ended.beside {
            true => self.beside -= 1,
            false => self.in_flight -= 1,
        }
        let took = now.saturating_duration_since(ended.began);
        if let Some(answered) = answered
            // One that was given up says nothing of others.
            && (answered || took < self.longest())
        {
            self.heard = Some(now);
            // A call without an answer would have taken as long, at least.
            if answered || self.took.mean().is_some_and(|mean| took > mean) {
                self.took.record(took);
            }
            if !ended.beside {
                self.limit.ended(&Ended {
                    now,
                    began: ended.began,
                    in_flight,
                    among: ended.among,
                    pressed: self.pressed || !self.queue.is_empty(),
                    answered,
                    outlasted: ended
                        .time
                        .is_some_and(|whole| whole <= took + whole / NEARLY),
                });
                self.pressed = false;
            }
        }
        self.grant(now, &mut told);
        told
    }

    /// Gives the places that are free to those who wait, the most urgent first. Who would come too
    /// late is told so instead.
    pub(super) fn grant(&mut self, now: Instant, told: &mut Told) {
        let first = self.queue.first_class();
        self.crowded = self.crowded.and_then(|class| Some(class.max(first?)));
        while self.has_place() {
            let Some(next) = self.queue.next() else {
                return;
            };
            let outcome = match self.judge(&next, now) {
                Verdict::Goes => {
                    self.queue.goes(&next);
                    Outcome::Granted(self.begin(now, next.time()))
                }
                Verdict::Late(expired) => {
                    told.late += 1;
                    Outcome::Late(expired)
                }
                Verdict::Behind => {
                    self.queue.demote(next.node);
                    continue;
                }
            };
            told.wakers.push(self.queue.settle(next.node, outcome));
        }
    }

    /// Decides whether it is worth while to send who is next.
    fn judge(&self, next: &Next, now: Instant) -> Verdict {
        if next.overdue {
            return Verdict::Goes;
        }
        #[cfg(test)]
        if next.deadline.is_none() && !self.queue.demotes() {
            return Verdict::Goes;
        }
        let left = next.urgent.saturating_duration_since(now);
        let late = match next.deadline {
            Some(deadline) if deadline <= now => return Verdict::Late(Expired::passed()),
            // Who has more time than counts for its turn.
            Some(deadline) => self.is_unlikely(next, deadline.saturating_duration_since(now), now),
            None => left.is_zero() || self.is_unlikely(next, left, now),
        };
        match (late, next.deadline) {
            (false, _) => Verdict::Goes,
            (true, Some(_)) => Verdict::Late(Expired::hopeless()),
            (true, None) => Verdict::Behind,
        }
    }

    /// Tells whether others that wait are far more likely to be answered in time.
    fn is_unlikely(&self, next: &Next, left: Duration, now: Instant) -> bool {
        if self.in_flight > 0 && self.is_hopeless(left) {
            return true;
        }
        let last = self.queue.last_in_time(next);
        let until = last.deadline.unwrap_or(last.urgent);
        let best = self.took.within(until.saturating_duration_since(now));
        self.took.within(left) < best * WORTHWHILE
    }

    /// Tells whether hardly a call takes so little time.
    fn is_hopeless(&self, left: Duration) -> bool {
        self.took.within(left) < HOPELESS
    }

    /// Tells from when on a request that waits cannot be answered in time.
    pub(super) fn hopeless_from(&self, deadline: Instant) -> Instant {
        let least = self.took.quantile(HOPELESS);
        least
            .and_then(|least| deadline.checked_sub(least))
            .unwrap_or(deadline)
    }

    /// Returns the share of places that those who are in time have.
    fn share(&self) -> f64 {
        match self.queue.has_overdue() {
            true => IN_TIME,
            false => 1.,
        }
    }

    /// Returns how long it takes until so many have gone, and one more may go: places are given
    /// back one after the other, and the first of them when one is due. Who is silent for longer
    /// than a call is expected to be so for as long again as it is too late.
    pub(super) fn wait(&self, before: f64, now: Instant) -> Duration {
        let Some(mean) = self.took.mean() else {
            return Duration::ZERO;
        };
        let gap = mean.as_secs_f64() / self.in_flight.max(1) as f64;
        let due = (gap - self.since(now).as_secs_f64()).max(0.);
        let wait = due + gap * before;
        let wait = Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX);
        wait.saturating_add(self.silence(now))
    }

    /// Returns for how much longer than a call takes nothing was heard of those under way. Calls that
    /// began together end together: shorter pauses say nothing.
    fn silence(&self, now: Instant) -> Duration {
        match self.took.mean() {
            Some(mean) if self.in_flight > 0 => self.since(now).saturating_sub(mean),
            _ => Duration::ZERO,
        }
    }

    /// Returns for how long nothing was heard.
    fn since(&self, now: Instant) -> Duration {
        self.heard
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// Returns when a request that waits is to be looked after again.
    pub(super) fn alarm(&self, deadline: Option<Instant>, watched: Instant) -> Instant {
        deadline.map_or(watched, |deadline| {
            self.hopeless_from(deadline).min(watched)
        })
    }

    /// Returns how long a request that comes now would take; `None` before the first answer.
    pub(super) fn completion(&self, now: Instant) -> Option<Duration> {
        let call = self.took.mean()?;
        if self.in_flight == 0 {
            return Some(call.mul_f64(belief(self.since(now))));
        }
        if self.has_place() {
            return Some(call.saturating_add(self.silence(now)));
        }
        Some(call.saturating_add(self.wait(self.queue.len() as f64, now)))
    }

    /// Tells whether one call more would hardly be noticed: a limit that is being learned may be
    /// above what the endpoint can do at the same time, though hardly twice as much.
    pub(super) fn has_spare(&self) -> bool {
        let spare = match self.limit {
            Limit::Fixed(calls) => calls,
            Limit::Auto(_) => self.limit.calls().div_ceil(2),
        };
        self.queue.is_empty() && self.in_flight < spare
    }

    /// Returns when it is to be looked again whether a call is stuck for which others wait, and
    /// lets those that are give way.
    pub(super) fn watch(&mut self, now: Instant, told: &mut Told) -> Instant {
        let patience = self.patience();
        let latest = now + patience;
        if let Some(at) = self.watched
            && at > now
        {
            return at.min(latest);
        }
        let mut oldest = now;
        for call in self.calls.iter_mut().flatten() {
            if call.beside {
                continue;
            }
            if now.saturating_duration_since(call.began) >= patience && self.beside < MOST_BESIDE {
                call.beside = true;
                self.beside += 1;
                self.in_flight -= 1;
                told.stuck += 1;
                continue;
            }
            oldest = oldest.min(call.began);
        }
        let next = match oldest + patience {
            // There is no room beside the places.
            at if at <= now => latest,
            at => at,
        };
        self.watched = Some(next);
        self.grant(now, told);
        next
    }

    /// Returns after what time a call that its caller has left is given up.
    pub(super) fn longest(&self) -> Duration {
        self.patience()
            .saturating_mul(PATIENCE)
            .clamp(LEAST_LONGEST, MOST_PATIENCE)
    }

    /// Tells how long a call may take before others are sent beside it.
    fn patience(&self) -> Duration {
        let Some(mean) = self.took.mean() else {
            return FIRST_PATIENCE;
        };
        mean.max(self.objective)
            .saturating_mul(PATIENCE)
            .clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }
}

enum Verdict {
    Goes,
    Late(Expired),
    /// It has no deadline, and goes when there is nobody else.
    Behind,
}

/// The share of an estimate that is believed after so long without a call: an endpoint that was
/// slow is tried again some time, and the later the slower it was.
fn belief(idle: Duration) -> f64 {
    (-idle.as_secs_f64() / HALF).exp2()
}

/// Seconds without a call after which half of an estimate is believed, as before batches.
const HALF: f64 = 2.;
/// The share of calls that are so short that nothing shorter is hoped for.
const HOPELESS: f64 = 0.05;
/// The part of the chance that a request would have at once which it must still have after what is
/// before it.
const SURE: f64 = 0.9;
/// So many may wait in any case: an endpoint shall not be idle because nobody came in time.
const FEW: usize = 2;
/// The part of the best chance of those who wait which the next must have.
const WORTHWHILE: f64 = 0.5;
/// The share of places that those in time have while others are overdue.
const IN_TIME: f64 = 7. / 8.;
/// How many times as long as expected, and as the objective, a call may take before others are sent
/// beside it: far beyond noise and a model that has become slower.
const PATIENCE: u32 = 16;
/// No call of less is called stuck, however fast the model is: a pause of the server is not enough.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The same for the first call, with which some servers load the model.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// No call is waited for any longer than this without others beside it.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);
/// No call is given up sooner: a server is not sent a storm of resets for a pause.
const LEAST_LONGEST: Duration = Duration::from_secs(60);
/// Calls beside which others are sent. A server that loses so many will not be helped by more.
const MOST_BESIDE: usize = 8;
/// The part of its time by which a call that has no more may end before.
const NEARLY: u32 = 50;
