use std::{future::Future, pin::Pin, sync::Arc};

use http::uri::Authority;
use tokio::{io, net::TcpStream};

use crate::io::{BoxStream, tune};

/// How connections to endpoints are made: over TCP, or over pipes in tests.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(Authority) -> Connecting + Send + Sync>);

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
        Self(Arc::new(move |authority| Box::pin(connect(authority))))
    }

    /// Connects to an endpoint.
    pub(crate) async fn connect(&self, authority: &Authority) -> io::Result<BoxStream> {
        (self.0)(authority.clone()).await
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}
