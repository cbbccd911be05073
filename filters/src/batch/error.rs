use std::sync::Arc;

use crate::inference;

/// The queue of an endpoint is full: the caller is refused at once. The proxy is at fault, or
/// whoever sends more than the model can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overloaded {
    pub(super) bound: Bound,
    pub(super) limit: usize,
}

/// What the queue has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Rows, bounded by `max_queue_rows`.
    Rows,
    /// Bytes of messages, bounded by `max_queue_bytes`.
    Bytes,
}

/// The deadline passed while the request waited: it was never sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadlineExpired(());

/// The call was given up before it had an answer: its runtime was shut down, or the code that
/// made it panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted(());

/// The call in which the request was one of several failed; the source says why, and is the same
/// for all of them.
#[derive(Clone, Debug)]
pub struct CallFailed(Arc<dyn std::error::Error + Send + Sync>);

impl Overloaded {
    /// Returns what the queue has too much of.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Returns the bound that was reached.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl DeadlineExpired {
    pub(super) fn new() -> Self {
        Self(())
    }
}

impl Interrupted {
    pub(super) fn new() -> Self {
        Self(())
    }
}

impl CallFailed {
    pub(super) fn new(cause: inference::Error) -> Self {
        Self(cause.into())
    }
}

impl std::fmt::Display for Overloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = self.limit;
        match self.bound {
            Bound::Rows => write!(f, "the batch queue is full: max_queue_rows is {limit}"),
            Bound::Bytes => write!(f, "the batch queue is full: max_queue_bytes is {limit}"),
        }
    }
}

impl std::error::Error for Overloaded {}

impl std::fmt::Display for DeadlineExpired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the deadline passed before the request was sent")
    }
}

impl std::error::Error for DeadlineExpired {}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the call was given up before it had an answer")
    }
}

impl std::error::Error for Interrupted {}

impl std::fmt::Display for CallFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the call that the request shared with others failed")
    }
}

impl std::error::Error for CallFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
