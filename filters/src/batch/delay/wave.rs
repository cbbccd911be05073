use std::time::Duration;

use tokio::time::Instant;

/// Rows that follow an event, and what came after those before: how many, and when.
///
/// ```text
///  rows |      #
///       |    # # #
///       |  # # # # .                     # those of waves before, fading by a tenth each time
///       |__#_#_#_#_._._______________    . of which so many are to come
///       event  ^now         horizon
/// ```
#[derive(Clone, Debug, Default)]
pub(super) struct Wave {
    began: Option<Instant>,
    this: Tally,
    past: Tally,
    /// The last waves that brought nobody.
    missed: u32,
    /// By how much waves differed from what was expected of them, squared.
    deviation: f64,
}

/// What waves have brought.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// The sizes of the events: rows are expected in proportion.
    size: f64,
    rows: f64,
    /// Those after the horizon, up to the next event.
    later: f64,
    /// When the rows came, as parts of the horizon.
    lateness: f64,
    times: [f64; TIMES],
}

/// The best of the delays that were looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Best {
    /// More than zero if waiting pays.
    pub(super) worth: f64,
    /// In seconds; zero if none pays.
    pub(super) delay: f64,
}

impl Wave {
    /// Begins with an event, whose size is what rows are expected in proportion to.
    pub(super) fn begin(&mut self, now: Instant, size: f64) {
        let Self { this, past, .. } = self;
        if self.began.is_some() {
            let off = past.expects(this.size).map_or(0., |rows| this.rows - rows);
            self.deviation = self.deviation * MEMORY + off * off;
            past.fade();
            past.add(this);
            self.missed = match this.rows > 0. {
                true => 0,
                false => self.missed.saturating_add(1),
            };
        }
        *this = Tally {
            size,
            ..Tally::default()
        };
        self.began = Some(now);
    }

    /// Learns that rows have come.
    pub(super) fn arrived(&mut self, now: Instant, rows: usize, horizon: Duration) {
        let Some(began) = self.began else {
            return;
        };
        let after = now.saturating_duration_since(began);
        let rows = rows as f64;
        if after >= horizon {
            self.this.later += rows;
            return;
        }
        self.this.rows += rows;
        self.this.lateness += rows * (after.as_secs_f64() / horizon.as_secs_f64());
        if let Some(time) = self.this.times.get_mut(index(after)) {
            *time += rows;
        }
    }

    /// Tells how regular waves are: 1 if each brings as many rows as expected, 0 if the variance
    /// is that of arrivals by chance, or more.
    pub(super) fn regular(&self) -> f64 {
        match self.past.rows > 0. {
            true => (1. - 2. * self.deviation / self.past.rows).max(0.),
            false => 0.,
        }
    }

    /// Tells how close together rows come: 0 if they are spread over the horizon like arrivals by
    /// chance, 1 if their mean is in its first fifth.
    pub(super) fn dense(&self) -> f64 {
        match self.past.rows > 0. {
            true => (2. - 5. * self.past.lateness / self.past.rows).clamp(0., 1.),
            false => 0.,
        }
    }

    /// Looks for the delay of the highest worth, by what a delay costs and the rows it brings.
    ///
    /// Of a wave that is counted on, what has come is no more to come; of one by chance (0 of 1),
    /// what has come says nothing.
    pub(super) fn best(
        &self,
        now: Instant,
        most: f64,
        counted: f64,
        worth: impl Fn(f64, f64, f64) -> f64,
    ) -> Best {
        let mut best = Best {
            worth: 0.,
            delay: 0.,
        };
        let Some(began) = self.began else {
            return best;
        };
        let after = now.saturating_duration_since(began);
        let first = index(after);
        let Some(expected) = self.past.expects(self.this.size) else {
            return best;
        };
        if self.missed >= MISSED {
            return best;
        }
        let Some((over, times)) = self.past.times.split_at_checked(first) else {
            return best;
        };
        let Some(soonest) = times.first() else {
            return best;
        };
        let after = after.as_secs_f64();
        // Of the time that it is, a part is over.
        let mut ahead = (ENDS[first] - after) / (ENDS[first] - start(first));
        let rest = self.past.rows - over.iter().sum::<f64>() - soonest * (1. - ahead);
        if rest <= NOTHING {
            return best;
        }
        let chance = expected * rest / self.past.rows;
        let left = (expected - self.this.rows).max(0.);
        let scale = (counted * left + (1. - counted) * chance) / rest;
        if scale * rest < NOBODY {
            return best;
        }
        let all = scale * rest + self.this.size * self.past.later / self.past.size;
        let (mut delay, mut come) = (0., 0.);
        for (time, end) in times.iter().zip(&ENDS[first..]) {
            let (rows, end) = (time * ahead, end - after);
            let until = end.min(most);
            if rows > 0. {
                come += match end > most {
                    true => rows * (most - delay) / (end - delay),
                    false => rows,
                };
                let more = scale * come;
                let worth = worth(until, more, all - more);
                if worth > best.worth {
                    best = Best {
                        worth,
                        delay: until,
                    };
                }
            }
            if end >= most || rest - come < NOTHING {
                break;
            }
            (delay, ahead) = (until, 1.);
        }
        best
    }
}

impl Tally {
    /// Returns the rows that an event of a size brings, if one has been seen.
    fn expects(&self, size: f64) -> Option<f64> {
        (self.size > 0.).then(|| size * self.rows / self.size)
    }

    fn fade(&mut self) {
        self.size *= MEMORY;
        self.rows *= MEMORY;
        self.later *= MEMORY;
        self.lateness *= MEMORY;
        for time in &mut self.times {
            *time = if *time < NOTHING { 0. } else { *time * MEMORY };
        }
    }

    fn add(&mut self, other: &Self) {
        self.size += other.size;
        self.rows += other.rows;
        self.later += other.later;
        self.lateness += other.lateness;
        for (time, other) in self.times.iter_mut().zip(&other.times) {
            *time += other;
        }
    }
}

/// The time after an event: two for each doubling, from 2^15 nanoseconds on.
fn index(after: Duration) -> usize {
    let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
    match nanos.checked_ilog2() {
        Some(power) if power >= SHORTEST => {
            let half = (nanos >> (power - 1)) & 1;
            1 + 2 * (power - SHORTEST) as usize + half as usize
        }
        _ => 0,
    }
}

fn start(index: usize) -> f64 {
    match index {
        0 => 0.,
        _ => ENDS[index - 1],
    }
}

/// When each of the times ends, in seconds: 33, 49, 66, 98 microseconds, up to 134 ms.
const ENDS: [f64; TIMES] = {
    let mut ends = [0.; TIMES];
    let mut index = 0;
    while index < TIMES {
        let halves = 2 + (index as u64 & 1);
        ends[index] = (halves << (SHORTEST as usize + index / 2 - 1)) as f64 * 1e-9;
        index += 1;
    }
    ends
};
/// Rows that are too few to look for.
const NOBODY: f64 = 0.01;
/// Rows of which nothing is left: numbers that fade for ever become slow to reckon with.
const NOTHING: f64 = 1e-6;
const TIMES: usize = 25;
const SHORTEST: u32 = 15;
/// What an older wave weighs against the next.
const MEMORY: f64 = 0.9;
/// Waves that brought nobody, one after the other, after which nobody is waited for.
const MISSED: u32 = 4;
