//! TensorFlow Serving over gRPC: `Predict`, `Classify` and `Regress`.

pub mod control;
pub(in crate::codec) mod datatype;
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

pub(in crate::codec) use self::strings::split_element;
pub use self::{
    examples::{CONTEXT, EXAMPLES, RESULTS},
    malformed::{Fault, Malformed},
    peek::model_name,
    request::{decode_request, encode_request},
    response::{decode_response, encode_response, form},
};
