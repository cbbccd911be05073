//! The client's end of one HTTP/2 connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_TYPE, TE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use tokio::net::TcpStream;

use super::report::Outcome;
use crate::io::cork;

/// Where calls go and how their heads look.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// How many connections share the load.
    pub connections: usize,
    head: Request<()>,
}

/// One connection; cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    head: Request<()>,
}

impl Target {
    /// Takes the server's address and a method's path such as `/package.Service/Method`.
    pub fn new(address: SocketAddr, path: &str) -> io::Result<Self> {
        let uri: Uri = format!("http://{address}{path}").parse().map_err(invalid)?;
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = uri;
        head.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers_mut()
            .insert(TE, HeaderValue::from_static("trailers"));
        Ok(Self {
            address,
            connections: 1,
            head,
        })
    }

    /// Shares the load among this many connections, at least one.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Adds a header to every call.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.head.headers_mut().append(name, value);
        self
    }

    /// Connects, within `patience`, and leaves the connection's driver to the current runtime.
    pub(super) async fn connect(&self, patience: Duration) -> io::Result<Connection> {
        let connecting = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let (corked, uncork) = cork(stream);
            let mut builder = h2::client::Builder::new();
            builder
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_reset_streams(1000)
                .enable_push(false);
            // The handshake only writes, so the driver may start afterwards.
            let (sender, connection) = builder.handshake(corked).await.map_err(broken)?;
            // It ends with the connection: when the last sender is dropped, or the server leaves.
            tokio::spawn(async move { uncork.drive(connection).await });
            let sender = sender.ready().await.map_err(broken)?;
            Ok(Connection {
                sender,
                head: self.head.clone(),
            })
        };
        tokio::time::timeout(patience, connecting)
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer from {}", self.address),
                ))
            })
    }
}

impl Connection {
    /// Hands a call to the connection; its bytes leave when the connection's driver runs next.
    pub(super) fn send(&self, body: Bytes) -> Result<ResponseFuture, h2::Error> {
        self.send_as(self.head.clone(), body)
    }

    /// The same with another head.
    pub(super) fn send_as(
        &self,
        head: Request<()>,
        body: Bytes,
    ) -> Result<ResponseFuture, h2::Error> {
        // A clone has no request of its own waiting, so it may always queue one more.
        let mut sender = self.sender.clone();
        let (answer, mut stream) = sender.send_request(head, false)?;
        stream.send_data(body, true)?;
        Ok(answer)
    }

    /// What the head of a call looks like.
    pub(super) fn head(&self) -> Request<()> {
        self.head.clone()
    }

    /// Waits until the server lets one more call in.
    pub(super) async fn ready(&mut self) -> Result<(), h2::Error> {
        self.sender = self.sender.clone().ready().await?;
        Ok(())
    }
}

/// Reads an answer to its end.
pub(super) async fn receive(answer: ResponseFuture) -> (Outcome, Bytes) {
    match receive_or_fail(answer).await {
        Ok(received) => received,
        Err(error) => match error.reason() {
            Some(reason) if error.is_reset() => (Outcome::Reset(reason.into()), Bytes::new()),
            _ => (Outcome::Lost, Bytes::new()),
        },
    }
}

async fn receive_or_fail(answer: ResponseFuture) -> Result<(Outcome, Bytes), h2::Error> {
    let (head, whole, trailers) = receive_all(answer).await?;
    Ok((outcome(&head, trailers.as_ref()), whole))
}

/// Reads an answer to its end, and keeps its head and its trailers.
pub(super) async fn receive_all(
    answer: ResponseFuture,
) -> Result<(Parts, Bytes, Option<HeaderMap>), h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    let mut whole = Bytes::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        whole = join(whole, part);
    }
    let trailers = body.trailers().await?;
    Ok((head, whole, trailers))
}

/// How a call ended that was answered so.
pub(super) fn outcome(head: &Parts, trailers: Option<&HeaderMap>) -> Outcome {
    if !head.status.is_success() {
        return Outcome::Http(head.status.as_u16());
    }
    let status = trailers
        .and_then(grpc_status)
        .or_else(|| grpc_status(&head.headers));
    status.map_or(Outcome::NoStatus, Outcome::Grpc)
}

/// Makes one call on a connection of its own and returns the answer's message.
///
/// For what surrounds a load: asking for readiness, reading a server's counters.
pub fn unary(target: &Target, body: Bytes, patience: Duration) -> io::Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connection = target.connect(patience).await?;
        let answer = connection.send(body).map_err(broken)?;
        match tokio::time::timeout(patience, receive(answer)).await {
            Ok((Outcome::Grpc(0), message)) if message.len() >= 5 => Ok(message.slice(5..)),
            Ok((outcome, _)) => Err(io::Error::other(format!("answered with {outcome}"))),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
        }
    })
}

fn join(whole: Bytes, part: Bytes) -> Bytes {
    if whole.is_empty() {
        return part;
    }
    let mut joined = BytesMut::from(whole);
    joined.extend_from_slice(&part);
    joined.freeze()
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

pub(super) fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, error)
}

/// Larger than any answer a load expects, so that flow control does not take part.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
