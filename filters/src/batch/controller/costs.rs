/// What calls cost by their rows, as observed of late: a straight line `beta + alpha * rows`.
///
/// ```text
///  time |                   . '
///       |              (x) '       x  the mean of each doubling of rows: they give the slope,
///       |         x  . '              and fade only when they are replaced
///       |   x    . '              (x) the mean of the last calls: the line goes through it
///       | x  . '
///       |_.'____________________ rows
/// ```
///
/// A night of small calls thus does not blur what was known of large ones, and the line is right
/// where the calls are, whatever the curve is elsewhere.
#[derive(Clone, Debug, Default)]
pub(in crate::batch) struct Costs {
    sizes: [Mean; DOUBLINGS],
    recent: Mean,
    line: Option<Line>,
    /// Whether calls of different sizes say what a row costs.
    has_slope: bool,
}

/// A straight line through what was observed.
#[derive(Clone, Copy, Debug)]
pub(in crate::batch) struct Line {
    /// Seconds of a call, whatever its rows.
    pub(in crate::batch) beta: f64,
    /// Seconds of a row.
    pub(in crate::batch) alpha: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    /// How many calls of late it stands for.
    weight: f64,
    rows: f64,
    time: f64,
}

impl Costs {
    /// Returns the line, once a call has been observed.
    pub(in crate::batch) fn line(&self) -> Option<Line> {
        self.line
    }

    /// Returns the line as it looks to who would rather try: while all calls were of one size, rows
    /// cost nothing by it. The other line takes them for all that a call costs.
    pub(in crate::batch) fn hopeful(&self) -> Option<Line> {
        let line = self.line?;
        match self.has_slope {
            true => Some(line),
            false => Some(Line {
                beta: line.time(self.recent.rows),
                alpha: 0.,
            }),
        }
    }

    /// Tells whether calls of about so many rows have been observed of late.
    pub(in crate::batch) fn knows(&self, rows: f64) -> bool {
        self.sizes[index(rows)].weight >= FRESH
    }

    /// Tells whether calls of clearly different rows have been observed of late.
    pub(in crate::batch) fn knows_two_sizes(&self) -> bool {
        let known = self.sizes.iter().filter(|size| size.weight >= FRESH);
        known.count() > 1
    }

    /// Learns what a call took.
    pub(in crate::batch) fn observe(&mut self, rows: f64, time: f64) {
        for size in &mut self.sizes {
            size.weight = (size.weight * MEMORY).max(size.weight.min(TRACE));
        }
        self.sizes[index(rows)].observe(rows, time);
        self.recent.weight *= MEMORY;
        self.recent.observe(rows, time);
        self.draw();
    }

    /// Says that everything takes so many times as long as it did.
    pub(in crate::batch) fn scale(&mut self, factor: f64) {
        for size in &mut self.sizes {
            size.time *= factor;
        }
        self.recent.time *= factor;
        self.draw();
    }

    fn draw(&mut self) {
        let Mean { rows, time, .. } = self.recent;
        let (mut across, mut along) = (0., 0.);
        for size in &self.sizes {
            let (more, longer) = (size.rows - rows, size.time - time);
            // What says that more rows take less time is out of date, or noise.
            if more * longer > 0. {
                across += size.weight * more * longer;
                along += size.weight * more * more;
            }
        }
        // A call costs no less than nothing, and a row costs something.
        let steepest = time / rows;
        self.has_slope = along > 0.;
        let alpha = match self.has_slope {
            true => (across / along).clamp(steepest / FLATTEST, steepest),
            false => steepest,
        };
        self.line = Some(Line {
            beta: time - alpha * rows,
            alpha,
        });
    }
}

impl Mean {
    fn observe(&mut self, rows: f64, time: f64) {
        self.weight += 1.;
        let gain = (1. / self.weight).max(GAIN);
        self.rows += gain * (rows - self.rows);
        self.time += gain * (time - self.time);
    }
}

impl Line {
    pub(in crate::batch) fn time(self, rows: f64) -> f64 {
        self.beta + self.alpha * rows
    }

    /// The rows that are answered in a second in calls of so many; none where there are none.
    pub(in crate::batch) fn worth(self, rows: f64) -> f64 {
        rows.max(0.) / self.time(rows.max(0.)).max(f64::MIN_POSITIVE)
    }

    /// The least seconds that rows are believed to take.
    pub(in crate::batch) fn least(self, rows: usize) -> f64 {
        self.time(rows as f64) * LEAST
    }

    /// The rows that take so long; less than one where not even one row does.
    pub(in crate::batch) fn rows_within(self, seconds: f64) -> f64 {
        (seconds - self.beta) / self.alpha
    }
}

fn index(rows: f64) -> usize {
    (rows as usize).max(1).ilog2().min(LAST) as usize
}

/// Up to 65536 rows are told apart.
const DOUBLINGS: usize = 17;
const LAST: u32 = DOUBLINGS as u32 - 1;
/// What an older observation weighs against the next, and what it weighs at least.
const MEMORY: f64 = 0.97;
const TRACE: f64 = 0.02;
/// The weight from which on a size is known: one call of the last 23, or more before.
const FRESH: f64 = 0.5;
/// What an observation counts for in a mean, at least.
const GAIN: f64 = 0.1;
/// What a call takes at least, to what is expected: that is a mean, and most calls of models that
/// were measured keep within a fifth of it.
const LEAST: f64 = 0.8;
/// How many times cheaper than on average a further row may be, as far as it is believed.
const FLATTEST: f64 = 1024.;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_whose_rows_cost_nothing_is_hoped_to_take_as_long_for_one() {
        let mut costs = Costs::default();
        for rows in [1., 4., 16., 64.].into_iter().cycle().take(100) {
            costs.observe(rows, 0.010);
            let one = costs.hopeful().expect("a call was observed").time(1.);
            assert!((0.0099..0.0101).contains(&one), "{one}");
        }
    }

    /// A cold cache, or a faster path from some rows on.
    #[test]
    fn small_calls_that_take_longer_are_not_hoped_to_take_next_to_nothing() {
        let mut costs = Costs::default();
        for _ in 0..100 {
            costs.observe(1., 0.011);
            costs.observe(64., 0.010);
        }
        let one = costs.hopeful().expect("calls were observed").time(1.);
        assert!(one > 0.005, "{one} for what takes 0.011");
    }
}
