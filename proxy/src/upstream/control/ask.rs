use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use outrigger_filters::inference::{Code, Error, Status};

use crate::{
    body::Body,
    codec::grpc,
    upstream::{
        Endpoint,
        grpc::{USER_AGENT, own_headers, unary, uri},
        rest::{Refused, exchange},
    },
};

/// Writes a text as one segment of a path.
pub(super) use crate::detect::escaped as segment;

/// A model by the name that it has on its server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served<'a> {
    pub(crate) model: &'a str,
    /// Nothing where the server may choose.
    pub(crate) version: &'a str,
    /// The name of a version, which only TensorFlow Serving knows.
    pub(crate) label: &'a str,
}

/// Makes a unary gRPC call of our own.
pub(super) async fn grpc(
    endpoint: &Arc<Endpoint>,
    path: &'static str,
    message: Bytes,
) -> Result<Bytes, Error> {
    let framed = grpc::frame(message);
    let answer = unary(
        None,
        endpoint,
        uri(endpoint, path),
        own_headers(),
        framed,
        MAX_ANSWER,
        None,
    );
    Ok(tokio::time::timeout(ANSWER, answer).await??.message)
}

/// Gets a page, and returns its body if it is there.
pub(super) async fn get(endpoint: &Arc<Endpoint>, path: &str) -> Result<Bytes, Error> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::try_from(path)?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(endpoint.authority().as_str())?;
    headers.insert(header::HOST, host);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let answer = exchange(None, endpoint, request, MAX_ANSWER);
    match tokio::time::timeout(ANSWER, answer).await? {
        Ok(answer) => Ok(answer.body),
        Err(error) => Err(match error.downcast::<Refused>() {
            Ok(refused) => Status::new(refused.code(), refused.message()).into(),
            Err(error) => error,
        }),
    }
}

/// Tells whether a server knows of no such call.
pub(super) fn is_unimplemented(error: &Error) -> bool {
    has_code(error, &[Code::Unimplemented])
}

/// Tells whether a server said one of these codes.
pub(super) fn has_code(error: &Error, codes: &[Code]) -> bool {
    error
        .downcast_ref::<Status>()
        .is_some_and(|status| codes.contains(&status.code()))
}

/// How long a server may take to speak of a model: it looks it up, and another endpoint may know.
const ANSWER: Duration = Duration::from_secs(2);
/// A model's configuration is text; the largest seen has some hundred kilobytes.
const MAX_ANSWER: usize = 4 << 20;
