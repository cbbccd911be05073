use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Request;
use tracing::Instrument as _;

use super::{Route, infer, passthrough};
use crate::{
    body::Body,
    detect::Call,
    server::{Handler, Outcome},
};

/// A listener's way in: each request takes the route that is published at its beginning.
#[derive(Clone, Debug)]
pub struct Router(Arc<ArcSwap<Route>>);

impl Router {
    /// Begins with a route.
    pub fn new(route: Arc<Route>) -> Self {
        Self(Arc::new(ArcSwap::new(route)))
    }

    /// Publishes another route; requests under way keep theirs.
    pub fn publish(&self, route: Arc<Route>) {
        self.0.store(route);
    }
}

impl Handler for Router {
    async fn handle(&self, request: Request<Body>) -> Outcome {
        let route = self.0.load_full();
        let call = Call::detect(&request);
        let span = tracing::debug_span!("request", method = %request.method(), path = request.uri().path());
        async move {
            match call {
                Call::OipGrpcInfer if !route.models.is_empty() => {
                    infer::infer(&route, request).await
                }
                _ => passthrough::pass(&route, request).await,
            }
        }
        .instrument(span)
        .await
    }
}
