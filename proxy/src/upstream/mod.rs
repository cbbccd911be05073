//! The servers behind the proxy: their endpoints, connections and the calls to them.

mod backoff;
mod blame;
mod client;
mod connector;
mod control;
mod due;
mod endpoint;
mod error;
mod grpc;
mod http1;
mod http2;
mod load;
mod message;
mod rest;
mod verdict;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use http::{Request, Response, uri::Scheme};
use rand::RngExt as _;
use smallvec::SmallVec;

#[cfg(test)]
pub(crate) use self::control::servers;
use self::error::Failed;
pub(crate) use self::{
    blame::{blames, is_lost},
    client::rest_path,
    control::{Lookout, Served, describe, is_ready, unready},
    grpc::Unreadable,
    rest::encoding,
    verdict::verdict,
};
pub use self::{
    client::Client,
    connector::Connector,
    control::{Description, Learned, NotDescribed, Watched},
    endpoint::Endpoint,
    error::Error,
    rest::Refused,
};
pub(crate) use self::{error::Cause, http1::Borrowed, load::Underway};
use crate::{
    body::Body,
    config::{self, HttpVersion, Protocol},
};

/// A set of endpoints that answer alike.
#[derive(Debug)]
pub struct Upstream {
    name: Box<str>,
    protocol: Protocol,
    http: HttpVersion,
    scheme: Scheme,
    endpoints: Vec<Arc<Endpoint>>,
    /// From where the endpoints' servers are looked at, once somebody does.
    lookouts: OnceLock<Box<[Lookout]>>,
}

impl Upstream {
    /// Makes an upstream that connects when it is called.
    pub fn new(name: &str, config: &config::Upstream, connector: &Connector) -> Self {
        let connector = connector.to(name, config);
        let endpoints = config
            .endpoints
            .iter()
            .map(|endpoint| {
                let authority = endpoint.authority().clone();
                Arc::new(Endpoint::new(
                    authority,
                    config.protocol,
                    config.http,
                    connector.clone(),
                ))
            })
            .collect();
        Self {
            name: name.into(),
            protocol: config.protocol,
            http: config.http,
            scheme: connector.scheme(),
            endpoints,
            lookouts: OnceLock::new(),
        }
    }

    /// Returns the name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the protocol that its servers speak.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the endpoints.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Returns from where the servers of the endpoints are looked at, in the endpoints' order.
    pub(crate) fn lookouts(&self) -> &[Lookout] {
        let made = || {
            self.endpoints
                .iter()
                .map(|endpoint| Lookout::new(endpoint))
                .collect()
        };
        self.lookouts.get_or_init(made)
    }

    /// Passes a request on to the endpoint with the fewest calls of two chosen at random.
    ///
    /// A request that an endpoint has surely not seen goes to another one, or again to the same
    /// over a new connection.
    ///
    /// # Errors
    ///
    /// Fails when no endpoint can be reached, or when the call broke after it was sent.
    pub fn call(
        self: &Arc<Self>,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send + use<> {
        let request = prepare(request, self.http, &self.scheme);
        let tries = self.endpoints.len() + 2;
        let upstream = self.clone();
        attempt(request, self.http, tries, None, move || {
            upstream.choose().cloned()
        })
    }

    /// Passes a request on to one endpoint, and to another one where that one cannot be reached.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub(crate) fn call_first(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send + use<> {
        let request = prepare(request, self.http, &self.scheme);
        let tries = self.endpoints.len() + 2;
        let (first, upstream) = (Some(endpoint.clone()), self.clone());
        attempt(request, self.http, tries, first, move || {
            upstream.choose().cloned()
        })
    }

    fn choose(&self) -> Option<&Arc<Endpoint>> {
        match self.endpoints.as_slice() {
            [] => None,
            [only] => Some(only),
            several => {
                // Looked at once: another worker may find an endpoint gone in between.
                let reached: SmallVec<[&Arc<Endpoint>; 8]> = several
                    .iter()
                    .filter(|endpoint| endpoint.backoff().is_none())
                    .collect();
                if reached.is_empty() {
                    return several.iter().min_by_key(|endpoint| endpoint.backoff());
                }
                let (first, second) = two_of(reached.len());
                let (first, second) = (reached[first], reached[second]);
                Some(if second.calls() < first.calls() {
                    second
                } else {
                    first
                })
            }
        }
    }
}

/// Calls one endpoint.
///
/// # Errors
///
/// As [`Upstream::call`], but tries no other endpoint.
pub(crate) fn call_endpoint(
    endpoint: &Arc<Endpoint>,
    request: Request<Body>,
) -> impl Future<Output = Result<Response<Body>, Error>> + Send + use<> {
    let request = prepare(request, endpoint.http(), &endpoint.scheme());
    let endpoint = endpoint.clone();
    attempt(request, endpoint.http(), 2, None, move || {
        Some(endpoint.clone())
    })
}

/// Says a request in the upstream's version of HTTP, and puts it behind a pointer: the futures of
/// a call are moved more often than they are polled.
fn prepare(
    request: Request<Body>,
    http: HttpVersion,
    scheme: &Scheme,
) -> Result<Box<Request<Body>>, Error> {
    match message::for_upstream(request, http, scheme) {
        Ok(request) => Ok(Box::new(request)),
        Err(error) => Err(Error::new(None, Cause::Request(Arc::new(error)))),
    }
}

/// Tries to call, again as long as no endpoint has seen the request and tries are left; one that
/// cannot be reached only where another one may be.
async fn attempt(
    request: Result<Box<Request<Body>>, Error>,
    http: HttpVersion,
    tries: usize,
    mut next: Option<Arc<Endpoint>>,
    choose: impl Fn() -> Option<Arc<Endpoint>> + Send,
) -> Result<Response<Body>, Error> {
    let mut request = request?;
    let mut tried = 0;
    loop {
        let Some(endpoint) = next.take().or_else(&choose) else {
            return Err(Error::new(None, Cause::NoEndpoint));
        };
        tried += 1;
        match endpoint.call(request).await {
            Ok(answer) => return Ok(message::from_upstream(answer, http)),
            Err(Failed {
                unseen: Some(unseen),
                cause,
            }) if tried < tries => {
                request = unseen;
                next = choose();
                let nowhere = next.as_ref().is_none_or(|next| next.backoff().is_some());
                if cause.is_unreachable() && nowhere {
                    return Err(Error::new(Some(endpoint.authority().clone()), cause));
                }
            }
            Err(failed) => {
                return Err(Error::new(Some(endpoint.authority().clone()), failed.cause));
            }
        }
    }
}

/// Chooses two different numbers below `count` at random, or the same one where there is only one.
pub(crate) fn two_of(count: usize) -> (usize, usize) {
    let mut rng = rand::rng();
    let first = rng.random_range(0..count.max(1));
    if count < 2 {
        return (first, first);
    }
    let second = rng.random_range(0..count - 1);
    (first, second + usize::from(second >= first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_choices_differ_and_every_endpoint_is_among_them() {
        let mut chosen = [0; 5];
        for _ in 0..1000 {
            let (first, second) = two_of(5);
            assert_ne!(first, second);
            chosen[first] += 1;
            chosen[second] += 1;
        }
        // 400 each, with a standard deviation of 16.
        assert!(
            chosen.iter().all(|count| (300..500).contains(count)),
            "{chosen:?}"
        );
        assert_eq!(two_of(1), (0, 0));
    }
}
