//! The filter before scripted endpoints, on a paused clock.

mod hedging;
mod losing;
mod properties;
mod stragglers;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::{Layer as _, Service as _};

use super::{
    metrics::{Forgone, Kind, Outcome},
    *,
};
use crate::{
    batch::Share,
    inference::{Code, Error, Head, Request, RequestParts, Response, ResponseParts, Status},
    overload::Overloaded,
};

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered(u64),
    /// Its connection is lost.
    Lost(u64),
    /// The server says that it has no answer.
    Refused(u64),
    /// A queue before it has no time for it.
    Full,
    Hangs,
}

/// A call that an endpoint has seen.
#[derive(Clone, Debug)]
struct Sent {
    id: String,
    endpoint: usize,
    at: Instant,
}

/// Endpoints of which each is asked in turn, and whose calls have the fates of a list, the last of
/// which is that of all others.
#[derive(Clone, Debug)]
struct Servers(Arc<World>);

#[derive(Debug)]
struct World {
    fates: Mutex<VecDeque<Fate>>,
    sent: Mutex<Vec<Sent>>,
    /// Which endpoints can be reached, and which have capacity to spare.
    reached: Mutex<Vec<bool>>,
    spare: Mutex<Vec<bool>>,
    under_way: AtomicUsize,
}

struct UnderWay(Arc<World>);

#[derive(Debug)]
struct ConnectionLost;

impl Servers {
    fn new(count: usize, fates: impl IntoIterator<Item = Fate>) -> Self {
        Self(Arc::new(World {
            fates: Mutex::new(fates.into_iter().collect()),
            sent: Mutex::default(),
            reached: Mutex::new(vec![true; count]),
            spare: Mutex::new(vec![true; count]),
            under_way: AtomicUsize::new(0),
        }))
    }

    fn fates(&self, fates: impl IntoIterator<Item = Fate>) {
        *self.0.fates.lock() = fates.into_iter().collect();
        self.0.sent.lock().clear();
    }

    /// Returns where requests were sent, in order.
    fn sent(&self) -> Vec<usize> {
        let sent = self.0.sent.lock();
        sent.iter().map(|sent| sent.endpoint).collect()
    }

    fn under_way(&self) -> usize {
        self.0.under_way.load(Relaxed)
    }

    fn begin(&self, request: Request, endpoint: usize) -> (usize, <Self as Endpoints>::Future) {
        let fate = {
            let mut fates = self.0.fates.lock();
            let next = fates.pop_front().expect("a fate");
            if fates.is_empty() {
                fates.push_back(next);
            }
            next
        };
        let id = request.head.id.to_string();
        let at = Instant::now();
        self.0.sent.lock().push(Sent { id, endpoint, at });
        self.0.under_way.fetch_add(1, Relaxed);
        let under_way = UnderWay(self.0.clone());
        let call = async move {
            let _under_way = under_way;
            let after = |millis| sleep(Duration::from_millis(millis));
            match fate {
                Fate::Answered(millis) => {
                    after(millis).await;
                    let id = request.head.id.clone();
                    Ok(ResponseParts {
                        id,
                        ..ResponseParts::default()
                    }
                    .into())
                }
                Fate::Lost(millis) => {
                    after(millis).await;
                    Err(ConnectionLost.into())
                }
                Fate::Refused(millis) => {
                    after(millis).await;
                    Err(Status::new(Code::InvalidArgument, "not so").into())
                }
                Fate::Full => {
                    Err(Overloaded::late(Duration::from_millis(9), Duration::ZERO).into())
                }
                Fate::Hangs => std::future::pending().await,
            }
        };
        (endpoint, Box::pin(call))
    }
}

impl Endpoints for Servers {
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn count(&self) -> usize {
        self.0.reached.lock().len()
    }

    fn send(&self, request: Request) -> (usize, Self::Future) {
        let turn = self.0.sent.lock().len();
        let reached = self.0.reached.lock().clone();
        let places = (0..reached.len()).map(|place| (turn + place) % reached.len());
        let endpoint = places.clone().find(|place| reached[*place]);
        self.begin(request, endpoint.unwrap_or(0))
    }

    fn send_elsewhere(
        &self,
        request: Request,
        than: usize,
        spare: bool,
    ) -> Result<(usize, Self::Future), Request> {
        let reached = self.0.reached.lock().clone();
        let has_spare = self.0.spare.lock().clone();
        let other = (0..reached.len())
            .find(|place| *place != than && reached[*place] && (!spare || has_spare[*place]));
        match other {
            Some(endpoint) => Ok(self.begin(request, endpoint)),
            None => Err(request),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

impl std::fmt::Display for ConnectionLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection was lost")
    }
}

impl std::error::Error for ConnectionLost {}

fn share(share: f64) -> Share {
    Share::new(share).unwrap()
}

/// Second tries of lost requests alone.
fn lost(budget: f64) -> Config {
    Config {
        budget: share(budget),
        hedge: None,
    }
}

/// Copies of the slowest in ten alone.
fn hedged(budget: f64) -> Config {
    Config {
        budget: Share::NONE,
        hedge: Some(Hedge {
            quantile: share(0.9),
            budget: share(budget),
        }),
    }
}

/// Requests whose id begins with `once` are not repeatable.
fn knows() -> Knows {
    Knows {
        is_lost: |error| error.is::<ConnectionLost>(),
        is_repeatable: Arc::new(|request| !request.head.id.starts_with("once")),
    }
}

fn request(id: &str, timeout: Option<u64>) -> Request {
    RequestParts {
        head: Head {
            id: id.into(),
            deadline: timeout.map(|millis| Instant::now() + Duration::from_millis(millis)),
            ..Head::default()
        },
        ..RequestParts::default()
    }
    .into()
}

/// The filter, and what it counts.
struct Filter {
    retry: Retry<Servers>,
    servers: Servers,
    metrics: Handles,
    layer: RetryLayer,
}

impl Filter {
    fn new(config: Config, servers: Servers) -> Self {
        let metrics = Handles::default();
        let layer = RetryLayer::new(config, knows(), metrics.clone());
        Self {
            retry: layer.layer(servers.clone()),
            servers,
            metrics,
            layer,
        }
    }

    fn call(&self, request: Request) -> ResponseFuture<Servers> {
        self.retry.clone().call(request)
    }

    async fn ask(&self, id: &str) -> Result<Response, Error> {
        self.call(request(id, None)).await
    }

    /// Lets so many requests be answered within ten milliseconds each.
    async fn teach(&self, requests: usize) {
        self.servers.fates([Fate::Answered(10)]);
        for _ in 0..requests {
            self.ask("taught").await.expect("it is answered");
        }
        self.servers.0.sent.lock().clear();
    }

    fn tried(&self, kind: Kind, outcome: Outcome) -> u64 {
        self.metrics.tried(kind, outcome).get()
    }

    fn forgone(&self, kind: Kind, reason: Forgone) -> u64 {
        self.metrics.forgone(kind, reason).get()
    }
}
