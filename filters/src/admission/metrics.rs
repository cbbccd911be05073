use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The metric families of the admission filter, registered once a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    limit: Family<Arm, Gauge>,
    queue: Family<Arm, Histogram>,
    refused: Family<Reason, Counter>,
    expired: Family<Arm, Counter>,
    cancelled: Family<Arm, Counter>,
    stuck: Family<Arm, Counter>,
}

/// The metrics of one arm of a model: what its admission filters write.
#[derive(Clone, Debug)]
pub struct Handles {
    pub(super) limit: Gauge,
    pub(super) queue: Histogram,
    pub(super) expired: Counter,
    pub(super) cancelled: Counter,
    pub(super) stuck: Counter,
    refused: [Counter; Refused::ALL.len()],
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// What was before it takes longer than the time that was left.
    Late,
    Requests,
    Bytes,
}

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

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl Metrics {
    /// Registers the families under their full names in a registry without a prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            limit: Family::default(),
            queue: Family::new_with_constructor(|| Histogram::new(QUEUE)),
            refused: Family::default(),
            expired: Family::default(),
            cancelled: Family::default(),
            stuck: Family::default(),
        };
        // The registry adds the full stop to a help text and `_total` to a counter's name.
        registry.register(
            "outrigger_admission_limit_calls",
            "Calls that may be under way at present, over the arm's endpoints",
            metrics.limit.clone(),
        );
        registry.register(
            "outrigger_admission_queue_duration_seconds",
            "How long each request waited to be sent",
            metrics.queue.clone(),
        );
        registry.register(
            "outrigger_admission_refused",
            "Requests that were refused: because they would have been too late, or the queue was full",
            metrics.refused.clone(),
        );
        registry.register(
            "outrigger_admission_expired",
            "Requests that could not be answered in time, and were not sent",
            metrics.expired.clone(),
        );
        registry.register(
            "outrigger_admission_cancelled",
            "Requests whose callers left before they were sent",
            metrics.cancelled.clone(),
        );
        registry.register(
            "outrigger_admission_stuck",
            "Calls that took so long that others were sent beside them",
            metrics.stuck.clone(),
        );
        metrics
    }

    /// Returns what the admission filters of one arm of a model write.
    pub fn handles(&self, model: &str, arm: &str) -> Handles {
        let labels = Arm {
            model: model.to_owned(),
            arm: arm.to_owned(),
        };
        Handles {
            limit: self.limit.get_or_create_owned(&labels),
            queue: self.queue.get_or_create_owned(&labels),
            expired: self.expired.get_or_create_owned(&labels),
            cancelled: self.cancelled.get_or_create_owned(&labels),
            stuck: self.stuck.get_or_create_owned(&labels),
            refused: Refused::ALL.map(|reason| {
                self.refused.get_or_create_owned(&Reason {
                    model: model.to_owned(),
                    arm: arm.to_owned(),
                    reason: Word(reason.name()),
                })
            }),
        }
    }
}

impl Handles {
    pub(super) fn refused(&self, reason: Refused) -> &Counter {
        &self.refused[reason as usize]
    }
}

impl Default for Handles {
    /// Makes metrics that nobody reads, for a filter outside of a process that exports them.
    fn default() -> Self {
        Metrics::register(&mut Registry::default()).handles("", "")
    }
}

impl Refused {
    /// All reasons, each at its index.
    const ALL: [Self; 3] = [Self::Late, Self::Requests, Self::Bytes];

    fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Requests => "requests",
            Self::Bytes => "bytes",
        }
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

/// Seconds: dense around usual objectives (5 to 50 ms), one for "did not wait", one for "hopeless".
const QUEUE: [f64; 10] = [
    0.000_1, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.,
];
