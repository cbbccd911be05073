//! How the arms of a model stand beside each other, and what is learned of them.

use std::mem;

use bytestring::ByteString;
use outrigger_filters::select::{self, Config, Context, Loss, Missing, Policy, Value};

use super::super::fault::{Collector, Place};
use super::super::leaf::{Fraction, LossKind, Perhaps, Positive};
use super::super::read::{At, Named};
use super::super::units::format_size;
use super::super::{Arm, Deadline, Name, SelectionLog, file};
use super::{CONTROLS, Surroundings};
use crate::codec::grpc::metadata::{self, Role};

/// What is selected from, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    arms: Option<&'a At<Named<Name, file::Arm>>>,
    selection: Option<&'a At<file::Selection>>,
    deadline: Option<&'a At<file::Deadline>>,
}

impl<'a> Written<'a> {
    pub(super) fn of(model: &'a file::Model) -> Self {
        Self {
            arms: model.arms.as_ref(),
            selection: model.selection.as_ref(),
            deadline: model.deadline.as_ref(),
        }
    }

    /// Whether there is something to select: an arm or a default output, or what was asked for.
    pub(super) fn selects(self) -> bool {
        let default = self
            .deadline
            .and_then(|deadline| deadline.default_output.as_ref());
        let several = self.arms.is_some_and(|arms| arms.0.len() > 1);
        several || default.is_some() || self.selection.is_some()
    }

    /// The arms that answer.
    fn answering(self) -> impl Iterator<Item = &'a At<file::Arm>> {
        let arms = self.arms.into_iter().flat_map(|arms| arms.0.iter());
        arms.map(|(_, arm)| arm).filter(|arm| shadow(arm).is_none())
    }

    /// How many arms answer, with the one that stands where none is written.
    fn answer(self) -> usize {
        match self.arms {
            Some(_) => self.answering().count(),
            None => 1,
        }
    }
}

/// How an arm stands beside the others, put into what is known of it.
pub(super) fn share(section: &file::Arm, arm: &mut Arm) {
    arm.shadow = shadow(section);
    if let Some(weight) = &section.weight {
        arm.weight = weight.value.0;
    }
    if let Some(least) = &section.min_probability {
        arm.min_probability = least.value.0;
    }
    if let Some(most) = &section.max_probability {
        arm.max_probability = most.value.0;
    }
}

fn shadow(arm: &file::Arm) -> Option<f64> {
    arm.shadow.as_ref().and_then(|share| share.value.0)
}

/// Finds fault with arms that cannot stand beside each other.
pub(super) fn check_arms(written: Written<'_>, faults: &mut Collector) {
    let Some(arms) = written.arms else {
        return;
    };
    if arms.0.len() > MAX_ARMS {
        let message = format_args!("a model has at most {MAX_ARMS} arms");
        faults.add(&arms.place, message);
    }
    if !arms.0.is_empty() && written.answer() == 0 {
        faults.add(&arms.place, "all of them are shadows: none answers");
        return;
    }
    for (_, arm) in &arms.0 {
        let shares = [
            arm.weight.as_ref().map(|at| &at.place),
            arm.min_probability.as_ref().map(|at| &at.place),
            arm.max_probability.as_ref().map(|at| &at.place),
        ];
        let why = match (shadow(arm), written.selects()) {
            (Some(_), _) => "means nothing to a shadow, which is never chosen",
            (None, false) => "means nothing: the model has one arm and no `selection`",
            (None, true) => continue,
        };
        for place in shares.into_iter().flatten() {
            faults.add(place, why);
        }
    }
    if !written.selects() {
        return;
    }
    let value = |at: &Option<At<Fraction>>, default| at.as_ref().map_or(default, |at| at.value.0);
    let default = select::Arm::new("");
    let (mut least, mut most, mut weights) = (0., 0., 0.);
    for arm in written.answering() {
        let min = value(&arm.min_probability, default.min_probability);
        let max = value(&arm.max_probability, default.max_probability);
        if min > max {
            let at = arm
                .min_probability
                .as_ref()
                .or(arm.max_probability.as_ref());
            let place = at.map_or(&arm.place, |at| &at.place);
            faults.add(
                place,
                format_args!("is more than `max_probability`, which is {max}"),
            );
        }
        least += min;
        most += max;
        weights += arm.weight.as_ref().map_or(default.weight, |at| at.value.0);
    }
    // Sums of what is written in tenths are not exact.
    if least > 1. + ROUNDING {
        faults.add(
            &arms.place,
            "the least probabilities are more than 1 together",
        );
    }
    if most < 1. - ROUNDING {
        faults.add(
            &arms.place,
            "the greatest probabilities are less than 1 together",
        );
    }
    if weights <= 0. {
        faults.add(&arms.place, "one of the arms that answer needs a `weight`");
    }
}

/// Which arm answers, if there is something to select.
pub(super) fn selection(written: Written<'_>, faults: &mut Collector) -> Option<Config> {
    if !written.selects() {
        return None;
    }
    let default = Config::default();
    let Some(section) = written.selection else {
        return Some(default);
    };
    let policy = policy(section, faults);
    let ensemble = ensemble(section, policy, written.answer(), faults);
    Some(Config {
        policy: policy.unwrap_or(default.policy),
        ensemble,
        context: section.context.as_ref().and_then(|at| context(at, faults)),
        label: section.label.as_ref().map(|at| at.value.as_str().into()),
        loss: loss(section, faults),
        missing: written
            .deadline
            .and_then(|deadline| deadline.missing.as_ref())
            .map_or(default.missing, |missing| missing.value),
        failure: section
            .failure_loss
            .as_ref()
            .map_or(default.failure, |at| at.value.0),
        freeze: section
            .freeze
            .as_ref()
            .map_or(default.freeze, |at| at.value),
        seed: section.seed.as_ref().map(|at| at.value.0 as u64),
    })
}

/// The policy with its settings; none where it is not known which one was meant.
fn policy(section: &file::Selection, faults: &mut Collector) -> Option<Policy> {
    let mut policy = match &section.policy {
        None => Config::default().policy,
        Some(At {
            value: Perhaps(Ok(policy)),
            ..
        }) => *policy,
        Some(At {
            place,
            value: Perhaps(Err(message)),
        }) => {
            faults.add(place, message);
            return None;
        }
    };
    let mut settings = Settings::of(section);
    match &mut policy {
        Policy::Fixed => {}
        Policy::EpsilonGreedy { epsilon, discount } => {
            settings.take("epsilon", epsilon);
            settings.take("discount", discount);
        }
        Policy::Exp3 {
            learning_rate,
            exploration,
            share,
        } => {
            settings.take("learning_rate", learning_rate);
            settings.take("exploration", exploration);
            settings.take("share", share);
        }
        Policy::Exp4 {
            learning_rate,
            share,
        } => {
            settings.take("learning_rate", learning_rate);
            settings.take("share", share);
        }
        Policy::Thompson { discount } => settings.take("discount", discount),
    }
    for (name, _, place) in settings.left {
        let message = format_args!("policy `{}` has no `{name}`", policy.as_str());
        faults.add(place, message);
    }
    if let Some(at) = &section.learning_rate
        && at.value.0 > MAX_LEARNING_RATE
    {
        faults.add(
            &at.place,
            format_args!("must be at most {MAX_LEARNING_RATE}"),
        );
    }
    if let Some(at) = &section.share
        && at.value.0 > MAX_SHARE
    {
        let message = format_args!("must be at most {MAX_SHARE}: more forgets what it is told");
        faults.add(&at.place, message);
    }
    if let Some(at) = &section.discount
        && at.value.0 <= 0.
    {
        faults.add(&at.place, "must be more than 0: nothing would be learned");
    }
    Some(policy)
}

/// Settings of policies that are written, and that none has asked for yet.
struct Settings<'a> {
    left: Vec<(&'static str, f64, &'a Place)>,
}

impl<'a> Settings<'a> {
    fn of(section: &'a file::Selection) -> Self {
        let fraction = |name, at: &'a Option<At<Fraction>>| {
            at.as_ref().map(|at| (name, at.value.0, &at.place))
        };
        let rate: Option<&At<Positive>> = section.learning_rate.as_ref();
        let left = [
            rate.map(|at| ("learning_rate", at.value.0, &at.place)),
            fraction("exploration", &section.exploration),
            fraction("share", &section.share),
            fraction("discount", &section.discount),
            fraction("epsilon", &section.epsilon),
        ];
        Self {
            left: left.into_iter().flatten().collect(),
        }
    }

    fn take(&mut self, name: &str, setting: &mut f64) {
        for (_, value, _) in self.left.extract_if(.., |(left, ..)| *left == name) {
            *setting = value;
        }
    }
}

/// Whether all arms are asked.
fn ensemble(
    section: &file::Selection,
    policy: Option<Policy>,
    arms: usize,
    faults: &mut Collector,
) -> bool {
    let votes = matches!(policy, Some(Policy::Exp4 { .. }));
    let asked = section.ensemble.as_ref().map(|at| at.value);
    match (policy, &section.ensemble) {
        (Some(Policy::Exp4 { .. }), Some(at)) if !at.value => {
            faults.add(&at.place, "with policy `exp4` all arms answer");
        }
        (Some(Policy::Exp4 { .. } | Policy::Fixed) | None, _) => {}
        (Some(policy), Some(at)) if at.value => {
            let policy = policy.as_str();
            let message = format_args!(
                "policy `{policy}` chooses one arm; all answer with `fixed` and `exp4`"
            );
            faults.add(&at.place, message);
        }
        (Some(_), _) => {}
    }
    let ensemble = votes || asked == Some(true);
    if ensemble && arms == 1 {
        let at = section.ensemble.as_ref().filter(|at| at.value);
        let at = at.map(|at| &at.place);
        let at = at.or(section.policy.as_ref().map(|at| &at.place));
        if let Some(place) = at {
            faults.add(place, "needs several arms: one has nobody to agree with");
        }
    }
    ensemble
}

fn context(section: &At<file::Context>, faults: &mut Collector) -> Option<Context> {
    if let Some(at) = &section.max_contexts
        && at.value.get() > MAX_CONTEXTS
    {
        faults.add(&at.place, format_args!("must be at most {MAX_CONTEXTS}"));
    }
    let header = section.header.as_ref()?;
    let name = header.value.as_str();
    if metadata::role(name) != Role::Caller || CONTROLS.contains(&name) {
        faults.add(
            &header.place,
            "tells nobody apart: it says nothing of who asks, and is not looked at",
        );
    } else if CREDENTIALS.contains(&name) {
        faults.add(
            &header.place,
            "is a credential, and would stand in prediction ids and in the store: name another one",
        );
    }
    Some(Context {
        header: name.into(),
        max_contexts: section
            .max_contexts
            .as_ref()
            .map_or(CONTEXTS, |at| at.value.get()),
    })
}

fn loss(section: &file::Selection, faults: &mut Collector) -> Loss {
    let kind = match &section.loss {
        None => LossKind::ZeroOne,
        Some(At {
            value: Perhaps(Ok(kind)),
            ..
        }) => *kind,
        Some(At {
            place,
            value: Perhaps(Err(message)),
        }) => {
            faults.add(place, message);
            return Loss::ZeroOne;
        }
    };
    let scale = section.loss_scale.as_ref();
    let scale_or = |default| scale.map_or(default, |at| at.value.0);
    match kind {
        LossKind::ZeroOne => {
            if let Some(at) = scale {
                faults.add(&at.place, "loss `zero-one` has no scale");
            }
            Loss::ZeroOne
        }
        LossKind::Absolute => Loss::Absolute {
            scale: scale_or(1.),
        },
        LossKind::Squared => Loss::Squared {
            scale: scale_or(1.),
        },
        LossKind::Log => Loss::Log {
            scale: scale_or(LOG_SCALE),
        },
    }
}

/// Where choices are written down, if anywhere.
pub(super) fn log(
    written: Written<'_>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<SelectionLog> {
    let section = written.selection?.log.as_ref()?;
    if let Some(at) = &section.max_bytes
        && at.value.0 < LEAST_LOG
    {
        let least = format_size(LEAST_LOG);
        faults.add(&at.place, format_args!("must be at least {least}"));
    }
    if let Some(at) = &section.files
        && at.value.get() > MAX_LOGS
    {
        faults.add(&at.place, format_args!("must be at most {MAX_LOGS}"));
    }
    if let Some(at) = &section.sample
        && at.value.0 <= 0.
    {
        let message = "must be more than 0; leave `log` out to write nothing";
        faults.add(&at.place, message);
    }
    Some(SelectionLog {
        path: surroundings.path(section.path.as_ref()?),
        max_bytes: section
            .max_bytes
            .as_ref()
            .map_or(LOG_BYTES, |at| at.value.0),
        files: section.files.as_ref().map_or(LOGS, |at| at.value.get()),
        sample: section.sample.as_ref().map_or(1., |at| at.value.0),
    })
}

/// What is answered where there is no answer worth giving.
pub(super) fn deadline(
    written: Written<'_>,
    selection: Option<&Config>,
    answering: usize,
    faults: &mut Collector,
) -> Option<Deadline> {
    let section = written.deadline?;
    let outputs = section.default_output.iter().flat_map(|outputs| &outputs.0);
    let outputs = outputs.map(|(name, values)| {
        let found = values.value.iter();
        let found: Vec<Value> = found.map(|at| at.value.clone()).collect();
        let kind = |value: &Value| match value {
            // A whole number may stand for one with a fraction.
            Value::Integer(_) => mem::discriminant(&Value::Number(0.)),
            value => mem::discriminant(value),
        };
        if let [first, rest @ ..] = found.as_slice()
            && rest.iter().any(|value| kind(value) != kind(first))
        {
            faults.add(
                &values.place,
                "an output holds numbers, or texts, or true and false, not some of each",
            );
        }
        (ByteString::from(name.as_str()), found)
    });
    let default_output: Vec<_> = outputs.collect();
    if let Some(at) = &section.min_confidence {
        if at.value.0 <= 0. {
            faults.add(
                &at.place,
                "must be more than 0; left out, every answer is given",
            );
        } else if section.default_output.is_none() && !faults.is_within(&section.place) {
            faults.add(
                &at.place,
                "needs `default_output`: there is nothing to give instead",
            );
        } else if selection.is_some_and(|selection| !selection.ensemble) {
            faults.add(
                &at.place,
                "needs an ensemble, with `selection.policy: exp4` or `selection.ensemble: true`: \
                 one arm alone has no confidence",
            );
        }
    }
    if let Some(at) = section.default.as_ref().filter(|at| at.value.is_zero()) {
        faults.add(
            &at.place,
            "must be more than 0; left out, an answer may take its time",
        );
    }
    let is_ensemble = selection.is_some_and(|selection| selection.ensemble);
    let of_ensembles = [
        section.quorum.as_ref().map(|at| &at.place),
        (section.enough.as_ref().filter(|at| at.value)).map(|at| &at.place),
        (section
            .missing
            .as_ref()
            .filter(|at| at.value == Missing::Mean))
        .map(|at| &at.place),
    ];
    for place in of_ensembles.into_iter().flatten().filter(|_| !is_ensemble) {
        faults.add(
            place,
            "needs an ensemble, with `selection.policy: exp4` or `selection.ensemble: true`",
        );
    }
    if let Some(at) = &section.quorum
        && at.value.get() > answering
    {
        let message = format!("is more than the arms that answer, which are {answering}");
        faults.add(&at.place, message);
    }
    Some(Deadline {
        default: section.default.as_ref().map(|at| at.value),
        quorum: section.quorum.as_ref().map(|at| at.value.get()),
        enough: section.enough.as_ref().is_some_and(|at| at.value),
        default_output,
        min_confidence: section.min_confidence.as_ref().map(|at| at.value.0),
        timeout_parameter: section
            .timeout_parameter
            .as_ref()
            .is_some_and(|at| at.value),
    })
}

/// Headers that nobody else must read.
const CREDENTIALS: [&str; 4] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
];
/// More arms than anybody compares at the same time; what is learned of one begins to mean nothing.
const MAX_ARMS: usize = 64;
/// What sums of probabilities may be off.
const ROUNDING: f64 = 1e-9;
/// Weights fall by a factor of 22000 at once; more is a slip.
const MAX_LEARNING_RATE: f64 = 10.;
/// The most of the weights that an update evens out; what is learned lasts for one update then.
const MAX_SHARE: f64 = 0.5;
/// Callers that are remembered where nothing is said: some tens of megabytes.
const CONTEXTS: usize = 100_000;
/// The most callers that are remembered: some gigabytes.
const MAX_CONTEXTS: usize = 10_000_000;
/// The loss, in nats, of a probability of 1 in 100.
const LOG_SCALE: f64 = 4.605_170_185_988_092;
/// Where nothing is said, the logs of a model take a quarter of a gigabyte.
const LOG_BYTES: usize = 64 << 20;
const LOGS: usize = 4;
/// The smallest file of a log: some hundreds of lines.
const LEAST_LOG: usize = 64 << 10;
/// The most files of a log: they are listed whenever another one is begun.
const MAX_LOGS: usize = 1000;
