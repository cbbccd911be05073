//! Outrigger: a transparent sidecar proxy for model servers.

pub mod config;
