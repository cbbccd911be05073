use std::{fmt, io, path::Path};

use http::uri::Authority;
use rustls::{AlertDescription, CertificateError, Error, OtherError, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::{
    Faults, Metrics,
    fault::Day,
    kept::Kept,
    material::{Client, alpn},
    metrics::{Handshakes, Owner},
    words,
};
use crate::{
    config::{self, ClientTls, HttpVersion},
    io::BoxStream,
};

/// Shakes hands with the servers of an upstream.
#[derive(Debug)]
pub struct Dialer {
    kept: Kept<Client>,
    handshakes: Handshakes,
}

/// Counts a handshake when it is over, also where its future was dropped.
#[derive(Debug)]
struct Count<'a> {
    handshakes: &'a Handshakes,
    completed: Option<bool>,
}

/// Why there was no handshake with a server.
#[derive(Debug)]
struct Refused {
    why: String,
    source: Option<io::Error>,
}

impl Dialer {
    /// Reads an upstream's files.
    ///
    /// # Errors
    ///
    /// Fails with everything that is wrong with them.
    pub fn load(
        name: &config::Name,
        tls: ClientTls,
        http: HttpVersion,
        metrics: &Metrics,
    ) -> Result<Self, Faults> {
        let owner = Owner::Upstream(name.to_string());
        let handshakes = metrics.handshakes(&owner);
        Ok(Self {
            kept: Kept::load(owner, Client { tls, http }, metrics.clone())?,
            handshakes,
        })
    }

    /// Shakes hands with an endpoint over a connection.
    ///
    /// # Errors
    ///
    /// Fails where the connection breaks, where one side does not trust the other, and where the
    /// endpoint does not speak the upstream's version of HTTP.
    pub(crate) async fn secure(
        &self,
        socket: BoxStream,
        authority: &Authority,
    ) -> io::Result<BoxStream> {
        let mut count = Count {
            handshakes: &self.handshakes,
            completed: None,
        };
        let secured = self.shake(socket, authority).await;
        count.completed = Some(secured.is_ok());
        secured
    }

    async fn shake(&self, socket: BoxStream, authority: &Authority) -> io::Result<BoxStream> {
        let Client { tls, http } = &self.kept.material;
        let name = match &tls.server_name {
            Some(name) => name.clone(),
            None => server_name(authority)?,
        };
        let connector = TlsConnector::from(self.kept.current());
        let stream = connector
            .connect(name.clone(), socket)
            .await
            .map_err(|error| self.explain(error, &name))?;
        let (_, session) = stream.get_ref();
        match (session.alpn_protocol(), http) {
            (Some(agreed), _) if agreed == alpn(*http) => {}
            // A server without ALPN speaks HTTP/1.1.
            (None, HttpVersion::Http1) => {}
            (agreed, _) => return Err(disagreed(*http, agreed)),
        }
        Ok(Box::new(stream))
    }

    /// Says a failed handshake in words that lead to its cure.
    fn explain(&self, error: io::Error, name: &ServerName<'_>) -> io::Error {
        let Client { tls, http } = &self.kept.material;
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        let why = match cause {
            Some(Error::InvalidCertificate(fault)) => match fault {
                CertificateError::UnknownIssuer => match &tls.ca {
                    Some(ca) => format!(
                        "the server's certificate comes from no authority in {}",
                        ca.display()
                    ),
                    None => "the server's certificate comes from no authority that this system \
                             trusts"
                        .to_owned(),
                },
                CertificateError::ExpiredContext { not_after, .. } => format!(
                    "the server's certificate has expired on {}",
                    Day(*not_after)
                ),
                CertificateError::NotValidYetContext { not_before, .. } => format!(
                    "the server's certificate is not valid before {}",
                    Day(*not_before)
                ),
                CertificateError::NotValidForName => {
                    format!("the server's certificate is not for {}", name.to_str())
                }
                CertificateError::NotValidForNameContext { presented, .. } => format!(
                    "the server's certificate is not for {}, but for {}",
                    name.to_str(),
                    match presented.is_empty() {
                        true => "no name".to_owned(),
                        false => {
                            let names: Vec<_> = presented.iter().map(|n| words::name(n)).collect();
                            names.join(", ")
                        }
                    }
                ),
                CertificateError::Other(other) if is_authority(other) => {
                    // What `openssl req -x509` makes, if not told otherwise.
                    "the server's certificate is that of an authority (CA:TRUE), which no server \
                     may show"
                        .to_owned()
                }
                _ => format!(
                    "the server's certificate is wrong: {}",
                    words::certificate(fault)
                ),
            },
            Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                return disagreed(*http, None);
            }
            Some(Error::AlertReceived(alert)) => {
                format!("the server refused: {}", words::alert(*alert))
            }
            Some(cause @ Error::InvalidMessage(_)) => {
                format!(
                    "the server does not speak TLS there: {}",
                    words::error(cause)
                )
            }
            Some(cause) => words::error(cause),
            None => error.to_string(),
        };
        let kind = error.kind();
        let source = Some(error);
        io::Error::new(kind, Refused { why, source })
    }

    /// Tells whether it is this upstream's, with these settings.
    pub(super) fn is_of(&self, name: &config::Name, tls: &ClientTls, http: HttpVersion) -> bool {
        let Client { tls: own, http: of } = &self.kept.material;
        self.kept.owner == Owner::Upstream(name.to_string()) && own == tls && *of == http
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

fn server_name(authority: &Authority) -> io::Result<ServerName<'static>> {
    let host = authority.host();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| {
        let why = format!("no certificate can be for the host {host}");
        io::Error::new(io::ErrorKind::InvalidInput, Refused { why, source: None })
    })
}

fn is_authority(other: &OtherError) -> bool {
    let cause = other.0.downcast_ref();
    matches!(cause, Some(webpki::Error::CaUsedAsEndEntity))
}

fn disagreed(http: HttpVersion, agreed: Option<&[u8]>) -> io::Error {
    let wanted = String::from_utf8_lossy(alpn(http));
    let answer = match agreed {
        Some(other) => format!("the server chose {}", String::from_utf8_lossy(other)),
        None => "the server does not offer it".to_owned(),
    };
    let why = format!("ALPN: {wanted} is needed, and {answer}");
    io::Error::new(io::ErrorKind::InvalidData, Refused { why, source: None })
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        match self.completed {
            Some(true) => self.handshakes.completed.inc(),
            Some(false) => self.handshakes.failed.inc(),
            None => self.handshakes.unfinished.inc(),
        };
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no TLS: {}", self.why)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
