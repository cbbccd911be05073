//! What policies have in common that go by weights: the logarithm of each is the arm's score.

use super::Told;
use crate::select::State;

/// Returns the span of log-weights with which no arm has less than its part of `share`.
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

/// Adds to each score what the arm's loss takes of it.
///
/// What is known of a single arm is divided by the probability with which it was chosen, so that
/// it tells as much of the arm, on average, as if all were known.
pub(super) fn lesson(rate: f64, state: &State, told: &Told, lesson: &mut State) {
    if let Some(probability) = told.probability {
        for (arm, loss) in &told.losses {
            lesson.arms[*arm].score -= rate * loss / probability.max(LEAST_PROBABILITY);
        }
        return;
    }
    // Arms of which it is not known lose what those lost together of which it is: their share of
    // the weight stays what it was (Freund, Schapire, Singer and Warmuth, Using and combining
    // predictors that specialize, 1997).
    let scores = told.losses.iter().map(|(arm, _)| state.arms[*arm].score);
    let top = scores.fold(f64::NEG_INFINITY, f64::max);
    let (mut before, mut after) = (0., 0.);
    for (arm, loss) in &told.losses {
        let weight = (state.arms[*arm].score - top).exp();
        before += weight;
        after += weight * (-rate * loss).exp();
    }
    let common = match before > 0. && after > 0. {
        true => (after / before).ln(),
        false => 0.,
    };
    for arm in &mut lesson.arms {
        arm.score += common;
    }
    for (arm, loss) in &told.losses {
        lesson.arms[*arm].score += -rate * loss - common;
    }
}

/// The least share that all arms may be left: with less, one that fell would hardly come back.
const LEAST_SHARE: f64 = 1e-9;

/// The least probability that a loss is divided by, so that no single one says too much.
const LEAST_PROBABILITY: f64 = 1e-3;
