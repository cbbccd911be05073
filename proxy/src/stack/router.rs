use std::{future::Future, sync::Arc};

use arc_swap::ArcSwap;
use futures_util::{FutureExt as _, future::Either};
use http::Request;
use tracing::Instrument as _;

use super::{Route, control, describe, infer, passthrough};
use crate::{
    body::Body,
    detect::Call,
    feedback,
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
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Outcome> + Send + 'static {
        let route = self.0.load_full();
        let span = tracing::debug_span!(
            "request",
            method = %request.method(),
            path = request.uri().path()
        );
        let handling = match Call::detect(&request) {
            // Boxed, because it is ten times as large as a pass-through, which most calls are.
            _ if route.models.is_empty() => Either::Right(passthrough::pass(&route, request)),
            Call::Infer(call) => {
                Either::Left(async move { infer::infer(&route, call, request).await }.boxed())
            }
            Call::Other if feedback::is_feedback(&request) && route.learns() => {
                let answer = async move { feedback::answer(&*route, &route, request).await };
                Either::Left(answer.boxed())
            }
            Call::Other => match describe::Call::detect(&request) {
                Some(call) => Either::Left(describe::answer(route, call, request).boxed()),
                None if control::is_control(&request) => {
                    Either::Left(control::pass(route, request).boxed())
                }
                None => Either::Right(passthrough::pass(&route, request)),
            },
        };
        handling.instrument(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, stack::Table, telemetry::Metrics, upstream::Connector};

    /// Every request's future is moved onto the heap once, and lies there until its answer ends:
    /// at first it was 8.7 KB, and copying it took a tenth of a pass-through's time.
    #[test]
    fn a_request_that_passes_through_is_small() {
        let config = Config::read(
            "{listeners: [{address: '127.0.0.1:0', upstream: u}],
              upstreams: {u: {protocol: oip-grpc, endpoints: ['http://127.0.0.1:9']}}}",
        );
        let table = Table::build(config.unwrap(), None, &Metrics::new(), &Connector::tcp());
        let router = Router::new(table.routes()[0].clone());
        let handling = router.handle(Request::new(Body::empty()));
        let size = std::mem::size_of_val(&handling);
        assert!(size <= 1024, "{size} bytes");
        let body = size_of::<Body>();
        // Eight bytes more where hyper is built with HTTP/2, as it is for the tests.
        assert!(body <= 72, "{body} bytes");
    }
}
