use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use outrigger_filters::inference::{Datatype, Form, Parameters, Payload, Shape, Tensor};

use super::{
    Fault, Malformed,
    datatype::{
        self, BOOL_VAL, DOUBLE_VAL, FLOAT_VAL, HALF_VAL, INT_VAL, INT64_VAL, STRING_VAL,
        UINT32_VAL, UINT64_VAL,
    },
    strings::{self, LENGTH, Strings},
};
use crate::codec::{
    oip_grpc::rope::Rope,
    protobuf::{Kind, Put, Source, Unknown, Value, key_len, nested_len, text_len, varint_len},
};

/// What stands in the `*_val` fields of a tensor.
#[derive(Debug, Default)]
struct List {
    /// The one field, or 0 as long as there is none.
    number: u32,
    elements: usize,
    /// The one record in which all the floats stand packed.
    packed: Option<Range<usize>>,
    /// The bytes of texts that are copied.
    small: usize,
}

/// Reads an entry of `map<string, TensorProto>` into the last place of `tensors`.
pub(super) fn read_entry(
    source: &mut Source<'_>,
    entry: Range<usize>,
    tensors: &mut Vec<Tensor>,
) -> Result<(), Malformed> {
    source.count().ok_or(Fault::TooMany)?;
    let mut name = ByteString::new();
    let mut tensor = None;
    let mut fields = source.fields(entry);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => name = source.text(text).ok_or(Fault::Text)?,
            (2, Value::Bytes(message)) => {
                if tensor.replace(message).is_some() {
                    return Err(Malformed::from(Fault::Repeated).within(format_args!("[{name}]")));
                }
            }
            (1..=2, _) => return Err(Fault::Type.into()),
            _ => return Err(Fault::Unknown.into()),
        }
    }
    let tensor = read(source, tensor.unwrap_or_default(), &name)
        .map_err(|malformed| malformed.within(format_args!("[{name}]")))?;
    if tensors.is_empty() {
        // Most messages have one; a vector would make room for four.
        tensors.reserve_exact(1);
    }
    tensors.push(tensor);
    Ok(())
}

/// Puts tensors into the order of their names, as a map on the wire has none; of several under one
/// name the last counts.
pub(super) fn sort(tensors: &mut Vec<Tensor>) {
    if !tensors.is_sorted_by(|a, b| a.name < b.name) {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors.dedup_by(|later, earlier| {
            let same = later.name == earlier.name;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
    }
}

/// Reads a `TensorProto`.
fn read(
    source: &mut Source<'_>,
    range: Range<usize>,
    name: &ByteString,
) -> Result<Tensor, Malformed> {
    let mut number = 0;
    let mut shape = None;
    let mut content = 0..0;
    let mut list = List::default();
    let mut unknown = Unknown::default();
    let mut fields = source.fields(range.clone());
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Varint(value)) => number = value,
            (2, Value::Bytes(message)) => {
                if shape.replace(message).is_some() {
                    return Err(Malformed::new("tensor_shape", Fault::Repeated));
                }
            }
            (4, Value::Bytes(bytes)) => content = bytes,
            (1 | 2 | 4, _) => return Err(Fault::Type.into()),
            (
                FLOAT_VAL | DOUBLE_VAL | INT_VAL | STRING_VAL | INT64_VAL | BOOL_VAL | HALF_VAL
                | UINT32_VAL | UINT64_VAL,
                value,
            ) => list.add(source, field.number, value)?,
            // The lists of datatypes that are not understood.
            (9 | 12 | 14 | 15 | 18, _) => return Err(Malformed::new("dtype", Fault::Datatype)),
            _ => unknown.keep(source, field.span).ok_or(Fault::TooMany)?,
        }
    }
    let datatype =
        datatype::from_number(number).ok_or_else(|| Malformed::new("dtype", Fault::Datatype))?;
    let shape =
        read_shape(source, shape.unwrap_or_default()).map_err(Malformed::at("tensor_shape"))?;
    let elements = shape
        .elements()
        .ok_or_else(|| Malformed::new("tensor_shape", Fault::Shape))?;
    let (form, data) = if content.is_empty() {
        let data = list.read(source, range, datatype, elements)?;
        (Form::Typed, data)
    } else if list.number != 0 {
        return Err(Malformed::new("tensor_content", Fault::Misplaced));
    } else {
        let data = read_content(source, content, datatype, elements)
            .map_err(Malformed::at("tensor_content"))?;
        (Form::Raw, data)
    };
    Ok(Tensor {
        name: name.clone(),
        datatype,
        shape,
        parameters: Parameters::default(),
        data,
        form,
        unknown: unknown.finish(source),
    })
}

/// Reads a `TensorShapeProto` of which every dimension is known, and has no name.
fn read_shape(source: &Source<'_>, range: Range<usize>) -> Result<Shape, Fault> {
    let mut shape = Shape::default();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (2, Value::Bytes(dimension)) => {
                if shape.dimensions().len() >= MAX_RANK {
                    return Err(Fault::TooMany);
                }
                let mut size = 0;
                let mut fields = source.fields(dimension);
                while let Some(field) = fields.next()? {
                    match (field.number, field.value) {
                        (1, Value::Varint(value)) => size = value as i64,
                        // An empty name is none.
                        (2, Value::Bytes(name)) if name.is_empty() => {}
                        _ => return Err(Fault::Shape),
                    }
                }
                shape.push(size);
            }
            // The rank is known.
            (3, Value::Varint(0)) => {}
            _ => return Err(Fault::Shape),
        }
    }
    Ok(shape)
}

/// Shares the contents as they stand, but for texts: their lengths come first, as varints.
fn read_content(
    source: &mut Source<'_>,
    range: Range<usize>,
    datatype: Datatype,
    elements: usize,
) -> Result<Payload, Fault> {
    if let Some(size) = datatype.size() {
        return match elements.checked_mul(size) {
            Some(len) if len == range.len() => Ok(source.share(range).into()),
            _ => Err(Fault::Length),
        };
    }
    // Each length takes a byte at least.
    if elements == 0 || elements > range.len() {
        return Err(Fault::Length);
    }
    let mut lengths = source.fields(range.clone());
    let mut small = 0;
    let mut texts = 0_usize;
    for _ in 0..elements {
        let len = next_length(lengths.next_varint()?)?;
        small += Strings::small_len(len);
        texts = texts.checked_add(len).ok_or(Fault::Length)?;
    }
    let Some(mut at) = range
        .end
        .checked_sub(texts)
        .filter(|begin| *begin == lengths.position())
    else {
        return Err(Fault::Length);
    };
    source.make(small).ok_or(Fault::TooLong)?;
    let mut contents = Strings::new(small);
    let mut lengths = source.fields(range);
    for _ in 0..elements {
        let end = at + next_length(lengths.next_varint()?)?;
        contents.push(source, at..end)?;
        at = end;
    }
    Ok(contents.finish())
}

fn next_length(varint: Option<u64>) -> Result<usize, Fault> {
    varint
        .and_then(|len| u32::try_from(len).ok())
        .and_then(|len| usize::try_from(len).ok())
        .ok_or(Fault::Length)
}

impl List {
    fn add(&mut self, source: &Source<'_>, number: u32, value: Value) -> Result<(), Malformed> {
        let field = list_name(number);
        let elements = match (number, &value) {
            (FLOAT_VAL, Value::Fixed32(_)) | (DOUBLE_VAL, Value::Fixed64(_)) => 1,
            (STRING_VAL, Value::Bytes(text)) => {
                self.small += Strings::small_len(text.len());
                1
            }
            (_, Value::Bytes(packed)) if packed.is_empty() => return Ok(()),
            (FLOAT_VAL, Value::Bytes(packed)) if packed.len().is_multiple_of(4) => packed.len() / 4,
            (DOUBLE_VAL, Value::Bytes(packed)) if packed.len().is_multiple_of(8) => {
                packed.len() / 8
            }
            (FLOAT_VAL | DOUBLE_VAL, Value::Bytes(_)) => {
                return Err(Malformed::new(field, Fault::Length));
            }
            (FLOAT_VAL | DOUBLE_VAL | STRING_VAL, _) => {
                return Err(Malformed::new(field, Fault::Type));
            }
            (_, Value::Varint(_)) => 1,
            (_, Value::Bytes(packed)) => terminators(source, packed),
            _ => return Err(Malformed::new(field, Fault::Type)),
        };
        if self.number != 0 && self.number != number {
            return Err(Malformed::new(field, Fault::Misplaced));
        }
        self.packed = match value {
            // Shared only if it is the one and only record.
            Value::Bytes(packed) if self.number == 0 => Some(packed),
            _ => None,
        };
        self.number = number;
        self.elements = self.elements.saturating_add(elements);
        Ok(())
    }

    /// Makes canonical contents of the list in the `TensorProto` at `range`.
    ///
    /// A list that is shorter than the shape says goes on with its last element; one without
    /// elements is all zeros, or all empty texts.
    fn read(
        self,
        source: &mut Source<'_>,
        range: Range<usize>,
        datatype: Datatype,
        elements: usize,
    ) -> Result<Payload, Malformed> {
        let number = datatype::list(datatype);
        let fault = Malformed::at(list_name(number));
        if self.number != 0 && self.number != number {
            return Err(Malformed::new(list_name(self.number), Fault::Misplaced));
        }
        // The server would leave those out that are too many. Nobody means it.
        if self.elements > elements {
            return Err(fault(Fault::Length));
        }
        let rest = elements - self.elements;
        if let (Some(packed), 0, FLOAT_VAL | DOUBLE_VAL) = (&self.packed, rest, number) {
            return Ok(source.share(packed.clone()).into());
        }
        let (mut data, last) = match datatype.size() {
            Some(size) => {
                let len = self.elements.saturating_mul(size);
                source.make(len).ok_or(Fault::TooLong).map_err(&fault)?;
                let data = read_numbers(source, range, number, datatype, len).map_err(&fault)?;
                let last = match data.len().checked_sub(size) {
                    Some(last) => data.slice(last..),
                    None => Bytes::from_static(&[0; 8]).slice(..size),
                };
                (Payload::from(data), last)
            }
            None => {
                source
                    .make(self.small)
                    .ok_or(Fault::TooLong)
                    .map_err(&fault)?;
                read_texts(source, range, self.small).map_err(&fault)?
            }
        };
        repeat(source, &last, rest, &mut data).map_err(fault)?;
        Ok(data)
    }
}

/// Adds an element `times` times, in pieces that share the bytes of one.
fn repeat(
    source: &mut Source<'_>,
    element: &Bytes,
    times: usize,
    data: &mut Payload,
) -> Result<(), Fault> {
    if times == 0 {
        return Ok(());
    }
    let len = times.checked_mul(element.len()).ok_or(Fault::TooLong)?;
    // What is shared counts too: whoever needs it in one piece makes all of it.
    source.make(len).ok_or(Fault::TooLong)?;
    let in_piece = (REPEATED / element.len().max(1)).clamp(1, times);
    let piece = if in_piece == 1 {
        element.clone()
    } else {
        Bytes::from(element.repeat(in_piece))
    };
    for _ in 0..times / in_piece {
        data.push(piece.clone());
    }
    data.push(piece.slice(..times % in_piece * element.len()));
    Ok(())
}

fn read_numbers(
    source: &Source<'_>,
    range: Range<usize>,
    number: u32,
    datatype: Datatype,
    len: usize,
) -> Result<Bytes, Fault> {
    let mut data = BytesMut::with_capacity(len);
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match field.value {
            _ if field.number != number => {}
            Value::Varint(value) => put_element(datatype, value, &mut data)?,
            Value::Bytes(bytes) if !matches!(number, FLOAT_VAL | DOUBLE_VAL) => {
                let mut values = source.fields(bytes);
                while let Some(value) = values.next_varint()? {
                    put_element(datatype, value, &mut data)?;
                }
            }
            Value::Bytes(bytes) | Value::Fixed32(bytes) | Value::Fixed64(bytes) => {
                data.extend_from_slice(source.bytes().get(bytes).unwrap_or_default());
            }
            Value::Group => {}
        }
    }
    Ok(data.freeze())
}

/// Reads the texts, and returns the last of them besides, behind its length.
fn read_texts(
    source: &Source<'_>,
    range: Range<usize>,
    small: usize,
) -> Result<(Payload, Bytes), Fault> {
    let mut texts = Strings::new(small);
    let mut last = 0..0;
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match field.value {
            Value::Bytes(text) if field.number == STRING_VAL => {
                last = text.clone();
                texts.push(source, text)?;
            }
            _ => {}
        }
    }
    let mut element = BytesMut::with_capacity(LENGTH + last.len());
    element.put_u32_le(u32::try_from(last.len()).map_err(|_| Fault::TooLong)?);
    element.extend_from_slice(source.bytes().get(last).unwrap_or_default());
    Ok((texts.finish(), element.freeze()))
}

/// Writes one element of a list of varints; those of 32 bits drop the upper half, as everywhere
/// in protobuf.
fn put_element(datatype: Datatype, value: u64, data: &mut BytesMut) -> Result<(), Fault> {
    let signed = value as i32;
    match datatype {
        Datatype::Bool => data.put_u8(u8::from(value != 0)),
        Datatype::Int8 => data.put_i8(signed.try_into().map_err(|_| Fault::Range)?),
        Datatype::Int16 => data.put_i16_le(signed.try_into().map_err(|_| Fault::Range)?),
        Datatype::Int32 => data.put_i32_le(signed),
        Datatype::Uint8 => data.put_u8(signed.try_into().map_err(|_| Fault::Range)?),
        Datatype::Uint16 | Datatype::Fp16 | Datatype::Bf16 => {
            data.put_u16_le(signed.try_into().map_err(|_| Fault::Range)?);
        }
        Datatype::Uint32 => data.put_u32_le(value as u32),
        Datatype::Int64 | Datatype::Uint64 => data.put_u64_le(value),
        Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => return Err(Fault::Misplaced),
    }
    Ok(())
}

/// Reads one canonical element as the varint that it is in a list.
fn value(datatype: Datatype, element: &[u8]) -> Option<u64> {
    Some(match datatype {
        Datatype::Bool => u64::from(*element.first()? != 0),
        Datatype::Uint8 => u64::from(*element.first()?),
        Datatype::Int8 => i64::from(*element.first()? as i8) as u64,
        Datatype::Uint16 | Datatype::Fp16 | Datatype::Bf16 => {
            u64::from(u16::from_le_bytes(element.try_into().ok()?))
        }
        Datatype::Int16 => i64::from(i16::from_le_bytes(element.try_into().ok()?)) as u64,
        Datatype::Uint32 => u64::from(u32::from_le_bytes(element.try_into().ok()?)),
        Datatype::Int32 => i64::from(i32::from_le_bytes(element.try_into().ok()?)) as u64,
        Datatype::Uint64 | Datatype::Int64 => u64::from_le_bytes(element.try_into().ok()?),
        Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => return None,
    })
}

/// Counts the varints of a packed list by their last bytes.
fn terminators(source: &Source<'_>, bytes: &Range<usize>) -> usize {
    let bytes = source.bytes().get(bytes.clone()).unwrap_or_default();
    bytes.iter().filter(|byte| **byte < 0x80).count()
}

/// The tensors of a map, with what is known before they are written.
#[derive(Debug)]
pub(super) struct Tensors<'a>(Vec<Encoded<'a>>);

#[derive(Debug)]
struct Encoded<'a> {
    tensor: &'a Tensor,
    contents: Contents<'a>,
    /// The bytes of the `TensorProto`.
    len: usize,
}

/// The field or the fields in which contents are written.
#[derive(Debug)]
enum Contents<'a> {
    None,
    /// One field of this number, with the tensor's own bytes in it.
    Shared(u32, &'a Payload),
    /// All fields with their keys.
    Made(Payload),
}

impl<'a> Tensors<'a> {
    /// Makes what is written for the tensors: their bytes as they are, or their elements one by one
    /// (`Form::Typed`). Texts are always written one by one.
    pub(super) fn new(tensors: &'a [Tensor], wanted: Form) -> Result<Self, Malformed> {
        tensors
            .iter()
            .map(|tensor| {
                let contents = Contents::new(tensor, wanted).map_err(|fault| {
                    Malformed::from(fault).within(format_args!("[{}]", tensor.name))
                })?;
                let len = 1
                    + varint_len(datatype::number(tensor.datatype).into())
                    + nested_len(2, shape_len(&tensor.shape))
                    + contents.len()
                    + tensor.unknown.len();
                Ok(Encoded {
                    tensor,
                    contents,
                    len,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns the bytes of the map as field `number`.
    pub(super) fn len(&self, number: u32) -> usize {
        self.0
            .iter()
            .map(|encoded| nested_len(number, encoded.entry_len()))
            .sum()
    }

    /// Adds to what a rope should expect to share.
    pub(super) fn expect(&self, rope: &mut Rope) {
        for Encoded {
            tensor, contents, ..
        } in &self.0
        {
            rope.expect(&tensor.unknown);
            match contents {
                Contents::None => {}
                Contents::Shared(_, data) => rope.expect(data),
                Contents::Made(fields) => rope.expect(fields),
            }
        }
    }

    /// Writes the map as field `number`.
    pub(super) fn write(&self, number: u32, rope: &mut Rope) {
        for encoded in &self.0 {
            let Encoded {
                tensor,
                contents,
                len,
            } = encoded;
            let out = rope.small();
            out.put_head(number, encoded.entry_len());
            out.put_text(1, &tensor.name);
            out.put_head(2, *len);
            out.put_key(1, Kind::Varint);
            out.put_varint(datatype::number(tensor.datatype).into());
            write_shape(&tensor.shape, out);
            match contents {
                Contents::None => {}
                Contents::Shared(number, data) => {
                    out.put_head(*number, data.len());
                    rope.share(data);
                }
                Contents::Made(fields) => rope.share(fields),
            }
            rope.share(&tensor.unknown);
        }
    }
}

impl Encoded<'_> {
    fn entry_len(&self) -> usize {
        text_len(1, &self.tensor.name) + nested_len(2, self.len)
    }
}

impl<'a> Contents<'a> {
    fn new(tensor: &'a Tensor, wanted: Form) -> Result<Self, Fault> {
        match tensor.form {
            Form::Raw | Form::Typed => {}
            Form::Absent | Form::Flat | Form::Rows => return Err(Fault::Form),
        }
        let elements = tensor.shape.elements().ok_or(Fault::Shape)?;
        let number = datatype::list(tensor.datatype);
        let Some(size) = tensor.datatype.size() else {
            return strings::write(number, elements, &tensor.data).map(Self::Made);
        };
        if elements.checked_mul(size) != Some(tensor.data.len()) {
            return Err(Fault::Length);
        }
        Ok(match (number, wanted) {
            _ if tensor.data.is_empty() => Self::None,
            // A packed list of floats is the very bytes.
            (FLOAT_VAL | DOUBLE_VAL, Form::Typed) => Self::Shared(number, &tensor.data),
            (_, Form::Typed) => Self::Made(write_list(tensor.datatype, size, &tensor.data)?),
            _ => Self::Shared(TENSOR_CONTENT, &tensor.data),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Shared(number, data) => nested_len(*number, data.len()),
            Self::Made(fields) => fields.len(),
        }
    }
}

fn write_list(datatype: Datatype, size: usize, data: &Payload) -> Result<Payload, Fault> {
    let number = datatype::list(datatype);
    let data = data.to_bytes();
    let values = || {
        data.chunks_exact(size)
            .map(|element| value(datatype, element))
    };
    let len = values()
        .map(|value| value.map(varint_len))
        .sum::<Option<_>>()
        .ok_or(Fault::Misplaced)?;
    let mut list = BytesMut::with_capacity(nested_len(number, len));
    list.put_head(number, len);
    values().flatten().for_each(|value| list.put_varint(value));
    Ok(list.freeze().into())
}

fn write_shape(shape: &Shape, out: &mut BytesMut) {
    out.put_head(2, shape_len(shape));
    for dimension in shape.dimensions() {
        out.put_head(2, dimension_len(*dimension));
        if *dimension != 0 {
            out.put_key(1, Kind::Varint);
            out.put_varint(*dimension as u64);
        }
    }
}

fn shape_len(shape: &Shape) -> usize {
    shape
        .dimensions()
        .iter()
        .map(|dimension| nested_len(2, dimension_len(*dimension)))
        .sum()
}

fn dimension_len(dimension: i64) -> usize {
    match dimension {
        0 => 0,
        dimension => key_len(1) + varint_len(dimension as u64),
    }
}

fn list_name(number: u32) -> &'static str {
    match number {
        FLOAT_VAL => "float_val",
        DOUBLE_VAL => "double_val",
        INT_VAL => "int_val",
        STRING_VAL => "string_val",
        INT64_VAL => "int64_val",
        BOOL_VAL => "bool_val",
        HALF_VAL => "half_val",
        UINT32_VAL => "uint32_val",
        _ => "uint64_val",
    }
}

const TENSOR_CONTENT: u32 = 4;

/// Dimensions of one tensor: far above any real one, and cheap to keep.
const MAX_RANK: usize = 64;

/// About how many bytes are made of an element that is repeated: a piece of these is shared as
/// often as the shape says, so that a message of a few bytes does not fill the memory.
const REPEATED: usize = 64 << 10;
