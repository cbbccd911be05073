use std::ops::Range;

use bytes::BytesMut;
use bytestring::ByteString;
use outrigger_filters::inference::{Datatype, Form, Parameters, Payload, Shape, Tensor};
use smallvec::SmallVec;

use super::{Malformed, contents, parameters, rope::Rope};
use crate::codec::protobuf::{Put, Source, Unknown, Value, nested_len, text_len, varint_len};

/// Where the raw contents of a message stand, in their order.
pub(super) type Raw = SmallVec<[Range<usize>; 4]>;

/// The contents with which tensors are written.
#[derive(Debug)]
pub(super) enum Contents {
    /// Typed, each tensor's within it.
    Typed(Vec<Payload>),
    /// Raw, beside the tensors.
    Raw,
}

/// Reads `InferInputTensor` or `InferOutputTensor`, which look alike, into the last place of
/// `tensors`. Whoever calls attaches the raw contents when the whole message has been read.
pub(super) fn read(
    source: &mut Source<'_>,
    range: Range<usize>,
    tensors: &mut Vec<Tensor>,
) -> Result<(), Malformed> {
    source.count().ok_or(Malformed::TooMany)?;
    let mut name = ByteString::new();
    let mut datatype = 0..0;
    let mut shape = Shape::default();
    let mut parameters = Parameters::default();
    let mut typed = None;
    let mut unknown = Unknown::default();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => name = source.text(text).ok_or(Malformed::Text)?,
            (2, Value::Bytes(text)) => datatype = text,
            (3, Value::Bytes(packed)) => {
                let mut dimensions = source.fields(packed);
                while let Some(dimension) = dimensions.next_varint()? {
                    push_dimension(&mut shape, dimension)?;
                }
            }
            (3, Value::Varint(dimension)) => push_dimension(&mut shape, dimension)?,
            (4, Value::Bytes(entry)) => parameters::read(source, entry, &mut parameters)?,
            (5, Value::Bytes(message)) => {
                if typed.replace(message).is_some() {
                    return Err(Malformed::Repeated);
                }
            }
            (number @ 1..=5, _) => return Err(Malformed::Type(number)),
            _ => unknown.keep(source, field.span).ok_or(Malformed::TooMany)?,
        }
    }
    let datatype = source
        .bytes()
        .get(datatype)
        .and_then(datatype_from_name)
        .ok_or(Malformed::Datatype)?;
    let (form, data) = match typed {
        _ if is_elsewhere(&parameters) => match typed {
            Some(_) => return Err(Malformed::Misplaced),
            None => (Form::Absent, Payload::new()),
        },
        Some(message) if !message.is_empty() => {
            let elements = shape.elements().ok_or(Malformed::Length)?;
            (
                Form::Typed,
                contents::read(source, message, datatype, elements)?,
            )
        }
        // MLServer writes empty typed contents beside the raw ones.
        _ => (Form::Raw, Payload::new()),
    };
    if tensors.is_empty() {
        // Most messages have one; a vector would make room for four.
        tensors.reserve_exact(1);
    }
    tensors.push(Tensor {
        name,
        datatype,
        shape,
        parameters,
        data,
        form,
        unknown: unknown.finish(source),
    });
    Ok(())
}

/// Gives the tensors of a message their raw contents.
pub(super) fn attach(
    source: &Source<'_>,
    tensors: &mut [Tensor],
    raw: Raw,
) -> Result<(), Malformed> {
    let all_typed = raw.is_empty();
    let mut raw = raw.into_iter();
    for tensor in tensors {
        match tensor.form {
            Form::Absent | Form::Flat | Form::Rows => {}
            Form::Typed if all_typed => {}
            Form::Typed => return Err(Malformed::Misplaced),
            Form::Raw => {
                let elements = tensor.shape.elements().ok_or(Malformed::Length)?;
                if all_typed {
                    // A list without elements is not there at all.
                    if elements > 0 {
                        return Err(Malformed::RawCount);
                    }
                    tensor.form = Form::Typed;
                    continue;
                }
                let range = raw.next().ok_or(Malformed::RawCount)?;
                let data = source.bytes().get(range.clone()).unwrap_or_default();
                if !contents::is_raw(tensor.datatype, elements, data) {
                    return Err(Malformed::Length);
                }
                tensor.data.push(source.share(range));
            }
        }
    }
    match raw.next() {
        Some(_) => Err(Malformed::RawCount),
        None => Ok(()),
    }
}

/// Tells the form in which tensors stand in a message, which is one for all.
pub(super) fn form(tensors: &[Tensor]) -> Form {
    let mut form = Form::Absent;
    for tensor in tensors {
        match tensor.form {
            Form::Raw | Form::Flat | Form::Rows => return Form::Raw,
            Form::Typed => form = Form::Typed,
            Form::Absent => {}
        }
    }
    form
}

impl Contents {
    /// Makes what is written for `tensors`: typed if they came so, and it can be done.
    pub(super) fn new(tensors: &[Tensor], form: Form) -> Self {
        if form == Form::Raw {
            return Self::Raw;
        }
        let typed = tensors.iter().map(|tensor| match tensor.form {
            Form::Absent => Some(Payload::new()),
            _ => contents::write(tensor),
        });
        typed.collect::<Option<_>>().map_or(Self::Raw, Self::Typed)
    }

    fn of(&self, index: usize) -> Option<&Payload> {
        match self {
            Self::Typed(all) => all.get(index).filter(|contents| !contents.is_empty()),
            Self::Raw => None,
        }
    }
}

/// The tensors of a message, with what is known before they are written.
#[derive(Debug)]
pub(super) struct Tensors<'a> {
    tensors: &'a [Tensor],
    contents: Contents,
    lens: SmallVec<[usize; 4]>,
}

impl<'a> Tensors<'a> {
    /// Fails where a tensor is still text, which stands in no message of this protocol.
    pub(super) fn new(tensors: &'a [Tensor], form: Form) -> Result<Self, Malformed> {
        if tensors.iter().any(|tensor| tensor.form.is_text()) {
            return Err(Malformed::Form);
        }
        let contents = Contents::new(tensors, form);
        let lens = tensors
            .iter()
            .enumerate()
            .map(|(index, tensor)| len(tensor, contents.of(index)))
            .collect();
        Ok(Self {
            tensors,
            contents,
            lens,
        })
    }

    /// Returns the bytes of the tensors and their raw contents, as fields of these numbers.
    pub(super) fn len(&self, number: u32, raw_number: u32) -> usize {
        let described: usize = self.lens.iter().map(|len| nested_len(number, *len)).sum();
        let raw: usize = self
            .raw()
            .map(|data| nested_len(raw_number, data.len()))
            .sum();
        described + raw
    }

    /// Adds to what a rope should expect to share.
    pub(super) fn expect(&self, rope: &mut Rope) {
        self.tensors
            .iter()
            .for_each(|tensor| rope.expect(&tensor.unknown));
        self.raw().for_each(|data| rope.expect(data));
        if let Contents::Typed(all) = &self.contents {
            all.iter().for_each(|contents| rope.expect(contents));
        }
    }

    /// Writes the tensors, without raw contents.
    pub(super) fn write(&self, number: u32, rope: &mut Rope) {
        for (index, (tensor, len)) in self.tensors.iter().zip(&self.lens).enumerate() {
            let out = rope.small();
            out.put_head(number, *len);
            out.put_text(1, &tensor.name);
            out.put_text(2, tensor.datatype.name());
            write_shape(tensor.shape.dimensions(), out);
            parameters::write(4, &tensor.parameters, out);
            if let Some(contents) = self.contents.of(index) {
                out.put_head(5, contents.len());
                rope.share(contents);
            }
            rope.share(&tensor.unknown);
        }
    }

    /// Writes the raw contents.
    pub(super) fn write_raw(&self, number: u32, rope: &mut Rope) {
        for data in self.raw() {
            rope.small().put_head(number, data.len());
            rope.share(data);
        }
    }

    fn raw(&self) -> impl Iterator<Item = &'a Payload> {
        let tensors = match self.contents {
            Contents::Raw => self.tensors,
            Contents::Typed(_) => &[],
        };
        tensors
            .iter()
            .filter(|tensor| tensor.form != Form::Absent)
            .map(|tensor| &tensor.data)
    }
}

fn len(tensor: &Tensor, contents: Option<&Payload>) -> usize {
    text_len(1, &tensor.name)
        + text_len(2, tensor.datatype.name())
        + match shape_len(tensor.shape.dimensions()) {
            0 => 0,
            len => nested_len(3, len),
        }
        + parameters::len(4, &tensor.parameters)
        + contents.map_or(0, |contents| nested_len(5, contents.len()))
        + tensor.unknown.len()
}

fn write_shape(dimensions: &[i64], out: &mut BytesMut) {
    if !dimensions.is_empty() {
        out.put_head(3, shape_len(dimensions));
        dimensions
            .iter()
            .for_each(|dimension| out.put_varint(*dimension as u64));
    }
}

fn shape_len(dimensions: &[i64]) -> usize {
    dimensions
        .iter()
        .map(|dimension| varint_len(*dimension as u64))
        .sum()
}

fn push_dimension(shape: &mut Shape, dimension: u64) -> Result<(), Malformed> {
    if shape.dimensions().len() >= MAX_RANK {
        return Err(Malformed::TooMany);
    }
    shape.push(dimension as i64);
    Ok(())
}

/// Tells whether the contents lie in memory that client and server share.
fn is_elsewhere(parameters: &Parameters) -> bool {
    parameters.get("shared_memory_region").is_some()
}

fn datatype_from_name(name: &[u8]) -> Option<Datatype> {
    Datatype::from_name(std::str::from_utf8(name).ok()?)
}

/// Dimensions of one tensor: far above any real one, and cheap to keep.
const MAX_RANK: usize = 64;
