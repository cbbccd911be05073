use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Sets what every TCP connection of the proxy has: no Nagle's delay, and probes that find out
/// within about two minutes that the other host is gone, since no time-out of ours would.
///
/// # Errors
///
/// Fails where the socket is broken already.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(IDLE).with_interval(BETWEEN);
    SockRef::from(socket).set_tcp_keepalive(&probes)
}

/// Silence before the first probe.
const IDLE: Duration = Duration::from_secs(30);
/// Time between probes; Linux gives up after nine.
const BETWEEN: Duration = Duration::from_secs(10);
