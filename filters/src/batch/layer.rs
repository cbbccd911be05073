use tower::Layer;

use super::{
    Batch, Capability, Config,
    isolation::{Isolation, Verdict},
    metrics::Handles,
};

/// Puts a [`Batch`] in front of each endpoint that it is given.
///
/// What is known of contents that make calls fail is shared among them.
#[derive(Clone, Debug)]
pub struct BatchLayer {
    config: Config,
    capability: Capability,
    metrics: Handles,
    isolation: Isolation,
}

impl BatchLayer {
    /// Makes a layer for the endpoints of one arm of a model.
    pub fn new(config: Config, capability: Capability, metrics: Handles) -> Self {
        Self {
            config,
            capability,
            metrics,
            isolation: Isolation::default(),
        }
    }

    /// Replaces how errors are read that came of what a server said; by default a
    /// [`Status`](crate::inference::Status) is its verdict, and nothing else.
    pub fn with_verdict(self, verdict: Verdict) -> Self {
        Self {
            isolation: Isolation::new(verdict),
            ..self
        }
    }
}

impl<S> Layer<S> for BatchLayer {
    type Service = Batch<S>;

    fn layer(&self, inner: S) -> Batch<S> {
        Batch::isolating(
            inner,
            self.config.clone(),
            self.capability.clone(),
            self.metrics.clone(),
            self.isolation.clone(),
        )
    }
}
