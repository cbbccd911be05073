//! When a free endpoint waits for company: decided by a plain struct that is told of every
//! arrival and of every answer.

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod wave;

use std::time::Duration;

use tokio::time::Instant;

use self::wave::Wave;
use super::controller::Line;

/// Tells how long a free endpoint waits for more rows, although some wait already.
///
/// With `n` rows waiting, `more` to come within `d`, and calls that cost `beta + alpha * rows`:
///
/// ```text
///  now:     |- beta, n -|- beta, more -|        the later ones wait for the call of the first
///  waited:  |-d-|- beta, n and more -|          one call less: beta saved, d lost
/// ```
///
/// Each of those to come is answered `beta - d` sooner, and each that waits `d + alpha * more`
/// later. Waiting pays while the former is more in sum, so never for as long as `beta`; under an
/// even load that is almost never, since who comes during a call goes together anyway. It pays
/// where rows come in waves, and two kinds of waves are followed:
///
/// * **Returns.** The answers of a call set callers free, who ask again. Where all of them do so
///   every time, those who wait and those who return would take turns for ever, in calls of half
///   the rows: a call that is saved is then saved to everybody.
/// * **Bursts.** A row that comes after a pause may be the first of many.
///
/// What is expected of a wave is what came of those before. Chance is not company: where waves
/// come neither regularly nor close together, waiting has to promise several times what it costs.
#[derive(Debug)]
pub(super) struct Delay {
    max: Duration,
    /// How long at most waiting can pay: the shorter one of the bound and a call's own time.
    horizon: Duration,
    last: Option<Instant>,
    /// The rows of calls, at least and at most.
    smallest: usize,
    largest: usize,
    calls: u32,
    returns: Wave,
    bursts: Wave,
}

/// What waits at an endpoint with a place for a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) now: Instant,
    /// The rows that would go now.
    pub(super) rows: usize,
    /// Since when the oldest of them could have gone: it was there, and so was the place.
    pub(super) since: Instant,
    /// The most rows that may go.
    pub(super) limit: usize,
    /// When they have to go so that each meets its deadline, if one has any.
    pub(super) latest: Option<Instant>,
    /// What calls cost, if that is known.
    pub(super) line: Option<Line>,
}

impl Delay {
    /// Makes a rule that keeps nobody for longer than a bound; of zero, it never waits.
    pub(super) fn new(max: Duration) -> Self {
        Self {
            max,
            horizon: max,
            last: None,
            smallest: usize::MAX,
            largest: 0,
            calls: 0,
            returns: Wave::default(),
            bursts: Wave::default(),
        }
    }

    /// Learns that rows have come.
    pub(super) fn arrived(&mut self, now: Instant, rows: usize) {
        if self.max.is_zero() {
            return;
        }
        let quiet = |last| now.saturating_duration_since(last) > self.horizon;
        if self.last.is_none_or(quiet) {
            self.bursts.begin(now, 1.);
        } else {
            self.bursts.arrived(now, rows, self.horizon);
        }
        self.returns.arrived(now, rows, self.horizon);
        self.last = Some(now);
    }

    /// Learns that a call has ended, well or not, and its callers have their answers.
    pub(super) fn answered(&mut self, now: Instant, rows: usize, line: Option<Line>) {
        if self.max.is_zero() {
            return;
        }
        self.smallest = self.smallest.min(rows);
        self.largest = self.largest.max(rows);
        self.calls = self.calls.wrapping_add(1);
        if let Some(line) = line {
            let beta = self.guess(line).unwrap_or(line).beta.max(0.);
            self.horizon = self.max.min(Duration::from_secs_f64(beta));
        }
        self.returns.begin(now, rows as f64);
    }

    /// Returns until when to wait, unless more come before; or none to send at once.
    ///
    /// It is to be asked again when rows have come, and when the time is over.
    pub(super) fn until(&self, waiting: &Waiting) -> Option<Instant> {
        let &Waiting {
            now, rows, limit, ..
        } = waiting;
        if self.max.is_zero() || rows >= limit {
            return None;
        }
        let line = waiting.line?;
        let Line { beta, alpha } = match self.guess(line) {
            Some(guess) if self.is_trial() => guess,
            _ => line,
        };
        let bound = waiting.since.checked_add(self.max)?;
        let bound = waiting.latest.map_or(bound, |latest| bound.min(latest));
        let most = bound.checked_duration_since(now)?.as_secs_f64().min(beta);
        if most <= 0. {
            return None;
        }
        let (here, room) = (rows as f64, (limit - rows) as f64);

        let once = |delay: f64, more: f64, trust: f64| {
            let (care, delay) = (trust + (1. - trust) * CARE, delay + (1. - trust) * TICK);
            more * (beta - delay) - care * here * (delay + alpha * more)
        };
        let regular = self.returns.regular();
        let trust = regular.max(self.returns.dense());
        let returns = self.returns.best(now, most, 1., |delay, more, others| {
            // The call is saved if there is one to be saved, and nobody else needs it.
            let saved = match more >= SOMEBODY {
                true => regular * (1. - others).max(0.),
                false => 0.,
            };
            let more = more.min(room);
            saved * (here + more) * (beta - delay) + (1. - saved) * once(delay, more, trust)
        });
        let regular = self.bursts.regular();
        let trust = regular.max(self.bursts.dense());
        let bursts = self.bursts.best(now, most, regular, |delay, more, _| {
            once(delay, more.min(room), trust)
        });
        let delay = match returns.worth >= bursts.worth {
            true => returns.delay,
            false => bursts.delay,
        };
        let until = now + Duration::from_secs_f64(delay);
        (until > now).then_some(until)
    }

    /// Returns what calls may cost where the line says that all of it is for their rows: it says so
    /// too if all were of one size, and if noise made the larger ones faster. Half of the whole is
    /// a guess that lets larger batches be tried, and these tell.
    fn guess(&self, line: Line) -> Option<Line> {
        let rows = self.largest.max(1) as f64;
        let whole = line.time(rows);
        (line.beta < LITTLE * whole).then(|| Line {
            beta: whole / 2.,
            alpha: whole / 2. / rows,
        })
    }

    /// Tells whether a guess is to be tried: always while nothing is known, seldom later.
    fn is_trial(&self) -> bool {
        self.smallest >= self.largest || self.calls.is_multiple_of(TRIAL)
    }
}

/// How many times what it costs waiting has to promise where waves come by chance. By simulation
/// 2 adds up to a tenth to the p99 under Poisson arrivals of 1 to 3 rows a call, 4 loses a
/// twentieth of the mean under bursts of uneven size.
const CARE: f64 = 3.;
/// The rows that are somebody to wait for.
const SOMEBODY: f64 = 0.5;
/// The part of a call's time below which the call itself costs nothing.
const LITTLE: f64 = 1. / 64.;
/// One call in so many tries whether that is so: at worst it is delayed by half of its time.
const TRIAL: u32 = 16;
/// Seconds by which timers are late on average, as they go off every millisecond. Where company is
/// sure to come the wait does not end by a timer.
const TICK: f64 = 0.5e-3;
