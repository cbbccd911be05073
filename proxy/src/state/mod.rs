#![doc = include_str!("README.md")]

mod directory;
mod error;
mod metrics;
mod redis;
mod sharing;

pub use self::{
    directory::Directory,
    error::Error,
    metrics::Metrics,
    redis::Redis,
    sharing::{Sharing, State},
};
