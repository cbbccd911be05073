#![doc = include_str!("README.md")]

mod ahead;
mod alone;
mod benefit;
mod budget;
mod capability;
mod config;
mod controller;
mod delay;
mod error;
mod expected;
mod explain;
mod flight;
mod future;
mod isolation;
pub mod key;
mod latency;
mod layer;
mod metrics;
mod offered;
mod oversize;
mod quarantine;
mod queue;
mod search;
mod service;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod worker;

pub use self::{
    alone::Alone,
    benefit::{BenefitView, Pays},
    capability::{Batchable, Capability, Unbatchable},
    config::{Config, Controller, InFlight, Share},
    controller::{Aimd, BatchLimit, Call, Fixed, Quantile},
    error::{CallFailed, Interrupted},
    explain::Closed,
    future::ResponseFuture,
    isolation::Verdict,
    layer::BatchLayer,
    metrics::{Handles, Metrics},
    service::Batch,
    view::View,
};
