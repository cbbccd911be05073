use std::{future::Future, sync::Arc};

use futures_util::FutureExt as _;
use http::Request;
use tracing::debug;

use super::{Route, watch::Watch};
use crate::{body::Body, detect::is_grpc, rescue, server::Outcome, upstream::Upstream};

/// Passes a request on to the listener's upstream, and the answer back, as they are.
pub(super) fn pass(
    route: &Route,
    request: Request<Body>,
) -> impl Future<Output = Outcome> + Send + use<> {
    let watch = if is_grpc(request.headers()) {
        Watch::grpc(route.grpc.clone())
    } else {
        Watch::http(route.http.clone())
    };
    pass_watched(route.upstream.clone(), request, watch)
}

/// Passes a request on to an upstream; its clock has begun already.
pub(super) fn pass_watched(
    upstream: Arc<Upstream>,
    request: Request<Body>,
    mut watch: Box<Watch>,
) -> impl Future<Output = Outcome> + Send + use<> {
    let grpc = is_grpc(request.headers());
    let version = request.version();
    // Mapped, not awaited in an `async` block, which would hold the call's future twice.
    upstream.call(request).map(move |answer| match answer {
        Ok(answer) => Outcome::Answer(watch.answered(answer)),
        Err(error) => {
            debug!(upstream = upstream.name(), %error, "call failed");
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
