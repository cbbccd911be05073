//! From files to what a handshake needs: pure, but for the system's roots.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::UnixTime,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    fault::{Fault, Problem, Setting},
    files::Files,
    pem,
    role::Role,
    validity::Validity,
    words,
};
use crate::config::{ClientTls, HttpVersion, Identity, ServerTls};

/// What is made of the files of one listener or upstream.
pub(super) trait Material: std::fmt::Debug + Send + Sync + 'static {
    /// What handshakes need.
    type Config: std::fmt::Debug + Send + Sync + 'static;

    /// Returns the files.
    fn files(&self) -> impl Iterator<Item = &Path>;

    /// Makes of the files what handshakes need, or says everything that is wrong with them.
    fn build(&self, files: &Files, now: UnixTime) -> Result<Built<Self::Config>, Vec<Fault>>;
}

/// What was made, and when the files' certificates expire.
#[derive(Debug)]
pub(super) struct Built<C> {
    pub(super) config: Arc<C>,
    pub(super) expiries: Vec<(Setting, UnixTime)>,
}

/// What an upstream's handshakes are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) tls: ClientTls,
    pub(super) http: HttpVersion,
}

/// Certificates that are trusted, and the moment when the first of them expires.
#[derive(Debug)]
struct Roots {
    store: Arc<RootCertStore>,
    expiry: Option<UnixTime>,
}

impl Material for ServerTls {
    type Config = ServerConfig;

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.files()
    }

    fn build(&self, files: &Files, now: UnixTime) -> Result<Built<ServerConfig>, Vec<Fault>> {
        let identity = identity(&self.identity, Role::Server, files, now);
        let clients = self.clients.as_ref();
        let roots = clients.map(|clients| roots(&clients.ca, Role::Client, files, now));
        let mut faults = Vec::new();
        let identity = kept(identity, &mut faults);
        let roots = roots.and_then(|roots| kept(roots, &mut faults));
        let Some((key, expiry)) = identity.filter(|_| faults.is_empty()) else {
            return Err(faults);
        };
        let mut expiries = vec![(Setting::Certificate, expiry)];
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(Setting::Certificate, &self.identity.certificate, &error))?;
        let key = Arc::new(SingleCertAndKey::from(key));
        let mut config = match (roots, clients) {
            (Some(roots), Some(clients)) => {
                expiries.extend(roots.expiry.map(|at| (Setting::Authorities, at)));
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.store, provider());
                let verifier = match clients.required {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| unusable(Setting::Authorities, &clients.ca, &error))?;
                let mut config = builder
                    .with_client_cert_verifier(verifier)
                    .with_cert_resolver(key);
                // A session that is resumed is not verified again: it would outlive the client's
                // certificate.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                config
            }
            _ => builder.with_no_client_auth().with_cert_resolver(key),
        };
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        Ok(Built {
            config: Arc::new(config),
            expiries,
        })
    }
}

impl Material for Client {
    type Config = ClientConfig;

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.tls.files()
    }

    fn build(&self, files: &Files, now: UnixTime) -> Result<Built<ClientConfig>, Vec<Fault>> {
        let roots = match &self.tls.ca {
            Some(ca) => roots(ca, Role::Server, files, now),
            None => system_roots().map_err(|fault| vec![fault]),
        };
        let identity = self.tls.identity.as_ref();
        let certified = identity.map(|identity| self::identity(identity, Role::Client, files, now));
        let mut faults = Vec::new();
        let certified = certified.and_then(|certified| kept(certified, &mut faults));
        let Some(roots) = kept(roots, &mut faults).filter(|_| faults.is_empty()) else {
            return Err(faults);
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                let ca = self.tls.ca.as_deref().unwrap_or(Path::new(""));
                unusable(Setting::Authorities, ca, &error)
            })?
            .with_root_certificates(roots.store);
        let mut expiries = Vec::from_iter(roots.expiry.map(|at| (Setting::Authorities, at)));
        let mut config = match certified {
            Some((key, expiry)) => {
                expiries.push((Setting::Certificate, expiry));
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn(self.http).to_vec()];
        // As with clients: what is resumed is not verified again.
        config.resumption = Resumption::disabled();
        Ok(Built {
            config: Arc::new(config),
            expiries,
        })
    }
}

/// What is asked of a server in its version of HTTP.
pub(super) fn alpn(http: HttpVersion) -> &'static [u8] {
    match http {
        HttpVersion::Http1 => HTTP_1_1,
        HttpVersion::Http2 => H2,
    }
}

/// Reads a certificate with its chain and its key, and the moment when it expires.
fn identity(
    identity: &Identity,
    role: Role,
    files: &Files,
    now: UnixTime,
) -> Result<(CertifiedKey, UnixTime), Vec<Fault>> {
    let of_certificate = |problem| {
        let file = Some(identity.certificate.as_path());
        Fault::new(Setting::Certificate, file, problem)
    };
    let of_key = |problem| Fault::new(Setting::Key, Some(&identity.key), problem);
    let chain = files
        .contents(&identity.certificate)
        .and_then(pem::certificates)
        .and_then(|chain| {
            let validity = match chain.first() {
                Some(certificate) => Validity::of(certificate)
                    .map_err(|error| Problem::BadCertificate(words::verifier(&error)))?,
                None => return Err(Problem::NoCertificate),
            };
            Ok((chain, validity))
        });
    let key = files
        .contents(&identity.key)
        .and_then(pem::key)
        .and_then(|key| {
            let loaded = provider().key_provider.load_private_key(key);
            loaded.map_err(|error| Problem::BadKey(words::error(&error)))
        });
    let mut faults = Vec::new();
    let chain = chain
        .map_err(|problem| faults.push(of_certificate(problem)))
        .ok();
    if let Some((_, validity)) = &chain {
        if now > validity.not_after {
            faults.push(of_certificate(Problem::Expired(validity.not_after)));
        } else if now < validity.not_before {
            faults.push(of_certificate(Problem::NotValidYet(validity.not_before)));
        }
    }
    if let Some((chain, validity)) = &chain
        && let Some(certificate) = chain.first()
        && let Err(problem) = role.may_show(certificate, *validity)
    {
        faults.push(of_certificate(problem));
    }
    let key = key.map_err(|problem| faults.push(of_key(problem))).ok();
    let (Some((chain, validity)), Some(key)) = (chain, key) else {
        return Err(faults);
    };
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // Of keys that do not tell, the handshake will.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            faults.push(of_key(Problem::Mismatch(identity.certificate.clone())));
        }
        Err(error) => faults.push(of_certificate(Problem::BadCertificate(words::error(
            &error,
        )))),
    }
    match faults.is_empty() {
        true => Ok((certified, validity.not_after)),
        false => Err(faults),
    }
}

/// Reads a file of authorities. One that has expired is not trusted any more, and is a fault only
/// where it leaves nobody to trust: while authorities change, files hold old and new ones. One by
/// which no peer in its role can be verified is a mistake.
fn roots(ca: &Path, peers: Role, files: &Files, now: UnixTime) -> Result<Roots, Vec<Fault>> {
    let fault = |problem| vec![Fault::new(Setting::Authorities, Some(ca), problem)];
    let certificates = files
        .contents(ca)
        .and_then(pem::certificates)
        .map_err(fault)?;
    let mut store = RootCertStore::empty();
    let mut expiry: Option<UnixTime> = None;
    let mut expired = None;
    for certificate in certificates {
        let validity = Validity::of(&certificate).ok();
        if let Some(validity) = validity.filter(|validity| now > validity.not_after) {
            expired = expired.max(Some(validity.not_after));
            continue;
        }
        if let Some(validity) = validity {
            peers
                .may_be_verified_by(&certificate, validity)
                .map_err(fault)?;
        }
        store
            .add(certificate)
            .map_err(|error| fault(Problem::BadCertificate(words::error(&error))))?;
        // Roots of the first version of X.509 do not say, and are trusted all the same.
        expiry = [expiry, validity.map(|validity| validity.not_after)]
            .into_iter()
            .flatten()
            .min();
    }
    match expired {
        Some(last) if store.is_empty() => Err(fault(Problem::Expired(last))),
        _ => Ok(Roots {
            store: Arc::new(store),
            expiry,
        }),
    }
}

fn system_roots() -> Result<Roots, Fault> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Systems ship roots that nobody can read any more.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let errors = found.errors.iter().map(|error| format!("; {error}"));
        let problem = Problem::NoRoots(errors.collect());
        return Err(Fault::new(Setting::Authorities, None, problem));
    }
    Ok(Roots {
        store: Arc::new(store),
        expiry: None,
    })
}

/// Takes the value, or adds what is wrong to the faults.
fn kept<T>(result: Result<T, Vec<Fault>>, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|more| faults.extend(more)).ok()
}

fn unusable(setting: Setting, file: &Path, error: &dyn std::error::Error) -> Vec<Fault> {
    let problem = Problem::BadCertificate(error.to_string());
    vec![Fault::new(setting, Some(file), problem)]
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(ring::default_provider()));
    PROVIDER.clone()
}

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";
