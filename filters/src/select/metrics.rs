use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Arm;
use crate::inference::DefaultReason;

/// The metric families of selection, registered once a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    chosen: Family<OfArm, Counter>,
    failed: Family<OfArm, Counter>,
    stragglers: Family<OfArm, Counter>,
    probability: Family<OfArm, Gauge<f64, AtomicU64>>,
    loss: Family<OfArm, Gauge<f64, AtomicU64>>,
    up: Family<OfArm, Gauge>,
    shadow: Family<OfResult, Counter>,
    feedback: Family<OfModel, Counter>,
    defaults: Family<OfReason, Counter>,
}

/// The metrics of one model.
#[derive(Clone, Debug)]
pub struct Handles {
    /// Of the arms that answer.
    pub(super) arms: Box<[ArmHandles]>,
    /// Of the shadows.
    pub(super) shadows: Box<[ShadowHandles]>,
    feedback: [Counter; Told::ALL.len()],
    defaults: [Counter; DefaultReason::ALL.len()],
}

/// The metrics of one arm.
#[derive(Clone, Debug)]
pub(super) struct ArmHandles {
    pub(super) chosen: Counter,
    pub(super) failed: Counter,
    pub(super) stragglers: Counter,
    pub(super) probability: Gauge<f64, AtomicU64>,
    pub(super) loss: Gauge<f64, AtomicU64>,
    pub(super) up: Gauge,
}

/// The metrics of one shadow, in rows of which it got a copy, but for those in copies.
#[derive(Clone, Debug)]
pub(super) struct ShadowHandles {
    pub(super) agree: Counter,
    pub(super) differ: Counter,
    pub(super) failed: Counter,
    pub(super) skipped: Counter,
}

/// What became of a piece of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    /// The arms' state has changed.
    Applied,
    /// It had been told before.
    Duplicate,
    /// The prediction id is none.
    Malformed,
    /// It was signed with another key.
    Foreign,
    /// It is too old.
    Expired,
    /// It cannot be compared with what was predicted, or is of arms that are no more.
    Unusable,
    /// There is no room for more that the other replicas have not heard of.
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfArm {
    model: String,
    arm: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    model: String,
    arm: String,
    result: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
    result: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    model: String,
    reason: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl Metrics {
    /// Registers the families under their full names in a registry without a prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            chosen: Family::default(),
            failed: Family::default(),
            stragglers: Family::default(),
            probability: Family::default(),
            loss: Family::default(),
            up: Family::default(),
            shadow: Family::default(),
            feedback: Family::default(),
            defaults: Family::default(),
        };
        registry.register(
            "outrigger_select",
            "Requests that an arm was chosen for, or asked for as a part of an ensemble",
            metrics.chosen.clone(),
        );
        registry.register(
            "outrigger_select_failures",
            "Calls that failed by the arm's fault",
            metrics.failed.clone(),
        );
        registry.register(
            "outrigger_stragglers",
            "Calls that had not been answered when the deadline came",
            metrics.stragglers.clone(),
        );
        registry.register(
            "outrigger_select_probability",
            "With which an arm is chosen where no context is known; of an ensemble, its share of the vote",
            metrics.probability.clone(),
        );
        registry.register(
            "outrigger_select_mean_loss",
            "Mean loss of an arm over all feedback",
            metrics.loss.clone(),
        );
        registry.register(
            "outrigger_select_up",
            "Whether an arm is asked at all",
            metrics.up.clone(),
        );
        registry.register(
            "outrigger_select_shadow",
            "Rows of which a shadow's answer was compared with the one that was given, by whether they are the same, and copies that it failed to answer or was not sent",
            metrics.shadow.clone(),
        );
        registry.register(
            "outrigger_feedback",
            "Feedback by what became of it",
            metrics.feedback.clone(),
        );
        registry.register(
            "outrigger_default_answers",
            "Answers that were the default output, whole or in part",
            metrics.defaults.clone(),
        );
        metrics
    }

    /// Returns the metrics of a model with these arms.
    pub fn handles(&self, model: &str, arms: &[Arm]) -> Handles {
        let of_arm = |arm: &Arm| {
            let of = OfArm {
                model: model.to_owned(),
                arm: arm.name.to_string(),
            };
            ArmHandles {
                chosen: self.chosen.get_or_create_owned(&of),
                failed: self.failed.get_or_create_owned(&of),
                stragglers: self.stragglers.get_or_create_owned(&of),
                probability: self.probability.get_or_create_owned(&of),
                loss: self.loss.get_or_create_owned(&of),
                up: self.up.get_or_create_owned(&of),
            }
        };
        let of_shadow = |arm: &Arm| {
            let of = |result| {
                self.shadow.get_or_create_owned(&OfResult {
                    model: model.to_owned(),
                    arm: arm.name.to_string(),
                    result: Word(result),
                })
            };
            ShadowHandles {
                agree: of("agree"),
                differ: of("differ"),
                failed: of("failed"),
                skipped: of("skipped"),
            }
        };
        Handles {
            arms: (arms.iter().filter(|arm| arm.shadow.is_none()))
                .map(of_arm)
                .collect(),
            shadows: (arms.iter().filter(|arm| arm.shadow.is_some()))
                .map(of_shadow)
                .collect(),
            feedback: Told::ALL.map(|told| {
                self.feedback.get_or_create_owned(&OfModel {
                    model: model.to_owned(),
                    result: Word(told.name()),
                })
            }),
            defaults: DefaultReason::ALL.map(|reason| {
                self.defaults.get_or_create_owned(&OfReason {
                    model: model.to_owned(),
                    reason: Word(reason.name()),
                })
            }),
        }
    }
}

impl Handles {
    pub(super) fn feedback(&self, told: Told) -> &Counter {
        &self.feedback[told as usize]
    }

    pub(super) fn defaults(&self, reason: DefaultReason) -> &Counter {
        &self.defaults[reason as usize]
    }
}

impl Told {
    /// All, each at its index.
    pub const ALL: [Self; 7] = [
        Self::Applied,
        Self::Duplicate,
        Self::Malformed,
        Self::Foreign,
        Self::Expired,
        Self::Unusable,
        Self::Full,
    ];

    /// Returns the word that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Malformed => "malformed",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::Unusable => "unusable",
            Self::Full => "full",
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
