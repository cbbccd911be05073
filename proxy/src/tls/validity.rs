use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

/// From when to when a certificate holds.
///
/// The verifier of the handshake is asked: it has no way to say the two times, but names the one
/// that a moment lies beyond. So what it will think later is what is found here, and no second
/// reader of certificates is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

impl Validity {
    /// Reads the validity of a certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let certificate = EndEntityCert::try_from(certificate)?;
        // The validity is looked at before everything else, so that nothing else matters.
        let at = |moment| {
            let verified = certificate.verify_for_usage(
                &[],
                &[],
                &[],
                moment,
                KeyUsage::server_auth(),
                None,
                None,
            );
            verified.err()
        };
        let not_after = match at(moment(u64::MAX)) {
            Some(Error::CertExpired { not_after, .. }) => not_after,
            other => return Err(other.unwrap_or(Error::BadDerTime)),
        };
        let not_before = match at(moment(0)) {
            Some(Error::CertNotValidYet { not_before, .. }) => not_before,
            // It holds since before time was counted.
            _ => moment(0),
        };
        Ok(Self {
            not_before,
            not_after,
        })
    }
}

fn moment(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}
