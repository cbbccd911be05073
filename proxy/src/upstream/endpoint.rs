use std::{future::Future, sync::Arc};

use http::{Request, Response, uri::Authority};
use parking_lot::Mutex;
use tokio::{io, sync::Semaphore, time::Instant};

use super::{
    Connector,
    backoff::Backoff,
    error::{Cause, Failed},
    http1, http2,
    load::Load,
};
use crate::{body::Body, config::HttpVersion, io::BoxStream, worker};

/// One address of an upstream, with each worker's connections to it.
#[derive(Debug)]
pub struct Endpoint {
    authority: Authority,
    http: HttpVersion,
    connector: Connector,
    load: Arc<Load>,
    backoff: Mutex<Backoff>,
    pools: Box<[Pool]>,
}

#[derive(Debug)]
struct Pool {
    http2: Mutex<Vec<http2::Connection>>,
    http1: Arc<http1::Idle>,
    /// One connection is made at a time; who waits for it finds it made.
    dial: Semaphore,
}

impl Endpoint {
    /// Makes an endpoint that connects at its first call.
    pub fn new(authority: Authority, http: HttpVersion, connector: Connector) -> Self {
        let pool = |_| Pool {
            http2: Mutex::default(),
            http1: Arc::default(),
            dial: Semaphore::new(1),
        };
        Self {
            authority,
            http,
            connector,
            load: Load::endpoint(),
            backoff: Mutex::default(),
            pools: (0..worker::count()).map(pool).collect(),
        }
    }

    /// Returns the host and port.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns the version of HTTP in which the endpoint is spoken to.
    pub(crate) fn http(&self) -> HttpVersion {
        self.http
    }

    /// Returns the calls under way.
    pub(crate) fn calls(&self) -> usize {
        self.load.calls()
    }

    /// Tells how long the endpoint is still left alone after a failure, if it is.
    pub(crate) fn backoff(&self) -> Option<std::time::Duration> {
        self.backoff.lock().left(Instant::now())
    }

    /// Sends a request on one of this worker's connections.
    pub(crate) async fn call(&self, request: Box<Request<Body>>) -> Result<Response<Body>, Failed> {
        match self.http {
            HttpVersion::Http2 => {
                let connection = match self.pool().choose() {
                    Some(connection) => connection,
                    // Rare, and large: it must not make every call's future as large.
                    None => match Box::pin(self.connect()).await {
                        Ok(connection) => connection,
                        Err(cause) => {
                            return Err(Failed {
                                cause,
                                unseen: Some(request),
                            });
                        }
                    },
                };
                connection.call(request).await
            }
            HttpVersion::Http1 => Box::pin(self.call_http1(request)).await,
        }
    }

    async fn call_http1(&self, request: Box<Request<Body>>) -> Result<Response<Body>, Failed> {
        let idle = &self.pool().http1;
        let borrowed = match idle.take() {
            Some(borrowed) => borrowed,
            None => match self.dial(|socket| idle.open(socket)).await {
                Ok(borrowed) => borrowed,
                Err(cause) => {
                    return Err(Failed {
                        cause,
                        unseen: Some(request),
                    });
                }
            },
        };
        borrowed.call(*request, &self.load).await
    }

    fn pool(&self) -> &Pool {
        &self.pools[worker::index().min(self.pools.len() - 1)]
    }

    async fn connect(&self) -> Result<http2::Connection, Cause> {
        // Who waits for a connection counts already: others shall choose another endpoint.
        let _waiting = self.load.begin();
        let pool = self.pool();
        let Ok(_turn) = pool.dial.acquire().await else {
            return Err(Cause::NoEndpoint);
        };
        if let Some(connection) = pool.choose() {
            return Ok(connection);
        }
        let connection = self
            .dial(|socket| http2::Connection::open(socket, &self.load))
            .await?;
        pool.http2.lock().push(connection.clone());
        Ok(connection)
    }

    async fn dial<T, F>(&self, open: impl FnOnce(BoxStream) -> F) -> Result<T, Cause>
    where
        F: Future<Output = io::Result<T>>,
    {
        {
            let backoff = self.backoff.lock();
            if let (Some(left), Some(error)) = (backoff.left(Instant::now()), backoff.error()) {
                return Err(Cause::Backoff(left, error.clone()));
            }
        }
        let opened = match self.connector.connect(&self.authority).await {
            Ok(socket) => open(socket).await,
            Err(error) => Err(error),
        };
        let mut backoff = self.backoff.lock();
        match opened {
            Ok(connection) => {
                backoff.succeeded();
                Ok(connection)
            }
            Err(error) => {
                tracing::info!(endpoint = %self.authority, %error, "no connection");
                let error = Arc::new(error);
                backoff.failed(Instant::now(), rand::random(), error.clone());
                Err(Cause::Connect(error))
            }
        }
    }
}

impl Pool {
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
