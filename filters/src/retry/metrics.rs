use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// The metric families of second tries, registered once a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    tries: Family<OfResult, Counter>,
    forgone: Family<OfReason, Counter>,
}

/// The metrics of one arm of a model.
#[derive(Clone, Debug)]
pub struct Handles {
    tries: [[Counter; Outcome::ALL.len()]; Kind::ALL.len()],
    forgone: [[Counter; Forgone::ALL.len()]; Kind::ALL.len()],
}

/// Why a request is sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection of the last try was lost.
    Lost,
    /// The first try takes longer than usual.
    Hedge,
}

/// What became of a second try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its answer is the caller's.
    Answered,
    /// It failed.
    Failed,
    /// The first one was answered before, or the caller left.
    Dropped,
}

/// Why there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgone {
    /// Too many requests were sent twice of late.
    Budget,
    /// No other endpoint has capacity to spare.
    Nowhere,
    /// Servers were lost with it, more than chance explains.
    Tries,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    model: String,
    arm: String,
    kind: Word,
    result: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    model: String,
    arm: String,
    kind: Word,
    reason: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl Metrics {
    /// Registers the families under their full names in a registry without a prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            tries: Family::default(),
            forgone: Family::default(),
        };
        // The registry adds the full stop to a help text and `_total` to a counter's name.
        registry.register(
            "outrigger_retry_tries",
            "Requests that were sent again, because their connection was lost or beside a slow first \
             try, by what became of that",
            metrics.tries.clone(),
        );
        registry.register(
            "outrigger_retry_forgone",
            "Requests that were not sent again, although there was cause to, by reason",
            metrics.forgone.clone(),
        );
        metrics
    }

    /// Returns the metrics of one arm of a model.
    pub fn handles(&self, model: &str, arm: &str) -> Handles {
        let tries = |kind: Kind, result: Outcome| {
            self.tries.get_or_create_owned(&OfResult {
                model: model.to_owned(),
                arm: arm.to_owned(),
                kind: Word(kind.name()),
                result: Word(result.name()),
            })
        };
        let forgone = |kind: Kind, reason: Forgone| {
            self.forgone.get_or_create_owned(&OfReason {
                model: model.to_owned(),
                arm: arm.to_owned(),
                kind: Word(kind.name()),
                reason: Word(reason.name()),
            })
        };
        Handles {
            tries: Kind::ALL.map(|kind| Outcome::ALL.map(|result| tries(kind, result))),
            forgone: Kind::ALL.map(|kind| Forgone::ALL.map(|reason| forgone(kind, reason))),
        }
    }
}

impl Handles {
    pub(super) fn tried(&self, kind: Kind, result: Outcome) -> &Counter {
        &self.tries[kind as usize][result as usize]
    }

    pub(super) fn forgone(&self, kind: Kind, reason: Forgone) -> &Counter {
        &self.forgone[kind as usize][reason as usize]
    }
}

impl Default for Handles {
    /// Makes metrics that nobody reads, for a filter outside of a process that exports them.
    fn default() -> Self {
        Metrics::register(&mut Registry::default()).handles("", "")
    }
}

impl Kind {
    /// All, each at its index.
    const ALL: [Self; 2] = [Self::Lost, Self::Hedge];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Hedge => "hedge",
        }
    }
}

impl Outcome {
    /// All, each at its index.
    const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Dropped];

    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl Forgone {
    /// All, each at its index.
    const ALL: [Self; 3] = [Self::Budget, Self::Nowhere, Self::Tries];

    fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Nowhere => "nowhere",
            Self::Tries => "tries",
        }
    }
}

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}
