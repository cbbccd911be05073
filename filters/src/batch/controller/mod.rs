//! How many rows a call may have: decided by plain structs that are told of every call.

mod aimd;
mod ceiling;
mod costs;
mod fixed;
mod objective;
mod quantile;
#[cfg(test)]
mod simulation;

use std::time::Duration;

pub(super) use self::costs::{Costs, Line};
pub use self::{aimd::Aimd, fixed::Fixed, quantile::Quantile};

/// Decides how many rows a call may have.
pub trait BatchLimit: std::fmt::Debug + Send {
    /// Returns the most rows for the next call: at least one, at most `most`.
    fn limit(&self, most: usize) -> usize;

    /// Learns from a call that has ended.
    fn observe(&mut self, call: &Call);

    /// Forgets what calls take, and what was late: more or fewer of them are under way at the same
    /// time from here on. The limit stays, for the search to go on from there.
    fn moved(&mut self) {}

    /// Returns a copy, to come back to.
    fn kept(&self) -> Box<dyn BatchLimit>;
}

/// What one call has shown.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its rows.
    pub rows: usize,
    /// The requests that they are of: rows come and go by the request.
    pub requests: usize,
    /// Whether it had as many rows as it might.
    pub full: bool,
    /// Whether it was answered: errors come fast, and say nothing of what the model can do.
    pub answered: bool,
    /// How long its oldest request waited to be sent.
    pub queue: Duration,
    /// How long the model took.
    pub model: Duration,
    /// The most rows that any call may have.
    pub most: usize,
    /// How many calls may be under way at the same time.
    pub places: usize,
}
