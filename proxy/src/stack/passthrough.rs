use std::sync::Arc;

use http::Request;
use tracing::debug;

use super::{Route, watch::Watch};
use crate::{body::Body, detect::is_grpc, rescue, server::Outcome};

/// Passes a request on to the listener's upstream, and the answer back, as they are.
pub(super) async fn pass(route: &Arc<Route>, request: Request<Body>) -> Outcome {
    let grpc = is_grpc(request.headers());
    let mut watch = if grpc {
        Watch::grpc(route.grpc.clone())
    } else {
        Watch::http(route.http.clone())
    };
    match route.upstream.call(request).await {
        Ok(answer) => Outcome::Answer(watch.answered(answer)),
        Err(error) => {
            debug!(upstream = route.upstream.name(), %error, "call failed");
            let verdict = rescue::verdict(&error);
            if grpc {
                watch.count_grpc(verdict.code());
                verdict.into_grpc()
            } else {
                watch.count_http(verdict.status());
                verdict.into_http()
            }
        }
    }
}
