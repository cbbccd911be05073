use std::time::Duration;

use super::{BatchLimit, Call};

/// Grows while full calls keep within the objective, and shrinks when calls do not.
///
/// Clipper's additive increase and multiplicative decrease, with its faults mended:
///
/// ```text
///  limit
///    |            late, twice of late: x 0.9, or more where it was later
///    |           .
///    |          /|  ceiling . . . . . . . . . . . . . .  what was late is tried again only
///    |      .-'  | .------------'|  .--------------------  after a while, each time a longer one
///    |    /      |/              |/
///    |  /  at most doubled; aimed at the budget
///    |_/____________________________________________ calls
/// ```
///
/// * It grows from the limit, not from the rows that were sent, and only after full calls: light
///   load teaches nothing, and costs nothing.
/// * A call of `n` rows that took `t` says that `n * budget / t` rows keep within the budget,
///   because a call has costs of its own besides its rows' costs. So far it grows at once, and
///   beyond that in small steps.
/// * One late call is noise. Two within twenty are not.
/// * It is the model's time that is judged, not the queue's: in overload the queue is late
///   whatever the limit, and smaller batches would make it later.
/// * A model that is too slow for the objective with a single row gains nothing from small
///   batches. It gets batches whose rows cost as much as the call itself does.
#[derive(Clone, Debug)]
pub struct Aimd {
    /// Seconds that the model may take.
    budget: f64,
    objective: f64,
    limit: f64,
    /// How many calls were late of late; every call in time forgives a part of one.
    late: f64,
    /// The size that was late when it was last tried.
    ceiling: Option<f64>,
    /// Full calls in time before the ceiling is tried again.
    wait: u32,
    patience: u32,
    /// Full calls in time at or over the last ceiling.
    proven: u32,
    line: Line,
    /// Where the objective cannot be held by any batch: what the limit does not go under.
    floor: Option<f64>,
}

/// A straight line `beta + alpha * rows` through the calls of late, by least squares.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    weight: f64,
    rows: f64,
    time: f64,
    rows_rows: f64,
    rows_time: f64,
}

impl Aimd {
    /// Makes a controller for an objective for queue and model together; it starts with one row.
    pub fn new(objective: Duration) -> Self {
        Self::with_share(objective, MODEL_SHARE)
    }

    pub(super) fn with_share(objective: Duration, share: f64) -> Self {
        let objective = objective.as_secs_f64();
        Self {
            budget: objective * share,
            objective,
            limit: 1.,
            late: 0.,
            ceiling: None,
            wait: 0,
            patience: PATIENCE,
            proven: 0,
            line: Line::default(),
            floor: None,
        }
    }

    fn grow(&mut self, call: &Call, time: f64) {
        let rows = call.rows as f64;
        if self.ceiling.is_none() && self.patience > PATIENCE {
            self.proven += 1;
            if self.proven >= PROOF {
                self.patience = PATIENCE;
            }
        }
        let aimed = (rows * self.budget / time).min(2. * self.limit);
        let mut next = aimed.max(self.limit + (self.limit * STEP).max(1.));
        if let Some(ceiling) = self.ceiling {
            if aimed >= ceiling || self.wait == 0 {
                // The model has become faster, or it is time to see whether it has.
                self.ceiling = None;
                self.proven = 0;
            } else {
                self.wait -= 1;
                next = next.min((ceiling - 1.).max(self.limit));
            }
        }
        self.limit = next
            .min(call.most as f64)
            .max(self.limit.min(call.most as f64));
    }

    fn shrink(&mut self, call: &Call, time: f64) {
        let size = (call.rows as f64).min(self.limit);
        self.late = 1.;
        if self.ceiling.is_none() && self.proven < PROOF {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.wait = self.patience;
        self.ceiling = Some(size.max(2.));
        // A call that was far from full says little about the limit: it gives way by a tenth.
        let scale = (self.budget / time).clamp(0.5, 0.9);
        let target = (size * scale).max(match call.full {
            true => 1.,
            false => self.limit * 0.9,
        });
        let before = self.limit;
        self.limit = target.floor().clamp(1., self.limit);
        if size <= SMALL || self.floor.is_some() {
            // Without a new finding the old one fades, so that a better day is noticed.
            let faded = self.floor.map(|floor| floor * 0.9);
            self.floor = self.line.knee(self.objective).or(faded);
        }
        if let Some(floor) = self.floor {
            let floor = floor.min(call.most as f64);
            if self.limit < floor {
                self.limit = floor.min(2. * before);
                self.ceiling = None;
            }
        }
    }
}

impl BatchLimit for Aimd {
    fn limit(&self, most: usize) -> usize {
        (self.limit as usize).clamp(1, most.max(1))
    }

    fn observe(&mut self, call: &Call) {
        let time = call.model.as_secs_f64().max(f64::MIN_POSITIVE);
        self.line.add(call.rows as f64, time);
        if time <= self.budget {
            self.late = (self.late - FORGIVEN).max(0.);
            self.floor = None;
            if call.full {
                self.grow(call, time);
            }
        } else {
            self.late += 1.;
            if self.late >= 2. {
                self.shrink(call, time);
            }
        }
    }
}

impl Line {
    fn add(&mut self, rows: f64, time: f64) {
        for (sum, value) in [
            (&mut self.weight, 1.),
            (&mut self.rows, rows),
            (&mut self.time, time),
            (&mut self.rows_rows, rows * rows),
            (&mut self.rows_time, rows * time),
        ] {
            *sum = *sum * MEMORY + value;
        }
    }

    /// Returns the size at which the rows cost as much as the call itself, if not even a call of
    /// one row leaves the next one enough of the objective: it waits for the first, and then
    /// takes as long.
    fn knee(&self, objective: f64) -> Option<f64> {
        let spread = self.weight * self.rows_rows - self.rows * self.rows;
        if spread < SPREAD * self.rows * self.rows {
            // Calls of one size show no slope; after calls of one row, two will show it.
            let single = self.rows < 1.01 * self.weight;
            return (single && 2. * self.time > objective * self.weight).then_some(2.);
        }
        let alpha = (self.weight * self.rows_time - self.rows * self.time) / spread;
        let beta = (self.time - alpha * self.rows) / self.weight;
        if 2. * (beta + alpha) <= objective || beta <= 0. {
            return None;
        }
        Some((beta / alpha.max(beta * 1e-6)).floor().max(1.))
    }
}

/// What the model may take of the objective: the rest is for the queue. Found by simulation.
pub(super) const MODEL_SHARE: f64 = 0.75;
/// The part of a late call that a call in time makes up for.
const FORGIVEN: f64 = 0.1;
/// The least growth after a full call in time, as a part of the limit.
const STEP: f64 = 1. / 32.;
/// Full calls before a size that was late is tried again, at first and at most.
const PATIENCE: u32 = 16;
const MOST_PATIENCE: u32 = 1024;
/// Full calls in time by which a size is proven to be good.
const PROOF: u32 = 8;
/// What an older call weighs against the next.
const MEMORY: f64 = 0.9;
/// Rows of a late call from which on the cause is sought in the call itself, not in its rows.
const SMALL: f64 = 4.;
/// The variance of sizes, as a part of their mean squared, from which on a line can be trusted.
const SPREAD: f64 = 0.05;
