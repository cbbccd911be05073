use std::sync::Arc;

use tracing::info;

use super::{Stacks, hosts::Hosts};
use crate::upstream::Upstream;

/// A control call that passes by, from its request's head to the end of its answer, however that
/// comes.
///
/// ```text
/// seen --answered--> answered --ended well--> over
///   |                    '------ended badly--> over, and flushed again for some time
///   '--dropped: failed, or its caller left------^
/// ```
#[derive(Debug)]
pub(in crate::stack) struct Seen {
    stacks: Arc<Stacks>,
    upstream: Arc<Upstream>,
    hosts: Hosts,
    over: bool,
}

impl Seen {
    /// Sees a call to an upstream, before the server does.
    pub(super) fn new(stacks: Arc<Stacks>, upstream: &Arc<Upstream>) -> Self {
        info!(
            upstream = upstream.name(),
            "a call may change the server's models: their caches are flushed"
        );
        let hosts = Hosts::of(upstream);
        stacks.flush(&hosts);
        Self {
            stacks,
            upstream: upstream.clone(),
            hosts,
            over: false,
        }
    }

    /// Sees the answer begin, before the caller does. For most servers this is the moment at which
    /// the new model has just taken over.
    pub(in crate::stack) fn answered(&self) {
        self.stacks.flush(&self.hosts);
    }

    /// Sees the answer end, before the caller does.
    pub(in crate::stack) fn ended(&mut self, well: bool) {
        self.over = true;
        self.stacks.flush(&self.hosts);
        self.stacks.ask_again(&self.hosts);
        if !well {
            self.stacks.flush_later(self.upstream.name(), &self.hosts);
        }
    }
}

impl Drop for Seen {
    /// The server may follow the call although nobody waits for its answer.
    fn drop(&mut self) {
        if !self.over {
            self.ended(false);
        }
    }
}
