use super::{Mind, Told, mix, weights};
use crate::select::State;

/// Weights that fall exponentially with the losses of the arms that were chosen (Auer,
/// Cesa-Bianchi, Freund and Schapire, The nonstochastic multiarmed bandit problem, 2002).
#[derive(Clone, Debug)]
pub(super) struct Exp3 {
    pub(super) learning_rate: f64,
    pub(super) exploration: f64,
}

impl Mind for Exp3 {
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]) {
        weights::shares(state, available, shares);
        mix(shares, available, self.exploration);
    }

    fn lesson(&self, state: &State, told: &Told, lesson: &mut State) {
        weights::lesson(self.learning_rate, state, told, lesson);
    }
}
