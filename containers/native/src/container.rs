//! A model before it is served: what it says of itself, what it computes, and how it behaves.

use std::fmt::Debug;
use std::sync::Arc;

use crate::curve::{Curve, Jitter};
use crate::faults::Faults;
use crate::random::Random;
use crate::signature::Signature;
use crate::tensor::Tensor;

/// A model that a [`Server`](crate::Server) can be built with.
#[derive(Debug, Clone)]
pub struct Container {
    pub(crate) signature: Signature,
    pub(crate) behaviour: Arc<dyn Behaviour>,
    pub(crate) manner: Manner,
    pub(crate) seed: u64,
}

/// What a model computes.
pub(crate) trait Behaviour: Debug + Send + Sync + 'static {
    /// Answers one call of so many rows.
    fn answer(&self, inputs: &[Tensor], rows: usize) -> Vec<Tensor>;

    /// Whether answers take time of their own, to which the curve is added.
    fn computes(&self) -> bool {
        false
    }

    /// Answers without a thought.
    fn guess(&self, inputs: &[Tensor], rows: usize, _random: &mut Random) -> Vec<Tensor> {
        self.answer(inputs, rows)
    }
}

/// How a model behaves; all of it can be changed while it is served.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// What a call takes of a processor, besides what it computes.
    pub(crate) labour: Curve,
    pub(crate) curve: Curve,
    pub(crate) jitter: Jitter,
    pub(crate) faults: Arc<Faults>,
}
