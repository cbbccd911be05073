//! What is wrong with the files of TLS.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustls::pki_types::UnixTime;

use super::role::Role;

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    setting: Setting,
    /// None for the system's roots.
    file: Option<PathBuf>,
    problem: Problem,
}

/// What is wrong with the files of listeners and upstreams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<(String, Fault)>);

/// What a file is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Our certificate.
    Certificate,
    /// Its key.
    Key,
    /// Whom we trust.
    Authorities,
}

/// Why a file is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Unreadable(String),
    TooLarge,
    NotPem,
    BrokenPem(String),
    NoCertificate,
    BadCertificate(String),
    Expired(UnixTime),
    NotValidYet(UnixTime),
    /// Of a certificate for these uses alone, which are not that of the role.
    WrongUse(Role, Vec<String>),
    /// Neither an authority nor signed by itself.
    NoAuthority,
    NoKey,
    EncryptedKey,
    BadKey(String),
    /// The key is not that of the certificate in this file.
    Mismatch(PathBuf),
    NoRoots(String),
}

impl Fault {
    pub(super) fn new(setting: Setting, file: Option<&Path>, problem: Problem) -> Self {
        Self {
            setting,
            file: file.map(Path::to_owned),
            problem,
        }
    }

    /// Returns what the file is there for.
    pub(crate) fn setting(&self) -> Setting {
        self.setting
    }
}

impl Faults {
    /// Says whose files they are.
    pub(super) fn of(owner: &impl fmt::Display, faults: impl IntoIterator<Item = Fault>) -> Self {
        let owned = faults.into_iter().map(|fault| (owner.to_string(), fault));
        Self(owned.collect())
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", file.display(), self.problem),
            None => write!(f, "{}", self.problem),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::TooLarge => write!(f, "is larger than {} KiB", super::files::MAX_BYTES >> 10),
            Self::NotPem => f.write_str("is not in PEM form: no line begins with `-----BEGIN`"),
            Self::BrokenPem(why) => write!(f, "is not in PEM form: {why}"),
            Self::NoCertificate => f.write_str("holds no certificate"),
            Self::BadCertificate(why) => write!(f, "holds a certificate that is none: {why}"),
            Self::Expired(at) => write!(f, "the certificate has expired on {}", Day(*at)),
            Self::NotValidYet(at) => write!(f, "the certificate is not valid before {}", Day(*at)),
            Self::WrongUse(role, present) => {
                let present = match present.is_empty() {
                    true => "none".to_owned(),
                    false => present.join(", "),
                };
                let purpose = role.purpose();
                write!(
                    f,
                    "the certificate is not for a {role}: its extended key usage ({present}) \
                     lacks {purpose}"
                )
            }
            Self::NoAuthority => f.write_str(
                "holds a certificate that is no authority (CA:FALSE) and not signed by itself: \
                 nobody can be verified by it",
            ),
            Self::NoKey => f.write_str("holds no private key"),
            Self::EncryptedKey => {
                f.write_str("holds a key under a password; the key must lie there without one")
            }
            Self::BadKey(why) => write!(f, "holds a key of no use: {why}"),
            Self::Mismatch(certificate) => write!(
                f,
                "the key does not belong to the certificate in {}",
                certificate.display()
            ),
            Self::NoRoots(why) => write!(
                f,
                "the system has no roots to trust; name their file in the variable SSL_CERT_FILE, or \
                 as `tls.ca` in a configuration file{why}"
            ),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (owner, fault)) in self.0.iter().enumerate() {
            let line = if index > 0 { "\n" } else { "" };
            write!(f, "{line}{owner}: {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

impl std::error::Error for Faults {}

impl From<Faults> for std::io::Error {
    fn from(faults: Faults) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, faults)
    }
}

/// A moment as people write it.
#[derive(Debug)]
pub(super) struct Day(pub(super) UnixTime);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is written in a certificate ends with the year 9999, as what can be shown does.
        let seconds = self.0.as_secs().min(LAST);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        f.write_str(&httpdate::fmt_http_date(at))
    }
}

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;
