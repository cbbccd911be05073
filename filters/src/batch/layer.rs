use std::sync::Arc;

use tower::Layer;

use super::{
    Batch, Capability, Config,
    isolation::{Isolation, Verdict},
    metrics::Handles,
};
use crate::overload::Room;

/// Puts a [`Batch`] in front of each endpoint that it is given.
///
/// What is known of contents that make calls fail is shared among them, and so is the room for what
/// waits.
#[derive(Clone, Debug)]
pub struct BatchLayer {
    pub(super) config: Config,
    pub(super) capability: Capability,
    pub(super) metrics: Handles,
    pub(super) isolation: Isolation,
    pub(super) room: Arc<Room>,
}

impl BatchLayer {
    /// Makes a layer for the endpoints of one arm of a model.
    pub fn new(config: Config, capability: Capability, metrics: Handles) -> Self {
        let room = Room::of_model(config.max_queue_rows, config.max_queue_bytes, None);
        Self {
            config,
            capability,
            metrics,
            isolation: Isolation::default(),
            room,
        }
    }

    /// Bounds what waits within what may wait for all models together.
    pub fn within(self, whole: Arc<Room>) -> Self {
        let Config {
            max_queue_rows,
            max_queue_bytes,
            ..
        } = self.config;
        Self {
            room: Room::of_model(max_queue_rows, max_queue_bytes, Some(whole)),
            ..self
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
        Batch::layered(inner, self)
    }
}
