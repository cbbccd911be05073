use std::{sync::Arc, time::Duration};

use outrigger_filters::{
    deadline::{self, Late, Margin, Stage},
    inference::Response,
    select::Learner,
};
use serde_json::json;
use tokio::time::Instant;

use super::{Arm, selection::Selection, views};
use crate::{
    config::{self, Protocol},
    telemetry::{Metrics, Requests},
};

/// A model of the configuration: the arms that may answer for it.
#[derive(Debug)]
pub struct Model {
    config: config::Model,
    /// At least one.
    arms: Box<[Arc<Arm>]>,
    /// Which of them is asked; left out where there is nothing to choose and nothing to learn.
    selection: Option<Selection>,
    /// The counts of requests, by what their callers speak.
    requests: [Arc<Requests>; Protocol::ALL.len()],
    /// How long before a deadline an answer is cut off.
    margin: Margin,
    expired: deadline::Handles,
    /// Calls whose callers were told that time was up.
    late: Late,
}

impl Model {
    /// Puts a model together of its arms, of which the first speaks for all where one has to;
    /// `None` where there are none.
    pub(super) fn new(
        config: &config::Model,
        arms: Vec<Arc<Arm>>,
        learner: Option<Learner>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let selection = learner.and_then(|learner| Selection::new(learner, &arms));
        (!arms.is_empty()).then(|| Self {
            margin: Margin::default(),
            late: Late::default(),
            expired: metrics.deadline().handles(&config.name),
            config: config.clone(),
            selection,
            arms: arms.into(),
            requests: Protocol::ALL
                .map(|protocol| Arc::new(metrics.requests(&config.name, protocol.as_str()))),
        })
    }

    /// Tells whether it would be the same if it were put together of these.
    pub(super) fn is_of(
        &self,
        config: &config::Model,
        arms: &[Arc<Arm>],
        learner: Option<&Learner>,
    ) -> bool {
        let same_learner = match (self.learner(), learner) {
            (Some(ours), Some(theirs)) => ours.is(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        let mut pairs = self.arms.iter().zip(arms);
        self.config == *config
            && same_learner
            && self.arms.len() == arms.len()
            && pairs.all(|(ours, theirs)| Arc::ptr_eq(ours, theirs))
    }

    /// Returns the name that clients send.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns who may answer, in the order of the configuration.
    pub fn arms(&self) -> &[Arc<Arm>] {
        &self.arms
    }

    /// Returns who answers callers: all but the shadows.
    pub(super) fn answering(&self) -> impl Iterator<Item = &Arc<Arm>> {
        let arms = self.arms.iter();
        arms.filter(|arm| arm.settings().shadow.is_none())
    }

    /// Returns the arm in whose form a request is read, and whose server is asked what the model
    /// is: the first one that answers.
    pub(super) fn primary(&self) -> &Arc<Arm> {
        primary(&self.arms).unwrap_or(&self.arms[0])
    }

    /// Returns who says which arm is asked, where there is something to choose or to learn.
    pub(super) fn selection(&self) -> Option<&Selection> {
        self.selection.as_ref()
    }

    /// Returns what was learned of the arms, where something is.
    pub fn learner(&self) -> Option<&Learner> {
        Some(self.selection.as_ref()?.learner())
    }

    /// Returns until when a request has to be answered that came at an instant and may take so long,
    /// or as long as the configuration says.
    pub(super) fn deadline(&self, received: Instant, asked: Option<Duration>) -> Option<Instant> {
        let deadline = self.config.deadline.as_ref();
        let timeout = asked.or(deadline.and_then(|deadline| deadline.default))?;
        received.checked_add(timeout - self.margin.of(timeout))
    }

    /// Takes note of a request whose time was up at an instant, and of when its answer is out.
    pub(super) fn expired(&self, stage: Stage, deadline: Option<Instant>) {
        self.expired.expired(stage);
        if let Some(deadline) = deadline {
            self.margin.observe(deadline.elapsed());
        }
    }

    /// Returns where calls go on that are too late for their callers.
    pub(super) fn late(&self) -> &Late {
        &self.late
    }

    /// Brings the gauges of selection up to date.
    pub(super) fn show(&self) {
        self.expired.margin(self.margin.learned());
        if let Some(selection) = &self.selection {
            selection.learner().show(selection.available());
        }
    }

    /// Adds to what `/models` shows of the model how its arms stand.
    pub fn show_selection(&self, shown: &mut serde_json::Value) {
        let Some(selection) = &self.selection else {
            return;
        };
        let (learner, up) = (selection.learner(), selection.available());
        let standings = learner.standings(None, up);
        for (index, standing) in standings.iter().enumerate() {
            let arm = &mut shown["arms"][&*standing.arm];
            arm["weight"] = json!(standing.weight);
            arm["probability"] = json!(standing.probability);
            arm["observations"] = json!(standing.observations);
            arm["loss"] = json!(standing.loss);
            arm["up"] = json!(up.has(index));
        }
        for shadow in selection.shadows() {
            shown["arms"][&*shadow.arm]["shadow"] = views::shadow(&shadow);
        }
        shown["selection"] = views::selection(learner);
        let described = self.primary().learned().description();
        let signature = described
            .as_ref()
            .and_then(|described| described.signature(""));
        let faults = signature
            .map(|of| learner.default_faults(of))
            .unwrap_or_default();
        if !faults.is_empty() {
            let faults = faults.iter().map(ToString::to_string);
            shown["default_output_faults"] = faults.collect();
        }
    }

    /// Returns the arm whose answer this is.
    pub(super) fn answered_by(&self, response: &Response) -> &Arc<Arm> {
        let selected = response.report.selection.as_ref();
        let arm = selected.and_then(|selected| self.arms.get(selected.index));
        arm.unwrap_or_else(|| self.primary())
    }

    /// Returns the counts of its requests from callers who speak a protocol.
    pub(super) fn requests(&self, protocol: Protocol) -> &Arc<Requests> {
        &self.requests[protocol as usize]
    }

    /// Tells whether nothing shall happen to a caller's requests: no filter, no other name, and
    /// the server speaks what the caller speaks. They are passed through like those for a model
    /// that is not named.
    pub(super) fn is_plain(&self, protocol: Protocol) -> bool {
        self.selection.is_none()
            && self.config.deadline.is_none()
            && self.arms.len() == 1
            && self.primary().is_plain(protocol)
    }
}

/// Returns the first arm that answers.
pub(super) fn primary(arms: &[Arc<Arm>]) -> Option<&Arc<Arm>> {
    arms.iter().find(|arm| arm.answers())
}
