//! A client of HTTP/1.1 that sends bytes and reads bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::TcpStream,
};

use crate::wire::Reply;

/// One HTTP/1.1 connection of a client.
#[derive(Debug)]
pub struct Http1<T = TcpStream> {
    socket: BufReader<T>,
}

impl Http1 {
    /// Connects.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        socket.set_nodelay(true).expect("a socket");
        Self::over(socket)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Http1<T> {
    /// Takes a connection over.
    pub fn over(io: T) -> Self {
        Self {
            socket: BufReader::new(io),
        }
    }

    /// Sends bytes; that the other side has closed shows when the answer is read.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref()).await;
        // TLS may keep back what the socket did not take at once.
        let _ = self.socket.flush().await;
    }

    /// Sends a request and reads its answer.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Option<Reply> {
        let head = request.as_ref().starts_with(b"HEAD ");
        self.send(request).await;
        self.reply(head).await
    }

    /// Reads a whole answer, informational ones too; none where the connection ends before one
    /// is complete.
    pub async fn reply(&mut self, to_head: bool) -> Option<Reply> {
        let mut line = String::new();
        if self.socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let status = StatusCode::from_bytes(line.split(' ').nth(1)?.trim().as_bytes()).ok()?;
        let headers = self.fields().await?;
        let chunked = headers
            .get("transfer-encoding")
            .is_some_and(|value| value == "chunked");
        let mut trailers = None;
        let body = if to_head || status.is_informational() || status == StatusCode::NO_CONTENT {
            Vec::new()
        } else if chunked {
            let mut body = Vec::new();
            loop {
                let mut line = String::new();
                self.socket.read_line(&mut line).await.ok()?;
                let len = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
                if len == 0 {
                    trailers = Some(self.fields().await?).filter(|fields| !fields.is_empty());
                    break body;
                }
                let mut chunk = vec![0; len + 2];
                self.socket.read_exact(&mut chunk).await.ok()?;
                body.extend_from_slice(&chunk[..len]);
            }
        } else if let Some(len) = headers.get("content-length") {
            let mut body = vec![0; len.to_str().ok()?.parse().ok()?];
            self.socket.read_exact(&mut body).await.ok()?;
            body
        } else {
            let mut body = Vec::new();
            self.socket.read_to_end(&mut body).await.ok()?;
            body
        };
        Some(Reply {
            status,
            headers,
            body: Bytes::from(body),
            trailers,
        })
    }

    /// Tells whether the other side closes the connection without another word.
    pub async fn is_closed(&mut self) -> bool {
        matches!(self.socket.read(&mut [0]).await, Ok(0) | Err(_))
    }

    async fn fields(&mut self) -> Option<HeaderMap> {
        let mut fields = HeaderMap::new();
        loop {
            let mut line = String::new();
            if self.socket.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':')?;
            fields.append(
                HeaderName::from_bytes(name.as_bytes()).ok()?,
                HeaderValue::from_str(value.trim()).ok()?,
            );
        }
    }
}

/// Gets a page.
///
/// # Panics
///
/// When there is no answer.
pub async fn get(address: SocketAddr, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    let mut connection = Http1::connect(address).await;
    connection.exchange(request).await.expect("an answer")
}

/// Gets a page of JSON.
///
/// # Panics
///
/// When it is none.
pub async fn get_json(address: SocketAddr, path: &str) -> (StatusCode, serde_json::Value) {
    let page = get(address, path).await;
    let json = serde_json::from_slice(&page.body).expect("JSON");
    (page.status, json)
}
