use std::time::Duration;

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
    /// Calls under way at the same time, for each endpoint.
    pub max_in_flight: usize,
    /// Rows that may wait for each endpoint; over it callers are refused at once.
    pub max_queue_rows: usize,
    /// Bytes of messages that may wait for each endpoint; over it callers are refused at once.
    pub max_queue_bytes: usize,
    /// Bytes of tensors in a call.
    pub max_batch_bytes: usize,
}

/// How the limit of rows in a call is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Controller {
    /// Grows while calls keep within the objective, and shrinks by a tenth when they do not.
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

impl Default for Config {
    fn default() -> Self {
        Self {
            // Clipper's own objective, and what a person does not notice.
            latency_objective: Duration::from_millis(20),
            max_batch_size: None,
            controller: Controller::default(),
            // A model with one executor gains nothing from a second call in its queue.
            max_in_flight: 1,
            // Half a second of the fastest model that was measured (20 us a row).
            max_queue_rows: 25_000,
            // A quarter of a small sidecar's memory limit of 256 MiB.
            max_queue_bytes: 64 << 20,
            // The largest message that servers accept by default after ours (64 MiB), with room.
            max_batch_bytes: 32 << 20,
        }
    }
}
