use std::error::Error;

use outrigger_filters::inference::Status;

use super::Refused;

/// Reads a server's own word of why it has no answer, in whichever protocol it said it, from one
/// level of an error.
pub(crate) fn verdict(cause: &(dyn Error + 'static)) -> Option<Status> {
    if let Some(refused) = cause.downcast_ref::<Refused>() {
        return Some(Status::new(refused.code(), refused.message()));
    }
    cause.downcast_ref().cloned()
}
