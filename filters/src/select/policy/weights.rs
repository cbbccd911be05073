//! What policies have in common that go by weights: the logarithm of each is the arm's score.

use super::{INHERITED, Told};
use crate::select::{Learned, State};

/// Returns the span of log-weights with which no arm has less than its part of `share`, beside one
/// that has the rest.
///
/// Cutting weights off there does what mixing a share of all into each would (Herbster and Warmuth,
/// Tracking the best expert, 1998): an arm that was bad for however long is back in about
/// span / rate losses of the others. But it can be done by everyone who adds up differences, any
/// number of times, where each replica's mixing would add up to a lift that nobody meant.
pub(super) fn span(share: f64, arms: usize) -> f64 {
    let share = share.clamp(LEAST_SHARE, 0.5);
    (arms.max(2) as f64 * (1. - share) / share).ln()
}

/// Sets the share of each arm that is available to its weight.
pub(super) fn shares(state: &State, available: &[usize], shares: &mut [f64]) {
    let scores = available.iter().map(|arm| state.arms[*arm].score);
    let top = scores.fold(f64::NEG_INFINITY, f64::max);
    for arm in available {
        shares[*arm] = (state.arms[*arm].score - top).exp();
    }
}

/// How fast weights fall.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// In nats for each unit of the loss of a chosen arm, divided by its probability.
    pub(super) chosen: f64,
    /// In nats for each unit of loss where all are known.
    pub(super) known: f64,
    /// The most, in nats, that a weight falls by one loss, so that a single one never says more
    /// than that the arm is the worst.
    pub(super) most: f64,
}

/// Adds to each score what the arm's loss takes of it.
///
/// What is known of a single arm is divided by the probability with which it was chosen, so that
/// it tells as much of the arm, on average, as if all were known.
pub(super) fn lesson(rates: Rates, state: &State, told: &Told, lesson: &mut State) {
    for (arm, loss) in &told.losses {
        lesson.arms[*arm].past_score = *loss;
        lesson.arms[*arm].past_trials = 1.;
    }
    if let Some(probability) = told.probability {
        for (arm, loss) in &told.losses {
            let fall = told.weight * rates.chosen * loss / probability;
            lesson.arms[*arm].score -= fall.min(rates.most);
        }
        return;
    }
    // Arms of which it is not known lose what those lost together of which it is: their share of
    // the weight stays what it was (Freund, Schapire, Singer and Warmuth, Using and combining
    // predictors that specialize, STOC 1997).
    let fall = |loss: f64| (rates.known * loss).min(rates.most);
    let scores = told.losses.iter().map(|(arm, _)| state.arms[*arm].score);
    let top = scores.fold(f64::NEG_INFINITY, f64::max);
    let (mut before, mut after) = (0., 0.);
    for (arm, loss) in &told.losses {
        let weight = (state.arms[*arm].score - top).exp();
        before += weight;
        after += weight * (-fall(*loss)).exp();
    }
    let together: f64 = f64::ln(after / before);
    let together = if together.is_finite() { together } else { 0. };
    for arm in &mut lesson.arms {
        arm.score = together;
    }
    for (arm, loss) in &told.losses {
        lesson.arms[*arm].score = -fall(*loss);
    }
}

/// Sets what the scores of a context begin with, beside the prior: as if some of the losses that
/// each arm has in the mean had been told by it.
///
/// The weights themselves say what was best at the last moment, which of callers who differ is what
/// suits the last of them, and take as long to change as they could take to form.
pub(super) fn inherit(rates: Rates, overall: &State, prior: &State, state: &mut State) {
    // One of which nothing is known is hoped to be perfect.
    let mean = |arm: &Learned| match arm.past_trials > 0. {
        true => arm.past_score.max(0.) / arm.past_trials,
        false => 0.,
    };
    let means = overall.arms.iter().map(mean);
    let least = means.fold(f64::INFINITY, f64::min);
    let arms = overall.arms.iter().zip(&prior.arms);
    for (arm, (overall, prior)) in state.arms.iter_mut().zip(arms) {
        let losses = overall.past_trials.clamp(0., INHERITED);
        arm.score = prior.score - rates.known * losses * (mean(overall) - least);
    }
}

/// For how many of an arm's losses it is remembered what they were in the mean. It has to be those of
/// some hundred callers who tell some ten each: of fewer, the mean says who they were.
pub(super) const PAST_MEMORY: f64 = 5000.;

/// The least share that all arms may be left: with less, one that fell would hardly come back.
const LEAST_SHARE: f64 = 1e-9;
