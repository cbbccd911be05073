use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{
    Request, Response,
    uri::{Authority, Scheme},
};
use parking_lot::Mutex;
use tokio::{io, sync::Semaphore, time::Instant};

use super::{
    Connector,
    backoff::Backoff,
    due::Due,
    error::{Cause, Failed},
    http1, http2,
    load::Load,
};
use crate::{
    body::Body,
    config::{HttpVersion, Protocol},
    detect::is_grpc,
    io::BoxStream,
    worker,
};

/// One address of an upstream, with each worker's connections to it.
#[derive(Debug)]
pub struct Endpoint {
    authority: Authority,
    protocol: Protocol,
    http: HttpVersion,
    connector: Connector,
    load: Arc<Load>,
    backoff: Mutex<Backoff>,
    pools: Box<[Pool]>,
    /// Each worker's connections for requests that are no gRPC, where the endpoint speaks nothing
    /// else. gRPC's C++ core answers them with frames for a stream that it has reset already, for
    /// which the connection has to be given up: those of other callers must not go with it.
    strangers: Option<Box<[Pool]>>,
    /// How many connections were made so far.
    dials: AtomicU64,
    /// Whether it stands beside another one of the same address, which tells of failures already.
    apart: bool,
}

#[derive(Debug)]
struct Pool {
    http2: Mutex<Vec<http2::Connection>>,
    http1: Arc<http1::Idle>,
    /// The turn of a dial that does not end with its caller. Of HTTP/2 there is no other: one
    /// connection is made at a time, and who waits for it finds it made.
    turn: Arc<Semaphore>,
}

impl Endpoint {
    /// Makes an endpoint that connects at its first call.
    pub fn new(
        authority: Authority,
        protocol: Protocol,
        http: HttpVersion,
        connector: Connector,
    ) -> Self {
        let pools = || (0..worker::count()).map(|_| Pool::new()).collect();
        Self {
            authority,
            protocol,
            http,
            connector,
            load: Load::endpoint(),
            backoff: Mutex::default(),
            pools: pools(),
            strangers: protocol.is_grpc().then(pools),
            dials: AtomicU64::new(0),
            apart: false,
        }
    }

    /// Makes an endpoint of the same address with connections of its own, which is not left alone
    /// for longer than this after a failure.
    pub(crate) fn apart(&self, longest: Duration) -> Self {
        let connector = self.connector.clone();
        Self {
            backoff: Mutex::new(Backoff::at_most(longest)),
            apart: true,
            ..Self::new(self.authority.clone(), self.protocol, self.http, connector)
        }
    }

    /// Returns the host and port.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns what the server there speaks.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the scheme of its URLs.
    pub(crate) fn scheme(&self) -> Scheme {
        self.connector.scheme()
    }

    /// Returns the version of HTTP in which the endpoint is spoken to.
    pub(crate) fn http(&self) -> HttpVersion {
        self.http
    }

    /// Returns the calls under way.
    pub(crate) fn calls(&self) -> usize {
        self.load.calls()
    }

    /// Returns how many connections were made so far.
    pub(crate) fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }

    /// Tells how long the endpoint is still left alone after a failure, if it is.
    pub(crate) fn backoff(&self) -> Option<Duration> {
        let backoff = self.backoff.lock();
        // Asked for each request: where nothing failed, the clock need not be read.
        backoff.error()?;
        backoff.left(Instant::now())
    }

    /// Tells whether the last try to connect failed: calls go elsewhere then.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.backoff.lock().error().is_some()
    }

    /// Sends a request on one of this worker's connections.
    pub(crate) async fn call(
        self: &Arc<Self>,
        mut request: Box<Request<Body>>,
    ) -> Result<Response<Body>, Failed> {
        match self.http {
            HttpVersion::Http2 => {
                let stranger = self.strangers.is_some() && !is_grpc(request.headers());
                let connection = match self.pool(stranger).choose() {
                    Some(connection) => connection,
                    // Rare, and large: it must not make every call's future as large.
                    None => match Box::pin(self.connect_http2(stranger)).await {
                        Ok(connection) => connection,
                        Err(cause) => {
                            return Err(Failed {
                                cause,
                                unseen: Some(request),
                            });
                        }
                    },
                };
                // Not before there is a connection: it may have been waited for.
                Due::tell(&mut request)?;
                connection.call(request).await
            }
            HttpVersion::Http1 => Box::pin(self.call_http1(request)).await,
        }
    }

    async fn call_http1(
        self: &Arc<Self>,
        mut request: Box<Request<Body>>,
    ) -> Result<Response<Body>, Failed> {
        let borrowed = match self.pool(false).http1.take() {
            Some(borrowed) => borrowed,
            None => match Box::pin(self.connect_http1()).await {
                Ok(borrowed) => borrowed,
                Err(cause) => {
                    return Err(Failed {
                        cause,
                        unseen: Some(request),
                    });
                }
            },
        };
        Due::tell(&mut request)?;
        borrowed.call(*request, &self.load).await
    }

    fn pool(&self, stranger: bool) -> &Pool {
        let pools = match &self.strangers {
            Some(strangers) if stranger => strangers,
            _ => &self.pools,
        };
        &pools[worker::index().min(pools.len() - 1)]
    }

    async fn connect_http2(self: &Arc<Self>, stranger: bool) -> Result<http2::Connection, Cause> {
        // Who waits for a connection counts already: others shall choose another endpoint.
        let _waiting = self.load.begin();
        Self::left_alone(&self.backoff.lock())?;
        let pool = self.pool(stranger);
        let Ok(turn) = pool.turn.clone().acquire_owned().await else {
            return Err(Cause::NoEndpoint);
        };
        if let Some(connection) = pool.choose() {
            return Ok(connection);
        }
        let endpoint = self.clone();
        outliving(async move {
            let _turn = turn;
            let open = |socket| http2::Connection::open(socket, &endpoint.load);
            let connection = endpoint.dial(open).await?;
            endpoint
                .pool(stranger)
                .http2
                .lock()
                .push(connection.clone());
            Ok(connection)
        })
        .await
    }

    async fn connect_http1(self: &Arc<Self>) -> Result<http1::Borrowed, Cause> {
        let _waiting = self.load.begin();
        let endpoint = self.clone();
        let dial = async move {
            let idle = &endpoint.pool(false).http1;
            endpoint.dial(|socket| idle.open(socket)).await
        };
        // Each caller needs a connection of its own. That one of the dials goes on without its
        // caller is enough to learn of a silent endpoint; if all did, callers who leave early
        // and come again would pile up sockets.
        match self.pool(false).turn.clone().try_acquire_owned() {
            Ok(turn) => {
                outliving(async move {
                    let _turn = turn;
                    dial.await
                })
                .await
            }
            Err(_) => dial.await,
        }
    }

    fn left_alone(backoff: &Backoff) -> Result<(), Cause> {
        match (backoff.left(Instant::now()), backoff.error()) {
            (Some(left), Some(error)) => Err(Cause::Backoff(left, error.clone())),
            _ => Ok(()),
        }
    }

    async fn dial<T, F>(&self, open: impl FnOnce(BoxStream) -> F) -> Result<T, Cause>
    where
        F: Future<Output = io::Result<T>>,
    {
        {
            let mut backoff = self.backoff.lock();
            Self::left_alone(&backoff)?;
            backoff.tries(Instant::now() + DIAL);
        }
        let opened = tokio::time::timeout(DIAL, async {
            open(self.connector.connect(&self.authority).await?).await
        });
        let opened = opened.await.unwrap_or_else(|_| {
            let words = format!("no connection and greeting within {DIAL:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, words))
        });
        let mut backoff = self.backoff.lock();
        match opened {
            Ok(connection) => {
                backoff.succeeded();
                self.dials.fetch_add(1, Ordering::Relaxed);
                Ok(connection)
            }
            Err(error) => {
                if !self.apart {
                    tracing::info!(endpoint = %self.authority, %error, "no connection");
                }
                let error = Arc::new(error);
                backoff.failed(Instant::now(), rand::random(), error.clone());
                Err(Cause::Connect(error))
            }
        }
    }
}

/// Runs a dial in a task of its own on this worker: it comes to its end, and the endpoint to its
/// connection or to its backoff, also when the caller leaves first. [`DIAL`] bounds its life.
async fn outliving<T: Send + 'static>(
    dial: impl Future<Output = Result<T, Cause>> + Send + 'static,
) -> Result<T, Cause> {
    match tokio::spawn(dial).await {
        Ok(dialed) => dialed,
        // The runtime is ending.
        Err(error) => Err(Cause::Connect(Arc::new(io::Error::other(error)))),
    }
}

impl Pool {
    fn new() -> Self {
        Self {
            http2: Mutex::default(),
            http1: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Returns an open connection with room for a stream, or the least loaded one when there are
    /// as many as there may be.
    fn choose(&self) -> Option<http2::Connection> {
        let mut connections = self.http2.lock();
        connections.retain(|connection| !connection.is_closed());
        if let Some(connection) = connections.iter().find(|connection| connection.has_room()) {
            return Some(connection.clone());
        }
        if connections.len() < CONNECTIONS {
            return None;
        }
        connections
            .iter()
            .min_by_key(|connection| connection.calls())
            .cloned()
    }
}

/// Connections of a worker to an endpoint: one carries everything until the endpoint's limit of
/// concurrent streams binds.
const CONNECTIONS: usize = 8;
/// How long connecting and greeting may take together: a lost SYN is sent again after one second
/// and after three, and a server that has not greeted two seconds later serves nobody.
const DIAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::atomic::AtomicUsize};

    use super::*;

    /// Makes an endpoint, and counts its dials.
    fn endpoint<F>(
        http: HttpVersion,
        connect: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> (Arc<Endpoint>, Arc<AtomicUsize>)
    where
        F: Future<Output = io::Result<BoxStream>> + Send + 'static,
    {
        let dials = Arc::new(AtomicUsize::new(0));
        let counted = dials.clone();
        let connector = Connector::new(move |_| connect(counted.fetch_add(1, Ordering::SeqCst)));
        let authority = Authority::from_static("a:1");
        (
            Arc::new(Endpoint::new(authority, Protocol::OipRest, http, connector)),
            dials,
        )
    }

    async fn call(endpoint: &Arc<Endpoint>) -> Cause {
        endpoint.call(Box::default()).await.unwrap_err().cause
    }

    async fn leave(endpoint: &Arc<Endpoint>, after: Duration) {
        let left = tokio::time::timeout(after, call(endpoint)).await;
        assert!(left.is_err(), "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_is_left_alone_although_its_caller_has_left() {
        for http in [HttpVersion::Http1, HttpVersion::Http2] {
            let (endpoint, dials) = endpoint(http, |_| pending());
            let began = Instant::now();
            leave(&endpoint, Duration::from_secs(1)).await;
            assert_eq!((endpoint.backoff(), endpoint.calls()), (None, 0));
            tokio::time::sleep_until(began + DIAL + Duration::from_millis(1)).await;
            assert!(endpoint.backoff().is_some(), "{http:?}");
            assert!(matches!(call(&endpoint).await, Cause::Backoff(..)));
            assert_eq!(dials.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_does_not_greet_is_left_alone() {
        let far = Arc::new(Mutex::new(Vec::new()));
        let kept = far.clone();
        let (endpoint, _) = endpoint(HttpVersion::Http2, move |_| {
            let (near, silent) = io::duplex(1 << 16);
            kept.lock().push(silent);
            async move { Ok(Box::new(near) as BoxStream) }
        });
        let began = Instant::now();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let endpoint = endpoint.clone();
                tokio::spawn(async move { call(&endpoint).await })
            })
            .collect();
        leave(&endpoint, Duration::from_secs(1)).await;
        for waiting in waiting {
            assert!(waiting.await.unwrap().is_unreachable());
        }
        assert_eq!(began.elapsed().as_secs(), DIAL.as_secs());
        assert!(endpoint.backoff().is_some());
        assert_eq!(far.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_caller_tries_and_the_others_are_not_held_up() {
        for http in [HttpVersion::Http1, HttpVersion::Http2] {
            let (endpoint, dials) = endpoint(http, |dial| async move {
                if dial == 0 {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                pending().await
            });
            assert!(matches!(call(&endpoint).await, Cause::Connect(_)));
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(endpoint.backoff(), None);
            leave(&endpoint, Duration::from_millis(100)).await;
            let before = Instant::now();
            assert!(matches!(call(&endpoint).await, Cause::Backoff(..)));
            assert_eq!(before.elapsed(), Duration::ZERO);
            assert_eq!(dials.load(Ordering::SeqCst), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_who_leave_early_do_not_pile_up_dials() {
        let underway = Arc::new(());
        let held = underway.clone();
        let (endpoint, dials) = endpoint(HttpVersion::Http1, move |_| {
            let held = held.clone();
            async move {
                pending::<()>().await;
                drop(held);
                unreachable!()
            }
        });
        for _ in 0..100 {
            leave(&endpoint, Duration::from_millis(10)).await;
        }
        assert_eq!(dials.load(Ordering::SeqCst), 100);
        // The test's, the connector's and that of the one dial that goes on.
        assert_eq!(Arc::strong_count(&underway), 3);
    }
}
