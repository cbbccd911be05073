use std::{future::Future, pin::Pin, sync::Arc};

use http::uri::{Authority, Scheme};
use tokio::{io, net::TcpStream};

use crate::{
    config,
    io::{BoxStream, tune},
    tls,
};

/// How connections to endpoints are made: over TCP, or over pipes in tests; and over that with TLS
/// where the upstream wants it.
#[derive(Clone)]
pub struct Connector {
    connect: Arc<dyn Fn(Authority) -> Connecting + Send + Sync>,
    dialers: Arc<tls::Dialers>,
    security: Security,
}

/// What is said over a connection before HTTP is.
#[derive(Clone, Debug)]
enum Security {
    Plain,
    Tls(Arc<tls::Dialer>),
    /// TLS is wanted, and nobody has read its files.
    Missing,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send>>;

impl Connector {
    /// Connects over TCP; the port is 80 where none is given.
    pub fn tcp() -> Self {
        Self::new(|authority| async move {
            let host = authority
                .host()
                .trim_start_matches('[')
                .trim_end_matches(']');
            let socket = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
            tune(&socket)?;
            Ok(Box::new(socket) as BoxStream)
        })
    }

    /// Connects by a function.
    pub fn new<F>(connect: impl Fn(Authority) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<BoxStream>> + Send + 'static,
    {
        Self {
            connect: Arc::new(move |authority| Box::pin(connect(authority))),
            dialers: Arc::default(),
            security: Security::Plain,
        }
    }

    /// Takes over what upstreams with TLS need.
    #[must_use]
    pub fn with_tls(&self, dialers: &Arc<tls::Dialers>) -> Self {
        Self {
            dialers: dialers.clone(),
            ..self.clone()
        }
    }

    /// Makes the connector of one upstream.
    pub(crate) fn to(&self, name: &str, upstream: &config::Upstream) -> Self {
        let security = match (&upstream.tls, self.dialers.get(name)) {
            (None, _) => Security::Plain,
            (Some(_), Some(dialer)) => Security::Tls(dialer.clone()),
            (Some(_), None) => Security::Missing,
        };
        Self {
            security,
            ..self.clone()
        }
    }

    /// Returns the scheme of the URLs behind the connections.
    pub(crate) fn scheme(&self) -> Scheme {
        match self.security {
            Security::Plain => Scheme::HTTP,
            Security::Tls(_) | Security::Missing => Scheme::HTTPS,
        }
    }

    /// Connects to an endpoint.
    pub(crate) async fn connect(&self, authority: &Authority) -> io::Result<BoxStream> {
        match &self.security {
            Security::Plain => (self.connect)(authority.clone()).await,
            Security::Tls(dialer) => {
                let socket = (self.connect)(with_port(authority)).await?;
                dialer.secure(socket, authority).await
            }
            Security::Missing => Err(io::Error::other("no TLS: its files were not read")),
        }
    }
}

/// Writes the port out that `https://` means.
fn with_port(authority: &Authority) -> Authority {
    if authority.port().is_some() {
        return authority.clone();
    }
    let whole = format!("{authority}:{HTTPS}");
    // A host is one with a port, too.
    whole.parse().unwrap_or_else(|_| authority.clone())
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

const HTTPS: u16 = 443;
