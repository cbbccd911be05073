use super::{Mind, Told};
use crate::select::State;

/// Shares by the configured weights: a canary, or what the other policies are compared with.
/// Nothing follows from what is told; it is counted all the same.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub(super) weights: Box<[f64]>,
}

impl Mind for Fixed {
    fn shares(&self, _: &State, available: &[usize], shares: &mut [f64]) {
        for arm in available {
            shares[*arm] = self.weights[*arm];
        }
    }

    fn lesson(&self, _: &State, _: &Told, _: &mut State) {}
}
