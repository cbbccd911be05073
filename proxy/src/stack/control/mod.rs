//! Calls that change what a server's models are, seen as they pass by.
//!
//! They are none of the proxy's business and pass through untouched. But what was answered before
//! such a call may be wrong after it, so everything is forgotten that the caches hold of the models
//! of that server: when the call is seen, when its answer begins, and when it has ended.
//!
//! ```text
//!            seen         answer begins    ended
//! caller ----->|---- load ---->|------------>|
//!            flush           flush         flush, and the server is asked anew what it serves
//! ```
//!
//! A flush also keeps out what was under way before it, so nothing that the old model said is found
//! once the caller knows that the new one is there. Where the call did not end well (it failed, or
//! its caller left), the server may still be at it: then it is flushed again for some time.
//!
//! All models of the server are meant, and not the one that the call names: that one may be a part
//! of an ensemble, or share what it loads with others.

mod call;
mod hosts;
mod seen;
mod stacks;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::Request;

pub(super) use self::{
    call::is_control,
    seen::Seen,
    stacks::{Keeps, Stacks},
};
use super::{Route, passthrough, watch::Watch};
use crate::{body::Body, detect::is_grpc, server::Outcome};

/// Passes a control call on to the listener's upstream, and flushes for it.
pub(super) async fn pass(route: Arc<Route>, request: Request<Body>) -> Outcome {
    let seen = Seen::new(route.stacks.clone(), &route.upstream);
    let watch = if is_grpc(request.headers()) {
        Watch::grpc(route.grpc.clone())
    } else {
        Watch::http(route.http.clone())
    };
    let watch = watch.telling(seen);
    passthrough::pass_watched(route.upstream.clone(), request, watch).await
}
