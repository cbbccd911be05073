use std::{error::Error, fmt};

/// What prediction ids are signed with, and what signs them that are still accepted.
///
/// Replicas that share a key accept each other's ids, and a replica that is started anew with the
/// same key accepts its own. A key is replaced without a gap by naming the old one as the previous
/// one for as long as ids live.
#[derive(Clone, PartialEq)]
pub struct Keys {
    current: Key,
    previous: Option<Key>,
    /// Whether no other process has them.
    alone: bool,
}

/// A text that is too short to be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortKey {
    bytes: usize,
}

type Key = [u8; blake3::KEY_LEN];

impl Keys {
    /// Makes keys from any texts of enough bytes that nobody can guess, such as the contents of
    /// two files. White space at a text's end, which editors add, does not count.
    ///
    /// Where none is configured, 32 random bytes make keys whose ids no other process accepts.
    pub fn new(current: &[u8], previous: Option<&[u8]>) -> Result<Self, ShortKey> {
        Ok(Self {
            current: derive(current)?,
            previous: previous.map(derive).transpose()?,
            alone: false,
        })
    }

    /// Makes a key of random bytes that no other process has.
    ///
    /// # Errors
    ///
    /// Fails where they are too few.
    pub fn random(bytes: &[u8]) -> Result<Self, ShortKey> {
        Ok(Self {
            alone: true,
            ..Self::new(bytes, None)?
        })
    }

    /// Tells whether no other process has them.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Returns the signature of a message by the current key.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let hash = blake3::keyed_hash(&self.current, message);
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(&hash.as_bytes()[..SIGNATURE]);
        signature
    }

    /// Tells whether one of the keys has signed the message; how long that takes does not depend
    /// on how much of the signature is right.
    pub(super) fn verify(&self, message: &[u8], signature: [u8; SIGNATURE]) -> bool {
        let signed = |key| {
            let hash = blake3::keyed_hash(key, message);
            // What is not sent is as it should be; hashes are compared in constant time.
            let mut told = *hash.as_bytes();
            told[..SIGNATURE].copy_from_slice(&signature);
            hash == told
        };
        signed(&self.current) || self.previous.as_ref().is_some_and(signed)
    }
}

fn derive(text: &[u8]) -> Result<Key, ShortKey> {
    let text = text.trim_ascii_end();
    if text.len() < ShortKey::LEAST {
        return Err(ShortKey { bytes: text.len() });
    }
    Ok(blake3::derive_key(PURPOSE, text))
}

impl ShortKey {
    /// As many bytes a key has at least.
    pub const LEAST: usize = 16;
}

impl fmt::Display for ShortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, least) = (self.bytes, Self::LEAST);
        write!(f, "a key of {bytes} bytes is too short: it needs {least}")
    }
}

impl Error for ShortKey {}

impl fmt::Debug for Keys {
    /// Says nothing about the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two = self.previous.is_some();
        f.debug_struct("Keys").field("two", &two).finish()
    }
}

/// Bytes of a signature: forging one of 128 bits is as hard as guessing the key.
pub(super) const SIGNATURE: usize = 16;

/// Keeps these keys apart from all others that may be made of the same text.
const PURPOSE: &str = "outrigger 2026-11 signature of prediction ids";
