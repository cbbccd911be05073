use super::{
    Mind, Told, mix,
    weights::{self, Rates},
};
use crate::select::State;

/// Weights that fall exponentially with the losses of the arms that were chosen (Auer,
/// Cesa-Bianchi, Freund and Schapire, The nonstochastic multiarmed bandit problem, SIAM J. Comput.
/// 2002).
///
/// The loss of a chosen arm is divided by the probability with which it was chosen. What bounds
/// that is the exploration: each arm has at least its part of it.
#[derive(Clone, Debug)]
pub(super) struct Exp3 {
    exploration: f64,
    rates: Rates,
}

impl Exp3 {
    pub(super) fn new(learning_rate: f64, exploration: f64, span: f64) -> Self {
        Self {
            exploration,
            rates: Rates {
                chosen: learning_rate,
                known: learning_rate * KNOWN,
                most: span,
            },
        }
    }
}

impl Mind for Exp3 {
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]) {
        weights::shares(state, available, shares);
        mix(shares, available, self.exploration);
    }

    fn lesson(&self, state: &State, told: &Told, lesson: &mut State) {
        weights::lesson(self.rates, state, told, lesson);
    }

    fn inherit(&self, overall: &State, prior: &State, state: &mut State) {
        weights::inherit(self.rates, overall, prior, state);
    }
}

/// How much faster weights fall where all losses are known: nothing is divided by a probability
/// then, so there is less noise that has to be waited for.
const KNOWN: f64 = 2.;
