use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;

/// How a listener shows itself to clients, and what it wants of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// What the listener shows.
    pub identity: Identity,
    /// What clients show; none where they are not asked.
    pub clients: Option<ClientAuth>,
}

/// Which certificates of clients are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// The file of the authorities that clients' certificates must come from.
    pub ca: PathBuf,
    /// Whether a client without a certificate is refused; one with a wrong certificate always is.
    pub required: bool,
}

/// Whom an upstream trusts, and how it shows itself to servers. Left at its default: the system's
/// roots, no certificate, and the endpoint's own name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The file of the authorities that servers' certificates must come from; none for the system's.
    pub ca: Option<PathBuf>,
    /// What servers are shown, if they ask.
    pub identity: Option<Identity>,
    /// The name that servers' certificates must be for; none for the endpoint's host.
    pub server_name: Option<ServerName<'static>>,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and after it those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl ServerTls {
    /// Returns the files that are read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let ca = self.clients.iter().map(|clients| clients.ca.as_path());
        self.identity.files().chain(ca)
    }
}

impl ClientTls {
    /// Returns the files that are read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(Identity::files);
        identity.chain(self.ca.as_deref())
    }
}

impl Identity {
    fn files(&self) -> impl Iterator<Item = &Path> {
        [self.certificate.as_path(), self.key.as_path()].into_iter()
    }
}
