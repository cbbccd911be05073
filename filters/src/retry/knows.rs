use std::sync::Arc;

use crate::inference::{Error, Request};

/// What only the proxy knows of requests and of what goes wrong with them.
#[derive(Clone)]
pub struct Knows {
    /// Tells whether a call failed because its connection was lost: the server may or may not have
    /// begun with it, and has said nothing of it.
    pub is_lost: fn(&Error) -> bool,
    /// Tells whether it makes no difference if a request is answered twice.
    pub is_repeatable: Arc<dyn Fn(&Request) -> bool + Send + Sync>,
}

impl std::fmt::Debug for Knows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Knows").finish_non_exhaustive()
    }
}
