use std::sync::Arc;

use tower::Layer;

use super::{Config, Endpoints, Handles, Knows, Retry, View, shared::Shared};

/// Puts a [`Retry`] in front of the endpoints of one arm of a model.
///
/// All that one layer makes share their budgets and what was learned.
#[derive(Clone, Debug)]
pub struct RetryLayer {
    shared: Arc<Shared>,
}

impl RetryLayer {
    /// Makes a layer for one arm of a model.
    pub fn new(config: Config, knows: Knows, metrics: Handles) -> Self {
        Self {
            shared: Arc::new(Shared::new(config, knows, metrics)),
        }
    }

    /// Returns what has been learned.
    pub fn view(&self) -> View {
        View {
            hedge_after: self.shared.hedges_after(),
        }
    }
}

impl<E: Endpoints> Layer<E> for RetryLayer {
    type Service = Retry<E>;

    fn layer(&self, endpoints: E) -> Retry<E> {
        Retry::new(endpoints, self.shared.clone())
    }
}
