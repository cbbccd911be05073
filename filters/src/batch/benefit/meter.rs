use std::time::Duration;

use tokio::time::Instant;

use super::{
    allowance::Allowance,
    pairs::Pairs,
    traffic::Traffic,
    view::{BenefitView, Pays},
};
use crate::batch::latency::Latency;

/// Measures what the model takes for a row with and without batching, and tells whether to batch.
///
/// ```text
///              surely more than 1.1 times as fast
///  Measuring ------------------------------------> Pays
///    |   ^                                          |
///    |   | 128 hold-outs have not told              | surely less
///    |   |                                          v
///    |  Trial <------------------------------- DoesNotPay: singly, for 1 min, 2, 4 ... 1 h
///    |   |  '---------- surely less ----------->    ^
///    '---+-- surely less ---------------------------'
/// ```
///
/// *Surely* is three standard errors. A hold-out is compared with the calls around it, so that a
/// model that becomes slower is no different from one that does not. Calls that happen to have one
/// request prove nothing: they come when there is little to do, and the model may be cold then.
///
/// Where an endpoint has several places, its calls wait for each other in the server or share its
/// cores. A request alone among batches would be blamed for theirs, so as many go alone in a row as
/// fill the places with such, and only those in the middle count.
#[derive(Clone, Debug)]
pub(in crate::batch) struct Benefit {
    state: State,
    /// For how long requests are sent singly the next time.
    patience: Duration,
    allowance: Allowance,
    burst: Burst,
    together: Together,
    batches: Batches,
    /// What hold-outs took, to what their rows would have in the batches around them.
    pairs: Pairs,
    /// The last few of them, which tell when the others are out of date.
    latest: Pairs,
    paired: Option<Instant>,
    /// Batches that are passed over.
    unsettled: u32,
    hold_outs: u64,
    alone: Latency,
    traffic: Traffic,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(in crate::batch) struct Called {
    /// How many requests shared it.
    pub(in crate::batch) requests: usize,
    /// Their rows.
    pub(in crate::batch) rows: usize,
    /// What it was told, if its request was held out.
    pub(in crate::batch) held_out: Option<HoldOut>,
    /// How long the model took.
    pub(in crate::batch) model: Duration,
    /// Whether it answered, and well.
    pub(in crate::batch) answered: bool,
}

/// Says that a request is to be a call of its own; to be handed back with the call.
#[derive(Clone, Copy, Debug)]
pub(in crate::batch) struct HoldOut {
    /// Whether it has none but its like beside it, and will have none else.
    counts: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Measuring,
    Pays,
    DoesNotPay {
        until: Instant,
    },
    /// Requests are batched again, to see whether it pays now. Hold-outs cost nothing where it
    /// does not, so there are many.
    Trial {
        hold_outs: u32,
    },
}

/// Hold-outs in a row: until the last batch has ended, as many as there are places, which count, and
/// then one less, so that no batch begins beside those.
///
/// ```text
///  place 1  --- batch ---)(-----(=====(-----(--- batch ---
///  place 2  --batch--)(-----(=====(=====(--- batch ---            === counts
/// ```
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    places: usize,
    left: usize,
    /// Further ones that there may be until the last batch has ended.
    more: usize,
    /// Hold-outs that are under way.
    under_way: usize,
}

/// Hold-outs that were beside each other: what one lost another may have gained, so all of them
/// are one observation.
#[derive(Clone, Copy, Debug, Default)]
struct Together {
    hold_outs: usize,
    alone: f64,
    batched: f64,
}

/// The last calls that several requests shared.
#[derive(Clone, Copy, Debug, Default)]
struct Batches {
    weight: f64,
    requests: f64,
    rows: f64,
    seconds: f64,
}

impl Benefit {
    /// Makes a meter that holds out so large a share of requests, and of the model's time.
    pub(in crate::batch) fn new(hold_out: f64) -> Self {
        Self {
            state: State::Measuring,
            patience: SHORTEST,
            allowance: Allowance::new(hold_out),
            burst: Burst::default(),
            together: Together::default(),
            batches: Batches::default(),
            pairs: Pairs::new(MEMORY),
            latest: Pairs::new(SHORT_MEMORY),
            paired: None,
            unsettled: SETTLING,
            hold_outs: 0,
            alone: Latency::over(ALONE),
            traffic: Traffic::default(),
        }
    }

    /// Tells whether the next request is to be a call of its own. Asked for each call that would
    /// have several, with a random number from 0 to 1, the calls that are under way beside it and
    /// the places that the endpoint has.
    #[inline]
    pub(in crate::batch) fn hold_out(
        &mut self,
        draw: f64,
        in_flight: usize,
        places: usize,
    ) -> Option<HoldOut> {
        if self.burst.left == 0 {
            // Not always as soon as it is allowed: traffic may have a beat of its own.
            if draw >= CHANCE || self.unsettled > 0 || !self.is_open() {
                return None;
            }
            let places = places.clamp(1, MOST_PLACES);
            let burst = Burst::of(places);
            if !self.allowance.take(burst.left) {
                return None;
            }
            self.burst = Burst {
                under_way: self.burst.under_way,
                ..burst
            };
        }
        let is_clear = self.burst.is_clear(in_flight);
        if !is_clear && self.burst.more > 0 {
            self.burst.more -= 1;
            self.allowance.lend();
        } else {
            self.burst.left -= 1;
        }
        self.burst.under_way += 1;
        // Those after it are as many as may begin while it is under way.
        let counts = is_clear && self.burst.left + 1 >= self.burst.places;
        Some(HoldOut { counts })
    }

    /// Learns from a call, whatever came of it.
    pub(in crate::batch) fn called(&mut self, now: Instant, called: &Called) {
        let seconds = called.model.as_secs_f64().max(BRIEFEST);
        self.traffic
            .ended(now, called.rows, called.requests, seconds);
        self.wake(now);
        if let Some(hold_out) = called.held_out {
            return self.held_out(now, hold_out, called, seconds);
        }
        let share = match self.state {
            State::DoesNotPay { .. } => return,
            State::Trial { .. } => TRIAL_SHARE,
            _ => 0.,
        };
        self.allowance.earn(called.requests, seconds, share);
        if called.requests > 1 && called.answered {
            match self.unsettled {
                0 => self.batches.observe(called, seconds),
                _ => self.unsettled -= 1,
            }
        }
    }

    /// Takes back a hold-out that was never sent: it cost nothing, and says nothing.
    pub(in crate::batch) fn unsent(&mut self, _: HoldOut) {
        self.burst.under_way = self.burst.under_way.saturating_sub(1);
        self.allowance.give_back();
    }

    /// Tells whether requests are batched; else they are sent singly.
    #[inline]
    pub(in crate::batch) fn batches(&self, now: Instant) -> bool {
        match self.state {
            State::DoesNotPay { until } => until <= now,
            _ => true,
        }
    }

    /// Returns what there is to see.
    pub(in crate::batch) fn view(&self, now: Instant) -> BenefitView {
        let shown = self.pairs.count() >= SHOWN;
        let speed_up = self.pairs.ratio().filter(|_| shown);
        let with = self.batches.row();
        let flow = self.traffic.flow(now);
        let without = with.zip(speed_up).map(|(with, times)| with * times);
        BenefitView {
            pays: match self.state {
                State::Pays => Pays::Yes,
                State::DoesNotPay { until } if until > now => Pays::No { again: until - now },
                _ => Pays::Unknown,
            },
            speed_up,
            error: self.pairs.error().filter(|_| shown),
            hold_outs: self.hold_outs,
            batch_rows: self.batches.mean_rows(),
            with: with.map(Duration::from_secs_f64),
            without: without.map(Duration::from_secs_f64),
            rate: flow.map(|flow| flow.rows),
            busy: flow.map(|flow| flow.batched + flow.single),
            busy_without: flow
                .zip(speed_up)
                .map(|(flow, times)| flow.batched * times + flow.single),
            alone_p50: self.alone.percentile(50),
            alone_p99: self.alone.percentile(99),
        }
    }

    fn held_out(&mut self, now: Instant, hold_out: HoldOut, called: &Called, seconds: f64) {
        self.hold_outs += 1;
        self.allowance.spend(seconds);
        self.burst.under_way = self.burst.under_way.saturating_sub(1);
        if !called.answered || !hold_out.counts || !self.is_open() {
            return;
        }
        let rows = called.rows.max(1) as f64;
        let Some((alone, batched)) = self.batches.compare(rows, seconds) else {
            return;
        };
        self.alone.record(called.model);
        self.together.hold_outs += 1;
        self.together.alone += alone;
        self.together.batched += batched;
        if self.together.hold_outs < self.burst.places {
            return;
        }
        let Together { alone, batched, .. } = std::mem::take(&mut self.together);
        // One that hung says nothing of the others.
        let alone = match self.pairs.ratio() {
            Some(ratio) if self.pairs.count() >= FEW => alone.min(OUTLIER * ratio * batched),
            _ => alone,
        };
        if let Some(last) = self.paired.replace(now) {
            let passed = now.saturating_duration_since(last).as_secs_f64();
            let kept = (-passed / LASTING.as_secs_f64()).exp();
            self.pairs.fade(kept);
            self.latest.fade(kept);
        }
        self.pairs.observe(alone, batched);
        self.latest.observe(alone, batched);
        if self.latest.count() >= FEW && self.latest.differs(&self.pairs, CHANGED) {
            self.pairs.replace(&self.latest);
        }
        self.judge(now);
    }

    fn judge(&mut self, now: Instant) {
        let (Some(ratio), Some(error)) = (self.pairs.ratio(), self.pairs.error()) else {
            return;
        };
        let count = self.pairs.count();
        if count >= FEW && ratio - SURE * error > PAYS {
            if !matches!(self.state, State::Pays) {
                self.state = State::Pays;
                self.patience = (self.patience / 4).max(SHORTEST);
            }
        } else if count >= ENOUGH && ratio + SURE * error < PAYS {
            self.state = State::DoesNotPay {
                until: now + self.patience,
            };
            self.patience = (self.patience * 2).min(LONGEST);
            self.burst.left = 0;
        } else if let State::Trial { hold_outs } = &mut self.state {
            *hold_outs += 1;
            if *hold_outs >= TRIAL {
                self.state = State::Measuring;
            }
        }
    }

    /// Begins a trial when it is time for one. What was known is not taken into it.
    fn wake(&mut self, now: Instant) {
        let State::DoesNotPay { until } = self.state else {
            return;
        };
        if until > now {
            return;
        }
        self.state = State::Trial { hold_outs: 0 };
        self.pairs = Pairs::new(MEMORY);
        self.latest = Pairs::new(SHORT_MEMORY);
        self.batches = Batches::default();
        self.together = Together::default();
        self.paired = None;
        self.unsettled = SETTLING;
    }

    fn is_open(&self) -> bool {
        !matches!(self.state, State::DoesNotPay { .. })
    }
}

impl Burst {
    fn of(places: usize) -> Self {
        Self {
            places,
            left: 2 * places - 1,
            more: MOST_BEFORE * places,
            under_way: 0,
        }
    }

    /// Tells whether nothing but hold-outs is under way.
    fn is_clear(&mut self, in_flight: usize) -> bool {
        // A call that was dropped has not been told of.
        self.under_way = self.under_way.min(in_flight);
        self.under_way == in_flight
    }
}

impl Batches {
    fn observe(&mut self, called: &Called, seconds: f64) {
        let rows = called.rows.max(1) as f64;
        // One that hung says nothing of the others; a model that is slower is followed in a few.
        let seconds = match self.row() {
            Some(row) => seconds.min(OUTLIER * row * rows),
            None => seconds,
        };
        self.weight = self.weight * NEAR + 1.;
        self.requests = self.requests * NEAR + called.requests as f64;
        self.rows = self.rows * NEAR + rows;
        self.seconds = self.seconds * NEAR + seconds;
    }

    /// Returns the seconds that a request of the mean rows takes alone and in a batch, by one that
    /// was alone and had so many rows.
    ///
    /// What is at the head of a queue is seldom the mean: it is what did not fit into the batch
    /// before. A straight line through what it took and what batches take leads to the mean.
    fn compare(&self, rows: f64, seconds: f64) -> Option<(f64, f64)> {
        let row = self.row()?;
        let (batch, request) = (self.mean_rows()?, self.rows / self.requests);
        let further = (row * batch - seconds) / (batch - rows);
        // A further row costs no less than nothing, and no more than the mean.
        let further = match further.is_finite() {
            true => further.clamp(0., row),
            false => row,
        };
        let alone = (seconds + further * (request - rows)).max(seconds * LEAST_PART);
        Some((alone, row * request))
    }

    /// Seconds of a row, once a few calls are known.
    fn row(&self) -> Option<f64> {
        (self.weight >= KNOWN).then(|| self.seconds / self.rows)
    }

    fn mean_rows(&self) -> Option<f64> {
        (self.weight >= KNOWN).then(|| self.rows / self.weight)
    }
}

/// How many times as fast batches must be for batching to pay. Below a tenth more throughput there
/// is nothing that would make up for waiting for each other, and for sharing a call that may fail.
const PAYS: f64 = 1.1;
/// Standard errors that a judgement takes: it is made anew with every hold-out, so two would be
/// wrong every other day.
const SURE: f64 = 3.;
/// Hold-outs that show a speed-up, that are enough to believe in one (nothing changes by that), and
/// that are enough to send singly: an error that is estimated from less may be much too small.
const SHOWN: f64 = 5.;
const FEW: f64 = 8.;
const ENOUGH: f64 = 24.;
/// What a pair weighs against the next: about 200 are remembered, and 19 of late.
const MEMORY: f64 = 0.99;
const SHORT_MEMORY: f64 = 0.9;
/// Errors by which the latest pairs must differ for the others to be out of date.
const CHANGED: f64 = 5.;
/// Time after which a pair weighs a third, for endpoints that are seldom called.
const LASTING: Duration = Duration::from_secs(3600);
/// What a batch weighs against the next: about 20 are what a hold-out is compared with.
const NEAR: f64 = 0.95;
/// The weight from which on batches are known: the fifth.
const KNOWN: f64 = 4.;
/// Batches that are passed over at first (a model warms up, the limit is still small), and after
/// requests went singly (some are still in the server).
const SETTLING: u32 = 16;
/// What is left at least of what a hold-out took when it is taken to the mean of rows.
const LEAST_PART: f64 = 0.01;
/// How many times what is expected a call counts for at most.
const OUTLIER: f64 = 8.;
/// The chance of a hold-out that is allowed.
const CHANCE: f64 = 0.25;
/// Places from which on hold-outs in a row would become too many.
const MOST_PLACES: usize = 16;
/// Hold-outs for each place while batches are still under way.
const MOST_BEFORE: usize = 4;
/// How long requests are sent singly, at first and at most.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);
/// The share of hold-outs in a trial, and how many there are before it is a trial no more.
const TRIAL_SHARE: f64 = 0.25;
const TRIAL: u32 = 128;
/// Hold-outs that percentiles are of.
const ALONE: u32 = 1024;
/// Seconds below which calls do not differ.
const BRIEFEST: f64 = 1e-6;
