#![doc = include_str!("README.md")]

mod by;
mod error;
mod late;
mod margin;
mod metrics;

pub use self::{
    by::by,
    error::Expired,
    late::Late,
    margin::Margin,
    metrics::{Handles, Metrics, Stage},
};
