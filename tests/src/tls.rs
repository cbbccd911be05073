//! Authorities, certificates and the two ends of a handshake.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

/// Who issues certificates.
#[derive(Debug)]
pub struct Authority {
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM form.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A folder of files that are changed while they are read.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Authority {
    /// Makes an authority.
    ///
    /// # Panics
    ///
    /// When the system has no randomness.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        Self {
            name: name.to_owned(),
            issuer: CertifiedIssuer::self_signed(params, key).expect("an authority"),
        }
    }

    /// Returns its certificate, by which others are verified.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Returns its own certificate and key.
    pub fn itself(&self) -> Issued {
        Issued {
            certificate: self.pem(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    /// Issues a certificate for `localhost` and 127.0.0.1 that holds now.
    pub fn issue(&self) -> Issued {
        self.issue_for("localhost", Some(Ipv4Addr::LOCALHOST.into()), 2100)
    }

    /// Issues a certificate for a name, and perhaps an address, that holds until a year begins.
    ///
    /// # Panics
    ///
    /// When the name is none.
    pub fn issue_for(&self, name: &str, address: Option<IpAddr>, until: i32) -> Issued {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let addresses = address.into_iter().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        let subject = format!("{name} of {}", self.name);
        params.distinguished_name.push(DnType::CommonName, subject);
        params.serial_number = Some(SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed)));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    /// Returns the certificate as it goes over the wire.
    pub fn der(&self) -> CertificateDer<'static> {
        certificates(&self.certificate).remove(0)
    }
}

impl Folder {
    /// Makes an empty folder.
    ///
    /// # Panics
    ///
    /// When there is no room.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Returns the path of a file, whether it is there or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    /// Writes a certificate and its key, one after the other, as `NAME.crt` and `NAME.key`.
    pub fn issue(&self, name: &str, issued: &Issued) {
        self.write(&format!("{name}.crt"), &issued.certificate);
        self.write(&format!("{name}.key"), &issued.key);
    }

    /// Changes all files at once, as Kubernetes does: they are links through `..data`, which is
    /// swapped for another.
    ///
    /// # Panics
    ///
    /// When they cannot be written.
    pub fn swap(&self, files: &[(&str, &str)]) {
        use std::{fs, os::unix::fs::symlink};
        static VERSION: AtomicU64 = AtomicU64::new(0);
        let version = format!("..{}", VERSION.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(self.path(&version)).expect("a folder");
        for (name, text) in files {
            self.write(&format!("{version}/{name}"), text);
            if !self.path(name).exists() {
                symlink(format!("..data/{name}"), self.path(name)).expect("a link");
            }
        }
        let last = fs::read_link(self.path("..data"));
        symlink(&version, self.path("..data_tmp")).expect("a link");
        fs::rename(self.path("..data_tmp"), self.path("..data")).expect("a swap");
        if let Ok(last) = last {
            fs::remove_dir_all(self.path(&last.to_string_lossy())).expect("the last version");
        }
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the client's end: whom it trusts, what it shows, and what it offers by ALPN.
///
/// # Panics
///
/// When a certificate is none.
pub fn client(trusted: &str, shown: Option<&Issued>, alpn: &[&str]) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots(trusted));
    let mut config = match shown {
        Some(issued) => builder
            .with_client_auth_cert(certificates(&issued.certificate), key(&issued.key))
            .expect("a certificate"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// Makes the server's end: what it shows, whom it wants clients to be verified by, and what it
/// takes by ALPN.
///
/// # Panics
///
/// When a certificate is none.
pub fn server(shown: &Issued, clients: Option<&str>, alpn: &[&str]) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        Some(clients) => {
            let roots = Arc::new(roots(clients));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_client_cert_verifier(verifier.build().expect("roots"))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(certificates(&shown.certificate), key(&shown.key))
        .expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Connects to `localhost` at an address and shakes hands.
///
/// # Errors
///
/// Fails where nobody listens, or where one side does not trust the other.
pub async fn connect(
    client: &TlsConnector,
    address: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    client.connect(name, socket).await
}

/// Returns the certificate that the server showed.
///
/// # Panics
///
/// When it showed none.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates();
    certificates.expect("a certificate")[0].clone().into_owned()
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem) {
        roots.add(certificate).expect("an authority");
    }
    roots
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates")
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
