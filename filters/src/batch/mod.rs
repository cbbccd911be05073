#![doc = include_str!("README.md")]

mod alone;
mod budget;
mod capability;
mod config;
mod controller;
mod error;
mod expected;
mod future;
mod isolation;
pub mod key;
mod latency;
mod layer;
mod metrics;
mod quarantine;
mod queue;
mod search;
mod service;
mod shared;
#[cfg(test)]
mod tests;
mod view;
mod worker;

pub use self::{
    alone::Alone,
    capability::{Batchable, Capability, Unbatchable},
    config::{Config, Controller},
    controller::{Aimd, BatchLimit, Call, Fixed, Quantile},
    error::{Bound, CallFailed, DeadlineExpired, Interrupted, Overloaded},
    future::ResponseFuture,
    isolation::Verdict,
    layer::BatchLayer,
    metrics::{Handles, Metrics},
    service::Batch,
    view::View,
};
