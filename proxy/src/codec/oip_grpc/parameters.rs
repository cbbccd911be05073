use std::ops::Range;

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;
use outrigger_filters::inference::{Parameter, Parameters};

use super::Cause;
use crate::codec::protobuf::{Kind, Put, Source, Value, key_len, nested_len, text_len, varint_len};

/// Reads one entry of a map of parameters into `parameters`.
pub(super) fn read(
    source: &mut Source<'_>,
    entry: Range<usize>,
    parameters: &mut Parameters,
) -> Result<(), Cause> {
    source.count().ok_or(Cause::TooMany)?;
    if parameters.len() >= MAX_PARAMETERS {
        return Err(Cause::TooMany);
    }
    let mut name = ByteString::new();
    let mut value = Parameter::Unset;
    let mut fields = source.fields(entry);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => name = source.text(text).ok_or(Cause::Text)?,
            (2, Value::Bytes(message)) => read_value(source, message, &mut value)?,
            (number @ 1..=2, _) => return Err(Cause::Type(number)),
            (number, _) => return Err(Cause::Unknown(number)),
        }
    }
    parameters.insert(name, value);
    Ok(())
}

/// Returns the bytes of a map as the field `number` of a message.
pub(super) fn len(number: u32, parameters: &Parameters) -> usize {
    parameters
        .iter()
        .map(|(name, value)| nested_len(number, entry_len(name, value)))
        .sum()
}

/// Writes a map as the field `number` of a message.
pub(super) fn write(number: u32, parameters: &Parameters, out: &mut BytesMut) {
    for (name, value) in parameters.iter() {
        out.put_head(number, entry_len(name, value));
        out.put_text(1, name);
        out.put_head(2, value_len(value));
        match value {
            Parameter::Bool(value) => {
                out.put_key(1, Kind::Varint);
                out.put_varint(u64::from(*value));
            }
            Parameter::Int64(value) => {
                out.put_key(2, Kind::Varint);
                out.put_varint(*value as u64);
            }
            Parameter::String(value) => {
                // One of several: it is written even where it is empty.
                out.put_head(3, value.len());
                out.extend_from_slice(value.as_bytes());
            }
            Parameter::Double(value) => {
                out.put_key(4, Kind::Fixed64);
                out.put_f64_le(*value);
            }
            Parameter::Uint64(value) => {
                out.put_key(5, Kind::Varint);
                out.put_varint(*value);
            }
            Parameter::Unset => {}
        }
    }
}

fn read_value(
    source: &Source<'_>,
    message: Range<usize>,
    value: &mut Parameter,
) -> Result<(), Cause> {
    let mut fields = source.fields(message);
    while let Some(field) = fields.next()? {
        *value = match (field.number, field.value) {
            (1, Value::Varint(value)) => Parameter::Bool(value != 0),
            (2, Value::Varint(value)) => Parameter::Int64(value as i64),
            (3, Value::Bytes(text)) => Parameter::String(source.text(text).ok_or(Cause::Text)?),
            (4, Value::Fixed64(bytes)) => source
                .bytes()
                .get(bytes)
                .and_then(|bytes| bytes.try_into().ok())
                .map(|bytes| Parameter::Double(f64::from_le_bytes(bytes)))
                .ok_or(Cause::Type(4))?,
            (5, Value::Varint(value)) => Parameter::Uint64(value),
            (number @ 1..=5, _) => return Err(Cause::Type(number)),
            (number, _) => return Err(Cause::Unknown(number)),
        };
    }
    Ok(())
}

fn entry_len(name: &str, value: &Parameter) -> usize {
    text_len(1, name) + nested_len(2, value_len(value))
}

fn value_len(value: &Parameter) -> usize {
    match value {
        Parameter::Bool(_) => key_len(1) + 1,
        Parameter::Int64(value) => key_len(2) + varint_len(*value as u64),
        Parameter::String(value) => nested_len(3, value.len()),
        Parameter::Double(_) => key_len(4) + 8,
        Parameter::Uint64(value) => key_len(5) + varint_len(*value),
        Parameter::Unset => 0,
    }
}

/// Parameters of one map: each is looked up among those before it, which must stay cheap.
const MAX_PARAMETERS: usize = 256;
