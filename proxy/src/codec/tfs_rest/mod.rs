//! TensorFlow Serving over REST, whose `:predict` is KServe's V1 protocol too.

mod blame;
mod columns;
pub mod control;
mod examples;
mod malformed;
mod reply;
mod request;
mod response;
mod results;
#[cfg(test)]
mod tests;

pub use self::{
    malformed::Malformed,
    reply::{Layout, Reply},
    request::{decode_request, encode_request},
    response::{decode_response, encode_response},
};
