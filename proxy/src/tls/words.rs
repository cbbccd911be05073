//! What the library finds wrong, in words: it prints the names of its variants.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, ExtendedKeyPurpose, pki_types::UnixTime};

use super::fault::Day;

/// Says why a handshake failed, or a certificate cannot be taken.
pub(super) fn error(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => certificate(fault),
        Error::AlertReceived(alert) => self::alert(*alert),
        Error::InvalidMessage(what) => format!("what came is no TLS ({})", spelled(what)),
        Error::PeerIncompatible(why) => format!("both have too little in common: {}", spelled(why)),
        Error::PeerMisbehaved(why) => format!("the other side broke the rules: {}", spelled(why)),
        Error::InappropriateMessage { got_type, .. } => {
            format!("an unexpected message came ({})", spelled(got_type))
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            format!("an unexpected message came ({})", spelled(got_type))
        }
        Error::InvalidEncryptedClientHello(why) => spelled(why),
        Error::InvalidCertRevocationList(why) => spelled(why),
        Error::InconsistentKeys(why) => spelled(why),
        Error::NoCertificatesPresented => "no certificate was shown".to_owned(),
        other => other.to_string(),
    }
}

/// Says what is wrong with a certificate.
pub(super) fn certificate(fault: &CertificateError) -> String {
    let day = |what, at: &UnixTime| format!("{what} {}", Day(*at));
    match fault {
        CertificateError::UnknownIssuer => "it comes from no authority that is trusted".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => day("it has expired on", not_after),
        CertificateError::NotValidYetContext { not_before, .. } => {
            day("it is not valid before", not_before)
        }
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        CertificateError::InvalidPurposeContext {
            required,
            presented,
        } => {
            let presented: Vec<_> = presented.iter().map(purpose).collect();
            format!(
                "its extended key usage ({}) lacks {}",
                presented.join(", "),
                purpose(required)
            )
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed by an algorithm that is not known here".to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(cause) => verifier(cause),
            None => other.to_string(),
        },
        other => spelled(other),
    }
}

/// Says what the verifier finds wrong with a certificate.
pub(super) fn verifier(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CaUsedAsEndEntity => "it is that of an authority (CA:TRUE)".to_owned(),
        webpki::Error::EndEntityUsedAsCa => {
            "it comes from one that is no authority (CA:FALSE)".to_owned()
        }
        webpki::Error::UnsupportedCertVersion => {
            "it is of an old version of X.509: only version 3 is taken".to_owned()
        }
        webpki::Error::BadDer | webpki::Error::TrailingData(_) => "it cannot be read".to_owned(),
        webpki::Error::EmptyEkuExtension => "its extended key usage is empty".to_owned(),
        other => spelled(other),
    }
}

/// Says what the other side complained of, and ends with the name that its log may have.
pub(super) fn alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::UnknownCA => "it does not trust the authority of our certificate",
        AlertDescription::CertificateRequired => "it wants a certificate of ours",
        AlertDescription::CertificateExpired => "our certificate has expired",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => "it does not take our certificate",
        AlertDescription::AccessDenied => "it does not let us in",
        AlertDescription::UnrecognisedName => "it does not know the name that we asked for",
        AlertDescription::ProtocolVersion => "it speaks no version of TLS that we do",
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "it agrees to no cipher that we offer"
        }
        AlertDescription::NoApplicationProtocol => "it offers no version of HTTP that we do",
        AlertDescription::Unknown(number) => return format!("its alert has the number {number}"),
        other => return format!("its alert is `{}`", spelled(&other)),
    };
    format!("{why} ({alert:?})")
}

/// Says a name in a certificate, of which the library gives `DnsName("model.test")`.
pub(super) fn name(presented: &str) -> String {
    match presented.split_once('(') {
        Some((_, name)) => {
            let name = name.strip_suffix(')').unwrap_or(name);
            name.trim_matches('"').to_owned()
        }
        None => spelled(&format_args!("{presented}")),
    }
}

fn purpose(purpose: &ExtendedKeyPurpose) -> String {
    match purpose {
        ExtendedKeyPurpose::ServerAuth => "serverAuth".to_owned(),
        ExtendedKeyPurpose::ClientAuth => "clientAuth".to_owned(),
        ExtendedKeyPurpose::Other(oid) => super::role::purpose(oid),
    }
}

/// Makes words of a variant's name, without what it holds.
fn spelled(variant: &impl fmt::Debug) -> String {
    let debug = format!("{variant:?}");
    let mut words: Vec<String> = Vec::new();
    let mut letters = debug
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .peekable();
    let mut last = None;
    while let Some(letter) = letters.next() {
        // After small letters, and as the last of several capitals before small ones.
        let begins = letter.is_ascii_uppercase()
            && (last.is_some_and(|last: char| !last.is_ascii_uppercase())
                || letters.peek().is_some_and(char::is_ascii_lowercase));
        match words.last_mut() {
            Some(word) if !begins => word.push(letter),
            _ => words.push(letter.into()),
        }
        last = Some(letter);
    }
    for word in &mut words {
        if word.contains(|c: char| c.is_ascii_lowercase()) {
            word.make_ascii_lowercase();
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{InvalidMessage, OtherError, PeerIncompatible};

    use super::*;

    #[test]
    fn variants_are_spelled_in_words() {
        assert_eq!(
            spelled(&PeerIncompatible::NoCipherSuitesInCommon),
            "no cipher suites in common"
        );
        assert_eq!(
            spelled(&AlertDescription::UnknownPSKIdentity),
            "unknown PSK identity"
        );
        assert_eq!(spelled(&AlertDescription::UnknownCA), "unknown CA");
    }

    #[test]
    fn nothing_is_said_in_the_names_of_the_library() {
        let other = |error| CertificateError::Other(OtherError(Arc::new(error)));
        for (error, words) in [
            (
                Error::from(other(webpki::Error::UnsupportedCertVersion)),
                "it is of an old version of X.509: only version 3 is taken",
            ),
            (
                other(webpki::Error::NameConstraintViolation).into(),
                "name constraint violation",
            ),
            (
                CertificateError::InvalidPurposeContext {
                    required: ExtendedKeyPurpose::ServerAuth,
                    presented: vec![
                        ExtendedKeyPurpose::ClientAuth,
                        ExtendedKeyPurpose::Other(vec![1, 3, 6]),
                    ],
                }
                .into(),
                "its extended key usage (clientAuth, 1.3.6) lacks serverAuth",
            ),
            (
                CertificateError::UnhandledCriticalExtension.into(),
                "unhandled critical extension",
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "what came is no TLS (invalid content type)",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "it does not trust the authority of our certificate (UnknownCA)",
            ),
        ] {
            assert_eq!(super::error(&error), words);
        }
    }

    #[test]
    fn names_in_certificates_are_said_as_they_are_written() {
        for (presented, said) in [
            ("DnsName(\"*.model.test\")", "*.model.test"),
            ("IpAddress(127.0.0.1)", "127.0.0.1"),
            (
                "UniformResourceIdentifier(\"spiffe://a/b\")",
                "spiffe://a/b",
            ),
            ("DirectoryName", "directory name"),
            ("", ""),
        ] {
            assert_eq!(name(presented), said);
        }
    }
}
