use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;
use tracing::info;

use super::{
    outliers::{Change, Outliers, Why},
    pace::Pace,
};
use crate::{
    telemetry::{Ejections, Metrics},
    upstream::{Endpoint, Upstream},
};

/// The endpoints of a model: what their calls take, and which are left out.
///
/// All balances of the model share it. The lock is held for as long as it takes to count a call.
#[derive(Debug)]
pub(super) struct Replicas {
    model: String,
    replicas: Box<[Replica]>,
    outliers: Mutex<Outliers>,
    /// How many are left out, outside of the lock for whoever chooses.
    out: AtomicUsize,
    base: Instant,
    /// When the endpoints were last compared, in nanoseconds since the base.
    compared: AtomicU64,
}

#[derive(Debug)]
struct Replica {
    endpoint: Arc<Endpoint>,
    pace: Pace,
    metrics: Ejections,
    /// What this has added to the gauge.
    shown: AtomicUsize,
}

/// A request that tries an endpoint that was left out: nobody else does until this is dropped.
#[derive(Debug)]
pub(super) struct Trial {
    replicas: Arc<Replicas>,
    index: usize,
}

impl Replicas {
    pub(super) fn new(model: &str, upstream: &Upstream, metrics: &Metrics) -> Arc<Self> {
        Self::of(model, upstream.endpoints(), |endpoint| {
            metrics.ejections(model, upstream.name(), endpoint.authority().as_str())
        })
    }

    pub(super) fn of(
        model: &str,
        endpoints: &[Arc<Endpoint>],
        metrics: impl Fn(&Endpoint) -> Ejections,
    ) -> Arc<Self> {
        let now = Instant::now();
        let replica = |endpoint: &Arc<Endpoint>| Replica {
            endpoint: endpoint.clone(),
            pace: Pace::new(now),
            metrics: metrics(endpoint),
            shown: AtomicUsize::new(0),
        };
        Arc::new(Self {
            model: model.to_owned(),
            replicas: endpoints.iter().map(replica).collect(),
            outliers: Mutex::new(Outliers::new(endpoints.len())),
            out: AtomicUsize::new(0),
            base: now,
            compared: AtomicU64::new(0),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.replicas.len()
    }

    pub(super) fn endpoint(&self, index: usize) -> &Arc<Endpoint> {
        &self.replicas[index].endpoint
    }

    pub(super) fn pace(&self, index: usize) -> &Pace {
        &self.replicas[index].pace
    }

    /// Tells whether no endpoint is left out.
    pub(super) fn all_in(&self) -> bool {
        self.out.load(Relaxed) == 0
    }

    pub(super) fn is_out(&self, index: usize) -> bool {
        !self.all_in() && !self.outliers.lock().is_in(index)
    }

    /// Returns the first of these endpoints that it is time to try, for whoever tries it, or those
    /// that are in use.
    pub(super) fn sift(
        self: &Arc<Self>,
        reached: &[usize],
        now: Instant,
    ) -> Result<Trial, SmallVec<[usize; 8]>> {
        let mut outliers = self.outliers.lock();
        for &index in reached {
            if outliers.begin_trial(index, now) {
                let replicas = self.clone();
                return Ok(Trial { replicas, index });
            }
        }
        let used = reached.iter().filter(|index| outliers.is_in(**index));
        Err(used.copied().collect())
    }

    /// Takes note of an answered call.
    pub(super) fn answered(&self, index: usize, began: Instant, now: Instant) {
        let mut outliers = self.outliers.lock();
        let change = outliers.answered(index, began, now);
        self.tell(&outliers, change);
        drop(outliers);
        self.compare(now);
    }

    /// Takes note of a call that failed by the endpoint's fault.
    pub(super) fn failed(&self, index: usize, began: Instant, now: Instant, jitter: f64) {
        let reached = |other: usize| self.replicas[other].endpoint.backoff().is_none();
        let mut outliers = self.outliers.lock();
        let change = outliers.failed(index, began, now, jitter, reached);
        self.tell(&outliers, change);
    }

    /// Compares the endpoints, every second.
    fn compare(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        let compared = self.compared.load(Relaxed);
        if self.len() < 2 || since.saturating_sub(compared) < COMPARE {
            return;
        }
        let mine = self
            .compared
            .compare_exchange(compared, since, Relaxed, Relaxed);
        if mine.is_err() {
            return;
        }
        let times: SmallVec<[Option<f64>; 8]> = self
            .replicas
            .iter()
            .map(|replica| replica.pace.time_or_silence(now))
            .collect();
        let mut outliers = self.outliers.lock();
        let change = outliers.compare(&times, now, rand::random());
        self.tell(&outliers, change);
    }

    /// Shows a change to whoever operates this; within the lock, so that all shows what is.
    fn tell(&self, outliers: &Outliers, change: Option<Change>) {
        let Some(change) = change else {
            return;
        };
        self.out.store(outliers.out(), Relaxed);
        for (index, replica) in self.replicas.iter().enumerate() {
            let shown = usize::from(!outliers.is_in(index));
            match (replica.shown.swap(shown, Relaxed), shown) {
                (0, 1) => drop(replica.metrics.ejected.inc()),
                (1, 0) => drop(replica.metrics.ejected.dec()),
                _ => {}
            }
        }
        let model = &self.model;
        match change {
            Change::Out(index, why, time) => {
                let replica = &self.replicas[index];
                replica.metrics.total.inc();
                let endpoint = replica.endpoint.authority();
                let why = match why {
                    Why::Fails => "it fails",
                    Why::Slow => "it is far slower than the others",
                };
                info!(model, %endpoint, why, ?time, "an endpoint is left out");
            }
            Change::Back(index) => {
                let endpoint = self.replicas[index].endpoint.authority();
                info!(model, %endpoint, "an endpoint is in use again");
            }
            Change::AllBack => info!(model, "all endpoints fail: none is left out"),
        }
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for replica in &self.replicas {
            if replica.shown.load(Relaxed) > 0 {
                replica.metrics.ejected.dec();
            }
        }
    }
}

impl Trial {
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.replicas.outliers.lock().end_trial(self.index);
    }
}

/// Nanoseconds after which the endpoints are compared again.
const COMPARE: u64 = Duration::from_secs(1).as_nanos() as u64;
