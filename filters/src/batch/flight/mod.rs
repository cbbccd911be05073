//! How many calls may be under way at an endpoint: decided by a plain struct that is told of every
//! call that has ended.

mod auto;
#[cfg(test)]
mod simulation;

use std::time::Duration;

use tokio::time::Instant;

use self::auto::Auto;

/// How many calls may be under way at an endpoint.
#[derive(Debug)]
pub(super) enum Flight {
    /// So many.
    Fixed(usize),
    /// As many as pay.
    Auto(Box<Auto>),
}

/// What a call that has ended shows of the endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) now: Instant,
    pub(super) rows: usize,
    /// When it was sent.
    pub(super) began: Instant,
    /// The calls that were under way, with this one.
    pub(super) in_flight: usize,
    /// Whether more waits than the next call can take: then the endpoint is what limits.
    pub(super) waits: bool,
    /// Whether it was answered: the rows of others are not throughput.
    pub(super) answered: bool,
}

/// What has become of the number of places, and what that is to the controller of rows: what it
/// has learned is true of one number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Turn {
    /// It is the same.
    None,
    /// Another is tried: the controller is kept as it is, and a copy goes on from here that has to
    /// learn anew what calls take.
    Tries,
    /// The one that was tried stays: the kept controller is let go.
    Stays,
    /// The one before the trial is back, and so is the kept controller.
    Returns,
}

impl Flight {
    pub(super) fn fixed(places: usize) -> Self {
        Self::Fixed(places.max(1))
    }

    pub(super) fn auto(objective: Duration) -> Self {
        Self::Auto(Box::new(Auto::new(objective)))
    }

    /// Returns the most calls that may be under way: at least one. Those that are under way already
    /// may be more, after it has come down.
    pub(super) fn places(&self) -> usize {
        match self {
            Self::Fixed(places) => *places,
            Self::Auto(auto) => auto.places(),
        }
    }

    /// Learns from a call that has ended, before its place is given to another.
    pub(super) fn ended(&mut self, call: &Ended) -> Turn {
        match self {
            Self::Fixed(_) => Turn::None,
            Self::Auto(auto) => auto.ended(call),
        }
    }

    /// Tells whether a call was sent before places last changed: of such the controller of rows is
    /// not told.
    pub(super) fn is_past(&self, began: Instant) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Auto(auto) => auto.is_past(began),
        }
    }
}
