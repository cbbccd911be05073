use std::net::SocketAddr;

use super::{Name, ServerTls};

/// Where clients come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address to bind; port 0 lets the system choose one.
    pub address: SocketAddr,
    /// Where everything goes that no model claims: a key of the upstreams.
    pub upstream: Name,
    /// How TLS is spoken; none for plain text.
    pub tls: Option<ServerTls>,
}

/// Where operators and probes come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The address to bind; port 0 lets the system choose one.
    pub address: SocketAddr,
}
