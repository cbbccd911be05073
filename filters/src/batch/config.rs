use std::time::Duration;

use crate::overload::Cancel;

/// Settings of the batch filter for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What 99 of 100 requests shall keep to, queue and model together.
    pub latency_objective: Duration,
    /// The most rows in a call. Without it the server's own figure counts, and a server that says
    /// nothing of batches is sent none; naming a figure says that the model can be batched.
    pub max_batch_size: Option<usize>,
    /// How the limit of rows follows what the model does.
    pub controller: Controller,
    /// How long an endpoint that is free may wait for company, where company is likely; zero: never.
    pub max_delay: Duration,
    /// Calls under way at the same time, for each endpoint.
    pub max_in_flight: InFlight,
    /// Rows that may wait for all endpoints together; over it callers are refused at once.
    pub max_queue_rows: usize,
    /// Bytes of messages that may wait for all endpoints together; over it callers are refused at
    /// once.
    pub max_queue_bytes: usize,
    /// Bytes of tensors in a call.
    pub max_batch_bytes: usize,
    /// Whether a request with more rows than the limit is sent in several parts.
    pub split: bool,
    /// The class of requests that name no priority; the least goes first.
    pub default_priority: u64,
    /// What becomes of a call to the model whose callers have all left.
    pub cancel: Cancel,
    /// The share of requests that are sent by themselves, to see what batching is worth.
    pub holdout: Share,
}

/// How many calls may be under way at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// So many; zero counts as one.
    Fixed(usize),
    /// As many as make the endpoint answer more.
    Auto,
}

/// A share of a whole, in millionths: from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// How the limit of rows in a call is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Controller {
    /// Grows while calls keep within the objective, and shrinks by a tenth or more when they do not.
    Aimd,
    /// Allows what 99 of 100 calls can take within the objective, by regression. It is the default
    /// because it holds the quantile whatever the noise; the README has the figures.
    #[default]
    Quantile,
    /// Stays at `max_batch_size`.
    Fixed,
}

impl Controller {
    /// All, the default first.
    pub const ALL: [Self; 3] = [Self::Quantile, Self::Aimd, Self::Fixed];

    /// Returns the name that the configuration knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aimd => "aimd",
            Self::Quantile => "quantile",
            Self::Fixed => "fixed",
        }
    }
}

impl InFlight {
    /// Returns the bound, where it is fixed.
    pub fn fixed(self) -> Option<usize> {
        match self {
            Self::Fixed(calls) => Some(calls.max(1)),
            Self::Auto => None,
        }
    }
}

impl Share {
    /// Nothing of the whole.
    pub const NONE: Self = Self(0);

    /// Makes a share of a number from 0 to 1; `None` of any other. What is more than nothing is a
    /// millionth at least.
    pub fn new(share: f64) -> Option<Self> {
        (0. ..=1.)
            .contains(&share)
            .then(|| Self((share * WHOLE).ceil() as u32))
    }

    /// Returns the share as a number from 0 to 1.
    pub fn get(self) -> f64 {
        f64::from(self.0) / WHOLE
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Clipper's own objective, and what a person does not notice.
            latency_objective: Duration::from_millis(20),
            max_batch_size: None,
            controller: Controller::default(),
            // A model with one executor gains nothing from a second call in its queue.
            max_in_flight: InFlight::Fixed(1),
            // A lone request on an idle endpoint goes at once.
            max_delay: Duration::ZERO,
            // Half a second of the fastest model that was measured (20 us a row).
            max_queue_rows: 25_000,
            // A quarter of a small sidecar's memory limit of 256 MiB.
            max_queue_bytes: 64 << 20,
            // The largest message that servers accept by default after ours (64 MiB), with room.
            max_batch_bytes: 32 << 20,
            // Not every model answers a part as it answers the whole.
            split: false,
            // Callers may name classes before it and behind it.
            default_priority: 10,
            cancel: Cancel::default(),
            // Some figures each second under load, at a cost that is lost in noise.
            holdout: Share(5000),
        }
    }
}

/// The parts that a share is counted in.
const WHOLE: f64 = 1e6;
