//! The answers of the Open Inference Protocol.

use bytes::Bytes;
use bytestring::ByteString;
use http::StatusCode;
use outrigger_filters::inference::{Code, Status};
use serde_json::json;

use super::answer::Answer;
use crate::{
    codec::{
        oip_grpc::control::{self, BINARY, ModelMetadata, ServerMetadata},
        oip_rest,
    },
    config::Protocol,
    upstream::Description,
};

/// Says whether the server lives.
pub(super) fn live(protocol: Protocol) -> Answer {
    match protocol.is_grpc() {
        true => Answer::Message(control::write_ready(true)),
        false => Answer::page(json!({ "live": true }).to_string()),
    }
}

/// Says whether the server is ready, or the model of a name. Over REST the status says it, and a
/// 4xx that it is not.
pub(super) fn ready(protocol: Protocol, model: Option<&str>, ready: bool) -> Answer {
    if protocol.is_grpc() {
        return Answer::Message(control::write_ready(ready));
    }
    let body = match model {
        Some(name) => json!({ "name": name, "ready": ready }),
        None => json!({ "ready": ready }),
    };
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::BAD_REQUEST,
    };
    Answer::Page(status, body.to_string().into())
}

/// Says as a `HealthCheckResponse` whether a service is ready.
pub(super) fn health(ready: bool) -> Answer {
    // A key of field 1 as a varint, and SERVING or NOT_SERVING.
    let status = if ready { 1 } else { 2 };
    Answer::Message(Bytes::copy_from_slice(&[8, status]))
}

/// Says what the server is: this proxy, which takes binary tensors whatever the model's server
/// takes.
pub(super) fn server(protocol: Protocol) -> Answer {
    let server = ServerMetadata {
        name: ByteString::from_static(env!("CARGO_PKG_NAME")),
        version: ByteString::from_static(env!("CARGO_PKG_VERSION")),
        extensions: vec![ByteString::from_static(BINARY)],
    };
    match protocol.is_grpc() {
        true => Answer::Message(server.write()),
        false => Answer::page(oip_rest::control::write_server(&server)),
    }
}

/// Says what a model takes and gives: by its default signature, because the protocol knows of no
/// other.
///
/// # Errors
///
/// Fails where the model has signatures, and none is the default one.
pub(super) fn metadata(
    protocol: Protocol,
    model: &ByteString,
    described: &Description,
) -> Result<Answer, Status> {
    let signature = described.signature("").cloned();
    if signature.is_none() && !described.signatures.is_empty() {
        let names: Vec<&str> = described
            .signatures
            .iter()
            .map(|named| &*named.name)
            .collect();
        let words = format!(
            "model {model} has no default signature, and this protocol names none; it has: {}",
            names.join(", ")
        );
        return Err(Status::new(Code::FailedPrecondition, words));
    }
    let metadata = ModelMetadata {
        name: model.clone(),
        versions: described.versions.clone(),
        platform: described.platform.clone(),
        signature,
    };
    Ok(match protocol.is_grpc() {
        true => Answer::Message(metadata.write()),
        false => Answer::page(oip_rest::control::write_metadata(&metadata)),
    })
}
