//! Control calls about models whose server speaks another protocol than the caller.
//!
//! A client that speaks one protocol to a model asks in the same one whether it is ready and what
//! it takes. Where the model's server speaks another one, nobody but the proxy can answer.
//!
//! | the call | is answered by the proxy where |
//! | --- | --- |
//! | names a model of the configuration | the model's server speaks another protocol, or knows the model by another name |
//! | names another model, or none that can be read | never: it goes to the listener's upstream as it is |
//! | speaks of the server | the listener's upstream speaks another protocol and a model is configured |
//! | is `grpc.health.v1.Health/Check` | the same, for an upstream that speaks no gRPC at all |
//!
//! Protocols are the same only where their transport is: a server of the Open Inference Protocol
//! over gRPC cannot answer `GET /v2`.
//!
//! What a server's own configuration and statistics are (`ModelConfig`, `ModelStatistics`) no other
//! protocol says, so the proxy does not know the calls either.

mod answer;
mod call;
mod oip;
mod service;
#[cfg(test)]
pub(super) mod tests;
mod tfserving;

pub(super) use self::{call::Call, service::answer};
