use std::io::Read;

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};

/// How messages are compressed, as `grpc-encoding` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity,
    /// In gzip's format.
    Gzip,
    /// In zlib's format, which gRPC, like HTTP, calls deflate.
    Deflate,
}

/// Why a compressed message cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// The message says that it is compressed, the headers do not say how.
    #[error("a message is compressed, but the headers do not say how")]
    NotNamed,
    /// The message decompresses to more than is allowed.
    #[error("a compressed message is longer than the {max_message} bytes that are allowed")]
    TooLarge {
        /// The length that is allowed.
        max_message: usize,
    },
    /// The compressed bytes are damaged.
    #[error("a compressed message is damaged: {0}")]
    Damaged(String),
}

impl Encoding {
    /// Reads the value of `grpc-encoding`; `None` where it is not one of those known here.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let names: [(&[u8], Self); 4] = [
            (b"identity", Self::Identity),
            (b"gzip", Self::Gzip),
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
        ];
        // HTTP's names of codings have no case (RFC 9110, 8.4.1).
        names
            .into_iter()
            .find_map(|(known, encoding)| name.eq_ignore_ascii_case(known).then_some(encoding))
    }

    /// Reads the headers of a call or of an answer; without `grpc-encoding` nothing is compressed.
    pub fn from_headers(headers: &http::HeaderMap) -> Option<Self> {
        headers
            .get("grpc-encoding")
            .map_or(Some(Self::Identity), |name| {
                Self::from_name(name.as_bytes())
            })
    }

    /// Decompresses one message, up to `max_message` bytes. The buffer grows with what has been
    /// decompressed, so that a small message cannot reserve a large one.
    pub fn decompress(self, message: Bytes, max_message: usize) -> Result<Bytes, Undecodable> {
        match self {
            Self::Identity => Err(Undecodable::NotNamed),
            Self::Gzip => {
                let mut decoder = GzDecoder::new(&*message);
                let whole = read(&mut decoder, max_message)?;
                at_end(decoder.into_inner(), whole)
            }
            Self::Deflate => {
                let mut decoder = ZlibDecoder::new(&*message);
                let whole = read(&mut decoder, max_message)?;
                at_end(decoder.into_inner(), whole)
            }
        }
    }
}

fn read(decoder: &mut impl Read, max_message: usize) -> Result<Vec<u8>, Undecodable> {
    let mut whole = Vec::new();
    let bound = u64::try_from(max_message)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    decoder
        .take(bound)
        .read_to_end(&mut whole)
        .map_err(|error| Undecodable::Damaged(error.to_string()))?;
    if whole.len() > max_message {
        return Err(Undecodable::TooLarge { max_message });
    }
    Ok(whole)
}

fn at_end(rest: &[u8], whole: Vec<u8>) -> Result<Bytes, Undecodable> {
    if rest.is_empty() {
        Ok(whole.into())
    } else {
        Err(Undecodable::Damaged(format!(
            "{} bytes follow its end",
            rest.len()
        )))
    }
}

#[cfg(test)]
mod tests {
    use flate2::{
        Compression,
        bufread::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn gzip(message: &[u8]) -> Bytes {
        let mut compressed = Vec::new();
        GzEncoder::new(message, Compression::fast())
            .read_to_end(&mut compressed)
            .expect("memory does not fail");
        compressed.into()
    }

    fn deflate(message: &[u8]) -> Bytes {
        let mut compressed = Vec::new();
        ZlibEncoder::new(message, Compression::fast())
            .read_to_end(&mut compressed)
            .expect("memory does not fail");
        compressed.into()
    }

    #[test]
    fn messages_are_understood_in_both_formats() {
        let message = vec![7; 100_000];
        for (encoding, compressed) in [
            (Encoding::Gzip, gzip(&message)),
            (Encoding::Deflate, deflate(&message)),
        ] {
            assert_eq!(
                encoding.decompress(compressed, 100_000).as_deref(),
                Ok(&*message)
            );
        }
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let bomb = gzip(&vec![0; 10_000_000]);
        assert_eq!(
            Encoding::Gzip.decompress(bomb, 1000),
            Err(Undecodable::TooLarge { max_message: 1000 })
        );
    }

    #[test]
    fn damage_is_told() {
        let good = gzip(b"hello");
        let mut longer = good.to_vec();
        longer.push(0);
        for damaged in [good.slice(..good.len() - 1), longer.into(), Bytes::new()] {
            let read = Encoding::Gzip.decompress(damaged, 1000);
            assert!(matches!(read, Err(Undecodable::Damaged(_))), "{read:?}");
        }
    }

    #[test]
    fn a_compressed_message_without_an_encoding_is_refused() {
        assert_eq!(
            Encoding::Identity.decompress(Bytes::new(), 1),
            Err(Undecodable::NotNamed)
        );
    }
}
