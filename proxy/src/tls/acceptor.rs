use std::{io, net::SocketAddr, path::Path, time::Duration};

use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::{
    Faults, Metrics,
    kept::Kept,
    metrics::{Handshakes, Owner},
};
use crate::{config::ServerTls, io::Stream, server::Draining};

/// Shakes hands with the clients of a listener.
#[derive(Debug)]
pub struct Acceptor {
    kept: Kept<ServerTls>,
    handshakes: Handshakes,
}

impl Acceptor {
    /// Reads a listener's files.
    ///
    /// # Errors
    ///
    /// Fails with everything that is wrong with them.
    pub fn load(address: SocketAddr, tls: ServerTls, metrics: &Metrics) -> Result<Self, Faults> {
        let owner = Owner::Listener(address.to_string());
        let handshakes = metrics.handshakes(&owner);
        Ok(Self {
            kept: Kept::load(owner, tls, metrics.clone())?,
            handshakes,
        })
    }

    /// Shakes hands with a client; none where it does not come to that within ten seconds, or not
    /// soon after the drain has begun.
    pub async fn accept<T: Stream>(&self, socket: T, draining: &Draining) -> Option<TlsStream<T>> {
        let handshake = TlsAcceptor::from(self.kept.current()).accept(socket);
        let result = tokio::select! {
            biased;
            result = tokio::time::timeout(PATIENCE, handshake) => result,
            () = async {
                draining.begun().await;
                tokio::time::sleep(LAST).await;
            } => Ok(Err(io::Error::other("this process is ending"))),
        };
        match result {
            Ok(Ok(stream)) => {
                self.handshakes.completed.inc();
                Some(stream)
            }
            Ok(Err(error)) => {
                self.handshakes.failed.inc();
                debug!(of = %self.kept.owner, %error, "no handshake");
                None
            }
            Err(_) => {
                self.handshakes.unfinished.inc();
                debug!(of = %self.kept.owner, "no handshake within {PATIENCE:?}");
                None
            }
        }
    }

    /// Tells whether it is this listener's, with these settings.
    pub(super) fn is_of(&self, address: SocketAddr, tls: &ServerTls) -> bool {
        self.kept.owner == Owner::Listener(address.to_string()) && self.kept.material == *tls
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.kept.files()
    }

    pub(super) fn refresh(&self, asked: bool) {
        self.kept.refresh(asked);
    }

    pub(super) fn tell_expiries(&self) {
        self.kept.tell_expiries();
    }
}

/// How long a client may take for the handshake: two round trips and a certificate, over any line.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may still take once the drain has begun; its first request may come along.
const LAST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::{io::AsyncReadExt as _, time::Instant};

    use super::*;
    use crate::{config::Identity, server::Drain};

    /// An acceptor, and the folder of its files.
    fn acceptor() -> (Acceptor, tempfile::TempDir) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
        };
        std::fs::write(&identity.certificate, made.cert.pem()).unwrap();
        std::fs::write(&identity.key, made.signing_key.serialize_pem()).unwrap();
        let tls = ServerTls {
            identity,
            clients: None,
        };
        let metrics = Metrics::register(&mut Registry::default());
        let acceptor = Acceptor::load("127.0.0.1:1".parse().unwrap(), tls, &metrics).unwrap();
        (acceptor, folder)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_shake_hands_is_let_go_after_ten_seconds() {
        let (acceptor, _folder) = acceptor();
        let (_drain, draining) = Drain::new();
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let began = Instant::now();
        assert!(acceptor.accept(near, &draining).await.is_none());
        assert_eq!(began.elapsed().as_secs(), 10);
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(acceptor.handshakes.unfinished.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_no_more_than_a_second_for_a_handshake() {
        let (acceptor, _folder) = acceptor();
        let (drain, draining) = Drain::new();
        let (near, _far) = tokio::io::duplex(1 << 16);
        let began = Instant::now();
        drain.begin();
        assert!(acceptor.accept(near, &draining).await.is_none());
        assert_eq!(began.elapsed().as_secs(), 1);
    }
}
