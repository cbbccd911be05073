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

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io};

    use super::*;
    use crate::{
        body::Body,
        config::{HttpVersion, Protocol},
        upstream::{Connector, call_endpoint},
    };

    /// An endpoint's service of which only the load counts.
    #[derive(Debug)]
    struct Load(usize);

    impl Loaded for Load {
        fn load(&self) -> usize {
            self.0
        }
    }

    fn endpoints(loads: &[usize]) -> Vec<(Arc<Endpoint>, Load)> {
        let refuse = Connector::new(|_| async { Err(io::ErrorKind::ConnectionRefused.into()) });
        let authority = http::uri::Authority::from_static("a:1");
        let endpoint = || {
            Endpoint::new(
                authority.clone(),
                Protocol::OipGrpc,
                HttpVersion::Http2,
                refuse.clone(),
            )
            .into()
        };
        loads.iter().map(|load| (endpoint(), Load(*load))).collect()
    }

    fn chosen(balance: &Balance<Load>) -> HashSet<usize> {
        (0..1000)
            .filter_map(|_| balance.choose())
            .map(Loaded::load)
            .collect()
    }

    #[test]
    fn the_most_loaded_of_several_endpoints_is_never_chosen() {
        assert_eq!(chosen(&Balance::new(endpoints(&[]))), HashSet::new());
        assert_eq!(chosen(&Balance::new(endpoints(&[7]))), HashSet::from([7]));
        let balance = Balance::new(endpoints(&[1, 2, 9]));
        assert_eq!(chosen(&balance), HashSet::from([1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_gone_draws_nothing_until_it_is_tried_again() {
        let endpoints = endpoints(&[0, 5, 6]);
        let gone = endpoints[0].0.clone();
        let balance = Balance::new(endpoints);
        call_endpoint(&gone, http::Request::new(Body::empty()))
            .await
            .expect_err("it refuses");
        assert_eq!(chosen(&balance), HashSet::from([5]));
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
        assert_eq!(chosen(&balance), HashSet::from([0, 5]));
    }
}
