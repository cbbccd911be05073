use std::time::Duration;

use super::{BatchLimit, Call, ceiling::Ceiling, costs::Line, objective::Objective};

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
/// * One late call is noise. Two within twenty are not: the limit shrinks by what they have in
///   common.
/// * A size that was late is tried again only after a while, and approached by halves.
/// * It is the model's time that is judged, against what the queue leaves of the objective. The
///   queue gets a quarter at most: in overload it is late whatever the limit, and smaller batches
///   would make it later.
/// * A model that is too slow for the objective with a single row gains nothing from small
///   batches. It gets batches whose rows cost as much as the call itself does.
#[derive(Clone, Debug)]
pub struct Aimd {
    objective: Objective,
    limit: f64,
    /// How many calls were late of late; every call in time forgives a part of one.
    late: f64,
    /// How many times the budget the last late call took.
    over: f64,
    ceiling: Ceiling,
    fit: Fit,
    /// Where the objective cannot be held by any batch: what the limit does not go under.
    floor: Option<f64>,
}

/// A straight line through the calls of late, by least squares.
#[derive(Clone, Copy, Debug, Default)]
struct Fit {
    weight: f64,
    rows: f64,
    time: f64,
    rows_rows: f64,
    rows_time: f64,
}

impl Aimd {
    /// Makes a controller for an objective for queue and model together; it starts with one row.
    pub fn new(objective: Duration) -> Self {
        Self {
            objective: Objective::new(objective.as_secs_f64()),
            limit: 1.,
            late: 0.,
            over: 1.,
            ceiling: Ceiling::default(),
            fit: Fit::default(),
            floor: None,
        }
    }

    fn grow(&mut self, call: &Call, time: f64) {
        let rows = call.rows as f64;
        let aimed = (rows * self.budget() / time).min(2. * self.limit);
        let grown = aimed.max(self.limit + (self.limit * STEP).max(1.));
        let most = call.most as f64;
        self.ceiling.passed(rows);
        self.limit = self
            .ceiling
            .bound(grown, aimed)
            .min(most)
            .max(self.limit.min(most));
    }

    fn shrink(&mut self, call: &Call, over: f64) {
        let size = (call.rows as f64).min(self.limit);
        self.late = 1.;
        self.ceiling.late(size);
        // A call that was far from full says little about the limit: it gives way by a tenth.
        let scale = (1. / over).clamp(0.5, 0.9);
        let target = (size * scale).max(match call.full {
            true => 1.,
            false => self.limit * 0.9,
        });
        let before = self.limit;
        self.limit = target.floor().clamp(1., self.limit);
        if size <= SMALL || self.floor.is_some() {
            // Without a new finding the old one fades, so that a better day is noticed.
            let faded = self.floor.map(|floor| floor * 0.9);
            self.floor = self.fit.knee(self.objective.whole()).or(faded);
        }
        if let Some(floor) = self.floor {
            let floor = floor.min(call.most as f64);
            if self.limit < floor {
                self.limit = floor.min(2. * before);
                self.ceiling.lift();
            }
        }
    }

    /// Seconds that the model may take. Of those nine tenths are aimed at: one call in twenty may
    /// be over the aim, and one in a hundred over the budget.
    fn budget(&self) -> f64 {
        self.objective.model().min(AIM * self.objective.whole())
    }
}

impl BatchLimit for Aimd {
    fn limit(&self, most: usize) -> usize {
        (self.limit as usize).clamp(1, most.max(1))
    }

    fn observe(&mut self, call: &Call) {
        let time = call.model.as_secs_f64().max(f64::MIN_POSITIVE);
        self.objective.observe(call);
        self.fit.add(call.rows as f64, time);
        if time <= self.budget() {
            self.late = (self.late - FORGIVEN).max(0.);
            self.floor = None;
            if call.full && call.answered {
                self.grow(call, time);
            }
        } else {
            self.late += 1.;
            let over = time / self.budget();
            // What two late calls have in common: the worse one may be an outlier.
            let common = over.min(self.over);
            self.over = over;
            if self.late >= 2. {
                self.shrink(call, common);
            }
        }
    }

    fn kept(&self) -> Box<dyn BatchLimit> {
        Box::new(self.clone())
    }
}

impl Fit {
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
        let Some(line) = self.line() else {
            // After calls of one row, two will show the slope.
            let single = self.rows < 1.01 * self.weight;
            return (single && 2. * self.time > objective * self.weight).then_some(2.);
        };
        let Line { beta, alpha } = line;
        if 2. * line.time(1.) <= objective || beta <= 0. {
            return None;
        }
        Some((beta / alpha.max(beta * 1e-6)).floor().max(1.))
    }

    /// Returns the line; `None` while calls are of about one size, which show no slope.
    fn line(&self) -> Option<Line> {
        let spread = self.weight * self.rows_rows - self.rows * self.rows;
        if spread < SPREAD * self.rows * self.rows {
            return None;
        }
        let alpha = (self.weight * self.rows_time - self.rows * self.time) / spread;
        let beta = (self.time - alpha * self.rows) / self.weight;
        Some(Line { beta, alpha })
    }
}

/// The most that is aimed at, as a part of the objective.
const AIM: f64 = 0.9;
/// The part of a late call that a call in time makes up for.
const FORGIVEN: f64 = 0.1;
/// The least growth after a full call in time, as a part of the limit.
const STEP: f64 = 1. / 32.;
/// What an older call weighs against the next.
const MEMORY: f64 = 0.9;
/// Rows of a late call from which on the cause is sought in the call itself, not in its rows.
const SMALL: f64 = 4.;
/// The variance of sizes, as a part of their mean squared, from which on a line can be trusted.
const SPREAD: f64 = 0.05;
