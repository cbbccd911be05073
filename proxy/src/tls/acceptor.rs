use std::{io, net::SocketAddr, path::Path, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info};

use super::{
    Faults, Metrics,
    kept::Kept,
    metrics::{Handshakes, Owner},
    opening::Opening,
    seldom::Seldom,
    words,
};
use crate::{
    config::ServerTls,
    io::{Rewind, Stream},
    server::Draining,
};

/// Shakes hands with the clients of a listener.
#[derive(Debug)]
pub struct Acceptor {
    kept: Kept<ServerTls>,
    handshakes: Handshakes,
    told: Seldom,
}

/// What came of a handshake.
#[derive(Debug)]
enum Shaken<T> {
    Secured(Box<TlsStream<Rewind<T>>>),
    Failed(String),
    /// Not to its end in time.
    Unfinished(&'static str),
    /// The client ended the connection before it said anything.
    Left,
    /// A request in plain HTTP came.
    Plain(T),
    /// Something came that is neither.
    Foreign,
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
            told: Seldom::default(),
        })
    }

    /// Shakes hands with a client; none where it does not come to that within ten seconds, or not
    /// soon after the drain has begun. A client that speaks plain HTTP is told.
    pub async fn accept<T: Stream>(
        &self,
        socket: T,
        draining: &Draining,
    ) -> Option<TlsStream<Rewind<T>>> {
        let shaken = tokio::select! {
            biased;
            shaken = tokio::time::timeout(PATIENCE, self.shake(socket)) => {
                shaken.unwrap_or(Shaken::Unfinished("it took too long"))
            }
            () = async {
                draining.begun().await;
                tokio::time::sleep(LAST).await;
            } => Shaken::Unfinished("this process is ending"),
        };
        match shaken {
            Shaken::Secured(stream) => {
                self.handshakes.completed.inc();
                return Some(*stream);
            }
            Shaken::Failed(why) => {
                self.handshakes.failed.inc();
                self.tell(&why);
            }
            Shaken::Unfinished(why) => {
                self.handshakes.unfinished.inc();
                self.tell(why);
            }
            Shaken::Left => {
                self.handshakes.unfinished.inc();
                // Whoever looks whether somebody listens does so, again and again.
                debug!(of = %self.kept.owner, "the client left without a word");
            }
            Shaken::Plain(socket) => {
                self.handshakes.plaintext.inc();
                self.tell("the client speaks plain HTTP");
                // It may be gone by now.
                let _ = tokio::time::timeout(LAST, turn_away(socket)).await;
            }
            Shaken::Foreign => {
                self.handshakes.plaintext.inc();
                self.tell("the client does not speak TLS");
            }
        }
        None
    }

    async fn shake<T: Stream>(&self, mut socket: T) -> Shaken<T> {
        let first = match Opening::read(&mut socket).await {
            Ok((Opening::Tls, first)) => first,
            Ok((Opening::Http, _)) => return Shaken::Plain(socket),
            Ok((Opening::Other, _)) => return Shaken::Foreign,
            Ok((Opening::Nothing, _)) => return Shaken::Left,
            Err(error) => return Shaken::Failed(error.to_string()),
        };
        let acceptor = TlsAcceptor::from(self.kept.current());
        match acceptor.accept(Rewind::new(first, socket)).await {
            Ok(stream) => Shaken::Secured(Box::new(stream)),
            Err(error) => {
                let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
                Shaken::Failed(cause.map_or_else(|| error.to_string(), words::error))
            }
        }
    }

    /// Says that there is no handshake: one in a second to the operator.
    fn tell(&self, why: &str) {
        let of = &self.kept.owner;
        match self.told.due() {
            true => info!(%of, why, "no handshake with a client"),
            false => debug!(%of, why, "no handshake with a client"),
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

/// Answers a client that speaks plain HTTP.
async fn turn_away(mut socket: impl Stream) -> io::Result<()> {
    socket.write_all(SPEAK_TLS).await?;
    socket.shutdown().await?;
    // Closed with something unread, the kernel would take the answer back.
    tokio::io::copy(&mut socket.take(UNREAD), &mut tokio::io::sink()).await?;
    Ok(())
}

const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    connection: close\r\n\
    content-type: text/plain\r\n\
    content-length: 21\r\n\
    \r\n\
    this port speaks TLS\n";

/// How much of a request in plain HTTP is read past: more than a head.
const UNREAD: u64 = 1 << 20;

/// How long a client may take for the handshake: two round trips and a certificate, over any line.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may still take once the drain has begun; its first request may come along.
const LAST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::time::Instant;

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
    async fn plain_http_is_told_that_tls_is_spoken_here() {
        let (acceptor, _folder) = acceptor();
        let (_drain, draining) = Drain::new();
        for (asked, told) in [
            ("GET / HTTP/1.1\r\nhost: model.test\r\n\r\n", true),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true),
            ("SSH-2.0-client\r\n", false),
        ] {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let before = acceptor.handshakes.plaintext.get();
            let client = async {
                // In pieces, as a network may.
                for piece in asked.as_bytes().chunks(2) {
                    if far.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                let mut answer = String::new();
                far.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let (accepted, answer) = tokio::join!(acceptor.accept(near, &draining), client);
            assert!(accepted.is_none());
            assert_eq!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), told);
            assert_eq!(answer.ends_with("\r\n\r\nthis port speaks TLS\n"), told);
            assert_eq!(acceptor.handshakes.plaintext.get(), before + 1);
        }
        assert_eq!(acceptor.handshakes.failed.get(), 0);
    }

    #[tokio::test]
    async fn a_client_that_leaves_without_a_word_has_not_failed() {
        let (acceptor, _folder) = acceptor();
        let (_drain, draining) = Drain::new();
        let (near, far) = tokio::io::duplex(1 << 16);
        drop(far);
        assert!(acceptor.accept(near, &draining).await.is_none());
        assert_eq!(acceptor.handshakes.unfinished.get(), 1);
        assert_eq!(acceptor.handshakes.failed.get(), 0);
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
