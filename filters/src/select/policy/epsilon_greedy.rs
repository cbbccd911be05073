use super::{Mind, Told};
use crate::select::State;

/// Mostly the arm with the least mean loss, and sometimes any (Sutton and Barto, Reinforcement
/// Learning, 2nd edition, section 2.2).
///
/// The mean is that of the latest losses. Of an arm of which nothing was told for long there are
/// none left, so it is held for good again, and tried. Replicas that know the same all do so at
/// once: with many of them the other policies lose less.
#[derive(Clone, Debug)]
pub(super) struct EpsilonGreedy {
    pub(super) epsilon: f64,
    pub(super) weights: Box<[f64]>,
}

impl Mind for EpsilonGreedy {
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]) {
        let mut least = f64::INFINITY;
        let mut most = 0.;
        for arm in available {
            let learned = state.arms[*arm];
            let mean = learned.score / (learned.trials + DOUBT);
            // Among equals, and at the start, the weightiest one.
            let weight = self.weights[*arm];
            if mean < least || mean == least && weight > most {
                least = mean;
                most = weight;
            }
        }
        for arm in available {
            let learned = state.arms[*arm];
            let mean = learned.score / (learned.trials + DOUBT);
            let best = mean == least && self.weights[*arm] == most;
            shares[*arm] = if best { 1. } else { 0. };
        }
        super::mix(shares, available, self.epsilon);
    }

    fn lesson(&self, _: &State, told: &Told, lesson: &mut State) {
        for (arm, loss) in &told.losses {
            lesson.arms[*arm].score += told.weight * loss;
            lesson.arms[*arm].trials += told.weight;
        }
    }
}

/// How many losses of 0 every arm is believed to have had besides.
const DOUBT: f64 = 1.;
