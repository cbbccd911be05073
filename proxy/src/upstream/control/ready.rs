use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};

use super::{Served, oip_grpc, oip_rest, tfserving_grpc, tfserving_rest};
use crate::{
    config::Protocol,
    upstream::{Endpoint, Upstream},
};

/// Returns what is not ready of an upstream: its server, or one of the models. Everything is asked
/// at the same time.
pub(crate) async fn unready(upstream: &Upstream, models: &[(String, String)]) -> Vec<String> {
    let name = upstream.name();
    if models.is_empty() {
        return match is_ready(upstream, None).await {
            true => Vec::new(),
            false => vec![format!("upstream {name}")],
        };
    }
    let asked = models.iter().map(async |(model, version)| {
        let served = Served {
            model,
            version,
            label: "",
        };
        let ready = is_ready(upstream, Some(served)).await;
        (!ready).then(|| format!("upstream {name}: model {model}"))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Tells whether one endpoint at least says that the model is ready, or the server where no model
/// is given.
pub(crate) async fn is_ready(upstream: &Upstream, served: Option<Served<'_>>) -> bool {
    let endpoints = upstream.endpoints().iter();
    let asked: FuturesUnordered<_> = endpoints
        .map(|endpoint| ready(upstream.protocol(), endpoint, served))
        .collect();
    let any = asked.any(std::future::ready);
    tokio::time::timeout(PATIENCE, any).await.unwrap_or(false)
}

async fn ready(protocol: Protocol, endpoint: &Arc<Endpoint>, served: Option<Served<'_>>) -> bool {
    match protocol {
        Protocol::OipGrpc => oip_grpc::ready_now(endpoint, served).await,
        Protocol::OipRest => oip_rest::ready(endpoint, served).await,
        Protocol::TfservingGrpc => tfserving_grpc::ready(endpoint, served).await,
        Protocol::TfservingRest => tfserving_rest::ready(endpoint, served).await,
    }
}

/// How long a probe of `/ready` waits for all servers: kubelet's own patience is a second.
pub(super) const PATIENCE: Duration = Duration::from_millis(900);
