//! The Open Inference Protocol over REST, in JSON with or without binary tensors behind it.

mod body;
pub mod control;
mod malformed;
mod parameters;
mod reply;
mod request;
mod response;
mod tensor;
#[cfg(test)]
mod tests;
mod text;

pub(in crate::codec) use self::request::decode_inputs;
pub use self::{
    body::Body,
    malformed::{Fault, Malformed},
    reply::Reply,
    request::{decode_request, encode_request},
    response::{decode_response, encode_response},
};
