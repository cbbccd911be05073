//! Merges concurrent requests for one endpoint of a model into one call.

mod config;

pub use self::config::{Config, Controller};
