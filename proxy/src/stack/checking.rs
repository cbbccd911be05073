use std::sync::Arc;

use outrigger_filters::select::Learner;
use tokio::{runtime::Handle, task::AbortHandle};
use tracing::warn;

use super::Arm;

/// Checks a model's default output as soon as its server says what the model gives: long before it
/// is given to anybody. Ends with its owner.
#[derive(Debug)]
pub(super) struct Checking(AbortHandle);

impl Checking {
    /// Begins to wait for the server's word, on this runtime; `None` where there is nothing to
    /// check.
    pub(super) fn begin(learner: &Learner, arm: &Arc<Arm>) -> Option<Self> {
        if !learner.has_default() {
            return None;
        }
        let runtime = Handle::try_current().ok()?;
        let (learned, model) = (arm.learned().clone(), arm.model().to_owned());
        let learner = learner.clone();
        let task = runtime.spawn(async move {
            let description = learned.described().await;
            let signature = description.signature("");
            for fault in signature
                .map(|of| learner.default_faults(of))
                .unwrap_or_default()
            {
                warn!(model, %fault, "the default output is none of this model's");
            }
        });
        Some(Self(task.abort_handle()))
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.abort();
    }
}
