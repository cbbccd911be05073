use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{BenefitView, alone::Alone, controller::Call, explain::Closed, state::Shown};

/// The metric families of the batch filter, registered once a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    rows: Family<Arm, Histogram>,
    queue: Family<Arm, Histogram>,
    limit: Family<Arm, Gauge>,
    closed: Family<Reason, Counter>,
    alone: Family<Reason, Counter>,
    cancelled: Family<Arm, Counter>,
    expired: Family<Arm, Counter>,
    refused: Family<Arm, Counter>,
    shed: Family<Arm, Counter>,
    uneven: Family<Arm, Counter>,
    halved: Family<Arm, Counter>,
    isolated: Family<Arm, Counter>,
    stuck: Family<Arm, Counter>,
    model_seconds: Family<OfMode, Seconds>,
    model_rows: Family<OfMode, Counter>,
    model_requests: Family<OfMode, Counter>,
    speed_up: Family<Arm, Gauge<f64, AtomicU64>>,
    pays: Family<Judged, Gauge>,
}

/// The metrics of one arm of a model: what its batch filters write.
#[derive(Clone, Debug)]
pub struct Handles {
    pub(super) rows: Histogram,
    pub(super) queue: Histogram,
    pub(super) limit: Gauge,
    pub(super) cancelled: Counter,
    pub(super) expired: Counter,
    pub(super) refused: Counter,
    pub(super) shed: Counter,
    pub(super) uneven: Counter,
    pub(super) halved: Counter,
    pub(super) isolated: Counter,
    pub(super) stuck: Counter,
    closed: [Counter; Closed::ALL.len()],
    alone: [Counter; Alone::ALL.len()],
    modes: [Mode; MODES.len()],
}

/// What the model takes for calls of one kind.
#[derive(Clone, Debug, Default)]
struct Mode {
    seconds: Seconds,
    rows: Counter,
    requests: Counter,
}

type Seconds = Counter<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Arm {
    model: String,
    arm: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    model: String,
    arm: String,
    reason: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMode {
    model: String,
    arm: String,
    mode: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Judged {
    model: String,
    arm: String,
    pays: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl Metrics {
    /// Registers the families under their full names in a registry without a prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            rows: Family::new_with_constructor(|| Histogram::new(ROWS)),
            queue: Family::new_with_constructor(|| Histogram::new(QUEUE)),
            limit: Family::default(),
            closed: Family::default(),
            alone: Family::default(),
            cancelled: Family::default(),
            expired: Family::default(),
            refused: Family::default(),
            shed: Family::default(),
            uneven: Family::default(),
            halved: Family::default(),
            isolated: Family::default(),
            stuck: Family::default(),
            model_seconds: Family::default(),
            model_rows: Family::default(),
            model_requests: Family::default(),
            speed_up: Family::default(),
            pays: Family::default(),
        };
        // The registry adds the full stop to a help text and `_total` to a counter's name.
        registry.register(
            "outrigger_batch_rows",
            "Rows in each call to the model",
            metrics.rows.clone(),
        );
        registry.register(
            "outrigger_batch_limit_rows",
            "Rows that calls may hold at present, over the arm's endpoints",
            metrics.limit.clone(),
        );
        registry.register(
            "outrigger_batch_queue_duration_seconds",
            "How long each request waited to be sent",
            metrics.queue.clone(),
        );
        registry.register(
            "outrigger_batch_closed",
            "Batches by the reason for which they were sent with the rows that they had",
            metrics.closed.clone(),
        );
        registry.register(
            "outrigger_batch_alone",
            "Requests that were sent by themselves because they must not be merged, by reason",
            metrics.alone.clone(),
        );
        registry.register(
            "outrigger_batch_cancelled",
            "Requests whose callers left before they were sent",
            metrics.cancelled.clone(),
        );
        registry.register(
            "outrigger_batch_expired",
            "Requests that could not be answered in time, and were not sent",
            metrics.expired.clone(),
        );
        registry.register(
            "outrigger_batch_refused",
            "Requests that were refused because the queue was full",
            metrics.refused.clone(),
        );
        registry.register(
            "outrigger_batch_shed",
            "Requests that were refused at once because what was before them took too long",
            metrics.shed.clone(),
        );
        registry.register(
            "outrigger_batch_uneven",
            "Batches whose answers could not be divided among their members",
            metrics.uneven.clone(),
        );
        registry.register(
            "outrigger_batch_halved",
            "Batches whose calls failed and whose members were sent again in parts",
            metrics.halved.clone(),
        );
        registry.register(
            "outrigger_batch_isolated",
            "Requests that were found to make the calls fail that they were in",
            metrics.isolated.clone(),
        );
        registry.register(
            "outrigger_batch_stuck",
            "Calls that took so long that others were sent beside them",
            metrics.stuck.clone(),
        );
        registry.register(
            "outrigger_batch_model_seconds",
            "What the model took for calls that were answered: of several requests, of one that was \
             held out to see what batching brings, and of one that was lone",
            metrics.model_seconds.clone(),
        );
        registry.register(
            "outrigger_batch_model_rows",
            "Rows of these calls",
            metrics.model_rows.clone(),
        );
        registry.register(
            "outrigger_batch_model_requests",
            "Requests of these calls",
            metrics.model_requests.clone(),
        );
        registry.register(
            "outrigger_batch_speedup_ratio",
            "How many times as many rows the model answers in the same time because of batching",
            metrics.speed_up.clone(),
        );
        registry.register(
            "outrigger_batch_endpoints",
            "Endpoints by whether batching pays; where it does not, requests are sent singly",
            metrics.pays.clone(),
        );
        metrics
    }

    /// Shows what batching brings at the endpoints of all arms there are, by model and arm; of others
    /// nothing is shown any more.
    pub fn show(&self, endpoints: &BTreeMap<(&str, &str), Vec<BenefitView>>) {
        self.speed_up.clear();
        self.pays.clear();
        for ((model, arm), endpoints) in endpoints {
            let labels = Arm {
                model: (*model).to_owned(),
                arm: (*arm).to_owned(),
            };
            let of_arm = BenefitView::of_arm(endpoints);
            if let Some(times) = of_arm.and_then(|benefit| benefit.speed_up) {
                self.speed_up.get_or_create(&labels).set(times);
            }
            for pays in ["yes", "no", "unknown"] {
                let of_word = endpoints
                    .iter()
                    .filter(|benefit| benefit.pays.as_str() == pays);
                let judged = Judged {
                    model: labels.model.clone(),
                    arm: labels.arm.clone(),
                    pays: Word(pays),
                };
                let count = i64::try_from(of_word.count()).unwrap_or(i64::MAX);
                self.pays.get_or_create(&judged).set(count);
            }
        }
    }

    /// Returns what the batch filters of one arm of a model write.
    pub fn handles(&self, model: &str, arm: &str) -> Handles {
        let labels = Arm {
            model: model.to_owned(),
            arm: arm.to_owned(),
        };
        let counter = |family: &Family<Reason, Counter>, reason| {
            family.get_or_create_owned(&Reason {
                model: model.to_owned(),
                arm: arm.to_owned(),
                reason: Word(reason),
            })
        };
        Handles {
            rows: self.rows.get_or_create_owned(&labels),
            queue: self.queue.get_or_create_owned(&labels),
            limit: self.limit.get_or_create_owned(&labels),
            cancelled: self.cancelled.get_or_create_owned(&labels),
            expired: self.expired.get_or_create_owned(&labels),
            refused: self.refused.get_or_create_owned(&labels),
            shed: self.shed.get_or_create_owned(&labels),
            uneven: self.uneven.get_or_create_owned(&labels),
            halved: self.halved.get_or_create_owned(&labels),
            isolated: self.isolated.get_or_create_owned(&labels),
            stuck: self.stuck.get_or_create_owned(&labels),
            closed: Closed::ALL.map(|reason| counter(&self.closed, reason.name())),
            alone: Alone::ALL.map(|reason| counter(&self.alone, reason.name())),
            modes: MODES.map(|mode| {
                let labels = OfMode {
                    model: model.to_owned(),
                    arm: arm.to_owned(),
                    mode: Word(mode),
                };
                Mode {
                    seconds: self.model_seconds.get_or_create_owned(&labels),
                    rows: self.model_rows.get_or_create_owned(&labels),
                    requests: self.model_requests.get_or_create_owned(&labels),
                }
            }),
        }
    }
}

impl Handles {
    /// Counts what the model took for a call.
    pub(super) fn model(&self, batch: &Shown, call: &Call) {
        if !call.answered {
            return;
        }
        let mode = match batch {
            Shown {
                held_out: Some(_), ..
            } => HELD_OUT,
            Shown { members: 1, .. } => LONE,
            _ => BATCHED,
        };
        self.modes[mode].count(batch.members, call.rows, call.model);
    }

    /// Counts what the model took for a request that was sent singly.
    pub(super) fn lone(&self, rows: usize, model: Duration) {
        self.modes[LONE].count(1, rows, model);
    }

    pub(super) fn closed(&self, reason: Closed) -> &Counter {
        &self.closed[reason as usize]
    }

    pub(super) fn alone(&self, reason: Alone) -> &Counter {
        &self.alone[reason.index()]
    }
}

impl Default for Handles {
    /// Makes metrics that nobody reads, for a filter outside of a process that exports them.
    fn default() -> Self {
        Metrics::register(&mut Registry::default()).handles("", "")
    }
}

impl Mode {
    fn count(&self, requests: usize, rows: usize, model: Duration) {
        self.seconds.inc_by(model.as_secs_f64());
        self.rows.inc_by(rows as u64);
        self.requests.inc_by(requests as u64);
    }
}

impl EncodeLabelValue for Word {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

const MODES: [&str; 3] = ["batched", "lone", "held-out"];
const BATCHED: usize = 0;
const LONE: usize = 1;
const HELD_OUT: usize = 2;

/// Doublings up to the largest batches that paid on the curves that were measured.
const ROWS: [f64; 13] = [
    1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024., 2048., 4096.,
];

/// Seconds: dense around usual objectives (5 to 50 ms), one for "did not wait", one for "hopeless".
const QUEUE: [f64; 10] = [
    0.000_1, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.,
];
