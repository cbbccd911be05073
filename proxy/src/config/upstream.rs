use std::fmt;
use std::str::FromStr;

use super::read::unknown;
use super::{ClientTls, Endpoint};

/// Servers that answer the same calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What the servers speak.
    pub protocol: Protocol,
    /// Where they listen, at least one; requests are shared out among them.
    pub endpoints: Vec<Endpoint>,
    /// The HTTP that carries it.
    pub http: HttpVersion,
    /// How TLS is spoken to the endpoints, which are then all `https://`; none for plain text.
    pub tls: Option<ClientTls>,
}

/// An inference protocol on its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Open Inference Protocol over gRPC.
    OipGrpc,
    /// Open Inference Protocol over REST.
    OipRest,
    /// TensorFlow Serving's API over gRPC.
    TfservingGrpc,
    /// TensorFlow Serving's API over REST.
    TfservingRest,
}

/// The version of HTTP that an upstream is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by prior knowledge, or as TLS agrees on it.
    Http2,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 4] = [
        Self::OipGrpc,
        Self::OipRest,
        Self::TfservingGrpc,
        Self::TfservingRest,
    ];

    /// The protocol as the configuration names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OipGrpc => "oip-grpc",
            Self::OipRest => "oip-rest",
            Self::TfservingGrpc => "tfserving-grpc",
            Self::TfservingRest => "tfserving-rest",
        }
    }

    /// Whether it is spoken over gRPC, which needs HTTP/2.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::OipGrpc | Self::TfservingGrpc)
    }

    /// The HTTP that carries the protocol unless the upstream says otherwise.
    #[must_use]
    pub fn http(self) -> HttpVersion {
        match self.is_grpc() {
            true => HttpVersion::Http2,
            false => HttpVersion::Http1,
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL
            .into_iter()
            .find(|protocol| protocol.as_str() == text);
        named.ok_or_else(|| unknown("protocol", text, Self::ALL.into_iter().map(Self::as_str)))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
