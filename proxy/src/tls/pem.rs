//! From the text of a file to certificates and keys.

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error, PemObject as _},
};

use super::fault::Problem;

/// Reads the certificates of a file, at least one, in their order.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    match certificates.is_empty() {
        false => Ok(certificates),
        true if !is_pem(text) => Err(Problem::NotPem),
        true => Err(Problem::NoCertificate),
    }
}

/// Reads the first private key of a file.
pub(super) fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) if !is_pem(text) => Err(Problem::NotPem),
        Err(Error::NoItemsFound) if contains(text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
            Err(Problem::EncryptedKey)
        }
        Err(Error::NoItemsFound) => Err(Problem::NoKey),
        Err(error) => Err(broken(error)),
    }
}

/// Says what is broken, in words and without anything of the file: it may be a key.
fn broken(error: Error) -> Problem {
    let why = match error {
        Error::MissingSectionEnd { .. } => "the last section has no end",
        Error::IllegalSectionStart { .. } => "a section's first line is broken",
        Error::Base64Decode(_) => "a section is not base64",
        _ => "a section cannot be read",
    };
    Problem::BrokenPem(why.to_owned())
}

fn is_pem(text: &[u8]) -> bool {
    contains(text, b"-----BEGIN ")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
