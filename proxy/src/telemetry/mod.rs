//! What operators see of the proxy: metrics and the log.

mod log;
mod metrics;

pub use self::{
    log::init as init_log,
    metrics::{Ejections, Metrics, Requests, Timer},
};
