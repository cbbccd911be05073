use std::{path::Path, sync::Arc, time::Duration};

use outrigger_filters::select::{Arm, Defaults, Keys, Learner, Ledger, Parts};
use tracing::error;

use crate::{
    config::{self, Config as Whole, Deadline, Feedback},
    propensity::{Log, Logs},
    state::State,
    telemetry::Metrics,
};

/// What learns from feedback, and outlives the tables: where it is kept, what prediction ids are
/// signed with, and where choices are written down. A clone is a handle of the same.
#[derive(Clone, Debug)]
pub struct Learning {
    state: State,
    keys: Keys,
    logs: Arc<Logs>,
}

/// What was made of one model's configuration.
#[derive(Clone, Debug)]
pub(super) struct Taught {
    pub(super) learner: Learner,
    /// Where its choices are written down.
    log: Option<Log>,
}

impl Learning {
    /// Opens what a configuration names, as far as it is not what the last one named.
    pub(super) fn open(config: &Whole, last: Option<(&Self, &Whole)>, metrics: &Metrics) -> Self {
        let same_state = last.filter(|(_, before)| is_same_store(before, config));
        Self {
            state: match same_state {
                Some((last, _)) => last.state.clone(),
                None => {
                    let ids_are_valid = config.feedback.max_age;
                    State::open(&config.state, ids_are_valid, metrics.state().clone())
                }
            },
            keys: keys(&config.feedback, last.map(|(last, _)| &last.keys)),
            logs: last.map(|(last, _)| last.logs.clone()).unwrap_or_default(),
        }
    }

    /// Makes what learns of a model's arms, if its configuration has something to select.
    ///
    /// What the last one has learned is kept, of arms of the same name; where nothing that matters
    /// has changed it is the last one.
    pub(super) fn of_model(
        &self,
        whole: &Whole,
        model: &config::Model,
        last: Option<(&Taught, &Self, &Whole)>,
        metrics: &Metrics,
    ) -> Option<Taught> {
        let config = model.selection.as_ref()?;
        if let Some((taught, learning, before)) = last
            && learning.keys == self.keys
            && is_same(whole, model, before)
        {
            return Some(taught.clone());
        }
        let all: Vec<Arm> = model.arms.iter().map(config::Arm::selectable).collect();
        let arms: Vec<Arm> = (all.iter())
            .filter(|arm| arm.shadow.is_none())
            .cloned()
            .collect();
        let memory = self.state.memory(&model.name, config, &arms);
        if let Some((taught, _, before)) = last
            && !is_same_store(before, whole)
        {
            memory.begin_with(taught.learner.memory());
        }
        let log = model.selection_log.as_ref().map(|log| {
            let arms = arms.iter().map(|arm| arm.name.clone());
            self.logs.open(log, model.name.as_str(), arms)
        });
        let deadline = model.deadline.as_ref();
        let learner = Learner::new(Parts {
            model: model.name.as_str().into(),
            config: config.clone(),
            arms,
            memory,
            keys: self.keys.clone(),
            max_age: whole.feedback.max_age,
            default_output: deadline.and_then(defaults),
            min_confidence: deadline.and_then(|deadline| deadline.min_confidence),
            quorum: deadline.and_then(|deadline| deadline.quorum),
            ends_early: deadline.is_some_and(|deadline| deadline.enough),
            fair: deadline
                .and_then(|deadline| deadline.default)
                .map_or(model.latency_objective, |default| {
                    default.min(model.latency_objective)
                }),
            ledger: log.clone().map(|log| Arc::new(log) as Arc<dyn Ledger>),
            metrics: metrics.select().handles(&model.name, &all),
        });
        Some(Taught { learner, log })
    }

    /// Shares from now on what these learn, and no others.
    pub(super) fn take_over<'a>(&self, taught: impl Iterator<Item = &'a Taught>) {
        self.state
            .take_over(taught.map(|taught| taught.learner.memory()));
    }

    /// Tells whether the files of the keys hold what they held when they were read.
    pub fn is_current(&self, config: &Whole) -> bool {
        keys(&config.feedback, Some(&self.keys)) == self.keys
    }

    /// Returns where what was learned is kept, and how that goes.
    pub fn state(&self) -> &State {
        &self.state
    }
}

impl Taught {
    /// Writes down all choices that were made, for so long at most; keeps the thread meanwhile.
    pub(super) fn flush(&self, most: Duration) {
        if let Some(log) = &self.log {
            log.flush(most);
        }
    }
}

/// Returns what prediction ids are signed with: what the configured files hold now; where they cannot
/// be read, the last keys; and where none is configured, a random one, whose ids only this process
/// accepts.
fn keys(feedback: &Feedback, last: Option<&Keys>) -> Keys {
    let Some(path) = &feedback.key else {
        return last
            .cloned()
            .filter(Keys::is_alone)
            .unwrap_or_else(random_keys);
    };
    let read = |path: &Path| match Feedback::read_key(path) {
        Ok(key) => Some(key),
        Err(error) => {
            error!(path = %path.display(), %error, "a feedback key cannot be read");
            None
        }
    };
    let previous = match &feedback.previous_key {
        Some(previous) => read(previous).map(Some),
        None => Some(None),
    };
    let keys = read(path).zip(previous).and_then(|(current, previous)| {
        Keys::new(&current, previous.as_deref())
            .inspect_err(|error| error!(%error, "a feedback key is none"))
            .ok()
    });
    keys.or_else(|| last.cloned()).unwrap_or_else(random_keys)
}

/// Returns keys whose ids no other process accepts.
fn random_keys() -> Keys {
    let text = format!(
        "{:032x}{:032x}",
        rand::random::<u128>(),
        rand::random::<u128>()
    );
    Keys::random(text.as_bytes()).expect("64 digits are enough for a key")
}

/// Tells whether what was learned is kept as before: Redis recognises feedback for as long as ids
/// are valid.
fn is_same_store(one: &Whole, other: &Whole) -> bool {
    let recognises = |whole: &Whole| match whole.state {
        config::State::Redis(_) => Some(whole.feedback.max_age),
        _ => None,
    };
    one.state == other.state && recognises(one) == recognises(other)
}

/// Tells whether what learns of a model would be the same again.
fn is_same(whole: &Whole, model: &config::Model, before: &Whole) -> bool {
    let Some(last) = before.models.get(&model.name) else {
        return false;
    };
    let arms = |model: &config::Model| -> Vec<Arm> {
        model.arms.iter().map(config::Arm::selectable).collect()
    };
    model.selection == last.selection
        && model.selection_log == last.selection_log
        && model.deadline == last.deadline
        && arms(model) == arms(last)
        && whole.feedback == before.feedback
        && whole.state == before.state
}

fn defaults(deadline: &Deadline) -> Option<Defaults> {
    let outputs = deadline.default_output.clone();
    (!outputs.is_empty()).then(|| Defaults::new(outputs))
}
