use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// The metric families of deadlines, registered once a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    expired: Family<OfStage, Counter>,
    margin: Family<OfModel, Gauge<f64, AtomicU64>>,
}

/// The metrics of one model.
#[derive(Clone, Debug)]
pub struct Handles {
    expired: [Counter; Stage::ALL.len()],
    margin: Gauge<f64, AtomicU64>,
}

/// Where a request was when its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// In a queue, or behind others' calls for the same rows: it was never sent.
    Queue,
    /// With its arm, or with those of an ensemble.
    Upstream,
    /// The server itself said that time was up.
    Server,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStage {
    model: String,
    stage: Stage,
}

impl Metrics {
    /// Registers the families under their full names in a registry without a prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            expired: Family::default(),
            margin: Family::default(),
        };
        registry.register(
            "outrigger_deadline_expired",
            "Requests whose deadline passed before there was an answer, by where they were",
            metrics.expired.clone(),
        );
        registry.register_with_unit(
            "outrigger_deadline_margin",
            "How long before a deadline an answer is cut off, to be out by it",
            Unit::Seconds,
            metrics.margin.clone(),
        );
        metrics
    }

    /// Returns the metrics of a model.
    pub fn handles(&self, model: &str) -> Handles {
        let model = model.to_owned();
        Handles {
            expired: Stage::ALL.map(|stage| {
                let model = model.clone();
                let labels = OfStage { model, stage };
                self.expired.get_or_create_owned(&labels)
            }),
            margin: self.margin.get_or_create_owned(&OfModel { model }),
        }
    }
}

impl Handles {
    /// Counts a request that came too late.
    pub fn expired(&self, stage: Stage) {
        self.expired[stage as usize].inc();
    }

    /// Shows what the margin is.
    pub fn margin(&self, margin: std::time::Duration) {
        self.margin.set(margin.as_secs_f64());
    }
}

impl Stage {
    /// All, each at its index.
    pub const ALL: [Self; 3] = [Self::Queue, Self::Upstream, Self::Server];
}

impl EncodeLabelValue for Stage {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Queue => "queue",
            Self::Upstream => "upstream",
            Self::Server => "server",
        };
        word.encode(encoder)
    }
}
