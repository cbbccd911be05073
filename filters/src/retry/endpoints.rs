use std::future::Future;

use crate::inference::{Error, Request, Response};

/// Where a request may be sent: the endpoints of one arm of a model, each by its place.
pub trait Endpoints {
    /// The answer of one of them. Dropping it leaves it to the endpoint's queue what becomes of the
    /// call.
    type Future: Future<Output = Result<Response, Error>> + Send + 'static;

    /// Returns how many there are.
    fn count(&self) -> usize;

    /// Sends a request to whichever endpoint is best, and tells which that is.
    fn send(&self, request: Request) -> (usize, Self::Future);

    /// Sends a request to another endpoint than one, and tells to which; `spare`: only to one that
    /// would begin with it at once.
    ///
    /// # Errors
    ///
    /// Gives the request back where there is no such endpoint.
    #[expect(
        clippy::result_large_err,
        reason = "the request is moved either way, and sent again at once"
    )]
    fn send_elsewhere(
        &self,
        request: Request,
        than: usize,
        spare: bool,
    ) -> Result<(usize, Self::Future), Request>;
}
