//! HAProxy as a queue before a server: so many calls at a time, and none waits longer than this.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::bench::Result;
use crate::bench::process::{Process, free_address, installed};

/// What HAProxy is told of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Haproxy {
    /// `maxconn` of the server: calls under way at a time.
    pub maxconn: u32,
    /// `timeout queue`, in milliseconds.
    pub timeout: u32,
}

impl Haproxy {
    /// All that are compared for calls with this deadline.
    pub(super) fn all(deadline: Duration) -> impl Iterator<Item = Self> {
        [1, 2, 3].into_iter().flat_map(move |maxconn| {
            SHARES.into_iter().map(move |share| Self {
                maxconn,
                timeout: deadline.mul_f64(share).as_millis() as u32,
            })
        })
    }

    pub(super) fn start(
        self,
        upstream: SocketAddr,
        folder: &Path,
    ) -> Result<(SocketAddr, Process)> {
        installed("haproxy", "haproxy")?;
        let address = free_address()?;
        let name = format!("haproxy-{}-{}", self.maxconn, self.timeout);
        let file = folder.join(format!("{name}.conf"));
        std::fs::write(&file, self.configuration(address, upstream))?;
        let arguments = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
        let mut process = Process::start(&name, None, folder, "haproxy", arguments)?;
        process.wait_for(address)?;
        Ok((address, process))
    }

    fn configuration(self, listen: SocketAddr, upstream: SocketAddr) -> String {
        let Self { maxconn, timeout } = self;
        // `abortonclose`: whoever has left is not sent to the server.
        format!(
            "global
    nbthread 1
    maxconn 8192
    tune.h2.max-concurrent-streams 1024
    tune.h2.initial-window-size 1048576
defaults
    mode http
    option abortonclose
    http-reuse always
    retries 0
    timeout connect 5s
    timeout client 120s
    timeout server 120s
    timeout queue {timeout}ms
frontend calls
    bind {listen} proto h2
    http-request set-priority-class int(-1) if {{ req.hdr(x-priority) 1 }}
    default_backend model
backend model
    server model {upstream} proto h2 maxconn {maxconn} max-reuse -1 pool-max-conn -1
"
        )
    }
}

impl fmt::Display for Haproxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.maxconn, self.timeout)
    }
}

impl std::str::FromStr for Haproxy {
    type Err = String;

    /// Reads `MAXCONN/MILLISECONDS`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text} is not MAXCONN/MILLISECONDS");
        let (maxconn, timeout) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            maxconn: maxconn.parse().map_err(|_| wrong())?,
            timeout: timeout.parse().map_err(|_| wrong())?,
        })
    }
}

/// Shares of the deadline that a call may wait; the rest is for the model and the way.
pub(super) const SHARES: [f64; 4] = [0.6, 0.75, 0.85, 0.9];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        let deadline = Duration::from_millis(50);
        for setting in Haproxy::all(deadline) {
            assert_eq!(setting.to_string().parse(), Ok(setting));
        }
        assert_eq!(Haproxy::all(deadline).count(), 12);
        assert!("16".parse::<Haproxy>().is_err());
    }
}
