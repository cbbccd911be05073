use tower::Service;

use super::{Request, Response};

/// What travels up a stack when a request has no answer: a boxed cause.
///
/// Each cause is a small type of its own; the proxy walks the chain of sources once, at its
/// edge, and turns the cause into a status of the caller's protocol.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A service that answers inferences: what every filter wraps, and is.
pub trait Infer:
    Service<Request, Response = Response, Error: Into<Error>, Future: Send> + Clone + Send
{
}

impl<S> Infer for S where
    S: Service<Request, Response = Response, Error: Into<Error>, Future: Send> + Clone + Send
{
}

/// An [`Infer`] behind a pointer, for the two seams at which stacks are boxed.
pub type BoxInfer = tower::util::BoxCloneSyncService<Request, Response, Error>;
