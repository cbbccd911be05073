use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use outrigger_filters::{
    batch::{Batchable, Capability},
    inference::{Code, Error, Status},
};
use tracing::{debug, info};

use super::{
    Endpoint, Upstream,
    grpc::{own_headers, unary, uri},
};
use crate::{
    body::Body,
    codec::{
        grpc,
        oip_grpc::control::{self, ModelConfig},
    },
    config::{Name, Protocol},
};

/// Asks a model's server until it says what the model can take, and again now and then: a model
/// may be loaded anew with another configuration.
///
/// An answer that did not divide stays decisive: what the server says cannot outweigh it.
pub async fn learn(
    upstream: Arc<Upstream>,
    model: Name,
    version: Option<Name>,
    capability: Capability,
) {
    let version = version.as_deref().unwrap_or_default();
    let mut pause = FIRST_PAUSE;
    loop {
        for endpoint in upstream.endpoints() {
            match batchable(endpoint, &model, version).await {
                Ok(batchable) => {
                    if capability.learn(batchable) {
                        info!(model = %model, ?batchable, "learned from the server");
                        if batchable == Batchable::Unknown {
                            info!(
                                model = %model,
                                "the server does not say whether the model takes batches: \
                                 batch.max_batch_size would"
                            );
                        }
                    }
                    pause = LATER_PAUSE;
                    break;
                }
                Err(error) => {
                    debug!(model = %model, %error, "the server does not say what the model takes");
                }
            }
        }
        tokio::time::sleep(pause).await;
        if pause < LATER_PAUSE {
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Tells whether a model takes batches: its configuration says so exactly, its metadata where
/// there is no configuration to be had.
async fn batchable(
    endpoint: &Arc<Endpoint>,
    model: &str,
    version: &str,
) -> Result<Batchable, Error> {
    let question = control::model_request(model, version);
    match ask(endpoint, MODEL_CONFIG, question.clone()).await {
        Ok(answer) => return Ok(ModelConfig::read(&answer)?.batchable()),
        Err(error) if is_unimplemented(&error) => {}
        Err(error) => return Err(error),
    }
    let answer = ask(endpoint, MODEL_METADATA, question).await?;
    Ok(control::metadata_batchable(&answer)?)
}

/// Returns what is not ready of an upstream: its server, or one of the models. Everything is asked
/// at the same time.
pub(crate) async fn unready(upstream: &Upstream, models: &[(String, String)]) -> Vec<String> {
    let name = upstream.name();
    if models.is_empty() {
        return match any_ready(upstream, None).await {
            true => Vec::new(),
            false => vec![format!("upstream {name}")],
        };
    }
    let asked = models.iter().map(async |(model, version)| {
        let ready = any_ready(upstream, Some((model, version))).await;
        (!ready).then(|| format!("upstream {name}: model {model}"))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn any_ready(upstream: &Upstream, model: Option<(&str, &str)>) -> bool {
    let endpoints = upstream.endpoints().iter();
    let asked: FuturesUnordered<_> = endpoints
        .map(|endpoint| ready(upstream, endpoint, model))
        .collect();
    let any = asked.any(std::future::ready);
    tokio::time::timeout(PATIENCE, any).await.unwrap_or(false)
}

async fn ready(upstream: &Upstream, endpoint: &Arc<Endpoint>, model: Option<(&str, &str)>) -> bool {
    match (upstream.protocol(), model) {
        (Protocol::OipGrpc, Some((model, version))) => said_ready(
            ask(
                endpoint,
                MODEL_READY,
                control::model_request(model, version),
            )
            .await,
        ),
        (Protocol::OipGrpc, None) => said_ready(ask(endpoint, SERVER_READY, Bytes::new()).await),
        (Protocol::OipRest, _) => get(endpoint, "/v2/health/ready").await,
        // The API has no call that speaks of the server alone; one that answers anything is up.
        (Protocol::TfservingGrpc, _) => match ask(endpoint, MODEL_STATUS, Bytes::new()).await {
            Ok(_) => true,
            Err(error) => error.is::<Status>(),
        },
        (Protocol::TfservingRest, _) => get(endpoint, "/v1/models").await,
    }
}

/// A server without the call is taken at its word that it answers.
fn said_ready(answer: Result<Bytes, Error>) -> bool {
    match answer {
        Ok(answer) => control::ready(&answer),
        Err(error) => is_unimplemented(&error),
    }
}

async fn get(endpoint: &Arc<Endpoint>, path: &'static str) -> bool {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static(path);
    if let Ok(host) = http::HeaderValue::from_str(endpoint.authority().as_str()) {
        request.headers_mut().insert(http::header::HOST, host);
    }
    match super::call_endpoint(endpoint, request).await {
        Ok(answer) => !answer.status().is_server_error(),
        Err(_) => false,
    }
}

async fn ask(endpoint: &Arc<Endpoint>, path: &'static str, message: Bytes) -> Result<Bytes, Error> {
    let framed = grpc::frame(message);
    let answer = unary(
        None,
        endpoint,
        uri(endpoint, path),
        own_headers(),
        framed,
        MAX_ANSWER,
    );
    Ok(tokio::time::timeout(ANSWER, answer).await??.message)
}

fn is_unimplemented(error: &Error) -> bool {
    error
        .downcast_ref::<Status>()
        .is_some_and(|status| status.code() == Code::Unimplemented)
}

const MODEL_CONFIG: &str = "/inference.GRPCInferenceService/ModelConfig";
const MODEL_METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
const MODEL_READY: &str = "/inference.GRPCInferenceService/ModelReady";
const SERVER_READY: &str = "/inference.GRPCInferenceService/ServerReady";
const MODEL_STATUS: &str = "/tensorflow.serving.ModelService/GetModelStatus";

/// The first wait for a server that does not answer yet; a laptop's server takes seconds to load.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait for a server that does not answer, or does not have the model yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The wait between looks at a model that is known.
const LATER_PAUSE: Duration = Duration::from_secs(10);
/// How long a server may take to speak of a model: it looks it up, and another endpoint may know.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a probe of `/ready` waits for all servers: kubelet's own patience is a second.
const PATIENCE: Duration = Duration::from_millis(900);
/// A model's configuration is text; the largest seen has some hundred kilobytes.
const MAX_ANSWER: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use tokio::{io::DuplexStream, time::Instant};

    use super::*;
    use crate::{config::Config, io::BoxStream, upstream::Connector};

    /// Makes an upstream of endpoints that answer if they are called `good`.
    fn upstream(endpoints: &[&str]) -> Arc<Upstream> {
        let config = format!(
            "{{listeners: [{{address: '127.0.0.1:0', upstream: u}}],
               upstreams: {{u: {{protocol: oip-grpc, endpoints: {endpoints:?}}}}}}}"
        );
        let config = Config::read(&config).unwrap();
        let connector = Connector::new(|authority| async move {
            let (near, far) = tokio::io::duplex(1 << 16);
            tokio::spawn(serve(far, authority.host() == "good"));
            Ok(Box::new(near) as BoxStream)
        });
        Arc::new(Upstream::new("u", &config.upstreams["u"], &connector))
    }

    /// Greets, and answers everything in one way, or nothing at all.
    async fn serve(pipe: DuplexStream, answers: bool) {
        let mut connection = h2::server::handshake(pipe).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            if !answers {
                held.push(respond);
                continue;
            }
            let mut stream = respond
                .send_response(http::Response::new(()), false)
                .unwrap();
            // As `ModelConfigResponse` a limit of 64 rows, as `ModelReadyResponse` that it is.
            let message = [0, 0, 0, 0, 6, 0x0a, 2, 0x20, 64, 0x08, 1];
            stream
                .send_data(Bytes::copy_from_slice(&message), false)
                .unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers).unwrap();
        }
    }

    fn models() -> Vec<(String, String)> {
        ["a", "b", "c"]
            .map(|name| (name.to_owned(), String::new()))
            .to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_answered_in_time_however_many_are_silent() {
        let began = Instant::now();
        let silent = upstream(&["http://silent:1", "http://silent:2", "http://silent:3"]);
        assert_eq!(unready(&silent, &models()).await.len(), 3);
        assert_eq!(unready(&silent, &[]).await, ["upstream u"]);
        let took = began.elapsed();
        assert!(took < 2 * PATIENCE + Duration::from_millis(10), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_endpoint_that_is_ready_is_enough_and_none_is_waited_for() {
        let began = Instant::now();
        let mixed = upstream(&["http://silent:1", "http://good:1", "http://silent:2"]);
        assert!(unready(&mixed, &models()).await.is_empty());
        assert!(unready(&mixed, &[]).await.is_empty());
        assert!(began.elapsed() < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_endpoint_does_not_keep_a_model_unknown_that_another_knows() {
        let mixed = upstream(&["http://silent:1", "http://good:1"]);
        let capability = Capability::new(Batchable::Unasked);
        let model = "m".parse().unwrap();
        let learning = learn(mixed, model, None, capability.clone());
        let learning = tokio::time::timeout(ANSWER + Duration::from_secs(1), learning);
        learning.await.unwrap_err();
        let known = Batchable::Yes {
            max_batch_size: Some(64),
        };
        assert_eq!(capability.get(), known);
    }
}
