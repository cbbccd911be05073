use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use outrigger_filters::inference::{Datatype, Form, Payload, Tensor};

use super::{Cause, rope::Rope};
use crate::codec::protobuf::{Put, Source, Value, nested_len, varint_len};

/// Typed contents as they are written.
#[derive(Debug)]
pub(super) enum Typed<'a> {
    /// None, or none in this message.
    Nothing,
    /// A list of this number whose elements stand on the wire as they are.
    Packed(u32, &'a Payload),
    /// What had to be made.
    Made(Bytes),
}

/// Reads typed contents, the message at `range`, into canonical bytes.
///
/// Floats in one packed list are canonical already and are shared. Of the others, the elements
/// are counted first, so that no more is reserved than they need: at most eight bytes for one of
/// the wire, up to a bound for the whole message.
pub(super) fn read(
    source: &mut Source<'_>,
    range: Range<usize>,
    datatype: Datatype,
    elements: usize,
) -> Result<Payload, Cause> {
    let list = list(datatype).ok_or(Cause::Misplaced)?;
    let mut count = 0;
    let mut len = 0;
    let mut packed = None;
    let mut fields = source.fields(range.clone());
    while let Some(field) = fields.next()? {
        let found = match (field.number, &field.value) {
            (1..=5, Value::Varint(_)) | (6, Value::Fixed32(_)) | (7, Value::Fixed64(_)) => 1,
            (1..=7, Value::Bytes(bytes)) if bytes.is_empty() => continue,
            (1..=5, Value::Bytes(bytes)) => terminators(source, bytes),
            (6, Value::Bytes(bytes)) => whole(bytes.len(), 4)?,
            (7, Value::Bytes(bytes)) => whole(bytes.len(), 8)?,
            (8, Value::Bytes(bytes)) => {
                len += LENGTH + bytes.len();
                1
            }
            (number @ 1..=8, _) => return Err(Cause::Type(number)),
            (number, _) => return Err(Cause::Unknown(number)),
        };
        if field.number != list {
            return Err(Cause::Misplaced);
        }
        if let (6 | 7, Value::Bytes(bytes)) = (list, field.value) {
            // Shared only if it is the one and only record.
            packed = (count == 0).then_some(bytes);
        } else {
            packed = None;
        }
        count += found;
    }
    if count != elements {
        return Err(Cause::Length);
    }
    if let Some(bytes) = packed {
        return Ok(source.share(bytes).into());
    }
    let len = datatype.size().map_or(len, |size| count * size);
    source.make(len).ok_or(Cause::TooLong)?;
    let mut data = BytesMut::with_capacity(len);
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match field.value {
            Value::Varint(value) => put_element(datatype, value, &mut data)?,
            Value::Bytes(bytes) if list < 6 => {
                let mut values = source.fields(bytes);
                while let Some(value) = values.next_varint()? {
                    put_element(datatype, value, &mut data)?;
                }
            }
            Value::Bytes(bytes) | Value::Fixed32(bytes) | Value::Fixed64(bytes) => {
                let bytes = source.bytes().get(bytes).unwrap_or_default();
                if field.number == 8 {
                    data.put_u32_le(u32::try_from(bytes.len()).map_err(|_| Cause::Length)?);
                }
                // An empty packed record of another list adds nothing.
                data.extend_from_slice(bytes);
            }
            Value::Group => {}
        }
    }
    Ok(data.freeze().into())
}

impl<'a> Typed<'a> {
    /// Makes typed contents of canonical bytes, or returns `None` where the datatype has no typed
    /// form or the bytes are not its elements. Floats are shared.
    pub(super) fn of(tensor: &'a Tensor) -> Option<Self> {
        if tensor.form == Form::Absent || tensor.data.is_empty() {
            return Some(Self::Nothing);
        }
        let number = list(tensor.datatype)?;
        let data = &tensor.data;
        match tensor.datatype.size() {
            Some(size) if !data.len().is_multiple_of(size) => None,
            Some(_) if number >= FP32_CONTENTS => return Some(Self::Packed(number, data)),
            Some(size) => make_list(tensor.datatype, size, number, &data.to_bytes()),
            None => make_bytes(number, &data.to_bytes()),
        }
        .map(Self::Made)
    }

    /// Returns the bytes of the contents.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Packed(number, data) => nested_len(*number, data.len()),
            Self::Made(contents) => contents.len(),
        }
    }

    /// Adds to what a rope should expect to share.
    pub(super) fn expect(&self, rope: &mut Rope) {
        match self {
            Self::Nothing => {}
            Self::Packed(_, data) => rope.expect(data),
            Self::Made(contents) => rope.expect_piece(contents),
        }
    }

    /// Writes the contents.
    pub(super) fn write(&self, rope: &mut Rope) {
        match self {
            Self::Nothing => {}
            Self::Packed(number, data) => {
                rope.small().put_head(*number, data.len());
                rope.share(data);
            }
            Self::Made(contents) => rope.share_piece(contents),
        }
    }
}

fn make_list(datatype: Datatype, size: usize, number: u32, data: &[u8]) -> Option<Bytes> {
    let values = || {
        data.chunks_exact(size)
            .map(|element| value(datatype, element))
    };
    let len = values()
        .map(|value| value.map(varint_len))
        .sum::<Option<_>>()?;
    let mut contents = BytesMut::with_capacity(nested_len(number, len));
    contents.put_head(number, len);
    values()
        .flatten()
        .for_each(|value| contents.put_varint(value));
    Some(contents.freeze())
}

/// Tells whether raw bytes are as many elements as a tensor should have.
pub(super) fn is_raw(datatype: Datatype, elements: usize, data: &[u8]) -> bool {
    match datatype.size() {
        Some(size) => elements.checked_mul(size) == Some(data.len()),
        None => {
            let mut rest = data;
            let mut count = 0;
            while let Some((_, behind)) = split_element(rest) {
                rest = behind;
                count += 1;
            }
            rest.is_empty() && count == elements
        }
    }
}

fn make_bytes(number: u32, data: &[u8]) -> Option<Bytes> {
    let mut rest = data;
    let mut len = 0;
    while let Some((element, behind)) = split_element(rest) {
        len += nested_len(number, element.len());
        rest = behind;
    }
    if !rest.is_empty() {
        return None;
    }
    let mut contents = BytesMut::with_capacity(len);
    rest = data;
    while let Some((element, behind)) = split_element(rest) {
        contents.put_head(number, element.len());
        contents.extend_from_slice(element);
        rest = behind;
    }
    Some(contents.freeze())
}

/// Splits the first element of `BYTES` off, or returns `None` where there is no whole one.
fn split_element(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
}

/// Returns the field of `InferTensorContents` in which a datatype's elements stand.
fn list(datatype: Datatype) -> Option<u32> {
    match datatype {
        Datatype::Bool => Some(1),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some(2),
        Datatype::Int64 => Some(3),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some(4),
        Datatype::Uint64 => Some(5),
        Datatype::Fp32 => Some(6),
        Datatype::Fp64 => Some(7),
        Datatype::Bytes => Some(8),
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

/// Counts the varints of a packed list by their last bytes.
fn terminators(source: &Source<'_>, bytes: &Range<usize>) -> usize {
    let bytes = source.bytes().get(bytes.clone()).unwrap_or_default();
    bytes.iter().filter(|byte| **byte < 0x80).count()
}

fn whole(len: usize, size: usize) -> Result<usize, Cause> {
    if len.is_multiple_of(size) {
        Ok(len / size)
    } else {
        Err(Cause::Length)
    }
}

/// Writes one element of a list of varints; those of 32 bits drop the upper half, as everywhere
/// in protobuf.
fn put_element(datatype: Datatype, value: u64, data: &mut BytesMut) -> Result<(), Cause> {
    let signed = value as i32;
    let unsigned = value as u32;
    match datatype {
        Datatype::Bool => data.put_u8(u8::from(value != 0)),
        Datatype::Int8 => data.put_i8(signed.try_into().map_err(|_| Cause::Range)?),
        Datatype::Int16 => data.put_i16_le(signed.try_into().map_err(|_| Cause::Range)?),
        Datatype::Int32 => data.put_i32_le(signed),
        Datatype::Uint8 => data.put_u8(unsigned.try_into().map_err(|_| Cause::Range)?),
        Datatype::Uint16 => data.put_u16_le(unsigned.try_into().map_err(|_| Cause::Range)?),
        Datatype::Uint32 => data.put_u32_le(unsigned),
        Datatype::Int64 | Datatype::Uint64 => data.put_u64_le(value),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => {
            return Err(Cause::Misplaced);
        }
    }
    Ok(())
}

/// Reads one canonical element as the varint that it is in a typed list.
fn value(datatype: Datatype, element: &[u8]) -> Option<u64> {
    Some(match datatype {
        Datatype::Bool => u64::from(*element.first()? != 0),
        Datatype::Uint8 => u64::from(*element.first()?),
        Datatype::Int8 => i64::from(*element.first()? as i8) as u64,
        Datatype::Uint16 => u64::from(u16::from_le_bytes(element.try_into().ok()?)),
        Datatype::Int16 => i64::from(i16::from_le_bytes(element.try_into().ok()?)) as u64,
        Datatype::Uint32 => u64::from(u32::from_le_bytes(element.try_into().ok()?)),
        Datatype::Int32 => i64::from(i32::from_le_bytes(element.try_into().ok()?)) as u64,
        Datatype::Uint64 | Datatype::Int64 => u64::from_le_bytes(element.try_into().ok()?),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => {
            return None;
        }
    })
}

/// The bytes before an element of `BYTES` that say its length.
const LENGTH: usize = 4;

/// The first of the lists whose elements are canonical on the wire.
const FP32_CONTENTS: u32 = 6;
