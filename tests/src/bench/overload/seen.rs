//! What became of the calls of one phase.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger::demo::load::Outcome;
use serde_json::{Value, json};

/// A call that has ended.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) class: usize,
    /// How late the generator was.
    pub(super) lag: Duration,
    /// From the moment it was meant to be sent.
    pub(super) latency: Duration,
    pub(super) end: End,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its own answer, in time or late.
    Right,
    /// By being told that there is no room for it: with this code.
    Refused(&'static str),
    /// By being told that its time is up: with this code.
    Expired(&'static str),
    /// By the caller, whose time was up.
    Left,
    /// By anything else.
    Other(String),
}

/// The figures of some calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) sent: u64,
    /// Answered rightly,
    pub(super) answered: u64,
    /// and in time.
    pub(super) good: u64,
    /// Right answers in time, a second.
    pub(super) goodput: f64,
    /// Latencies of right answers, in time or late.
    pub(super) of_answered: Quantiles,
    /// Latencies of all that were not refused: answered, expired, left or failed.
    pub(super) of_admitted: Quantiles,
    /// After what time a refusal came.
    pub(super) of_refused: Quantiles,
    /// How late the generator itself sent 1 call in 100.
    pub(super) lag: Duration,
    /// How the calls ended that were not answered rightly.
    pub(super) ends: BTreeMap<String, u64>,
}

/// The middle and the end of a distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quantiles {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl End {
    /// What a server or a proxy told, other than an answer.
    pub(super) fn told(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Grpc(8) => Self::Refused("RESOURCE_EXHAUSTED"),
            Outcome::Grpc(14) => Self::Refused("UNAVAILABLE"),
            Outcome::Http(429) => Self::Refused("HTTP 429"),
            Outcome::Http(503) => Self::Refused("HTTP 503"),
            Outcome::Grpc(4) => Self::Expired("DEADLINE_EXCEEDED"),
            Outcome::Http(504) => Self::Expired("HTTP 504"),
            other => Self::Other(other.to_string()),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Right => None,
            Self::Refused(code) | Self::Expired(code) => Some(code),
            Self::Left => Some("the caller left"),
            Self::Other(what) => Some(what),
        }
    }
}

impl Seen {
    pub(super) fn of<'a>(
        calls: impl IntoIterator<Item = &'a Call>,
        deadline: Duration,
        lasting: Duration,
    ) -> Self {
        let mut seen = Self::default();
        let (mut answered, mut admitted) = (Vec::new(), Vec::new());
        let (mut refused, mut lags) = (Vec::new(), Vec::new());
        for call in calls {
            seen.sent += 1;
            lags.push(call.lag);
            match &call.end {
                End::Refused(_) => refused.push(call.latency),
                _ => admitted.push(call.latency),
            }
            if call.end == End::Right {
                answered.push(call.latency);
                seen.good += u64::from(call.latency <= deadline);
            }
            if let Some(name) = call.end.name() {
                *seen.ends.entry(name.to_owned()).or_default() += 1;
            }
        }
        seen.answered = answered.len() as u64;
        seen.goodput = seen.good as f64 / lasting.as_secs_f64();
        seen.of_answered = Quantiles::of(answered);
        seen.of_admitted = Quantiles::of(admitted);
        seen.of_refused = Quantiles::of(refused);
        seen.lag = Quantiles::of(lags).p99;
        seen
    }

    /// The share of the calls that were answered rightly and in time.
    pub(super) fn share(&self) -> f64 {
        self.good as f64 / self.sent.max(1) as f64
    }

    pub(super) fn figures(&self) -> Value {
        json!({
            "sent": self.sent,
            "answered": self.answered,
            "good": self.good,
            "goodput": self.goodput,
            "answered_ms": self.of_answered.figures(),
            "admitted_ms": self.of_admitted.figures(),
            "refused_ms": self.of_refused.figures(),
            "generator_lag_p99_ms": milliseconds(self.lag),
            "ends": self.ends,
        })
    }
}

impl Quantiles {
    fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let rank = (latencies.len() as f64 * share).ceil() as usize;
            let found = latencies.get(rank.saturating_sub(1));
            found.copied().unwrap_or_default()
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
        }
    }

    fn figures(self) -> Value {
        json!({ "p50": milliseconds(self.p50), "p99": milliseconds(self.p99) })
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(latency: u64, end: End) -> Call {
        Call {
            class: 0,
            lag: Duration::ZERO,
            latency: Duration::from_millis(latency),
            end,
        }
    }

    #[test]
    fn only_right_answers_in_time_are_good() {
        let calls = [
            call(5, End::Right),
            call(60, End::Right),
            call(1, End::told(Outcome::Grpc(8))),
            call(50, End::told(Outcome::Grpc(4))),
            call(3, End::told(Outcome::Http(502))),
        ];
        let (deadline, lasting) = (Duration::from_millis(50), Duration::from_millis(500));
        let seen = Seen::of(&calls, deadline, lasting);
        assert_eq!((seen.sent, seen.answered, seen.good), (5, 2, 1));
        assert_eq!(seen.goodput, 2.0);
        assert_eq!(seen.of_answered.p99, Duration::from_millis(60));
        assert_eq!(seen.of_admitted.p50, Duration::from_millis(5));
        assert_eq!(seen.of_refused.p99, Duration::from_millis(1));
        assert_eq!(seen.ends["RESOURCE_EXHAUSTED"], 1);
        assert_eq!(seen.ends["HTTP status 502"], 1);
    }

    #[test]
    fn of_nothing_there_are_no_figures() {
        let seen = Seen::of(&[], Duration::ZERO, Duration::from_secs(1));
        assert_eq!(
            (seen.share(), seen.of_answered),
            (0.0, Quantiles::default())
        );
    }
}
