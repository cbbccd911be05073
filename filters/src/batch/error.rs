use std::sync::Arc;

use crate::inference;

/// The call was given up before it had an answer: its runtime was shut down, or the code that
/// made it panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted(());

/// The call in which the request was one of several failed; the source says why, and is the same
/// for all of them.
#[derive(Clone, Debug)]
pub struct CallFailed(Arc<dyn std::error::Error + Send + Sync>);

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
