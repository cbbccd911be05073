//! The Open Inference Protocol over gRPC: `ModelInferRequest` and `ModelInferResponse`.

mod contents;
pub mod control;
mod malformed;
mod parameters;
mod peek;
mod request;
mod response;
pub(in crate::codec) mod rope;
mod tensor;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod witness;

pub use self::{
    malformed::{Cause, Malformed},
    peek::{Peek, model_name},
    request::{decode_request, encode_request, form},
    response::{decode_response, encode_response, fits},
};
