//! Measures Outrigger against its peers and against itself without its filters.
//!
//! `tests/bench/README.md` says what each figure means and how to run them.

pub mod batching;
pub mod cache;
pub mod curves;
pub mod demand;
pub mod feedback;
pub mod goodput;
pub mod h2load;
pub mod leavers;
pub mod message;
pub mod outage;
pub mod overload;
pub mod passthrough;
pub mod peers;
pub mod pin;
pub mod process;
pub mod proxy;
pub mod rows;
pub mod search;
pub mod soak;
pub mod table;
pub mod triton;
pub mod upstream;
pub mod usage;

/// What a bench says when it cannot go on; a bench has nobody above it who could react.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
