use std::time::Duration;

/// Bounds of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message that is read whole; what passes through is not.
    pub max_message: usize,
    /// Bytes of such messages at the same time, in the whole process.
    pub max_gathered: usize,
    /// Rows that may wait to be merged, for all models together.
    pub max_queue_rows: usize,
    /// Bytes of messages that may wait to be merged, for all models together.
    pub max_queue_bytes: usize,
    /// Connections of clients at the same time.
    pub max_connections: usize,
    /// How long requests under way may take to end after SIGTERM; with none left it ends at once.
    pub drain: Duration,
}

/// What is told about requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Whether each request is logged. Off: a line per request costs more than the proxying.
    pub access_log: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Images in batches; servers that refuse more than 4 MiB say so themselves.
            max_message: 64 << 20,
            // Eight of the longest messages, or thousands of pictures; a sidecar beside a model can
            // spare as much.
            max_gathered: 512 << 20,
            // Four models that each hold as much as one may by default.
            max_queue_rows: 100_000,
            max_queue_bytes: 256 << 20,
            // With an upstream connection each, well within the usual limit of 2^20 files.
            max_connections: 10_000,
            // Kubernetes' default grace period.
            drain: Duration::from_secs(30),
        }
    }
}
