//! What may happen to an inference on its way from a client to a model.
//!
//! No sockets, no HTTP, no gRPC: a filter is a [`tower`] layer over [`inference::Infer`],
//! and the crates that speak to the network are not among the dependencies.

pub mod admission;
pub mod batch;
pub mod cache;
pub mod deadline;
pub mod inference;
pub mod overload;
#[cfg(test)]
mod random;
pub mod retry;
pub mod select;
