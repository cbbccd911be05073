#![doc = include_str!("README.md")]

mod ask;
mod config;
mod error;
mod flight;
mod frame;
mod future;
mod key;
mod layer;
mod metrics;
mod plan;
mod service;
mod shared;
mod store;
#[cfg(test)]
mod tests;
mod view;
mod worth;

pub use self::{
    config::{Bypass, Config, Tenant, Unit},
    error::{CallFailed, NotCached},
    future::ResponseFuture,
    layer::CacheLayer,
    metrics::{Handles, Metrics},
    service::Cache,
    shared::{Flush, Store},
    view::View,
};
