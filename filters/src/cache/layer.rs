use tower::Layer;

use super::{Cache, Config, Store, Unit, metrics::Handles};
use crate::batch::Capability;

/// Puts a [`Cache`] in front of the services that it is given, which share one store.
#[derive(Clone, Debug)]
pub struct CacheLayer {
    store: Store,
    unit: Unit,
}

impl CacheLayer {
    /// Makes a layer with an empty store for one arm of a model; `capability` says whether the
    /// model takes rows of several requests together.
    pub fn new(config: Config, capability: Capability, metrics: Handles) -> Self {
        Self::with_store(Store::new(config, capability, metrics))
    }

    /// Makes a layer with a store that is there already.
    pub fn with_store(store: Store) -> Self {
        Self {
            unit: store.config().unit,
            store,
        }
    }

    /// Replaces what an entry holds, for the services that are given from now on.
    pub fn with_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S>;

    fn layer(&self, inner: S) -> Cache<S> {
        Cache::new(inner, self.store.clone(), self.unit)
    }
}
