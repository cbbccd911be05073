use std::time::Duration;

/// What an admission filter has learned and what waits in it, for the admin page.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Calls that may be under way.
    pub limit: usize,
    /// Calls under way that hold a place.
    pub in_flight: usize,
    /// Calls that took so long that others were sent beside them, and which have not ended.
    pub beside: usize,
    /// Requests that wait.
    pub queue_requests: usize,
    /// Bytes of their messages.
    pub queue_bytes: usize,
    /// What half of the calls of late took; `None` before the first answer.
    pub p50: Option<Duration>,
    /// What all but the slowest of the calls of late took.
    pub p95: Option<Duration>,
}
