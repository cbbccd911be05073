use std::path::Path;

use outrigger_filters::select::{Arm, Config, Defaults, Keys, Learner, Memory, Parts, Selector};
use tracing::error;

use crate::{
    config::{self, Config as Whole, Deadline, Feedback, State},
    telemetry::Metrics,
};

/// Makes what learns of a model's arms, if its configuration has something to select.
///
/// What the last one has learned is kept, of arms of the same name; where nothing that matters has
/// changed it is the last one.
pub(super) fn learner(
    whole: &Whole,
    model: &config::Model,
    keys: &Keys,
    last: Option<(&Learner, &Whole)>,
    metrics: &Metrics,
) -> Option<Learner> {
    let config = model.selection.as_ref()?;
    let arms: Vec<Arm> = model.arms.iter().map(config::Arm::selectable).collect();
    if let Some((learner, before)) = last
        && is_same(whole, model, before)
    {
        return Some(learner.clone());
    }
    let answering: Vec<Arm> = (arms.iter())
        .filter(|arm| arm.shadow.is_none())
        .cloned()
        .collect();
    let memory = memory(whole, model, config, &answering);
    if let Some((learner, _)) = last {
        memory.begin_with(learner.memory());
    }
    let deadline = model.deadline.as_ref();
    Some(Learner::new(Parts {
        model: model.name.as_str().into(),
        config: config.clone(),
        arms: answering,
        memory,
        keys: keys.clone(),
        max_age: whole.feedback.max_age,
        default_output: deadline.and_then(defaults),
        min_confidence: deadline.and_then(|deadline| deadline.min_confidence),
        ledger: None,
        metrics: metrics.select().handles(&model.name, &arms),
    }))
}

/// Returns what prediction ids are signed with: the configured keys, or a random one, whose ids only
/// this process accepts.
pub(super) fn keys(feedback: &Feedback) -> Keys {
    let read = |path: &Path| {
        Feedback::read_key(path)
            .inspect_err(
                |error| error!(path = %path.display(), %error, "a feedback key cannot be read"),
            )
            .ok()
    };
    let current = feedback.key.as_deref().and_then(read);
    let previous = feedback.previous_key.as_deref().and_then(read);
    let keys = current.map(|current| Keys::new(&current, previous.as_deref()));
    match keys {
        Some(Ok(keys)) => keys,
        Some(Err(error)) => {
            error!(%error, "the feedback key is none: a random one is used");
            random_keys()
        }
        None => random_keys(),
    }
}

fn random_keys() -> Keys {
    let text = format!(
        "{:032x}{:032x}",
        rand::random::<u128>(),
        rand::random::<u128>()
    );
    Keys::new(text.as_bytes(), None).expect("64 digits are enough for a key")
}

/// Tells whether a model's learner would be the same again.
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

fn memory(whole: &Whole, model: &config::Model, config: &Config, arms: &[Arm]) -> Memory {
    let names = arms.iter().map(|arm| arm.name.clone()).collect();
    let contexts = config.context.as_ref();
    let contexts = contexts.map_or(0, |context| context.max_contexts);
    let memory = Memory::new(Selector::new(config, arms), contexts, names);
    match whole.state {
        State::Redis(_) => {
            let replica = rand::random();
            memory.kept(model.name.as_str().into(), config.policy.as_str(), replica)
        }
        State::Memory | State::Directory(_) => memory,
    }
}

fn defaults(deadline: &Deadline) -> Option<Defaults> {
    let outputs = deadline.default_output.clone();
    (!outputs.is_empty()).then(|| Defaults::new(outputs))
}
