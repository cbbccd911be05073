use std::fmt;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    anchor_from_trusted_cert,
};

use super::{fault::Problem, material::provider, validity::Validity};

/// What a certificate is shown as.
///
/// As with its validity, the verifier of the handshake is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// Takes certificates of every use.
#[derive(Debug)]
struct AnyUse;

impl Role {
    /// Finds fault with a certificate that may not be shown in this role.
    ///
    /// That of an authority is let through unread: our verifier takes it from nobody, others do.
    pub(super) fn may_show(
        self,
        certificate: &CertificateDer<'_>,
        validity: Validity,
    ) -> Result<(), Problem> {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else {
            return Ok(());
        };
        // The use is looked at before the issuer: of authorities there is no need.
        let verified =
            certificate.verify_for_usage(&[], &[], &[], within(validity), self.usage(), None, None);
        match verified.err() {
            Some(Error::RequiredEkuNotFoundContext(found)) => {
                let present = found.present.iter().map(|oid| purpose(oid)).collect();
                Err(Problem::WrongUse(self, present))
            }
            Some(Error::EmptyEkuExtension) => Err(Problem::WrongUse(self, Vec::new())),
            _ => Ok(()),
        }
    }

    /// Finds fault with a certificate by which no peer in this role can be verified: neither an
    /// authority, nor signed by itself and thus that of the one peer that shows it.
    pub(super) fn may_be_verified_by(
        self,
        certificate: &CertificateDer<'_>,
        validity: Validity,
    ) -> Result<(), Problem> {
        let Ok(itself) = EndEntityCert::try_from(certificate) else {
            return Ok(());
        };
        let anchors = Vec::from_iter(anchor_from_trusted_cert(certificate).ok());
        let algorithms = provider().signature_verification_algorithms.all;
        let verified = itself.verify_for_usage(
            algorithms,
            &anchors,
            &[],
            within(validity),
            AnyUse,
            None,
            None,
        );
        match verified.err() {
            Some(Error::CaUsedAsEndEntity) => Ok(()),
            None | Some(Error::EmptyEkuExtension) => self.may_show(certificate, validity),
            Some(_) => Err(Problem::NoAuthority),
        }
    }

    /// Returns the use that a certificate must allow, if it names any.
    fn usage(self) -> KeyUsage {
        match self {
            Self::Server => KeyUsage::server_auth(),
            Self::Client => KeyUsage::client_auth(),
        }
    }

    /// Returns the use's name.
    pub(super) fn purpose(self) -> &'static str {
        match self {
            Self::Server => "serverAuth",
            Self::Client => "clientAuth",
        }
    }
}

impl ExtendedKeyUsageValidator for AnyUse {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        Ok(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

/// Some moment at which the certificate holds: when it does is another question.
fn within(validity: Validity) -> UnixTime {
    validity.not_before
}

/// Names a use as `openssl` does, or by its number.
pub(super) fn purpose(oid: &[usize]) -> String {
    match oid {
        KeyUsage::SERVER_AUTH_REPR => Role::Server.purpose().to_owned(),
        KeyUsage::CLIENT_AUTH_REPR => Role::Client.purpose().to_owned(),
        _ => {
            let parts: Vec<_> = oid.iter().map(usize::to_string).collect();
            parts.join(".")
        }
    }
}
