#![doc = include_str!("README.md")]

mod config;
mod durations;
mod future;
mod layer;
mod limit;
mod metrics;
mod place;
mod queue;
mod service;
mod shared;
#[cfg(test)]
mod simulation;
mod sorted;
mod state;
#[cfg(test)]
mod tests;
mod view;

pub use self::{
    config::{Concurrency, Config},
    future::ResponseFuture,
    layer::AdmissionLayer,
    metrics::{Handles, Metrics},
    service::Admission,
    view::View,
};
