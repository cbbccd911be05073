//! The harness of the tests, experiments and benches.

pub mod bench;
pub mod experiments;
pub mod feedback;
pub mod gateway;
pub mod http1;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod origin;
pub mod patience;
pub mod protocol;
pub mod redis;
pub mod tls;
pub mod wire;
