//! What one load saw of one peer.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger::demo::load::{Outcome, Report};
use serde_json::{Value, json};

/// The figures of one step of the ladder, whatever made the load.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Calls that were due.
    pub(super) sent: u64,
    /// Calls that were answered, rightly.
    pub(super) answered: u64,
    /// Right answers within the objective, a second.
    pub(super) goodput: f64,
    /// Half of all calls had ended after this.
    pub(super) p50: Duration,
    /// 99 of 100 calls had ended after this.
    pub(super) p99: Duration,
    /// How late the generator itself sent 1 call in 100.
    pub(super) lag: Duration,
    /// How the others ended.
    pub(super) failures: BTreeMap<String, u64>,
    /// Rows in a call of the model, if its server tells.
    pub(super) mean_batch: Option<f64>,
    /// Processor time of the server a second.
    pub(super) server_cpu: f64,
    /// Processor time of the proxy a second, if there is one.
    pub(super) proxy_cpu: Option<f64>,
}

impl Seen {
    /// Takes a report of the generator for gRPC.
    pub(super) fn of(report: &Report, objective: Duration) -> Self {
        let seconds = report.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        Self {
            sent: report.sent(),
            answered: report.answered(),
            goodput: report.answered_within(objective) as f64 / seconds,
            p50: report.latency(0.5),
            p99: report.latency(0.99),
            lag: report.lag(0.99),
            failures: report
                .outcomes()
                .filter(|(outcome, _)| *outcome != Outcome::Grpc(0))
                .map(|(outcome, count)| (outcome.to_string(), count))
                .collect(),
            ..Self::default()
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.sent - self.answered
    }

    pub(super) fn figures(&self) -> Value {
        json!({
            "sent": self.sent,
            "answered": self.answered,
            "goodput": self.goodput,
            "p50_ms": self.p50.as_secs_f64() * 1e3,
            "p99_ms": self.p99.as_secs_f64() * 1e3,
            "generator_lag_p99_ms": self.lag.as_secs_f64() * 1e3,
            "failures": self.failures,
            "mean_batch": self.mean_batch,
            "server_cpu": self.server_cpu,
            "proxy_cpu": self.proxy_cpu,
        })
    }
}
