//! Outrigger: a transparent sidecar proxy for model servers.

#[cfg(feature = "demo")]
pub mod demo;
