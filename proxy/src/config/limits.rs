use std::time::Duration;

/// Bounds of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message that is read whole; what passes through is not.
    pub max_message: usize,
    /// Bytes of such messages at the same time, in the whole process.
    pub max_gathered: usize,
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
            // With an upstream connection each, well within the usual limit of 2^20 files.
            max_connections: 10_000,
            // Kubernetes' default grace period.
            drain: Duration::from_secs(30),
        }
    }
}
