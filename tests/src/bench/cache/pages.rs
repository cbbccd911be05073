//! What Outrigger says that its cache did.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::bench::Result;
use crate::metrics::Metrics;

/// Rows that a model's cache has looked up, by what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Looked {
    /// Found.
    pub(super) hit: f64,
    /// Asked by another at that moment.
    pub(super) joined: f64,
    /// Sent to the model.
    pub(super) miss: f64,
    /// Not looked for.
    pub(super) bypass: f64,
}

impl Looked {
    /// Reads the metrics.
    pub(super) fn of(admin: SocketAddr, model: &str) -> Result<Self> {
        let page = get(admin, "/metrics")?;
        let metrics = Metrics::read(&page)?;
        let rows = |result| {
            let labels = [("model", model), ("result", result)];
            metrics.sum("outrigger_cache_rows_total", &labels)
        };
        Ok(Self {
            hit: rows("hit"),
            joined: rows("joined"),
            miss: rows("miss"),
            bypass: rows("bypass"),
        })
    }

    /// What was looked up since an earlier look.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            hit: self.hit - before.hit,
            joined: self.joined - before.joined,
            miss: self.miss - before.miss,
            bypass: self.bypass - before.bypass,
        }
    }

    /// The share of rows that the model was not asked for.
    pub(super) fn spared(self) -> f64 {
        let spared = self.hit + self.joined;
        spared / (spared + self.miss + self.bypass)
    }
}

fn get(admin: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(admin)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(format!("{path} is not to be had: {answer}").into()),
    }
}

const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_spared_by_hits_and_by_company() {
        let before = Looked {
            hit: 1.0,
            joined: 1.0,
            miss: 1.0,
            bypass: 1.0,
        };
        let after = Looked {
            hit: 6.0,
            joined: 2.0,
            miss: 4.0,
            bypass: 2.0,
        };
        assert_eq!(after.since(before).spared(), 0.6);
    }
}
