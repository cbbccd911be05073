use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use super::quantile::Quantile;
use crate::batch::Share;

/// What calls take, learned by many threads: read without a lock, and brought up to date every some
/// calls.
#[derive(Debug)]
pub(super) struct Learned {
    calls: Mutex<(Quantile, u32)>,
    /// In nanoseconds; 0 before enough is known.
    slow: AtomicU64,
    usual: AtomicU64,
}

impl Learned {
    pub(super) fn new(slow: Share) -> Self {
        Self {
            calls: Mutex::new((Quantile::new(slow), 0)),
            slow: AtomicU64::new(0),
            usual: AtomicU64::new(0),
        }
    }

    /// Returns the time from which on a call counts as slow.
    pub(super) fn slow(&self) -> Option<Duration> {
        known(&self.slow)
    }

    /// Returns what half of the calls keep to.
    pub(super) fn usual(&self) -> Option<Duration> {
        known(&self.usual)
    }

    /// Takes note of a call that was answered.
    pub(super) fn answered(&self, took: Duration) {
        self.observe(|calls| calls.answered(took));
    }

    /// Takes note of a call that was not answered within a time.
    pub(super) fn cut(&self, after: Duration) {
        self.observe(|calls| calls.cut(after));
    }

    fn observe(&self, call: impl FnOnce(&mut Quantile)) {
        let mut calls = self.calls.lock();
        let (quantile, since) = &mut *calls;
        call(quantile);
        *since += 1;
        if *since >= REFRESH {
            *since = 0;
            store(&self.slow, quantile.time());
            store(&self.usual, quantile.half());
        }
    }
}

fn known(nanos: &AtomicU64) -> Option<Duration> {
    match nanos.load(Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

fn store(nanos: &AtomicU64, time: Option<Duration>) {
    let time = time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    nanos.store(time, Relaxed);
}

/// Calls after which the quantile is looked up again, which takes as long as some calls do.
const REFRESH: u32 = 16;
