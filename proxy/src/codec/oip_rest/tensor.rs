use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{Datatype, Form, Parameters, Payload, Shape, Tensor};

use super::{
    Fault, Malformed,
    body::Binary,
    parameters::{self, Wishes},
    text::{Text, Unknown},
};
use crate::codec::json::{
    self, Kind, Reader, Strings, agree, convert, flat, put_string, rows, within,
};

/// What is made of the JSON contents of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// This form, whatever they are.
    Form(Form),
    /// The text that they are.
    AsItIs,
}

/// Which tensors are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Those of a request, which say where their contents are.
    Input,
    /// Those of an answer, which say nothing where the caller has told the server before.
    Output,
}

/// The contents as they were found.
enum Data {
    /// Read, with the shape that they have.
    Known(Form, Payload, Shape, usize),
    /// Passed by, because the datatype comes behind them.
    Later(Range<usize>),
}

/// Reads a tensor; its binary contents are taken from what is behind the JSON.
pub(super) fn read(
    reader: &mut Reader<'_>,
    json: &Bytes,
    binary: &mut Binary,
    wanted: Wanted,
    side: Side,
) -> Result<Tensor, Malformed> {
    let mut name: Option<ByteString> = None;
    let mut datatype = None;
    let mut shape = None;
    let mut parameters: Option<(Parameters, Wishes)> = None;
    let mut data = None;
    let mut unknown = Unknown::default();
    reader.object()?;
    while let Some(member) = reader.member()? {
        let fault = |fault| Malformed::new(&*member, Fault::from(fault));
        let repeated = match &*member {
            "name" => name.replace(reader.string().map_err(fault)?).is_some(),
            "datatype" => {
                let text = reader.string().map_err(fault)?;
                let known = Datatype::from_name(&text)
                    .ok_or_else(|| Malformed::new("datatype", Fault::Datatype))?;
                datatype.replace(known).is_some()
            }
            "shape" => shape.replace(read_shape(reader)?).is_some(),
            "parameters" if reader.null().map_err(fault)? => false,
            "parameters" => parameters.replace(parameters::read(reader)?).is_some(),
            "data" if reader.null().map_err(fault)? => false,
            "data" => {
                let found = match datatype {
                    Some(datatype) => read_data(reader, datatype, wanted, shape.as_ref())
                        .map_err(|fault| Malformed::new("data", fault))?,
                    None => Data::Later(reader.skip().map_err(fault)?),
                };
                data.replace(found).is_some()
            }
            _ => {
                unknown.keep(reader.whole_member().map_err(fault)?);
                false
            }
        };
        if repeated {
            return Err(Malformed::new(&*member, Fault::Repeated));
        }
    }
    let missing = |field: &str| Malformed::new(field, Fault::Missing);
    let name = name.ok_or_else(|| missing("name"))?;
    let datatype = datatype.ok_or_else(|| missing("datatype"))?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    let (parameters, wishes) = parameters.unwrap_or_default();
    let data = match data {
        Some(Data::Later(range)) => {
            let begin = range.start;
            let text = json.slice(range);
            let mut reader = Reader::new(&text);
            let read = read_data(&mut reader, datatype, wanted, Some(&shape));
            Some(read.map_err(|fault| Malformed::new("data", shifted(fault, begin)))?)
        }
        known => known,
    };
    let elements = shape
        .elements()
        .ok_or_else(|| Malformed::new("shape", Fault::Shape))?;
    let elsewhere = parameters.get("shared_memory_region").is_some();
    let (form, data) = match (data, wishes.binary_data_size) {
        (Some(Data::Known(form, data, found, count)), None) if !elsewhere => {
            let data = fitted(form, data, &shape, &found, count, elements)
                .map_err(|fault| Malformed::new("data", fault))?;
            (form, data)
        }
        (None, Some(size)) if !elsewhere => {
            let contents = binary
                .take(size)
                .filter(|contents| is_raw(datatype, elements, contents))
                .ok_or_else(|| Malformed::new("parameters.binary_data_size", Fault::Length))?;
            (Form::Raw, contents.into())
        }
        (None, None) if elsewhere || side == Side::Output => (Form::Absent, Payload::new()),
        _ => return Err(Malformed::new("", Fault::Contents)),
    };
    Ok(Tensor {
        name,
        datatype,
        shape,
        parameters,
        data,
        form,
        unknown: unknown.finish(),
    })
}

/// Writes a tensor's JSON, with a comma behind it. Contents that are text or absent stay what they
/// are; canonical ones follow behind the JSON.
pub(super) fn write(tensor: &Tensor, out: &mut Text) {
    let small = out.small();
    small.extend_from_slice(b"{\"name\":");
    put_string(&tensor.name, small);
    small.extend_from_slice(b",\"shape\":[");
    for (index, dimension) in tensor.shape.dimensions().iter().enumerate() {
        if index > 0 {
            small.push(b',');
        }
        small.extend_from_slice(itoa::Buffer::new().format(*dimension).as_bytes());
    }
    small.extend_from_slice(b"],\"datatype\":\"");
    small.extend_from_slice(tensor.datatype.name().as_bytes());
    small.extend_from_slice(b"\",");
    let binary = matches!(tensor.form, Form::Raw | Form::Typed);
    if binary || !tensor.parameters.is_empty() {
        small.extend_from_slice(b"\"parameters\":{");
        parameters::write(&tensor.parameters, small);
        if binary {
            parameters::write_binary_data_size(tensor.data.len(), small);
        }
        out.close(b"},");
    }
    if tensor.form.is_text() {
        out.small().extend_from_slice(b"\"data\":[");
        out.share(&tensor.data);
        out.small().extend_from_slice(b"],");
    }
    write_unknown(&tensor.unknown, out);
    out.close(b"},");
}

/// Writes members that are not known, with a comma behind them.
pub(super) fn write_unknown(unknown: &Payload, out: &mut Text) {
    if !unknown.is_empty() {
        out.share(unknown);
        out.small().push(b',');
    }
}

/// Tells whether contents have as many elements as a shape says.
fn is_raw(datatype: Datatype, elements: usize, contents: &[u8]) -> bool {
    if let Some(size) = datatype.size() {
        return elements.checked_mul(size) == Some(contents.len());
    }
    let mut rest = contents;
    for _ in 0..elements {
        let Some((prefix, behind)) = rest.split_first_chunk() else {
            return false;
        };
        let Some(behind) = usize::try_from(u32::from_le_bytes(*prefix))
            .ok()
            .and_then(|len| behind.get(len..))
        else {
            return false;
        };
        rest = behind;
    }
    rest.is_empty()
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Shape, Malformed> {
    let json = |malformed| Malformed::new("shape", Fault::from(malformed));
    let mut shape = Shape::default();
    reader.array().map_err(json)?;
    while reader.element().map_err(json)? {
        let dimension = reader
            .number()
            .map_err(json)?
            .parse()
            .ok()
            .filter(|dimension| *dimension >= 0)
            .filter(|_| shape.dimensions().len() < MAX_RANK)
            .ok_or_else(|| Malformed::new("shape", Fault::Shape))?;
        shape.push(dimension);
    }
    Ok(shape)
}

/// Reads contents, in one pass where they are wanted as bytes. Their nesting is what they say, for
/// servers look at the shape alone; what it has to do with the shape is seen in [`fitted`].
fn read_data(
    reader: &mut Reader<'_>,
    datatype: Datatype,
    wanted: Wanted,
    shape: Option<&Shape>,
) -> Result<Data, Fault> {
    if matches!(wanted, Wanted::Form(Form::Raw | Form::Typed | Form::Absent)) {
        let parsed = match shape.and_then(Shape::elements) {
            Some(elements) => reader.parse_expected(datatype, Strings::Plain, elements)?,
            None => reader.parse(datatype, Strings::Plain)?,
        };
        let data = Bytes::from(parsed.data).into();
        return Ok(Data::Known(Form::Raw, data, parsed.shape, parsed.elements));
    }
    let is_array = reader.peek()? == Kind::Array;
    let mut again = reader.clone();
    let (found, text) = reader.scan()?;
    if !found.leaf.suits(datatype, Strings::Plain) {
        // Reading them tells which one it is.
        again.parse(datatype, Strings::Plain)?;
        return Err(json::Malformed::Mixed.into());
    }
    let elements = found.shape.elements().ok_or(Fault::Shape)?;
    let text = if is_array { within(&text) } else { text };
    let nested = found.shape.dimensions().len() > 1;
    let form = match wanted {
        Wanted::Form(form) => form,
        Wanted::AsItIs if nested && shape.is_none_or(|shape| agree(shape, &found.shape)) => {
            Form::Rows
        }
        Wanted::AsItIs => Form::Flat,
    };
    Ok(Data::Known(form, text.into(), found.shape, elements))
}

/// Gives contents the nesting that their form and their shape ask for.
fn fitted(
    form: Form,
    data: Payload,
    shape: &Shape,
    found: &Shape,
    count: usize,
    elements: usize,
) -> Result<Payload, Fault> {
    if count != elements {
        return Err(Fault::Length);
    }
    match form {
        Form::Flat if elements == 0 => Ok(Payload::new()),
        Form::Flat if found.dimensions().len() > 1 => Ok(flat(data.to_bytes(), found)?.into()),
        Form::Rows if agree(shape, found) && elements > 0 => Ok(data),
        Form::Rows => {
            let text = if elements == 0 {
                Bytes::new()
            } else {
                flat(data.to_bytes(), found)?
            };
            Ok(rows(text, shape)?.into())
        }
        _ => Ok(data),
    }
}

fn shifted(fault: Fault, from: usize) -> Fault {
    match fault {
        Fault::Json(malformed) => Fault::Json(malformed.shifted(from)),
        other => other,
    }
}

/// Makes an output as the caller wants it: binary, or flat text.
pub(super) fn answered(tensor: &Tensor, binary: bool) -> Result<Tensor, Malformed> {
    let form = match tensor.form {
        Form::Absent => Form::Absent,
        _ if binary => Form::Raw,
        _ => Form::Flat,
    };
    let data = if form == Form::Absent {
        Payload::new()
    } else {
        convert(tensor, form, Strings::Plain)
            .map_err(|malformed| Malformed::new("data", malformed))?
    };
    Ok(Tensor {
        data,
        form,
        ..tensor.clone()
    })
}

/// The most dimensions that are read.
const MAX_RANK: usize = 64;
