//! What a load saw.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// With this `grpc-status`.
    Grpc(u32),
    /// With an HTTP status that is not a success.
    Http(u16),
    /// With a success of HTTP but without a `grpc-status`.
    NoStatus,
    /// With status OK and an answer that [`accept`](super::Calls::accept) refused.
    Wrong,
    /// By a reset of its stream with this code.
    Reset(u32),
    /// With its connection.
    Lost,
    /// Not at all, within the load's patience.
    Unanswered,
    /// Before it was sent: too many others were waiting already.
    Crowded,
}

/// What a load saw over some time; latencies in microseconds inside.
#[derive(Clone)]
pub struct Report {
    /// The time over which calls were sent.
    pub elapsed: Duration,
    /// What the generator's thread used of its processor, where the system tells.
    pub cpu: Option<Duration>,
    outcomes: BTreeMap<Outcome, u64>,
    latency: Histogram<u64>,
    /// Of the calls that were answered alone.
    answered: Histogram<u64>,
    lag: Histogram<u64>,
}

impl Report {
    pub(in crate::demo) fn new() -> Self {
        Self {
            elapsed: Duration::ZERO,
            cpu: None,
            outcomes: BTreeMap::new(),
            latency: histogram(),
            answered: histogram(),
            lag: histogram(),
        }
    }

    pub(in crate::demo) fn record(&mut self, outcome: Outcome, latency: Duration) {
        *self.outcomes.entry(outcome).or_default() += 1;
        self.latency.saturating_record(micros(latency));
        if outcome == Outcome::Grpc(0) {
            self.answered.saturating_record(micros(latency));
        }
    }

    pub(super) fn record_lag(&mut self, lag: Duration) {
        self.lag.saturating_record(micros(lag));
    }

    /// Adds what another report saw, without its time.
    pub(super) fn absorb(&mut self, other: &Self) {
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        // All have the bounds of `histogram`, so nothing is refused.
        let _ = self.latency.add(&other.latency);
        let _ = self.answered.add(&other.answered);
        let _ = self.lag.add(&other.lag);
    }

    /// How many calls were due.
    pub fn sent(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// How many calls were answered with status OK and an accepted answer.
    pub fn answered(&self) -> u64 {
        self.count(Outcome::Grpc(0))
    }

    /// How many calls were answered with status OK and an accepted answer, and within this time.
    pub fn answered_within(&self, limit: Duration) -> u64 {
        self.answered.count_between(0, micros(limit))
    }

    /// How many calls ended otherwise.
    pub fn failed(&self) -> u64 {
        self.sent() - self.answered()
    }

    /// How many calls ended this way.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or(0)
    }

    /// How calls ended, and how many each way.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        self.outcomes
            .iter()
            .map(|(outcome, count)| (*outcome, *count))
    }

    /// Calls answered a second.
    pub fn rate(&self) -> f64 {
        self.answered() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that the share `quantile` of all calls did not exceed, failed ones included.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }

    /// The longest latency.
    pub fn max_latency(&self) -> Duration {
        Duration::from_micros(self.latency.max())
    }

    /// How many calls took longer than this, failed ones included.
    pub fn later_than(&self, limit: Duration) -> u64 {
        let limit = micros(limit);
        self.latency.len() - self.latency.count_between(0, limit)
    }

    /// How late the generator itself was at sending, at this quantile.
    pub fn lag(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.lag.value_at_quantile(quantile))
    }

    /// Whether the generator, not the server, set the limit: one call in a hundred left it later
    /// than `bound`.
    pub fn generator_was_late(&self, bound: Duration) -> bool {
        self.lag(0.99) > bound
    }

    /// Processor time that the generator used for one call, where the system tells.
    pub fn cpu_per_call(&self) -> Option<Duration> {
        Some(self.cpu?.div_f64((self.sent() as f64).max(1.0)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sent {} answered {} in {:.2?}: {:.0}/s",
            self.sent(),
            self.answered(),
            self.elapsed,
            self.rate()
        )?;
        for (outcome, count) in self.outcomes().filter(|(o, _)| *o != Outcome::Grpc(0)) {
            writeln!(f, "  {count} ended with {outcome}")?;
        }
        writeln!(
            f,
            "latency p50 {:.2?} p90 {:.2?} p99 {:.2?} p99.9 {:.2?} max {:.2?}",
            self.latency(0.5),
            self.latency(0.9),
            self.latency(0.99),
            self.latency(0.999),
            self.max_latency()
        )?;
        write!(
            f,
            "generator's lag p50 {:.2?} p99 {:.2?}",
            self.lag(0.5),
            self.lag(0.99)
        )?;
        match self.cpu_per_call() {
            Some(cpu) => write!(f, ", {cpu:.1?} of processor a call"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("elapsed", &self.elapsed)
            .field("outcomes", &self.outcomes)
            .field("p50", &self.latency(0.5))
            .field("p99", &self.latency(0.99))
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(status) => write!(f, "grpc-status {status}"),
            Self::Http(status) => write!(f, "HTTP status {status}"),
            Self::NoStatus => f.write_str("no grpc-status"),
            Self::Wrong => f.write_str("a wrong answer"),
            Self::Reset(code) => write!(f, "a reset (code {code})"),
            Self::Lost => f.write_str("a lost connection"),
            Self::Unanswered => f.write_str("no answer"),
            Self::Crowded => f.write_str("too many calls waiting"),
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_MICROS, 3).expect("the bounds are constant and in order")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Ten minutes: longer than any load's patience.
const LONGEST_MICROS: u64 = 600_000_000;
