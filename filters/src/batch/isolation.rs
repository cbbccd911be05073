use std::{error::Error as StdError, sync::Arc};

use tokio::time::Instant;

use super::quarantine::Quarantine;
use crate::inference::{Code, Error, Response, Status};

/// Reads what the server said of a call that failed, from one level of the error that came of it;
/// `None` where this level is not the server's own word.
pub type Verdict = fn(&(dyn StdError + 'static)) -> Option<Status>;

/// What is known of failures, for all endpoints of an arm.
#[derive(Clone, Debug)]
pub(super) struct Isolation {
    verdict: Verdict,
    quarantine: Arc<Quarantine>,
}

impl Isolation {
    pub(super) fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            quarantine: Arc::default(),
        }
    }

    /// Returns what the server said, where one row among others can be the cause of it.
    pub(super) fn blames_a_row(&self, error: &Error) -> Option<Status> {
        let first: &(dyn StdError + 'static) = &**error;
        std::iter::successors(Some(first), |&cause| cause.source())
            .find_map(self.verdict)
            .filter(|status| can_be_a_rows_fault(status.code()))
    }

    /// Decides whether contents in quarantine, which went alone, stay there.
    pub(super) fn review(&self, contents: u128, answer: &Result<Response, Error>) {
        match answer {
            Ok(_) => self.quarantine.leave(contents),
            Err(error) if self.blames_a_row(error).is_some() => {
                self.quarantine.enter(contents, Instant::now());
            }
            Err(_) => {}
        }
    }

    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }
}

impl Default for Isolation {
    fn default() -> Self {
        Self::new(status)
    }
}

fn status(cause: &(dyn StdError + 'static)) -> Option<Status> {
    cause.downcast_ref().cloned()
}

/// What servers say of bad contents, carelessly written ones with `UNKNOWN` or `INTERNAL`. All else
/// is of the model, the caller's rights or the server's state, the same for every row.
fn can_be_a_rows_fault(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::Internal
            | Code::Unknown
            | Code::OutOfRange
            | Code::FailedPrecondition
    )
}
