use std::sync::Arc;

use crate::inference;

/// No more may wait: the caller is refused at once. The proxy is at fault, or whoever sends more
/// than the model can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overloaded {
    scope: Scope,
    bound: Bound,
    limit: usize,
}

/// Whose bound it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One arm of a model.
    Model,
    /// The process, with all its models.
    Process,
}

/// What the queue has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Rows, bounded by `max_queue_rows`.
    Rows,
    /// Bytes of messages, bounded by `max_queue_bytes`.
    Bytes,
}

/// The deadline passed, or would have before the model could answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadlineExpired(Stage);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Hopeless,
    UnderWay,
}

/// The call was given up before it had an answer: its runtime was shut down, or the code that
/// made it panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted(());

/// The call in which the request was one of several failed; the source says why, and is the same
/// for all of them.
#[derive(Clone, Debug)]
pub struct CallFailed(Arc<dyn std::error::Error + Send + Sync>);

impl Overloaded {
    pub(super) fn new(scope: Scope, bound: Bound, limit: usize) -> Self {
        Self {
            scope,
            bound,
            limit,
        }
    }

    /// Returns whose bound it is.
    pub fn scope(&self) -> Scope {
        self.scope
    }

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
    /// Tells whether the model was at work on the request.
    pub fn is_under_way(&self) -> bool {
        self.0 == Stage::UnderWay
    }

    /// The deadline has passed.
    pub(super) fn passed() -> Self {
        Self(Stage::Waiting)
    }

    /// The deadline is nearer than the model's answer can be.
    pub(super) fn hopeless() -> Self {
        Self(Stage::Hopeless)
    }

    /// The deadline has passed before the model answered.
    pub(super) fn under_way() -> Self {
        Self(Stage::UnderWay)
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
        let (what, section) = match self.scope {
            Scope::Model => ("queue is", ""),
            Scope::Process => ("queues of all models are", "limits."),
        };
        let key = match self.bound {
            Bound::Rows => "max_queue_rows",
            Bound::Bytes => "max_queue_bytes",
        };
        write!(f, "the batch {what} full: {section}{key} is {}", self.limit)
    }
}

impl std::error::Error for Overloaded {}

impl std::fmt::Display for DeadlineExpired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Stage::Waiting => "the deadline passed before the request was sent",
            Stage::Hopeless => {
                "the deadline is nearer than the model's answer: the request was not sent"
            }
            Stage::UnderWay => "the deadline passed before the model answered",
        })
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
