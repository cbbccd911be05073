//! TensorFlow Serving over gRPC: `Predict`, `Classify` and `Regress`.

pub mod control;
mod datatype;
mod examples;
mod malformed;
mod peek;
mod request;
mod response;
mod spec;
mod strings;
mod tensor;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod witness;

pub use self::{
    examples::{CONTEXT, EXAMPLES, RESULTS},
    malformed::{Fault, Malformed},
    peek::model_name,
    request::{decode_request, encode_request},
    response::{decode_response, encode_response, form},
};
