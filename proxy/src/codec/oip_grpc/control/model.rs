use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use crate::codec::{
    Wire,
    protobuf::{Put as _, Source, Value},
};

/// The question about a model that `ModelReady`, `ModelMetadata` and `ModelConfig` share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRequest {
    /// The model's name.
    pub name: ByteString,
    /// The version, or nothing where the server may choose.
    pub version: ByteString,
}

impl ModelRequest {
    /// Reads the message.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are not protobuf. A name that is not UTF-8 is read as none.
    pub fn read(message: &Bytes) -> Result<Self, Wire> {
        let mut request = Self::default();
        let source = Source::new(message);
        let mut fields = source.all();
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (NAME, Value::Bytes(range)) => {
                    request.name = source.text(range).unwrap_or_default();
                }
                (VERSION, Value::Bytes(range)) => {
                    request.version = source.text(range).unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(request)
    }

    /// Writes the message.
    pub fn write(&self) -> Bytes {
        let mut message = BytesMut::new();
        message.put_text(NAME, &self.name);
        message.put_text(VERSION, &self.version);
        message.freeze()
    }
}

const NAME: u32 = 1;
const VERSION: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(name: String, version: String) {
            let request = ModelRequest { name: name.into(), version: version.into() };
            proptest::prop_assert_eq!(ModelRequest::read(&request.write()), Ok(request));
        }

        #[test]
        fn any_bytes_are_read_without_panic(message: Vec<u8>) {
            let _ = ModelRequest::read(&message.into());
        }
    }
}
