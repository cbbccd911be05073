use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::MAX_ITEMS;
use crate::codec::{
    Wire,
    protobuf::{Put as _, Source, Value},
};

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMetadata {
    /// The product's name.
    pub name: ByteString,
    /// Its version.
    pub version: ByteString,
    /// What it can beyond the protocol's core.
    pub extensions: Vec<ByteString>,
}

impl ServerMetadata {
    /// Reads a `ServerMetadataResponse`.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are not protobuf.
    pub fn read(answer: &Bytes) -> Result<Self, Wire> {
        let mut metadata = Self::default();
        let source = Source::new(answer);
        let mut fields = source.all();
        while let Some(field) = fields.next()? {
            let Value::Bytes(range) = field.value else {
                continue;
            };
            let text = source.text(range).unwrap_or_default();
            match field.number {
                NAME => metadata.name = text,
                VERSION => metadata.version = text,
                EXTENSIONS if metadata.extensions.len() < MAX_ITEMS => {
                    metadata.extensions.push(text);
                }
                _ => {}
            }
        }
        Ok(metadata)
    }

    /// Writes a `ServerMetadataResponse`.
    pub fn write(&self) -> Bytes {
        let mut answer = BytesMut::new();
        answer.put_text(NAME, &self.name);
        answer.put_text(VERSION, &self.version);
        for extension in &self.extensions {
            answer.put_head(EXTENSIONS, extension.len());
            answer.extend_from_slice(extension.as_bytes());
        }
        answer.freeze()
    }

    /// Tells whether the server takes and gives tensors in binary form over REST.
    pub fn is_binary(&self) -> bool {
        self.extensions
            .iter()
            .any(|extension| **extension == *BINARY)
    }
}

/// The extension that allows binary tensors over REST.
pub const BINARY: &str = "binary_tensor_data";

const NAME: u32 = 1;
const VERSION: u32 = 2;
const EXTENSIONS: u32 = 3;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn real_servers_name_their_extensions() -> Result<(), Wire> {
        let triton = include_bytes!("../recorded/triton.server.bin");
        let triton = ServerMetadata::read(&Bytes::from_static(triton))?;
        assert_eq!(triton.name, "triton");
        assert_eq!(triton.version, "2.51.0");
        assert!(triton.is_binary());
        let mlserver = include_bytes!("../recorded/mlserver.server.bin");
        let mlserver = ServerMetadata::read(&Bytes::from_static(mlserver))?;
        assert_eq!(mlserver.version, "1.7.1");
        assert!(!mlserver.is_binary());
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name: String, version: String, extensions in vec(".*", 0..4)) {
            let metadata = ServerMetadata {
                name: name.into(),
                version: version.into(),
                extensions: extensions.into_iter().map(ByteString::from).collect(),
            };
            prop_assert_eq!(ServerMetadata::read(&metadata.write()), Ok(metadata));
        }

        #[test]
        fn any_bytes_are_read_without_panic(answer: Vec<u8>) {
            let _ = ServerMetadata::read(&answer.into());
        }
    }
}
