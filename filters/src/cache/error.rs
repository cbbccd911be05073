use std::sync::Arc;

/// The call failed that was made for the same rows on behalf of several; the source says why, and
/// is the same for all of them.
#[derive(Clone, Debug)]
pub struct CallFailed(Arc<dyn std::error::Error + Send + Sync>);

/// The caller wants nothing but a stored answer, and there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCached(());

impl CallFailed {
    pub(super) fn new(cause: Arc<dyn std::error::Error + Send + Sync>) -> Self {
        Self(cause)
    }
}

impl NotCached {
    pub(super) fn new() -> Self {
        Self(())
    }
}

impl std::fmt::Display for CallFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the call for the same rows failed")
    }
}

impl std::error::Error for CallFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

impl std::fmt::Display for NotCached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cache-control: only-if-cached, and the answer is not in the cache")
    }
}

impl std::error::Error for NotCached {}
