use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use http::HeaderMap;
use outrigger_filters::inference::{Code, Error, Form, Method, RequestParts, Status};

use crate::{
    codec::{oip_grpc, oip_rest, tfs_grpc, tfs_rest},
    config::Protocol,
    detect::Inference,
    upstream::Description,
    wire::json_len,
};

/// How a caller wants its answer said, as far as its call tells.
#[derive(Debug)]
pub(super) enum Reply {
    /// In which form contents stand in the message.
    OipGrpc(Form),
    OipRest(oip_rest::Reply),
    /// What was asked, of which signature.
    TfservingGrpc(Method, ByteString),
    /// By what the server says of the signature that was asked.
    TfservingRest(tfs_rest::Reply, Option<Arc<Description>>, ByteString),
}

/// A message that was read.
#[derive(Debug)]
pub(super) struct Understood {
    pub(super) parts: RequestParts,
    pub(super) reply: Reply,
    /// How many of its bytes are JSON, where the rest is tensors.
    pub(super) json_len: Option<usize>,
    /// What the server says of the version that is asked, where it matters.
    pub(super) description: Option<Arc<Description>>,
}

/// Reads a caller's message, with tensors in the `wanted` form where the protocol leaves the
/// choice.
///
/// # Errors
///
/// Fails where the message is not understood.
pub(super) fn read(
    call: &Inference,
    headers: &HeaderMap,
    message: &Bytes,
    description: Option<Arc<Description>>,
    server: Protocol,
    wanted: Form,
    max_message: usize,
) -> Result<Understood, Error> {
    let mut json = None;
    let (parts, reply) = match call.protocol {
        Protocol::OipGrpc => {
            let parts = oip_grpc::decode_request(message)?;
            let form = oip_grpc::form(&parts);
            (parts, Reply::OipGrpc(form))
        }
        Protocol::OipRest => {
            json = json_len(headers)?;
            let (parts, reply) = oip_rest::decode_request(message, json, wanted)?;
            (parts, Reply::OipRest(reply))
        }
        Protocol::TfservingGrpc => {
            let parts = tfs_grpc::decode_request(call.method, message, max_message)?;
            let signature = parts.head.signature.clone();
            (parts, Reply::TfservingGrpc(call.method, signature))
        }
        Protocol::TfservingRest => {
            let look_up = |name: &str| description.as_ref()?.signature(name);
            let (parts, reply) = tfs_rest::decode_request(call.method, message, look_up, wanted)?;
            let name = parts.head.signature.clone();
            // Examples name their features themselves.
            let is_named = call.method != Method::Infer || look_up(&name).is_some();
            if !is_named && server != Protocol::TfservingRest {
                return Err(undescribed(description.as_deref()).into());
            }
            (parts, Reply::TfservingRest(reply, description, name))
        }
    };
    Ok(Understood {
        parts,
        reply,
        json_len: json,
        description: None,
    })
}

/// Rows name neither inputs nor datatypes: without the server's word they cannot be said in another
/// protocol.
fn undescribed(description: Option<&Description>) -> Status {
    match description {
        Some(Description { signatures, .. }) if !signatures.is_empty() => Status::new(
            Code::InvalidArgument,
            "signature_name: the model's server knows no such signature",
        ),
        _ => Status::new(
            Code::InvalidArgument,
            "instances: the model's server does not say what the model takes",
        ),
    }
}
