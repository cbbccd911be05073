use super::{
    Mind, Told,
    weights::{self, Rates},
};
use crate::select::State;

/// Weights in the vote of all arms, which fall exponentially with their losses (Auer,
/// Cesa-Bianchi, Freund and Schapire, The nonstochastic multiarmed bandit problem, SIAM J. Comput.
/// 2002; with all losses known it is Littlestone and Warmuth, The weighted majority algorithm,
/// Inf. Comput. 1994).
#[derive(Clone, Debug)]
pub(super) struct Exp4 {
    rates: Rates,
}

impl Exp4 {
    pub(super) fn new(learning_rate: f64, span: f64) -> Self {
        Self {
            rates: Rates {
                chosen: learning_rate * CHOSEN,
                known: learning_rate,
                most: span,
            },
        }
    }
}

impl Mind for Exp4 {
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]) {
        weights::shares(state, available, shares);
    }

    fn lesson(&self, state: &State, told: &Told, lesson: &mut State) {
        weights::lesson(self.rates, state, told, lesson);
    }

    fn inherit(&self, overall: &State, prior: &State, state: &mut State) {
        weights::inherit(self.rates, overall, prior, state);
    }
}

/// How much slower weights fall where only the loss of one arm is known, which is then divided by
/// the probability with which it was chosen and so has more noise.
const CHOSEN: f64 = 0.3;
