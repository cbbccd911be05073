use std::time::Duration;

use super::{
    BatchLimit, Call,
    ceiling::Ceiling,
    costs::{Costs, Line},
    objective::Objective,
};

/// Allows as many rows as 99 of 100 calls can take within the objective, by regression.
///
/// ```text
///  time |                            .  '
///       |- - - - - - - budget - - .-'- - - - -     p99 of the time: the line's, times the tail
///       |                     .-' |  .
///       |                 .-'    .|'
///       |             .-'   . '   |        the line: beta + alpha * rows
///       |         .-' . '         |
///       |_____._'_________________|__________ rows
///                               limit
/// ```
///
/// * A line through the calls of late says what a call takes, and the tail how many times as long
///   1 in 100 does. Both follow every call, so that nothing freezes.
/// * Two calls in a row that the tail does not explain say that the model has become slower or
///   faster as a whole: the line follows at once. One such call is an outlier, and counts for no
///   more than the tail.
/// * The limit moves with calls that are near it: light load teaches what small calls cost, and
///   costs nothing.
/// * It at most doubles, and what proved to be late, although the line promised otherwise, is
///   tried again only after a while.
/// * While a queue stands that is late whatever a call takes, and calls within the budget would answer
///   less than half of the rows that there could be, a call may take all of the objective, at the
///   99th percentile or else in the mean. Calls that were in time by themselves would let the queue grow.
/// * A model that is too slow for the objective with a single row gains nothing from small
///   batches. It gets batches whose rows cost as much as the call itself does.
#[derive(Clone, Debug)]
pub struct Quantile {
    objective: Objective,
    limit: f64,
    costs: Costs,
    tail: Tail,
    ceiling: Ceiling,
    /// Whether what waits is late whatever a call takes.
    backlog: bool,
    /// How many calls were late of late; every call in time forgives a part of one.
    late: f64,
    /// What the last call took to what was expected, if the tail does not explain it, and the
    /// tail before it.
    surprise: Option<(f64, Tail)>,
    /// Full calls in time since the limit last moved, and after how many a further request is tried
    /// whatever the line says.
    steady: u32,
    patience: u32,
    /// Calls since everything became slower.
    since: u32,
    /// Calls for which no batch would have held the budget, and after how many that is doubted.
    strain: u32,
    endurance: u32,
}

/// How far 1 in 100 calls goes beyond the line.
#[derive(Clone, Debug)]
struct Tail {
    /// The mean deviation, as a share of what is expected.
    deviation: f64,
    /// How many mean deviations 99 of 100 calls keep within.
    reach: f64,
}

impl Quantile {
    /// Makes a controller for an objective for queue and model together; it starts with one row.
    pub fn new(objective: Duration) -> Self {
        Self {
            objective: Objective::new(objective.as_secs_f64()),
            limit: 1.,
            costs: Costs::default(),
            tail: Tail::default(),
            ceiling: Ceiling::default(),
            backlog: false,
            late: 0.,
            surprise: None,
            steady: 0,
            patience: 1,
            since: LASTING,
            strain: 0,
            endurance: ENDURANCE,
        }
    }

    /// Learns what a call took.
    fn learn(&mut self, rows: f64, time: f64) {
        let Some(line) = self.costs.line() else {
            return self.costs.observe(rows, time);
        };
        let expected = line.time(rows);
        if !self.costs.knows(rows) {
            // What was not tried of late is no surprise: the line is not that good.
            return self.costs.observe(rows, time.min(expected * DOUBT));
        }
        let ratio = time / expected;
        if rows < self.limit * NEAR {
            let (least, most) = self.tail.usual();
            return self
                .costs
                .observe(rows, expected * ratio.clamp(least, most));
        }
        let before = self.surprise.take();
        let (least, most) = self.tail.usual();
        if (least..=most).contains(&ratio) {
            self.tail.observe(ratio);
            return self.costs.observe(rows, time);
        }
        match before {
            // The lesser surprise of two is what both have in common.
            Some((first, tail)) if (first > 1.) == (ratio > 1.) => {
                self.tail = tail;
                self.shift(match ratio > 1. {
                    true => first.min(ratio),
                    false => first.max(ratio),
                });
                // If it was not the model but the size, the line learns so in a few rounds.
                self.costs.observe(rows, time);
            }
            _ => {
                self.surprise = Some((ratio, self.tail.clone()));
                self.tail.observe(ratio);
            }
        }
    }

    fn shift(&mut self, factor: f64) {
        self.costs.scale(factor);
        self.patience = 1;
        // What is faster again at once was no slower: it was the size. Its ceiling stays.
        if factor < 1. && self.since >= LASTING {
            self.ceiling.lift();
        }
        if factor > 1. {
            self.since = 0;
        }
    }

    /// Returns the most rows that are within the budget by what is known, if a call may take so
    /// many times as long as the line says.
    fn aim(&self, line: Line, tail: f64) -> f64 {
        let objective = self.objective.whole();
        if self.is_stuck(line, tail) {
            let held = line.rows_within(objective / tail);
            let most = line.rows_within(objective);
            return match line.worth(held) < LAST_WORTH * line.worth(most) {
                true => most,
                false => held,
            };
        }
        let aim = line.rows_within(self.objective.model() / tail);
        if !self.strained(line, tail) {
            return aim;
        }
        // A request waits for one call and then takes as long: not even one row is in time. The
        // queue gets nothing then, and if that is not enough either, throughput is what is left.
        let knee = (line.beta / line.alpha).max(1.);
        match line.time(1.) <= objective {
            true => line.rows_within(objective / tail).max(knee * CHEAP),
            false => knee,
        }
    }

    /// Tells whether calls that keep the budget answer so few rows that a queue which is late already
    /// would stand, or grow, for ever.
    fn is_stuck(&self, line: Line, tail: f64) -> bool {
        let most = line.rows_within(self.objective.whole());
        let held = line.rows_within(self.objective.model() / tail);
        let lost = most >= SMALL && line.worth(held) < LEAST_WORTH * line.worth(most);
        // A line through one size says nothing, and is not found out as long as all calls are large.
        self.backlog && lost && self.costs.knows_two_sizes()
    }

    /// Tells whether it is time to see whether fewer rows take less, although the line says that
    /// they hardly do: nobody sends them, so it may be wrong for ever.
    fn doubts(&mut self, line: Line) -> bool {
        if !self.strained(line, self.tail.factor()) {
            (self.strain, self.endurance) = (0, ENDURANCE);
            return false;
        }
        self.strain = self.strain.saturating_add(1);
        if self.strain < self.endurance || self.limit < SMALL {
            return false;
        }
        self.strain = 0;
        self.endurance = (self.endurance * 2).min(MOST_PATIENCE);
        true
    }

    /// Tells whether the budget cannot be held by any batch.
    fn strained(&self, line: Line, tail: f64) -> bool {
        line.rows_within(self.objective.model() / tail) < SMALL
            && 2. * line.time(1.) * tail > self.objective.whole()
    }

    /// Moves the limit after a call that was near it.
    fn follow(&mut self, call: &Call, time: f64) {
        let Some(line) = self.costs.line() else {
            return;
        };
        let tail = self.tail.factor();
        let stuck = self.is_stuck(line, tail);
        let budget = match stuck || self.strained(line, tail) {
            true => self.objective.whole(),
            false => self.objective.model(),
        };
        let lost = stuck || line.time(1.) > self.objective.whole();
        let rows = (call.rows as f64).min(self.limit);
        if time <= budget || lost {
            self.late = (self.late - FORGIVEN).max(0.);
            if call.full && call.answered {
                self.ceiling.passed(rows);
            }
        } else {
            self.late += 1.;
            if self.late >= 2. {
                self.late = 1.;
                self.ceiling.late(rows);
            }
        }
        let (whole, most) = (self.limit.floor(), call.most.max(1) as f64);
        let request = call.rows as f64 / call.requests.max(1) as f64;
        if self.doubts(line) {
            self.limit = (self.limit / 2.).max(1.);
            return;
        }
        let aim = self.aim(line, self.tail.factor());
        if aim < whole {
            // A limit of a few rows that has just grown is not judged by the calls under way, which
            // have fewer.
            if whole < MANY && call.rows as f64 + request <= whole && time <= budget {
                return;
            }
            let stays = whole < MANY && aim >= whole - STAY && self.aim(line, 1.) >= whole + MARGIN;
            if !stays {
                // What was held for a while and is lost by noise is tried again soon.
                if self.steady >= HELD {
                    self.patience = HELD;
                }
                // A limit that leaves such calls as they are has lost nothing.
                if !call.full || aim < rows {
                    self.steady = 0;
                }
                self.limit = aim.max(self.limit / 2.).max(1.);
            }
            return;
        }
        if !call.full || !call.answered || (time > self.objective.whole() && !lost) {
            return;
        }
        let mut grown = aim.min(2. * self.limit);
        if !lost {
            grown = grown.min(RISK * rows * budget / time);
        }
        if grown < whole + 1. + MARGIN {
            self.steady = self.steady.saturating_add(1);
            if self.limit >= MANY * request || self.steady < self.patience {
                return;
            }
            // There is no call of a row more than this one where requests have many: the line knows
            // one size only, and takes rows for all that calls cost.
            grown = (rows + request).max(self.limit + 1.);
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.steady = 0;
        if !lost {
            grown = self.ceiling.bound(grown, 0.);
        }
        self.limit = grown.min(most).max(self.limit.min(most));
    }
}

impl BatchLimit for Quantile {
    fn limit(&self, most: usize) -> usize {
        (self.limit as usize).clamp(1, most.max(1))
    }

    fn moved(&mut self) {
        self.costs = Costs::default();
        self.ceiling.lift();
        self.surprise = None;
        self.late = 0.;
        self.steady = 0;
        self.patience = 1;
    }

    fn kept(&self) -> Box<dyn BatchLimit> {
        Box::new(self.clone())
    }

    fn observe(&mut self, call: &Call) {
        let time = call.model.as_secs_f64().max(SHORTEST);
        let rows = call.rows.max(1) as f64;
        self.objective.observe(call);
        self.since = self.since.saturating_add(1);
        // Several calls at a time make each other longer, whatever their rows.
        let waits = call.queue.as_secs_f64() > self.objective.whole();
        self.backlog = call.full && call.places == 1 && waits;
        if !call.answered && time <= self.objective.model() {
            return;
        }
        let near = rows >= self.limit * NEAR;
        self.learn(rows, time);
        if near {
            self.follow(call, time);
        }
    }
}

impl Tail {
    fn observe(&mut self, ratio: f64) {
        let deviation = ratio - 1.;
        let reach = deviation / self.deviation;
        self.reach = match reach > self.reach {
            true => self.reach + STEP * P99,
            false => self.reach - STEP * (1. - P99),
        }
        .clamp(LEAST_REACH, MOST_REACH);
        // However far an outlier is out, it is one call.
        let counted = deviation.abs().min(FAR * self.deviation.max(0.02));
        self.deviation += GAIN * (counted - self.deviation);
        self.deviation = self.deviation.clamp(LEAST_DEVIATION, MOST_DEVIATION);
    }

    /// What a call takes to what is expected, at least and at most, unless it is a surprise.
    fn usual(&self) -> (f64, f64) {
        let least = 1. / (1. + LEAST_REACH * self.deviation) / SURPRISE;
        (least, self.factor().max(SURPRISE))
    }

    /// What 99 of 100 calls take, to what is expected.
    fn factor(&self) -> f64 {
        1. + self.reach * self.deviation
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            deviation: 0.02,
            reach: 3.,
        }
    }
}

/// The quantile that is held.
const P99: f64 = 0.99;
/// Mean deviations by which an estimate of the tail moves for each call beyond it.
const STEP: f64 = 0.5;
const LEAST_REACH: f64 = 1.;
const MOST_REACH: f64 = 6.;
const GAIN: f64 = 0.05;
/// Mean deviations that a call counts for at most.
const FAR: f64 = 5.;
const LEAST_DEVIATION: f64 = 0.002;
const MOST_DEVIATION: f64 = 0.15;
/// What a call takes to what is expected, from which on it may be a surprise.
const SURPRISE: f64 = 1.3;
/// How many times as long as expected a call may take that was never tried.
const DOUBT: f64 = 2.;
/// By how much the budget may be broken if rows cost all, and the call itself nothing.
const RISK: f64 = 1.5;
/// Requests of a limit from which on the line alone is believed.
const MANY: f64 = 16.;
const MOST_PATIENCE: u32 = 1024;
/// Calls for which a size is held that is no trial any more.
const HELD: u32 = 8;
/// Calls after which it is doubted that no batch holds the budget, at first.
const ENDURANCE: u32 = 16;
/// Calls for which a model is slower if it is not the size.
const LASTING: u32 = 16;
/// The part of the limit from which on a call's rows say something of the limit.
const NEAR: f64 = 0.5;
/// The part of a late call that a call in time makes up for.
const FORGIVEN: f64 = 0.1;
/// How much of a row a further one must leave before it is allowed, and how much the last one may
/// lack before it is not: a limit of a few rows does not swing. On the curve of the kernel SVM
/// that leaves 1 call in 100 over the objective at most.
const MARGIN: f64 = 0.2;
const STAY: f64 = 0.3;
/// The part of the call's own costs that rows may cost where the objective is all but lost.
const CHEAP: f64 = 0.05;
/// What calls within the budget must be worth while a queue stands, to those that take the whole
/// objective in the mean. Noise of a tenth leaves them two thirds on the worst of the curves.
const LEAST_WORTH: f64 = 0.5;
/// The same for calls that are in time at the 99th percentile, before the mean is good enough.
const LAST_WORTH: f64 = 0.4;
/// Rows of a limit under which the cause of lateness is sought in the call itself.
const SMALL: f64 = 4.;
/// Seconds below which calls do not differ.
const SHORTEST: f64 = 1e-6;
