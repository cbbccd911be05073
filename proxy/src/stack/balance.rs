use std::{
    sync::Arc,
    task::{Context, Poll},
};

use outrigger_filters::inference::{Error, Infer, Request, Response};
use smallvec::SmallVec;
use tower::Service;

use crate::upstream::{Endpoint, two_of};

/// Sends each request to the less loaded of two endpoints chosen at random, of those that can be
/// reached: one that cannot answers sooner than any, and would draw all requests.
///
/// Two choices keep the longest queue short without every request looking at every endpoint
/// (Mitzenmacher, "The power of two choices", 2001).
#[derive(Clone, Debug)]
pub(crate) struct Balance<S> {
    /// Shared: a stack is cloned for each request, and its queues are not.
    endpoints: Arc<[(Arc<Endpoint>, S)]>,
}

/// What a balance asks of an endpoint's service.
pub(crate) trait Loaded {
    /// Returns how much work is waiting and under way, in any unit that endpoints share.
    fn load(&self) -> usize;
}

impl<S> Balance<S> {
    /// Balances over the services of at least one endpoint.
    pub(crate) fn new(endpoints: Vec<(Arc<Endpoint>, S)>) -> Self {
        Self {
            endpoints: endpoints.into(),
        }
    }
}

impl<S> Service<Request> for Balance<S>
where
    S: Infer + Loaded,
{
    type Response = Response;
    type Error = Error;
    type Future = futures_util::future::Either<
        futures_util::future::MapErr<S::Future, fn(S::Error) -> Error>,
        std::future::Ready<Result<Response, Error>>,
    >;

    /// Endpoints are always ready: each refuses at once what it has no place for.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        use futures_util::{TryFutureExt as _, future::Either};

        let Some(chosen) = self.choose() else {
            return Either::Right(std::future::ready(Err(NoEndpoint(()).into())));
        };
        // A clone shares its queue with the original, and is ready as the original is.
        Either::Left(chosen.clone().call(request).map_err(Into::into))
    }
}

impl<S: Loaded> Balance<S> {
    fn choose(&self) -> Option<&S> {
        let several = match &*self.endpoints {
            [] => return None,
            [(_, only)] => return Some(only),
            several => several,
        };
        let reached: SmallVec<[&S; 8]> = several
            .iter()
            .filter(|(endpoint, _)| endpoint.backoff().is_none())
            .map(|(_, service)| service)
            .collect();
        if reached.is_empty() {
            let (any, _) = two_of(several.len());
            return several.get(any).map(|(_, service)| service);
        }
        let (first, second) = two_of(reached.len());
        let (first, second) = (reached[first], reached[second]);
        Some(if second.load() < first.load() {
            second
        } else {
            first
        })
    }
}

/// A model's upstream has no endpoints.
#[derive(Debug)]
pub(crate) struct NoEndpoint(());

impl std::fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream has no endpoints")
    }
}

impl std::error::Error for NoEndpoint {}
