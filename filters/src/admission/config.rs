use std::{num::NonZeroUsize, time::Duration};

use crate::overload::Cancel;

/// Settings of the admission filter for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What 99 of 100 requests shall keep to: who names no deadline is as urgent as if it were that.
    pub latency_objective: Duration,
    /// Calls under way at the same time, for each endpoint.
    pub max_concurrency: Concurrency,
    /// Requests that may wait for all endpoints together; over it callers are refused at once.
    pub max_queue_requests: usize,
    /// Bytes of messages that may wait for all endpoints together; over it callers are refused at
    /// once.
    pub max_queue_bytes: usize,
    /// The class of requests that name no priority; the least goes first.
    pub default_priority: u64,
    /// What becomes of a call to the model whose caller has left.
    pub cancel: Cancel,
}

/// How many calls may be under way at an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// So many.
    Fixed(NonZeroUsize),
    /// As many as make the endpoint answer more.
    #[default]
    Auto,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            latency_objective: Duration::from_millis(20),
            max_concurrency: Concurrency::default(),
            // A second of a model that answers a thousand.
            max_queue_requests: 1000,
            // A quarter of a small sidecar's memory limit of 256 MiB.
            max_queue_bytes: 64 << 20,
            // Callers may name classes before it and behind it.
            default_priority: 10,
            cancel: Cancel::default(),
        }
    }
}
