#![doc = include_str!("README.md")]

mod config;

pub use self::config::{Concurrency, Config};
