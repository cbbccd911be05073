//! Outrigger: a transparent sidecar proxy for model servers.
#![doc = include_str!("../README.md")]

pub mod admin;
pub mod app;
pub mod body;
pub mod cli;
pub mod codec;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod detect;
pub mod evaluate;
pub mod feedback;
pub mod io;
pub mod listen;
pub mod probe;
pub mod propensity;
pub mod rescue;
pub mod server;
pub mod stack;
pub mod state;
pub mod telemetry;
pub mod tls;
pub mod upstream;
mod wire;
pub mod worker;
