use std::ops::Range;

use bytes::BytesMut;
use bytestring::ByteString;
use outrigger_filters::inference::Head;

use super::{Fault, Malformed};
use crate::codec::protobuf::{Put, Source, Value, nested_len, text_len, varint_len};

/// `ModelSpec`: which version of which model is asked or has answered, and which signature of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: ByteString,
    pub(super) version: Option<i64>,
    pub(super) label: ByteString,
    /// As on the wire, where the default one has a name too.
    pub(super) signature: ByteString,
}

impl Spec {
    /// Reads the message at `range` over what has been read before, as protobuf does where a field
    /// comes in parts.
    pub(super) fn read(
        &mut self,
        source: &Source<'_>,
        range: Range<usize>,
    ) -> Result<(), Malformed> {
        let text = |range, field| {
            let text = source.text(range);
            text.ok_or_else(|| Malformed::new(field, Fault::Text))
        };
        let mut fields = source.fields(range);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(name)) => self.name = text(name, "name")?,
                (2, Value::Bytes(number)) => {
                    self.version = Some(version(source, number)?);
                    self.label = ByteString::new();
                }
                (3, Value::Bytes(name)) => self.signature = text(name, "signature_name")?,
                (4, Value::Bytes(label)) => {
                    self.label = text(label, "version_label")?;
                    self.version = None;
                }
                (1..=4, _) => return Err(Fault::Type.into()),
                _ => return Err(Fault::Unknown.into()),
            }
        }
        Ok(())
    }

    /// Makes what a request says of its model.
    pub(super) fn of(head: &Head) -> Result<Self, Malformed> {
        let version = match &*head.version {
            "" => None,
            _ if !head.label.is_empty() => None,
            version => Some(
                version
                    .parse()
                    .map_err(|_| Malformed::new("model_spec.version", Fault::Number))?,
            ),
        };
        Ok(Self {
            name: head.model.clone(),
            version,
            label: head.label.clone(),
            signature: head.signature.clone(),
        })
    }

    /// Says it in a request's head, where the default signature has no name.
    pub(super) fn into_head(self, head: &mut Head) {
        head.version = self.version_text();
        head.model = self.name;
        head.label = self.label;
        if self.signature != DEFAULT_SIGNATURE {
            head.signature = self.signature;
        }
    }

    pub(super) fn version_text(&self) -> ByteString {
        self.version
            .map(|version| version.to_string().into())
            .unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        text_len(1, &self.name)
            + self
                .version
                .map_or(0, |version| nested_len(2, version_len(version)))
            + text_len(3, &self.signature)
            + text_len(4, &self.label)
    }

    pub(super) fn write(&self, number: u32, out: &mut BytesMut) {
        out.put_head(number, self.len());
        out.put_text(1, &self.name);
        if let Some(version) = self.version {
            out.put_head(2, version_len(version));
            if version != 0 {
                out.put_key(1, crate::codec::protobuf::Kind::Varint);
                out.put_varint(version as u64);
            }
        }
        out.put_text(3, &self.signature);
        out.put_text(4, &self.label);
    }
}

/// Reads an `Int64Value`.
fn version(source: &Source<'_>, range: Range<usize>) -> Result<i64, Malformed> {
    let mut version = 0;
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Varint(value)) => version = value as i64,
            (1, _) => return Err(Malformed::new("version", Fault::Type)),
            _ => return Err(Malformed::new("version", Fault::Unknown)),
        }
    }
    Ok(version)
}

fn version_len(version: i64) -> usize {
    match version {
        0 => 0,
        version => 1 + varint_len(version as u64),
    }
}

/// The signature that a model serves where none is asked for.
pub const DEFAULT_SIGNATURE: &str = "serving_default";
