use tower::Layer;

use super::{Batch, Capability, Config, metrics::Handles};

/// Puts a [`Batch`] in front of each endpoint that it is given.
#[derive(Clone, Debug)]
pub struct BatchLayer {
    config: Config,
    capability: Capability,
    metrics: Handles,
}

impl BatchLayer {
    /// Makes a layer for the endpoints of one arm of a model.
    pub fn new(config: Config, capability: Capability, metrics: Handles) -> Self {
        Self {
            config,
            capability,
            metrics,
        }
    }
}

impl<S> Layer<S> for BatchLayer {
    type Service = Batch<S>;

    fn layer(&self, inner: S) -> Batch<S> {
        Batch::new(
            inner,
            self.config.clone(),
            self.capability.clone(),
            self.metrics.clone(),
        )
    }
}
