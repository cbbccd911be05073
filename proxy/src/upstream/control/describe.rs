use std::sync::Arc;

use outrigger_filters::inference::Error;

use super::{Description, Served, oip_grpc, oip_rest, tfserving_grpc, tfserving_rest};
use crate::{
    config::Protocol,
    upstream::{Cause, Endpoint, Upstream, error},
};

/// Asks the endpoints in turn to describe a model, until one does.
///
/// # Errors
///
/// Fails with the last one's reason where none does.
pub(crate) async fn describe(
    upstream: &Upstream,
    served: Served<'_>,
) -> Result<Description, Error> {
    let mut failed = None;
    for endpoint in upstream.endpoints() {
        match ask(upstream.protocol(), endpoint, served).await {
            Ok(description) => return Ok(description),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| error::Error::new(None, Cause::NoEndpoint).into()))
}

pub(super) async fn ask(
    protocol: Protocol,
    endpoint: &Arc<Endpoint>,
    served: Served<'_>,
) -> Result<Description, Error> {
    match protocol {
        Protocol::OipGrpc => oip_grpc::describe(endpoint, served).await,
        Protocol::OipRest => oip_rest::describe(endpoint, served).await,
        Protocol::TfservingGrpc => tfserving_grpc::describe(endpoint, served).await,
        Protocol::TfservingRest => tfserving_rest::describe(endpoint, served).await,
    }
}
