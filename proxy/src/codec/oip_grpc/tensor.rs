use std::ops::Range;

use bytes::BytesMut;
use outrigger_filters::inference::{Datatype, Form, Parameters, Payload, Shape, Tensor};
use smallvec::SmallVec;

use super::{
    Cause, Malformed,
    contents::{self, Typed},
    malformed::Place,
    parameters,
    rope::Rope,
};
use crate::codec::protobuf::{Key, Kind, Put, Source, Unknown, nested_len, text_len, varint_len};

/// The tensors of a message and their raw contents, found and not yet read.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) tensors: Ranges,
    pub(super) raw: Ranges,
}

/// Most messages have few tensors, and are read without a list on the heap.
type Ranges = SmallVec<[Range<usize>; 4]>;

/// What is left of a message's raw contents.
#[derive(Debug)]
struct Raw<'a> {
    /// There were none from the beginning.
    is_typed: bool,
    ranges: std::slice::Iter<'a, Range<usize>>,
}

/// Reads the tensors that were found in a whole message, each with its contents. `place` names one
/// by its index.
#[inline]
pub(super) fn read(
    source: &mut Source<'_>,
    found: &Found,
    place: fn(usize) -> Place,
) -> Result<Vec<Tensor>, Malformed> {
    let mut raw = Raw {
        is_typed: found.raw.is_empty(),
        ranges: found.raw.iter(),
    };
    let mut tensors = Vec::with_capacity(found.tensors.len());
    for (index, range) in found.tensors.iter().enumerate() {
        match read_one(source, range.clone(), &mut raw) {
            Ok(tensor) => tensors.push(tensor),
            Err(cause) => return Err(cause.at(place(index))),
        }
    }
    match raw.ranges.next() {
        Some(_) => Err(Cause::RawCount.into()),
        None => Ok(tensors),
    }
}

/// Reads `InferInputTensor` or `InferOutputTensor`, which look alike.
#[inline]
fn read_one(
    source: &mut Source<'_>,
    range: Range<usize>,
    raw: &mut Raw<'_>,
) -> Result<Tensor, Cause> {
    let mut name = 0..0;
    let mut datatype = 0..0;
    let mut shape = Shape::default();
    let mut parameters = Parameters::default();
    let mut typed = None;
    let mut unknown = Unknown::default();
    let mut fields = source.fields(range);
    while let Some(key) = fields.next_key()? {
        match key {
            NAME => source
                .set_text(&mut name, fields.delimited()?)
                .ok_or(Cause::Text)?,
            DATATYPE => datatype = fields.delimited()?,
            SHAPE => {
                let mut dimensions = source.fields(fields.delimited()?);
                while let Some(dimension) = dimensions.next_varint()? {
                    push_dimension(&mut shape, dimension)?;
                }
            }
            SHAPE_UNPACKED => push_dimension(&mut shape, fields.varint()?)?,
            PARAMETERS => parameters::read(source, fields.delimited()?, &mut parameters)?,
            CONTENTS => {
                if typed.replace(fields.delimited()?).is_some() {
                    return Err(Cause::Repeated);
                }
            }
            key if key.number() <= CONTENTS.number() => return Err(Cause::Type(key.number())),
            key => unknown
                .keep(source, fields.skip(key)?)
                .ok_or(Cause::TooMany)?,
        }
    }
    let datatype = source
        .bytes()
        .get(datatype)
        .and_then(datatype_from_name)
        .ok_or(Cause::Datatype)?;
    let (form, data) = match typed {
        _ if is_elsewhere(&parameters) => match typed {
            Some(_) => return Err(Cause::Misplaced),
            None => (Form::Absent, Payload::new()),
        },
        Some(message) if !message.is_empty() => {
            if !raw.is_typed {
                return Err(Cause::Misplaced);
            }
            let elements = shape.elements().ok_or(Cause::Shape)?;
            let data = contents::read(source, message, datatype, elements)?;
            (Form::Typed, data)
        }
        // MLServer writes empty typed contents beside the raw ones.
        _ => {
            let elements = shape.elements().ok_or(Cause::Shape)?;
            match raw.ranges.next() {
                Some(range) => {
                    let data = source.bytes().get(range.clone()).unwrap_or_default();
                    if !contents::is_raw(datatype, elements, data) {
                        return Err(Cause::Length);
                    }
                    (Form::Raw, source.share(range.clone()).into())
                }
                // A list without elements is not there at all.
                None if raw.is_typed && elements == 0 => (Form::Typed, Payload::new()),
                None => return Err(Cause::RawCount),
            }
        }
    };
    let name = source.text(name).ok_or(Cause::Text)?;
    let unknown = unknown.finish(source);
    Ok(Tensor {
        name,
        datatype,
        shape,
        parameters,
        data,
        form,
        unknown,
    })
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

/// The tensors of a message, with what is known before they are written.
#[derive(Debug)]
pub(super) struct Tensors<'a> {
    tensors: &'a [Tensor],
    /// The typed contents, each tensor's within it; `None` where they are raw, beside the tensors.
    typed: Option<SmallVec<[Typed<'a>; 2]>>,
    lens: SmallVec<[usize; 4]>,
}

impl<'a> Tensors<'a> {
    /// Fails where a tensor is still text, which stands in no message of this protocol.
    pub(super) fn new(
        tensors: &'a [Tensor],
        form: Form,
        place: fn(usize) -> Place,
    ) -> Result<Self, Malformed> {
        if let Some(text) = tensors.iter().position(|tensor| tensor.form.is_text()) {
            return Err(Cause::Form.at(place(text)));
        }
        // Typed if they came so, and it can be done.
        let typed: Option<SmallVec<_>> = match form {
            Form::Raw => None,
            _ => tensors.iter().map(Typed::of).collect(),
        };
        let mut described = Self {
            tensors,
            typed,
            lens: SmallVec::new(),
        };
        described.lens = (tensors.iter().enumerate())
            .map(|(index, tensor)| len(tensor, described.contents(index)))
            .collect();
        Ok(described)
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
        if let Some(all) = &self.typed {
            all.iter().for_each(|contents| contents.expect(rope));
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
            let contents = self.contents(index);
            if contents.len() > 0 {
                out.put_head(5, contents.len());
                contents.write(rope);
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

    /// Returns what stands within a tensor.
    fn contents(&self, index: usize) -> &Typed<'a> {
        self.typed
            .as_ref()
            .and_then(|typed| typed.get(index))
            .unwrap_or(&Typed::Nothing)
    }

    fn raw(&self) -> impl Iterator<Item = &'a Payload> {
        let tensors = match self.typed {
            None => self.tensors,
            Some(_) => &[],
        };
        tensors
            .iter()
            .filter(|tensor| tensor.form != Form::Absent)
            .map(|tensor| &tensor.data)
    }
}

fn len(tensor: &Tensor, contents: &Typed<'_>) -> usize {
    text_len(1, &tensor.name)
        + text_len(2, tensor.datatype.name())
        + match shape_len(tensor.shape.dimensions()) {
            0 => 0,
            len => nested_len(3, len),
        }
        + parameters::len(4, &tensor.parameters)
        + match contents.len() {
            0 => 0,
            len => nested_len(5, len),
        }
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

#[inline]
fn push_dimension(shape: &mut Shape, dimension: u64) -> Result<(), Cause> {
    if shape.dimensions().len() >= MAX_RANK {
        return Err(Cause::Rank);
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

const NAME: Key = Key::new(1, Kind::Bytes);
const DATATYPE: Key = Key::new(2, Kind::Bytes);
const SHAPE: Key = Key::new(3, Kind::Bytes);
const SHAPE_UNPACKED: Key = Key::new(3, Kind::Varint);
const PARAMETERS: Key = Key::new(4, Kind::Bytes);
const CONTENTS: Key = Key::new(5, Kind::Bytes);

/// Dimensions of one tensor: far above any real one, and cheap to keep.
const MAX_RANK: usize = 64;
