//! The harness of the tests, experiments and benches.

pub mod bench;
