#![doc = include_str!("README.md")]

mod again;
mod budget;
mod config;
mod endpoints;
mod future;
mod knows;
mod layer;
mod learned;
mod metrics;
mod quantile;
mod service;
mod shared;
#[cfg(test)]
mod tests;
mod view;

pub use self::{
    config::{Config, Hedge},
    endpoints::Endpoints,
    future::ResponseFuture,
    knows::Knows,
    layer::RetryLayer,
    metrics::{Handles, Metrics},
    service::Retry,
    view::View,
};
