//! Somebody who reads more of an answer than whether it is right.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::connection::{Connection, Target, broken, outcome, receive_all};
use super::report::Outcome;

/// Somebody with a connection of his own, who asks and is answered. A clone shares the connection.
#[derive(Clone)]
pub struct Caller {
    connection: Connection,
    target: Target,
}

/// An answer with what stands beside it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How the call ended; of one that is not gRPC's, an [`Outcome::NoStatus`] is a success.
    pub outcome: Outcome,
    /// The headers: of gRPC, the initial metadata.
    pub headers: HeaderMap,
    /// The body: of gRPC, a message with its prefix.
    pub body: Bytes,
}

impl Caller {
    /// Connects, within `patience`; must be within a runtime.
    pub async fn connect(target: &Target, patience: Duration) -> io::Result<Self> {
        Ok(Self {
            connection: target.connect(patience).await?,
            target: target.clone(),
        })
    }

    /// Calls the target's method with a [framed](super::frame) message, and more headers.
    pub async fn call(
        &self,
        message: Bytes,
        headers: &[(HeaderName, HeaderValue)],
    ) -> io::Result<Answer> {
        let mut head = self.connection.head();
        head.headers_mut().extend(headers.iter().cloned());
        self.send(head, message).await
    }

    /// Calls another method of the target's server with a [framed](super::frame) message.
    pub async fn call_method(&self, path: &str, message: Bytes) -> io::Result<Answer> {
        let mut head = self.connection.head();
        *head.uri_mut() = self.uri(path)?;
        self.send(head, message).await
    }

    /// Posts JSON to a path of the target's server.
    pub async fn post(&self, path: &str, json: impl Into<Bytes>) -> io::Result<Answer> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = self.uri(path)?;
        head.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(head, json.into()).await
    }

    fn uri(&self, path: &str) -> io::Result<Uri> {
        format!("http://{}{path}", self.target.address)
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    async fn send(&self, head: Request<()>, body: Bytes) -> io::Result<Answer> {
        let mut connection = self.connection.clone();
        connection.ready().await.map_err(broken)?;
        let answer = connection.send_as(head, body).map_err(broken)?;
        let (head, body, trailers) = receive_all(answer).await.map_err(broken)?;
        Ok(Answer {
            outcome: outcome(&head, trailers.as_ref()),
            headers: head.headers,
            body,
        })
    }
}

impl Answer {
    /// A header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
