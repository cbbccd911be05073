use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The metrics of what is kept of what was learned.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) exchanges: Family<ResultLabels, Counter>,
    pub(super) duration: Histogram,
    pub(super) age: Gauge<f64, AtomicU64>,
    pub(super) unacknowledged: Family<ModelLabels, Gauge>,
    pub(super) contexts: Family<ModelLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabels {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ModelLabels {
    pub(super) model: String,
}

impl Metrics {
    /// Registers everything under `state`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("state");
        let metrics = Self::default();
        registry.register(
            "exchanges",
            "Exchanges of what was learned with what keeps it, by how they ended",
            metrics.exchanges.clone(),
        );
        registry.register_with_unit(
            "exchange_duration",
            "Time of an exchange",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            "exchange_age",
            "Time since the last exchange that succeeded, or since the start",
            Unit::Seconds,
            metrics.age.clone(),
        );
        registry.register(
            "unacknowledged",
            "Differences that are not known to be kept yet",
            metrics.unacknowledged.clone(),
        );
        registry.register("contexts", "Contexts in memory", metrics.contexts.clone());
        metrics
    }
}

impl Default for Metrics {
    /// Makes metrics that nobody sees.
    fn default() -> Self {
        Self {
            exchanges: Family::default(),
            duration: Histogram::new(DURATIONS),
            age: Gauge::default(),
            unacknowledged: Family::default(),
            contexts: Family::default(),
        }
    }
}

/// From a store beside us to one that is about to be given up.
const DURATIONS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1., 3.];
