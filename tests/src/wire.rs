//! A client that says HTTP/2 frame by frame, and keeps what came back.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// One HTTP/2 connection of a client.
#[derive(Clone, Debug)]
pub struct Wire {
    sender: SendRequest<Bytes>,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers, if it had any.
    pub trailers: Option<HeaderMap>,
}

impl Wire {
    /// Connects over TCP.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        socket.set_nodelay(true).expect("a socket");
        Self::over(socket).await
    }

    /// Connects over anything.
    ///
    /// # Panics
    ///
    /// When the other side does not greet.
    pub async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.initial_max_send_streams(4096);
        // Many small answers may have come before this runtime's one thread reads any of them.
        builder.data_frame_budget(1 << 24);
        Self::with(builder, io).await
    }

    /// Connects over anything, with settings of the test's own.
    ///
    /// # Panics
    ///
    /// When the other side does not greet.
    pub async fn with(
        builder: h2::client::Builder,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let (sender, connection) = builder.handshake(io).await.expect("a greeting");
        // It ends with the last of its senders and streams.
        tokio::spawn(connection);
        Self { sender }
    }

    /// Begins a request; its body is sent by whoever asks.
    ///
    /// # Errors
    ///
    /// Fails when the connection takes no more requests.
    pub async fn open(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender
            .clone()
            .ready()
            .await?
            .send_request(request, ends)
    }

    /// Sends a request, its body in pieces, and trailers, and waits for the whole answer; the
    /// two go on beside each other.
    ///
    /// # Errors
    ///
    /// Fails when the stream was reset, or the connection ended.
    pub async fn exchange(
        &self,
        request: Request<()>,
        body: &[Bytes],
        trailers: Option<HeaderMap>,
    ) -> Result<Reply, h2::Error> {
        let ends = body.is_empty() && trailers.is_none();
        let (answer, mut stream) = self.open(request, ends).await?;
        let sending = async {
            if ends {
                return;
            }
            for (at, piece) in body.iter().enumerate() {
                let last = at + 1 == body.len() && trailers.is_none();
                if send(&mut stream, piece.clone(), last).await.is_err() {
                    // The answer says why.
                    return;
                }
            }
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(trailers);
            }
        };
        let answer = async { gather(answer.await?).await };
        let mut sending = std::pin::pin!(sending);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            reply = &mut answer => reply,
            () = &mut sending => answer.await,
        }
    }

    /// Makes a unary gRPC call with one message.
    ///
    /// # Errors
    ///
    /// Fails when the stream was reset, or the connection ended.
    pub async fn call(&self, path: &str, message: &[u8]) -> Result<Reply, h2::Error> {
        self.exchange(grpc(path), &[framed(message)], None).await
    }
}

impl Reply {
    /// Returns the gRPC status, of the trailers or of an answer that is trailers only.
    pub fn grpc_status(&self) -> Option<&str> {
        self.field("grpc-status")
    }

    /// Returns the gRPC message as it is meant: which characters are escaped is left to whoever
    /// writes it.
    ///
    /// # Panics
    ///
    /// When it is not escaped as it should.
    pub fn grpc_message(&self) -> String {
        let escaped = self.field("grpc-message").unwrap_or_default();
        let mut parts = escaped.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (digits, rest) = part.split_at(2);
            bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
            bytes.extend_from_slice(rest.as_bytes());
        }
        String::from_utf8(bytes).expect("it is text")
    }

    /// Returns the answer without what may be written in several ways: the gRPC message is taken
    /// out of the headers.
    pub fn meaning(&self) -> (String, Self) {
        let mut rest = self.clone();
        rest.headers.remove("grpc-message");
        if let Some(trailers) = &mut rest.trailers {
            trailers.remove("grpc-message");
        }
        (self.grpc_message(), rest)
    }

    /// Returns a field of the trailers, or of an answer that is trailers only.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.trailers
            .as_ref()
            .and_then(|trailers| trailers.get(name))
            .or_else(|| self.headers.get(name))
            .map(|value| value.to_str().expect("it is text"))
    }
}

/// Sends a piece as the reader gives way for it.
///
/// # Errors
///
/// Fails when the stream takes no more.
pub async fn send(
    stream: &mut SendStream<Bytes>,
    mut piece: Bytes,
    last: bool,
) -> Result<(), h2::Error> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let room = match stream.capacity() {
            0 => match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(h2::Reason::STREAM_CLOSED.into()),
            },
            room => room,
        };
        let part = piece.split_to(room.min(piece.len()));
        stream.send_data(part, last && piece.is_empty())?;
        if last && piece.is_empty() {
            return Ok(());
        }
    }
    if last {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

/// Reads a whole answer.
///
/// # Errors
///
/// Fails when it breaks off.
pub async fn gather(answer: Response<RecvStream>) -> Result<Reply, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let (body, trailers) = drink(&mut stream).await?;
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
    })
}

/// Reads a body and its trailers.
///
/// # Errors
///
/// Fails when it breaks off.
pub async fn drink(stream: &mut RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body.freeze(), stream.trailers().await?))
}

/// Makes the head of a gRPC call.
///
/// # Panics
///
/// When the path is none.
pub fn grpc(path: &str) -> Request<()> {
    Request::post(format!("http://model.test{path}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a path")
}

/// Puts a message into a gRPC frame.
pub fn framed(message: &[u8]) -> Bytes {
    flagged(0, message)
}

/// Puts a message into a gRPC frame with a flag of the test's own.
pub fn flagged(flag: u8, message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[flag][..], &len.to_be_bytes(), message].concat().into()
}

/// Gives other tasks of this runtime their turn, so that what can be done without waiting is.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
