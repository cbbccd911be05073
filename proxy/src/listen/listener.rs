use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tracing::{info, warn};

/// A bound address whose connections are handed over; dropping it closes the address and leaves
/// the connections.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Binds an address and hands each connection over, on the current runtime.
    ///
    /// # Errors
    ///
    /// Fails where the address cannot be bound.
    pub fn bind(
        address: SocketAddr,
        mut accepted: impl FnMut(TcpStream) + Send + 'static,
    ) -> io::Result<Self> {
        let socket = bind(address)
            .map_err(|error| io::Error::new(error.kind(), format!("address {address}: {error}")))?;
        let listener = TcpListener::from_std(socket)?;
        let address = listener.local_addr()?;
        info!(%address, "listening");
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => accepted(socket),
                    Err(error) => {
                        // Out of descriptors, or a client that left in the queue: the address
                        // stays open, and the pause keeps the core from spinning.
                        warn!(%error, "not accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
        Ok(Self { address, accepting })
    }

    /// Returns the address that was bound, with its true port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restarted proxy finds its port again while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that wait to be accepted; the kernel lowers it to its own limit.
const BACKLOG: i32 = 4096;

/// The wait after a failed accept.
const PAUSE: Duration = Duration::from_millis(10);
