#![doc = include_str!("README.md")]

mod alone;
mod capability;
mod config;
mod controller;
mod error;
mod future;
pub mod key;
mod latency;
mod layer;
mod metrics;
mod queue;
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
    controller::{Aimd, BatchLimit, Call, Fixed},
    error::{Bound, CallFailed, DeadlineExpired, Interrupted, Overloaded},
    future::ResponseFuture,
    layer::BatchLayer,
    metrics::{Handles, Metrics},
    service::Batch,
    view::View,
};
