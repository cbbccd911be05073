use std::sync::Arc;

use tower::Layer;

use super::{Admission, Config, metrics::Handles};
use crate::overload::Room;

/// Puts an [`Admission`] in front of each endpoint that it is given; they share the room for what
/// waits.
#[derive(Clone, Debug)]
pub struct AdmissionLayer {
    pub(super) config: Config,
    pub(super) metrics: Handles,
    pub(super) room: Arc<Room>,
}

impl AdmissionLayer {
    /// Makes a layer for the endpoints of one arm of a model.
    pub fn new(config: Config, metrics: Handles) -> Self {
        let room = Room::of_requests(config.max_queue_requests, config.max_queue_bytes, None);
        Self {
            config,
            metrics,
            room,
        }
    }

    /// Bounds what waits within what may wait for all models together.
    #[must_use]
    pub fn within(self, whole: Arc<Room>) -> Self {
        let Config {
            max_queue_requests,
            max_queue_bytes,
            ..
        } = self.config;
        Self {
            room: Room::of_requests(max_queue_requests, max_queue_bytes, Some(whole)),
            ..self
        }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission::layered(inner, self)
    }
}
