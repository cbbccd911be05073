//! How much a way to a model holds: Poisson arrivals, and a search for the highest rate of them at
//! which the objective is kept.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use outrigger::demo::load::{Calls, Load, Pace, Report, Running, Target};

use super::Result;
use super::message;
use super::process::pause;
use super::search::highest;

/// Calls to a model by some way, and what 99 of 100 of them shall keep to.
#[derive(Clone, Debug)]
pub struct Demand<C> {
    /// Where the calls go.
    pub address: SocketAddr,
    /// What 99 of 100 shall keep to.
    pub objective: Duration,
    /// What is sent.
    pub calls: C,
    /// How thoroughly each rate is tried.
    pub effort: Effort,
}

/// How thoroughly a rate is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seconds that a probe lasts at least,
    pub shortest: f64,
    /// and at most: at a few calls a second a p99 takes long to see.
    pub longest: f64,
    /// Calls that it sends at least, unless it would last too long.
    pub calls: f64,
    /// Of fewer calls there is no p99: a rate that does not make them within the longest probe
    /// does not count as held.
    pub fewest_calls: f64,
    /// Objectives that it lasts at least.
    pub objectives: f64,
    /// Rates closer than this ratio are the same.
    pub resolution: f64,
}

/// The highest rate that was found to hold, and what was seen at it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Calls a second; 0 if none held.
    pub rate: f64,
    /// The middle latency.
    pub p50: Duration,
    /// What 99 of 100 calls kept to.
    pub p99: Duration,
    /// Rows of an executed call in the mean, if the server tells.
    pub mean_batch: Option<f64>,
    /// Whether not the server but the generator set the limit.
    pub generator_was_late: bool,
    /// How many rates were tried.
    pub probes: usize,
}

impl Effort {
    /// For figures that are shown.
    pub const THOROUGH: Self = Self {
        shortest: 4.0,
        longest: 40.0,
        calls: 500.0,
        fewest_calls: 0.0,
        objectives: 25.0,
        resolution: 1.03,
    };
    /// To see that all works.
    pub const QUICK: Self = Self {
        shortest: 1.0,
        longest: 10.0,
        calls: 100.0,
        ..Self::THOROUGH
    };
}

impl<C: Calls + Clone> Demand<C> {
    /// Searches for the highest rate that holds. A way that does not hold `known`, the rate of a
    /// better one, is given up at once. `executed` tells how many calls the server has executed,
    /// and their rows.
    pub fn highest(
        &self,
        guess: f64,
        known: f64,
        executed: impl Fn() -> Option<(u64, u64)>,
    ) -> Result<Held> {
        let mut probes = 0;
        let mut held: Option<(f64, Report, Option<f64>)> = None;
        let mut holds = |rate: f64| -> Result<bool> {
            if rate * self.effort.longest < self.effort.fewest_calls {
                return Ok(false);
            }
            probes += 1;
            let before = executed();
            let (report, planned) = self.probe(rate)?;
            let holds = self.is_held(&report, planned);
            progress(format_args!(" {rate:.1}{}", if holds { "+" } else { "-" }));
            if holds {
                held = Some((rate, report, mean_batch(before, executed())));
            }
            Ok(holds)
        };
        let resolution = self.effort.resolution;
        let rate = if known > 0.0 && !holds(known * resolution)? {
            0.0
        } else {
            highest(guess, resolution, &mut holds)?
        };
        progress(format_args!("\n"));
        let held = held.filter(|(at, _, _)| *at == rate);
        let latency = |quantile| {
            held.as_ref()
                .map_or(Duration::ZERO, |(_, r, _)| r.latency(quantile))
        };
        Ok(Held {
            rate,
            p50: latency(0.5),
            p99: latency(0.99),
            mean_batch: held.as_ref().and_then(|(_, _, mean)| *mean),
            generator_was_late: held
                .as_ref()
                .is_some_and(|(_, report, _)| report.generator_was_late(self.objective / 20)),
            probes,
        })
    }

    /// Sends at a rate until enough is known; returns with the report how many calls were planned.
    pub fn probe(&self, rate: f64) -> Result<(Report, f64)> {
        let objectives = self.objective.as_secs_f64();
        let Effort {
            shortest,
            longest,
            calls,
            ..
        } = self.effort;
        let warm_up = (objectives * 8.0).max(shortest / 2.0);
        let lasting = (calls / rate)
            .max(objectives * self.effort.objectives)
            .max(shortest)
            .min(longest);
        let running = self.load(rate, warm_up, lasting)?;
        let planned = rate * lasting;
        let mut late = 0;
        while !running.is_over() {
            pause(Duration::from_millis(50));
            let seen = running.interval();
            late += seen.later_than(self.objective) + seen.failed();
            if late as f64 > planned * ALLOWED_LATE {
                // Nothing that comes can mend this.
                running.stop();
            }
        }
        Ok((running.wait(), planned))
    }

    /// Starts to send at a rate; the times are seconds.
    pub fn load(&self, rate: f64, warm_up: f64, lasting: f64) -> Result<Running> {
        let waiting = rate * self.objective.as_secs_f64();
        let pace = Pace::Poisson {
            rate,
            seed: rate.to_bits(),
        };
        let load = Load::new(self.target(waiting)?, pace, self.calls.clone())
            .warm_up(Duration::from_secs_f64(warm_up))
            .lasting(Duration::from_secs_f64(lasting))
            .patience(self.objective * 10);
        Ok(load.start()?)
    }

    /// The server, with so few streams on each connection that no peer's limit delays them.
    fn target(&self, waiting: f64) -> Result<Target> {
        let connections = (waiting / 50.0).ceil().clamp(4.0, 64.0) as usize;
        Ok(Target::new(self.address, message::INFER)?.connections(connections))
    }

    fn is_held(&self, report: &Report, planned: f64) -> bool {
        let late = report.later_than(self.objective) + report.failed();
        // A stopped probe sent less than it should have.
        late as f64 <= planned * ALLOWED_LATE && report.sent() as f64 > planned / 2.0
    }
}

/// The mean batch between two counts of executed calls and their rows.
pub fn mean_batch(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> Option<f64> {
    let ((calls_before, rows_before), (calls, rows)) = (before?, after?);
    let calls = calls.checked_sub(calls_before).filter(|calls| *calls > 0)?;
    Some(rows.checked_sub(rows_before)? as f64 / calls as f64)
}

/// Shows on stderr how far a long measurement has come.
pub fn progress(what: fmt::Arguments<'_>) {
    eprint!("{what}");
    let _ = std::io::stderr().flush();
}

/// The share that a p99 allows to be late.
const ALLOWED_LATE: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_batch_is_that_of_the_difference() {
        assert_eq!(mean_batch(Some((10, 10)), Some((20, 330))), Some(32.0));
        assert_eq!(mean_batch(Some((10, 10)), Some((10, 10))), None);
        assert_eq!(mean_batch(None, Some((10, 10))), None);
    }
}
