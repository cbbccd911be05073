use super::{Mind, Told, weights};
use crate::select::State;

/// Weights in the vote of all arms, which fall exponentially with their losses (Auer,
/// Cesa-Bianchi, Freund and Schapire, The nonstochastic multiarmed bandit problem, 2002).
#[derive(Clone, Debug)]
pub(super) struct Exp4 {
    pub(super) learning_rate: f64,
}

impl Mind for Exp4 {
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]) {
        weights::shares(state, available, shares);
    }

    fn lesson(&self, state: &State, told: &Told, lesson: &mut State) {
        weights::lesson(self.learning_rate, state, told, lesson);
    }
}
