use std::{hash::BuildHasher, time::Duration};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::{
    Config, InFlight,
    benefit::{Benefit, Called, HoldOut},
    budget::Budget,
    config,
    controller::{Aimd, BatchLimit, Call, Costs, Fixed, Quantile},
    delay::{Delay, Waiting},
    explain::Closed,
    flight::{Ended, Flight, Turn},
    offered::Offered,
    queue::{Batch, Fit, Late, Limits, Queue, Rules},
};
use crate::{
    deadline::Expired,
    inference::{Error, Head},
    overload::Overloaded,
};

/// What waits for an endpoint, what is under way, and what was learned: all that is behind the
/// lock. It decides, and does nothing.
#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) limit: Box<dyn BatchLimit>,
    /// What found the limit before another number of places was tried.
    saved: Option<Box<dyn BatchLimit>>,
    /// What calls take, whatever finds the limit.
    pub(super) costs: Costs,
    pub(super) delay: Delay,
    pub(super) flight: Flight,
    pub(super) benefit: Benefit,
    /// What parts of batches that were halved may still cost.
    pub(super) budget: Budget,
    /// Places that are taken, for a call or to wait for company. While there is another one,
    /// nothing waits but for company.
    pub(super) in_flight: usize,
    /// Calls that go on beside the places: they take too long, or are of a search that does.
    pub(super) beside: usize,
    /// When a call ended last.
    free_since: Option<Instant>,
    /// When a call was taken last, and its rows.
    taken: Option<(Instant, usize)>,
    /// How much comes.
    pub(super) offered: Offered,
    /// Until when the holder of a place waits for company.
    pub(super) waits_until: Option<Instant>,
    /// What this filter has added to the gauge of limits.
    pub(super) shown: i64,
    max_batch_bytes: usize,
    /// Seconds.
    objective: f64,
    draws: Draws,
}

/// What the holder of a place does next.
#[derive(Debug)]
pub(super) enum Plan {
    /// Sends a batch.
    Send(Batch),
    /// Waits for company, no longer than this.
    Wait(Instant),
    /// Gives the place back.
    Rest,
}

/// How things stand for a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    pub(super) now: Instant,
    /// The most rows that any call may have.
    pub(super) most: usize,
    /// Whether a call has just ended, so that what is known of the model is not of long ago.
    pub(super) fresh: bool,
    /// Whether the place was held to wait for company.
    pub(super) waited: bool,
    /// Whether nothing is waited for any more.
    pub(super) draining: bool,
}

/// Random numbers to choose hold-outs by: no attacker gains from guessing them.
#[derive(Debug)]
struct Draws {
    state: RandomState,
    count: u64,
}

impl State {
    pub(super) fn new(config: &Config) -> Self {
        let objective = config.latency_objective;
        let limit: Box<dyn BatchLimit> = match config.controller {
            config::Controller::Aimd => Box::new(Aimd::new(objective)),
            config::Controller::Quantile => Box::new(Quantile::new(objective)),
            config::Controller::Fixed => Box::new(Fixed),
        };
        Self {
            queue: Queue::new(Rules {
                default_priority: config.default_priority,
                objective,
            }),
            limit,
            costs: Costs::default(),
            delay: Delay::new(config.max_delay),
            flight: match config.max_in_flight {
                InFlight::Fixed(calls) => Flight::fixed(calls),
                InFlight::Auto => Flight::auto(objective),
            },
            saved: None,
            free_since: None,
            taken: None,
            offered: Offered::default(),
            benefit: Benefit::new(config.holdout.get()),
            budget: Budget::default(),
            in_flight: 0,
            beside: 0,
            waits_until: None,
            shown: 0,
            max_batch_bytes: config.max_batch_bytes,
            objective: objective.as_secs_f64(),
            draws: Draws {
                state: RandomState::default(),
                count: 0,
            },
        }
    }

    /// Tells whether a call may begin.
    pub(super) fn has_place(&self) -> bool {
        self.in_flight < self.flight.places()
    }

    /// Decides what the holder of a place does next. Who cannot be in time is put into `late`.
    pub(super) fn plan(&mut self, at: Situation, late: &mut Vec<Late>) -> Plan {
        self.waits_until = None;
        if self.in_flight > self.flight.places() {
            return Plan::Rest;
        }
        if !at.draining
            && let Some(until) = self.company_until(at.now, at.most)
        {
            self.waits_until = Some(until);
            return Plan::Wait(until);
        }
        let shared = self.queue.next().is_some_and(|next| next.members > 1);
        let held_out = match shared {
            true => {
                let beside = self.in_flight.saturating_sub(1);
                let places = self.flight.places();
                self.benefit.hold_out(self.draws.next(), beside, places)
            }
            false => None,
        };
        let limits = Limits {
            rows: self.limit.limit(at.most),
            bytes: self.max_batch_bytes,
            members: held_out.map_or(usize::MAX, |_| 1),
            // Deadlines that kept calls to one request would keep it hidden what two cost.
            line: self.costs.hopeful().filter(|_| at.fresh),
            offered: self.offered(),
        };
        match self.queue.take(at.now, limits, late) {
            Some(mut batch) => {
                batch.closed = match batch.closed {
                    Closed::Idle if at.waited && at.draining => Closed::Drain,
                    Closed::Idle if at.waited => Closed::Delay,
                    closed => closed,
                };
                batch.held_out = held_out;
                self.takes(at.now, batch.rows);
                Plan::Send(batch)
            }
            None => Plan::Rest,
        }
    }

    /// Tells until when the endpoint would wait for company if it were free; `None`: not at all.
    pub(super) fn company_until(&self, now: Instant, most: usize) -> Option<Instant> {
        let next = self.queue.next()?;
        // Who waits for a call of its own would be company to nobody.
        if self.queue.has_several_keys() {
            return None;
        }
        let line = self.costs.line();
        let latest = next.tightest.and_then(|deadline| {
            let call = line.map_or(0., |line| line.time(next.rows as f64));
            deadline.checked_sub(Duration::try_from_secs_f64(call).ok()?)
        });
        self.delay
            .until(&Waiting {
                now,
                rows: next.rows,
                since: self
                    .free_since
                    .map_or(next.oldest, |at| at.max(next.oldest)),
                limit: self.limit.limit(most),
                latest: latest.or(next.tightest),
                line,
            })
            .filter(|until| *until > now)
    }

    /// Takes note of a call that begins.
    pub(super) fn takes(&mut self, now: Instant, rows: usize) {
        self.taken = Some((now, rows));
        self.offered.turn(now);
    }

    /// Tells why a request that comes now cannot be in time, by what is before it and by what will
    /// come to share its call; `most` are the most rows that any call may have.
    ///
    /// ```text
    ///     now                                          deadline
    ///  |---+-------|-----------|-----------|------------|--|
    ///  the call    full calls of what      the call in which it would go, with as many rows as will
    ///  under way   is before it            be there by then: it would end too late
    /// ```
    ///
    /// What is behind it in the order is not before it, whenever it came. While a place is free nobody
    /// is refused, nor while no call has ended for long: the model may have become faster.
    pub(super) fn refuses(
        &self,
        head: &Head,
        rows: usize,
        now: Instant,
        most: usize,
    ) -> Option<Error> {
        let deadline = head.deadline.filter(|_| !self.has_place())?;
        if self.hopeless_from(deadline, rows) <= now {
            return Some(Expired::hopeless().into());
        }
        let line = self.costs.hopeful()?;
        let limit = self.limit.limit(most).max(1);
        let full = line.time(limit as f64);
        let since = now
            .saturating_duration_since(self.free_since?)
            .as_secs_f64();
        if since > PRESENT.as_secs_f64().max(2. * full) {
            return None;
        }
        let limits = Limits {
            rows: limit,
            bytes: self.max_batch_bytes,
            members: usize::MAX,
            line: Some(line),
            offered: self.offered(),
        };
        let left = (deadline - now).as_secs_f64();
        let before = self.queue.before(head, now);
        let rest = self.rest(now);
        // A call has no more rows than the nearest deadline among them allows.
        let tightest = self.queue.next().and_then(|next| next.deadline);
        let bound = tightest.map_or(limit, |tightest| {
            let first = tightest.min(deadline).saturating_duration_since(now);
            limits.within(line, first.as_secs_f64() - rest)
        });
        let places = self.flight.places().max(1) as f64;
        let calls = (before.rows / bound).max(before.keys.saturating_sub(1));
        let gone = (before.rows / bound) * bound;
        let wait = rest + (calls as f64 * line.beta + gone as f64 * line.alpha) / places;
        let meanwhile = (self.offered.rate() * wait) as usize;
        let behind = (self.queue.rows() - before.rows.min(self.queue.rows())) + meanwhile;
        let is_crowded = rows + behind >= limit && limit > rows;
        let company = (before.rows - gone + rows + behind).min(limit);
        // Who is let in to the last moment is answered there, and by any noise just after it.
        // Where only a call or two are before it, that would leave places for nobody.
        let caution = (wait - rest) * CAUTION * calls.saturating_sub(2).min(1) as f64;
        if limits.fit(line, rows, company, is_crowded, left - wait - caution) != Fit::Late {
            return None;
        }
        let own = line.time(company.max(rows) as f64);
        let wait = Duration::try_from_secs_f64(wait + own).unwrap_or(Duration::MAX);
        Some(Overloaded::late(wait, deadline - now).into())
    }

    /// Returns after what time there is likely to be room for so many rows.
    pub(super) fn room_after(&self, rows: usize, now: Instant, most: usize) -> Option<Duration> {
        let line = self.costs.line()?;
        let limit = self.limit.limit(most).max(1);
        // A call that begins takes its rows out of the queue.
        let more = rows.div_ceil(limit).saturating_sub(1) as f64;
        let places = self.flight.places().max(1) as f64;
        let after = self.rest(now) + more * line.time(limit as f64) / places;
        Duration::try_from_secs_f64(after).ok()
    }

    /// Returns how many rows come in a second for each place.
    fn offered(&self) -> f64 {
        self.offered.rate() / self.flight.places().max(1) as f64
    }

    /// Returns the seconds until a place is free.
    fn rest(&self, now: Instant) -> f64 {
        let (Some(line), Some((taken, rows))) = (self.costs.line(), self.taken) else {
            return 0.;
        };
        if self.has_place() {
            return 0.;
        }
        // A call that takes longer than it should will take as long again.
        let since = now.saturating_duration_since(taken).as_secs_f64();
        let rest = (line.time(rows as f64) - since).abs();
        rest / self.flight.places().max(1) as f64
    }

    /// Tells from when on a request of so many rows cannot be answered in time.
    pub(super) fn hopeless_from(&self, deadline: Instant, rows: usize) -> Instant {
        let least = self.costs.line().map(|line| line.least(rows));
        let least = least.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        least
            .and_then(|least| deadline.checked_sub(least))
            .unwrap_or(deadline)
    }

    /// Tells whether a call has ended so lately that what is known of the model holds.
    pub(super) fn knows_the_present(&self, now: Instant) -> bool {
        self.free_since
            .is_some_and(|at| now.saturating_duration_since(at) < PRESENT)
    }

    /// Takes note of a batch that all have left before it was sent.
    pub(super) fn unsent(&mut self, batch: &Batch) {
        if let Some(hold_out) = batch.held_out {
            self.benefit.unsent(hold_out);
        }
    }

    /// Learns from a call that has ended, which began at `sent`.
    pub(super) fn learn(&mut self, batch: &Shown, call: &Call, now: Instant, sent: Instant) {
        self.budget.ended();
        if !self.flight.is_past(sent) {
            self.limit.observe(call);
        }
        if call.answered {
            let (rows, seconds) = (call.rows.max(1) as f64, call.model.as_secs_f64());
            // What was slow before a pause, and is not, was slow for a reason that is gone.
            let paused = self
                .free_since
                .is_some_and(|at| sent.saturating_duration_since(at) > PRESENT);
            let known = self.costs.line().map(|line| line.time(rows));
            if let Some(known) = known.filter(|known| paused && seconds < known / 2.) {
                self.costs.scale(seconds / known);
            }
            // One call that hangs, or the first over a new connection, is no model that has become
            // slow: an endpoint that is thought to be is asked too seldom to find out.
            let usual = self.costs.line().map(|line| line.time(rows) * OUTLIER);
            let most = usual.map_or(f64::INFINITY, |usual| usual.max(self.objective * LITTLE));
            self.costs.observe(rows, seconds.min(most));
        }
        self.free_since = Some(now);
        self.delay.answered(now, call.rows, self.costs.line());
        let turn = self.flight.ended(&Ended {
            now,
            rows: call.rows,
            began: sent,
            in_flight: self.in_flight,
            waits: self.queue.rows() > self.limit.limit(call.most),
            answered: call.answered,
        });
        match turn {
            Turn::None => {}
            Turn::Tries => {
                self.saved = Some(self.limit.kept());
                self.limit.moved();
            }
            Turn::Stays => self.saved = None,
            Turn::Returns => {
                if let Some(saved) = self.saved.take() {
                    self.limit = saved;
                }
            }
        }
        self.benefit.called(
            now,
            &Called {
                requests: batch.members,
                rows: call.rows,
                held_out: batch.held_out,
                model: call.model,
                answered: call.answered,
            },
        );
    }
}

/// What is kept of a batch when its members are gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) members: usize,
    pub(super) held_out: Option<HoldOut>,
}

impl Draws {
    /// Returns a number from 0 to 1.
    fn next(&mut self) -> f64 {
        self.count = self.count.wrapping_add(1);
        // The 53 bits that a float has room for.
        (self.state.hash_one(self.count) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How many times as long as expected a call counts for at most: a model that has become ten times
/// as slow is known as such after some twenty calls.
const OUTLIER: f64 = 2.;
/// The part of the objective that a call may count for whatever was expected.
const LITTLE: f64 = 0.05;
/// By how much of it calls that are before a request may take longer than expected.
const CAUTION: f64 = 0.2;
/// For how long what a call has shown is of the present.
const PRESENT: Duration = Duration::from_secs(1);
