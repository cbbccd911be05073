use std::{future::Future, sync::Arc};

use futures_util::FutureExt as _;
use http::Request;
use tracing::debug;

use super::{Route, watch::Watch};
use crate::{body::Body, detect::is_grpc, rescue, server::Outcome};

/// Passes a request on to the listener's upstream, and the answer back, as they are.
pub(super) fn pass(
    route: Arc<Route>,
    request: Request<Body>,
) -> impl Future<Output = Outcome> + Send + use<> {
    let watch = if is_grpc(request.headers()) {
        Watch::grpc(route.grpc.clone())
    } else {
        Watch::http(route.http.clone())
    };
    pass_watched(route, request, watch)
}

/// Passes a request on whose clock has begun already.
pub(super) fn pass_watched(
    route: Arc<Route>,
    request: Request<Body>,
    mut watch: Box<Watch>,
) -> impl Future<Output = Outcome> + Send + use<> {
    let grpc = is_grpc(request.headers());
    let version = request.version();
    // Mapped, not awaited in an `async` block, which would hold the call's future twice.
    route
        .upstream
        .call(request)
        .map(move |answer| match answer {
            Ok(answer) => Outcome::Answer(watch.answered(answer)),
            Err(error) => {
                debug!(upstream = route.upstream.name(), %error, "call failed");
                let verdict = rescue::verdict(&error);
                if grpc {
                    watch.count_grpc(verdict.code());
                    verdict.into_grpc()
                } else {
                    watch.count_http(verdict.status());
                    verdict.into_http(version)
                }
            }
        })
}
