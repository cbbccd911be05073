//! Outrigger: a transparent sidecar proxy for model servers.

pub mod cli;
pub mod config;
