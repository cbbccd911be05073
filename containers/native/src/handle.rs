//! The reins of a served model.

use std::pin::pin;
use std::sync::Arc;

use crate::counters::Counters;
use crate::curve::{Curve, Jitter};
use crate::executor::Engine;
use crate::faults::Faults;

/// The reins of a served model: reads what it did, and changes how it behaves.
///
/// A change holds for calls whose execution begins after it.
#[derive(Debug, Clone)]
pub struct Handle {
    engine: Arc<Engine>,
}

impl Handle {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.engine.signature.name
    }

    /// What the model has done so far.
    pub fn counters(&self) -> Counters {
        self.engine.counters(Counters::clone)
    }

    /// Forgets what the model has done so far, save for the calls that are in flight.
    pub fn reset_counters(&self) {
        self.engine.reset_counters();
    }

    /// Waits until the counters satisfy the condition, and gives them.
    pub async fn until(&self, condition: impl Fn(&Counters) -> bool) -> Counters {
        loop {
            let mut changed = pin!(self.engine.changed().notified());
            // Listens before it looks, so that no change falls in between.
            changed.as_mut().enable();
            let satisfied = self.engine.counters(|c| condition(c).then(|| c.clone()));
            if let Some(counters) = satisfied {
                return counters;
            }
            changed.await;
        }
    }

    /// Sets what a call costs.
    pub fn set_curve(&self, curve: Curve) {
        self.engine.manner(|manner| manner.curve = curve);
    }

    /// Sets how calls stray from the curve.
    pub fn set_jitter(&self, jitter: Jitter) {
        self.engine.manner(|manner| manner.jitter = jitter);
    }

    /// Sets what goes wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.engine
            .manner(|manner| manner.faults = Arc::new(faults));
    }

    /// Sets whether the model says that it is ready; one that is not refuses calls with UNAVAILABLE.
    pub fn set_ready(&self, ready: bool) {
        self.engine.set_ready(ready);
    }

    /// Lets received calls wait in the queue until [`Handle::resume`].
    pub fn pause(&self) {
        self.engine.set_paused(true);
    }

    /// Executes calls again.
    pub fn resume(&self) {
        self.engine.set_paused(false);
    }
}
