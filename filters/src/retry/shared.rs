use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Config, Knows, budget::Budget, learned::Learned, metrics::Handles};
use crate::batch::Share;

/// What all stacks of one arm of a model share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) knows: Knows,
    pub(super) metrics: Handles,
    /// `None` where lost requests are not sent again.
    lost: Option<Mutex<Budget>>,
    pub(super) hedging: Option<Hedging>,
    /// Requests that the budgets do not know of yet.
    uncounted: AtomicU32,
}

/// What is needed to send copies of slow requests.
#[derive(Debug)]
pub(super) struct Hedging {
    pub(super) learned: Learned,
    budget: Mutex<Budget>,
}

impl Shared {
    pub(super) fn new(config: Config, knows: Knows, metrics: Handles) -> Self {
        let now = Instant::now();
        let hedge = config.hedge.filter(|hedge| hedge.budget != Share::NONE);
        Self {
            knows,
            metrics,
            lost: (config.budget != Share::NONE)
                .then(|| Mutex::new(Budget::new(config.budget, RESERVE, now))),
            hedging: hedge.map(|hedge| Hedging {
                learned: Learned::new(hedge.quantile),
                budget: Mutex::new(Budget::new(hedge.budget, HEDGE_RESERVE, now)),
            }),
            uncounted: AtomicU32::new(0),
        }
    }

    /// Tells whether anything is ever sent a second time.
    pub(super) fn is_on(&self) -> bool {
        self.lost.is_some() || self.hedging.is_some()
    }

    /// Counts a request: the budgets are shares of them.
    pub(super) fn count(&self) {
        let uncounted = self.uncounted.fetch_add(1, Relaxed).wrapping_add(1);
        if !uncounted.is_multiple_of(AT_ONCE) {
            return;
        }
        let now = Instant::now();
        if let Some(lost) = &self.lost {
            lost.lock().earn(AT_ONCE, now);
        }
        if let Some(hedging) = &self.hedging {
            hedging.budget.lock().earn(AT_ONCE, now);
        }
    }

    /// Tells whether lost requests are sent again.
    pub(super) fn resends(&self) -> bool {
        self.lost.is_some()
    }

    /// Takes what it costs to send a lost request again, if there is so much.
    pub(super) fn spend(&self, now: Instant) -> bool {
        self.lost
            .as_ref()
            .is_some_and(|budget| budget.lock().spend(now))
    }

    /// Returns after what time a copy of a request is sent, where copies are and it is known.
    pub(super) fn hedges_after(&self) -> Option<Duration> {
        self.hedging.as_ref()?.learned.slow()
    }
}

impl Hedging {
    /// Takes what a copy costs, if there is so much.
    pub(super) fn spend(&self, now: Instant) -> bool {
        self.budget.lock().spend(now)
    }

    /// Gives back what a copy would have cost that was not sent.
    pub(super) fn give_back(&self) {
        self.budget.lock().give_back();
    }
}

/// Requests of which the budgets are told together: one in so many takes their locks.
const AT_ONCE: u32 = 32;
/// Lost requests that may be sent again whatever the rate: as many as a model with few callers has
/// under way at a time.
const RESERVE: u32 = 10;
/// Copies that may be sent whatever the rate: a share of less than one request is still one now and
/// then.
const HEDGE_RESERVE: u32 = 1;
