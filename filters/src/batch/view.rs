use std::time::Duration;

use super::{Batchable, BenefitView, Controller};

/// What a batch filter has learned and what waits in it, for the admin page.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What finds the limit.
    pub controller: Controller,
    /// The most rows that the next call may have.
    pub batch_limit: usize,
    /// Rows that wait.
    pub queue_rows: usize,
    /// Bytes of messages that wait.
    pub queue_bytes: usize,
    /// Calls under way, and places that are held to wait for company.
    pub in_flight: usize,
    /// Calls that may be under way.
    pub places: usize,
    /// Calls that took so long that others were sent beside them, and which have not ended.
    pub beside: usize,
    /// What half of the requests kept to of late, queue and model together.
    pub p50: Option<Duration>,
    /// What 99 of 100 requests kept to of late, queue and model together.
    pub p99: Option<Duration>,
    /// What batching brings.
    pub benefit: BenefitView,
    /// Whether the model takes batches.
    pub capability: Batchable,
}
