use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use outrigger_filters::cache::Flush;
use parking_lot::Mutex;
use tokio::{runtime::Handle, task::AbortHandle};

use super::hosts::Hosts;
use crate::upstream::Upstream;

/// What keeps something of what a server said: a model's stack.
pub(in crate::stack) trait Keeps: std::fmt::Debug + Send + Sync {
    /// Returns the upstream that serves the model.
    fn upstream(&self) -> &Arc<Upstream>;
    /// Forgets its answers.
    fn flush(&self, why: Flush);
    /// Asks the server anew what the model takes and gives.
    fn ask_again(&self);
}

/// All models' stacks that live, in whichever table they stand: a request that began before a reload
/// still fills the caches of its own table, and a control call may outlast several tables.
#[derive(Debug, Default)]
pub(in crate::stack) struct Stacks {
    living: Mutex<Vec<Weak<dyn Keeps>>>,
    /// Of each upstream, the flushes that follow on a control call that did not end well.
    aftermaths: Mutex<HashMap<Box<str>, AbortHandle>>,
}

impl Stacks {
    /// Takes a stack in, for as long as it lives.
    pub(in crate::stack) fn add(&self, stack: Weak<dyn Keeps>) {
        let mut living = self.living.lock();
        living.retain(|stack| stack.strong_count() > 0);
        living.push(stack);
    }

    /// Flushes the caches of all models that are served on these hosts.
    pub(super) fn flush(&self, hosts: &Hosts) {
        for stack in self.on(hosts) {
            stack.flush(Flush::Control);
        }
    }

    /// Asks anew what these models take.
    pub(super) fn ask_again(&self, hosts: &Hosts) {
        for stack in self.on(hosts) {
            stack.ask_again();
        }
    }

    /// Flushes again and again for some time: nobody knows when the server is done.
    pub(super) fn flush_later(self: &Arc<Self>, upstream: &str, hosts: &Hosts) {
        let Ok(runtime) = Handle::try_current() else {
            // The process is ending.
            return;
        };
        let (stacks, hosts) = (Arc::downgrade(self), hosts.clone());
        let task = runtime.spawn(async move {
            for pause in AFTERMATH {
                tokio::time::sleep(pause).await;
                let Some(stacks) = stacks.upgrade() else {
                    return;
                };
                stacks.flush(&hosts);
                stacks.ask_again(&hosts);
            }
        });
        // One for each upstream is enough, and callers cannot pile them up.
        let mut aftermaths = self.aftermaths.lock();
        aftermaths.retain(|_, task| !task.is_finished());
        if let Some(last) = aftermaths.insert(upstream.into(), task.abort_handle()) {
            last.abort();
        }
    }

    fn on(&self, hosts: &Hosts) -> Vec<Arc<dyn Keeps>> {
        // Flushing takes its time, and another call may be about to do the same.
        let living: Vec<_> = self
            .living
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let meets = |stack: &Arc<dyn Keeps>| Hosts::of(stack.upstream()).meet(hosts);
        living.into_iter().filter(meets).collect()
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        for task in self.aftermaths.get_mut().values() {
            task.abort();
        }
    }
}

/// The waits between flushes after a control call of which it is not known whether and when the
/// server followed it: two minutes in all, which is what models of some gigabytes take to load.
/// Looking at the server finds most of that anyway, where it shows it.
const AFTERMATH: [Duration; 7] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(64),
];
