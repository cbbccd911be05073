use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, header, uri::PathAndQuery};
use outrigger_filters::inference::{self, Error, Method, Payload, Response};
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;
use tower::Service;
use tracing::{Instrument as _, debug};

use super::{Cause, Description, Endpoint, Learned, Upstream, due::Due, grpc, rest};
use crate::{
    body::Body,
    codec::{
        grpc::{
            frame,
            metadata::{self, Role},
        },
        oip_grpc, oip_rest, tfs_grpc, tfs_rest,
    },
    config::Protocol,
    detect::{escaped, grpc_path},
    wire::{Answer, Call, JSON_LEN, json_len},
};

/// Asks a model for an inference on one endpoint, in the endpoint's protocol, or on another one
/// of its upstream's while that one cannot be reached.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    learned: Learned,
    max_message: usize,
    duration: Histogram,
    /// Whether the server is told the time that is left as a parameter of the request.
    tells_timeout: bool,
}

impl Client {
    /// Makes the innermost service of a model's stack; answers of more than `max_message` bytes
    /// are not read. What the server says of the model tells the types of answers that name none.
    /// With `tells_timeout`, a server of the Open Inference Protocol is told the time that is left
    /// as the parameter `timeout`.
    pub fn new(
        upstream: Arc<Upstream>,
        endpoint: Arc<Endpoint>,
        learned: Learned,
        max_message: usize,
        duration: Histogram,
        tells_timeout: bool,
    ) -> Self {
        let is_oip = [Protocol::OipGrpc, Protocol::OipRest].contains(&upstream.protocol());
        Self(Arc::new(Shared {
            upstream,
            endpoint,
            learned,
            max_message,
            duration,
            tells_timeout: tells_timeout && is_oip,
        }))
    }

    /// Returns the endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0.endpoint
    }
}

impl Service<inference::Request> for Client {
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: inference::Request) -> Self::Future {
        let shared = self.0.clone();
        let span = tracing::debug_span!("upstream", endpoint = %shared.endpoint.authority());
        let call = async move {
            let started = Instant::now();
            let request = shared.with_timeout(request, started);
            let called = if shared.upstream.protocol().is_grpc() {
                shared.call_grpc(request).await
            } else {
                shared.call_rest(request).await
            };
            shared.duration.observe(started.elapsed().as_secs_f64());
            called
        };
        Box::pin(call.instrument(span))
    }
}

impl Shared {
    /// Tells the server the time that is left as a parameter, where that is wanted.
    fn with_timeout(&self, request: inference::Request, now: Instant) -> inference::Request {
        match request.head.deadline.filter(|_| self.tells_timeout) {
            Some(deadline) => request.with_queue_timeout(deadline.saturating_duration_since(now)),
            None => request,
        }
    }

    async fn call_grpc(&self, request: inference::Request) -> Result<Response, Error> {
        let protocol = self.upstream.protocol();
        let method = request.head.method;
        let headers = self.headers(&request);
        let deadline = request.head.deadline;
        let message = match (self.wire(&request), protocol) {
            (Some(call), _) => frame(call.body.clone()),
            (None, Protocol::TfservingGrpc) => tfs_grpc::encode_request(&request)?,
            (None, _) => oip_grpc::encode_request(&request)?,
        };
        drop(request);
        let answer = grpc::unary(
            Some(&self.upstream),
            &self.endpoint,
            grpc::uri(&self.endpoint, grpc_path(protocol, method)),
            headers,
            message,
            self.max_message,
            deadline,
        )
        .await?;
        let read = match protocol {
            Protocol::TfservingGrpc => {
                tfs_grpc::decode_response(method, &answer.message, self.max_message)
                    .map_err(Error::from)
            }
            _ => oip_grpc::decode_response(&answer.message).map_err(Error::from),
        };
        Ok(response(
            read,
            Answer {
                headers: answer.headers,
                body: answer.message,
                trailers: answer.trailers,
            },
        ))
    }

    async fn call_rest(&self, request: inference::Request) -> Result<Response, Error> {
        let protocol = self.upstream.protocol();
        let method = request.head.method;
        let path = PathAndQuery::try_from(rest_path(protocol, &request.head))
            .map_err(|error| super::Error::new(None, Cause::Request(Arc::new(error.into()))))?;
        let mut headers = self.headers(&request);
        let description = self.description(&request).await;
        let signature = description
            .as_ref()
            .and_then(|description| description.signature(&request.head.signature));
        let (body, json) = match (self.wire(&request), protocol) {
            (Some(call), _) => (Payload::from(call.body.clone()), call.json_len),
            (None, Protocol::OipRest) => {
                let body = oip_rest::encode_request(&request);
                (body.payload, body.json_len)
            }
            (None, _) => (tfs_rest::encode_request(&request, signature)?, None),
        };
        if self.wire(&request).is_none() {
            say_json_len(json, &mut headers);
        }
        let deadline = request.head.deadline;
        drop(request);
        let mut call = Request::new(Body::full(body, None));
        *call.method_mut() = HttpMethod::POST;
        *call.uri_mut() = grpc::address(&self.endpoint, path);
        *call.headers_mut() = headers;
        Due::put(deadline, &mut call);
        let answer =
            rest::exchange(Some(&self.upstream), &self.endpoint, call, self.max_message).await?;
        let read = match protocol {
            Protocol::OipRest => json_len(&answer.headers)
                .map_err(Error::from)
                .and_then(|len| oip_rest::decode_response(&answer.body, len).map_err(Error::from)),
            _ => tfs_rest::decode_response(method, &answer.body, signature).map_err(Error::from),
        };
        Ok(response(
            read,
            Answer {
                headers: answer.headers,
                body: answer.body,
                trailers: HeaderMap::new(),
            },
        ))
    }

    /// Returns the message of an unchanged request that speaks the server's protocol.
    fn wire<'a>(&self, request: &'a inference::Request) -> Option<&'a Call> {
        request
            .wire()
            .and_then(|wire| wire.downcast_ref::<Call>())
            .filter(|call| call.inference.protocol == self.upstream.protocol())
    }

    /// Returns the description by which an answer is read: the one by which the request was, or for
    /// a call that several requests share, what is known of the version that they name.
    async fn description(&self, request: &inference::Request) -> Option<Arc<Description>> {
        if self.upstream.protocol() != Protocol::TfservingRest {
            return None;
        }
        let (version, label) = (&request.head.version, &request.head.label);
        match request.origin() {
            Some(origin) => origin
                .downcast_ref::<Call>()
                .and_then(|call| call.description.clone())
                .or_else(|| self.learned.of(version, label)),
            // It was known when they came to share one, and has hardly been forgotten since.
            None => self.learned.wait_of(version, label).await.ok(),
        }
    }

    /// Returns the headers of a call: the caller's own, as far as the server's protocol has a use
    /// for them, or those that the callers of a merged one have in common.
    fn headers(&self, request: &inference::Request) -> HeaderMap {
        let is_grpc = self.upstream.protocol().is_grpc();
        let origin = request
            .origin()
            .and_then(|origin| origin.downcast_ref::<Call>());
        // What was not read off the wire has no headers that would say what its body is.
        let own = origin.filter(|origin| {
            origin.said.is_none() && origin.inference.protocol.is_grpc() == is_grpc
        });
        if let Some(origin) = own {
            let mut headers = origin.headers.clone();
            // The message goes out decompressed, and the answer is wanted so.
            REPLACED.iter().for_each(|name| drop(headers.remove(*name)));
            if !is_grpc {
                self.name_host(&mut headers);
            }
            return headers;
        }
        let mut headers = if is_grpc {
            grpc::own_headers()
        } else {
            self.own_headers()
        };
        match origin {
            Some(origin) => headers.extend(
                origin
                    .headers
                    .iter()
                    .filter(|(name, _)| metadata::role(name.as_str()) != Role::Transport)
                    .map(|(name, value)| (name.clone(), value.clone())),
            ),
            None => metadata::append(&request.head.metadata, &mut headers),
        }
        headers
    }

    fn own_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        self.name_host(&mut headers);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(grpc::USER_AGENT),
        );
        headers
    }

    fn name_host(&self, headers: &mut HeaderMap) {
        if let Ok(host) = HeaderValue::from_str(self.endpoint.authority().as_str()) {
            headers.insert(header::HOST, host);
        }
    }
}

/// Makes a response of an answer; one that is not understood can still be passed on as it came.
fn response(read: Result<inference::ResponseParts, Error>, answer: Answer) -> Response {
    let headers = metadata::of_answer(&answer.headers);
    let trailers = metadata::of_answer(&answer.trailers);
    let mut response = match read {
        Ok(parts) => Response::from_wire(parts, Arc::new(answer)),
        Err(cause) => {
            debug!(%cause, "answer not understood");
            Response::opaque(Arc::new(answer))
        }
    };
    response.headers = headers;
    response.trailers = trailers;
    response
}

/// Says how many bytes of a body are JSON, and what kind of body it is.
fn say_json_len(json_len: Option<usize>, headers: &mut HeaderMap) {
    let content_type = match json_len {
        Some(len) => {
            headers.insert(JSON_LEN, HeaderValue::from(len));
            "application/octet-stream"
        }
        None => {
            headers.remove(JSON_LEN);
            "application/json"
        }
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
}

/// Writes the path of an inference over REST.
pub(crate) fn rest_path(protocol: Protocol, head: &inference::Head) -> String {
    match protocol {
        Protocol::OipRest => oip_path(head),
        _ => tfserving_path(head),
    }
}

fn oip_path(head: &inference::Head) -> String {
    let model = escaped(&head.model);
    if head.version.is_empty() {
        format!("/v2/models/{model}/infer")
    } else {
        format!(
            "/v2/models/{model}/versions/{}/infer",
            escaped(&head.version)
        )
    }
}

fn tfserving_path(head: &inference::Head) -> String {
    let model = escaped(&head.model);
    let verb = match head.method {
        Method::Infer => "predict",
        Method::Classify => "classify",
        Method::Regress => "regress",
    };
    if !head.version.is_empty() {
        format!(
            "/v1/models/{model}/versions/{}:{verb}",
            escaped(&head.version)
        )
    } else if !head.label.is_empty() {
        format!("/v1/models/{model}/labels/{}:{verb}", escaped(&head.label))
    } else {
        format!("/v1/models/{model}:{verb}")
    }
}

/// What a caller says of its own transport, compression and patience.
const REPLACED: [&str; 8] = [
    "accept-encoding",
    "content-encoding",
    "content-length",
    "expect",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "transfer-encoding",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_what_the_head_names() {
        let mut head = inference::Head {
            model: "a b".into(),
            ..inference::Head::default()
        };
        assert_eq!(oip_path(&head), "/v2/models/a%20b/infer");
        assert_eq!(tfserving_path(&head), "/v1/models/a%20b:predict");
        head.label = "x".into();
        head.method = Method::Classify;
        assert_eq!(tfserving_path(&head), "/v1/models/a%20b/labels/x:classify");
        head.version = "3".into();
        head.method = Method::Regress;
        assert_eq!(oip_path(&head), "/v2/models/a%20b/versions/3/infer");
        assert_eq!(tfserving_path(&head), "/v1/models/a%20b/versions/3:regress");
    }
}
