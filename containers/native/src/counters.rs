//! What a model has done so far.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tonic::metadata::MetadataMap;

/// A snapshot of what a model has done so far.
///
/// ```text
/// received = succeeded + failed + cancelled + in_flight
/// ```
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Calls that named the model and were well formed.
    pub received: u64,
    /// Calls that came, but were refused for their form.
    pub refused: u64,
    /// Calls that were executed, whatever came of them.
    pub calls: u64,
    /// The rows of the executed calls.
    pub rows: u64,
    /// Received calls by the answer: those that got one,
    pub succeeded: u64,
    /// those that got an error,
    pub failed: u64,
    /// and those whose caller left before either.
    pub cancelled: u64,
    /// Calls that are received and not answered, queued ones included.
    pub in_flight: u64,
    /// The most calls that were ever in flight at once.
    pub max_in_flight: u64,
    /// The executed calls by their number of rows.
    pub batches: BTreeMap<usize, Batches>,
    /// How long executed calls waited for an executor, taken together.
    pub queued: Duration,
    /// When the last execution ended.
    pub last_execution: Option<SystemTime>,
    /// The metadata that came with the last received call.
    pub last_metadata: MetadataMap,
}

/// The executed calls of one number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Batches {
    /// How many there were.
    pub calls: u64,
    /// How long they took, taken together, from an executor's hand to its answer.
    pub time: Duration,
}

impl Counters {
    /// The mean number of rows of an executed call.
    pub fn mean_batch(&self) -> f64 {
        self.rows as f64 / (self.calls as f64).max(1.0)
    }

    /// The most rows that were executed at once.
    pub fn largest_batch(&self) -> usize {
        self.batches.last_key_value().map_or(0, |(rows, _)| *rows)
    }

    pub(crate) fn admit(&mut self, metadata: MetadataMap) {
        self.received += 1;
        self.in_flight += 1;
        self.max_in_flight = self.max_in_flight.max(self.in_flight);
        self.last_metadata = metadata;
    }

    pub(crate) fn execute(&mut self, rows: usize, queued: Duration, time: Duration) {
        self.calls += 1;
        self.rows += rows as u64;
        self.queued += queued;
        self.last_execution = Some(SystemTime::now());
        let batches = self.batches.entry(rows).or_default();
        batches.calls += 1;
        batches.time += time;
    }
}
