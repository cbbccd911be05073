//! How many calls may be under way at an endpoint.

mod auto;

use tokio::time::Instant;

pub(super) use self::auto::Auto;
use super::Concurrency;

/// What allows so many calls.
#[derive(Debug)]
pub(super) enum Limit {
    Fixed(usize),
    Auto(Box<Auto>),
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) now: Instant,
    pub(super) began: Instant,
    /// Calls that were under way until then, it among them.
    pub(super) in_flight: usize,
    /// The same when it began.
    pub(super) among: usize,
    /// Whether somebody had to wait, or was sent away, for want of a place.
    pub(super) pressed: bool,
    /// Whether the model has answered.
    pub(super) answered: bool,
    /// Whether the server alone has taken as long as its caller has time in all.
    pub(super) outlasted: bool,
}

impl Limit {
    pub(super) fn new(concurrency: Concurrency) -> Self {
        match concurrency {
            Concurrency::Fixed(calls) => Self::Fixed(calls.get()),
            Concurrency::Auto => Self::Auto(Box::default()),
        }
    }

    /// Returns how many calls may be under way, one at least.
    pub(super) fn calls(&self) -> usize {
        match self {
            Self::Fixed(calls) => *calls,
            Self::Auto(auto) => auto.calls(),
        }
    }

    pub(super) fn ended(&mut self, call: &Ended) {
        if let Self::Auto(auto) = self {
            auto.ended(call);
        }
    }
}
