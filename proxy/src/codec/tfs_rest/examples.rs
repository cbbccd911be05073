//! `tf.Example`: an object of features in JSON, and the bytes of a message.
//!
//! ```text
//! Example { 1: Features { 1: map<string, Feature> } }
//! Feature { 1: BytesList | 2: FloatList | 3: Int64List }, each of which has its values in field 1
//! ```

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use outrigger_filters::inference::{
    Datatype, Form, Parameter, Parameters, Payload, RequestParts, Shape, Tensor,
};

use super::{Malformed, blame::base64_text, columns::Writer, malformed::kind_text};
use crate::codec::{
    Wire,
    json::{self, Kind, Reader, Strings},
    protobuf::{Fields, Put, Value, nested_len},
    tfs_grpc::{CONTEXT, EXAMPLES, split_element},
};

/// The values of one feature, which are all of one kind.
#[derive(Debug, Default)]
struct Feature {
    /// The field of the message, or 0 as long as there are no values.
    kind: u32,
    /// The list, without the key and the length of packed numbers.
    values: BytesMut,
}

/// Reads the context of examples as the parameter of a request.
pub(super) fn read_context(reader: &mut Reader<'_>) -> Result<(ByteString, Parameter), Malformed> {
    let mut example = BytesMut::new();
    read_example(reader, "context", &mut example)?;
    let text = BASE64_STANDARD.encode(&example);
    Ok((CONTEXT.into(), Parameter::String(text.into())))
}

/// Reads an array of examples as one tensor.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Tensor, Malformed> {
    if reader.peek()? != Kind::Array {
        let value = reader.value()?;
        return Err(Malformed::format(
            EXAMPLES,
            &value,
            "Expecting 'examples' value to be an list/array",
        ));
    }
    let mut rows = Rows::default();
    let mut example = BytesMut::new();
    reader.array()?;
    while reader.element()? {
        let field = format!("{EXAMPLES}[{}]", rows.count);
        read_example(reader, &field, &mut example)?;
        rows.push(&example)?;
        example.clear();
    }
    if rows.count == 0 {
        let value = Bytes::from_static(b"[]");
        return Err(Malformed::format(
            EXAMPLES,
            &value,
            "'examples' value is an empty array",
        ));
    }
    Ok(rows.finish(EXAMPLES))
}

/// Writes the examples of a request and their context.
pub(super) fn write(request: &RequestParts, out: &mut Writer) -> Result<(), Malformed> {
    if let Some(context) = context(&request.parameters)? {
        out.name("context", true);
        write_example(&context, out).map_err(|fault| fault.at("context"))?;
        out.put(b",");
    }
    out.name(EXAMPLES, true);
    out.put(b"[");
    let mut first = true;
    each_row(&request.inputs, EXAMPLES, |row, example| {
        if !std::mem::take(&mut first) {
            out.put(b",");
        }
        write_example(example, out).map_err(|fault| fault.at(&format!("{EXAMPLES}[{row}]")))
    })?;
    out.put(b"]");
    Ok(())
}

/// Goes through the rows of the one tensor that a list of messages is.
pub(super) fn each_row(
    tensors: &[Tensor],
    name: &str,
    mut each: impl FnMut(usize, &[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let wrong = || {
        Malformed::new(
            name,
            format!("{name} is not one list of serialized messages"),
        )
    };
    let [tensor] = tensors else {
        return Err(wrong());
    };
    let [rows] = tensor.shape.dimensions() else {
        return Err(wrong());
    };
    let is_list = tensor.name == name && tensor.datatype == Datatype::Bytes;
    if !is_list || !matches!(tensor.form, Form::Raw | Form::Typed) {
        return Err(wrong());
    }
    let data = tensor.data.to_bytes();
    let mut rest = &*data;
    let mut row = 0;
    while let Some((element, behind)) = split_element(rest) {
        each(row, element)?;
        row += 1;
        rest = behind;
    }
    if rest.is_empty() && i64::try_from(row) == Ok(*rows) {
        Ok(())
    } else {
        Err(wrong())
    }
}

/// The rows of a list of messages, being made.
#[derive(Debug, Default)]
pub(super) struct Rows {
    data: BytesMut,
    pub(super) count: i64,
}

impl Rows {
    pub(super) fn push(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let len = u32::try_from(message.len());
        let len = len.map_err(|_| Malformed::new("", "a message is too long"))?;
        self.data.put_u32_le(len);
        self.data.extend_from_slice(message);
        self.count += 1;
        Ok(())
    }

    pub(super) fn finish(self, name: &'static str) -> Tensor {
        Tensor {
            name: name.into(),
            datatype: Datatype::Bytes,
            shape: Shape::new([self.count]),
            parameters: Parameters::default(),
            data: self.data.freeze().into(),
            form: Form::Raw,
            unknown: Payload::new(),
        }
    }
}

/// Appends the message of one object of features.
fn read_example(reader: &mut Reader<'_>, field: &str, out: &mut BytesMut) -> Result<(), Malformed> {
    if reader.peek()? != Kind::Object {
        let value = reader.value()?;
        return Err(Malformed::new(
            field,
            format!(
                "Example must be JSON object but got JSON {}",
                kind_text(&value)
            ),
        ));
    }
    let mut features = BytesMut::new();
    reader.object()?;
    while let Some(name) = reader.member()? {
        let mut feature = Feature::default();
        if reader.peek()? == Kind::Array {
            reader.array()?;
            while reader.element()? {
                feature.add(reader, field, &name)?;
            }
        } else {
            feature.add(reader, field, &name)?;
        }
        let message = feature.finish();
        let len = nested_len(1, name.len()) + nested_len(2, message.len());
        features.put_head(1, len);
        features.put_head(1, name.len());
        features.extend_from_slice(name.as_bytes());
        features.put_head(2, message.len());
        features.extend_from_slice(&message);
    }
    if !features.is_empty() {
        out.put_head(1, features.len());
        out.extend_from_slice(&features);
    }
    Ok(())
}

impl Feature {
    fn add(&mut self, reader: &mut Reader<'_>, field: &str, name: &str) -> Result<(), Malformed> {
        let at = || format!("{field}.{name}");
        match reader.peek()? {
            Kind::Null | Kind::Array => {
                let value = reader.value()?;
                Err(unexpected(at(), name, &value))
            }
            Kind::Bool => {
                let value = u64::from(reader.bool()?);
                self.kind(INTEGERS, at, name)?;
                self.values.put_varint(value);
                Ok(())
            }
            Kind::String => {
                let text = reader.string()?;
                self.text(text.as_bytes(), at, name)
            }
            Kind::Object => {
                let value = reader.value()?;
                let Ok(text) = base64_text(&value) else {
                    return Err(unexpected(at(), name, &value));
                };
                let bytes = BASE64_STANDARD
                    .decode(text.as_bytes())
                    .map_err(|_| Malformed::new(at(), "Unable to base64 decode"))?;
                self.text(&bytes, at, name)
            }
            Kind::Number => {
                let number = reader.number()?;
                if number
                    .bytes()
                    .all(|byte| matches!(byte, b'-' | b'0'..=b'9'))
                {
                    if let Ok(value) = number.parse::<i64>() {
                        self.kind(INTEGERS, at, name)?;
                        self.values.put_varint(value as u64);
                        return Ok(());
                    }
                    if number.parse::<u64>().is_ok() {
                        return Err(Malformed::new(
                            at(),
                            format!(
                                "Feature: {name} has uint64_t element. Only int64_t is supported."
                            ),
                        ));
                    }
                }
                let value = float(number)
                    .ok_or_else(|| Malformed::new(at(), format!("{number} is not a float")))?;
                self.kind(FLOATS, at, name)?;
                self.values.put_f32_le(value);
                Ok(())
            }
        }
    }

    fn text(&mut self, bytes: &[u8], at: impl Fn() -> String, name: &str) -> Result<(), Malformed> {
        self.kind(TEXTS, at, name)?;
        self.values.put_head(1, bytes.len());
        self.values.extend_from_slice(bytes);
        Ok(())
    }

    fn kind(&mut self, kind: u32, at: impl Fn() -> String, name: &str) -> Result<(), Malformed> {
        if self.kind != 0 && self.kind != kind {
            let had = match self.kind {
                TEXTS => "bytes",
                FLOATS => "float",
                _ => "int64",
            };
            return Err(Malformed::new(
                at(),
                format!("Unexpected element type in feature: {name} expecting type: {had}"),
            ));
        }
        self.kind = kind;
        Ok(())
    }

    fn finish(self) -> BytesMut {
        let mut message = BytesMut::new();
        match self.kind {
            0 => {}
            TEXTS => {
                message.put_head(TEXTS, self.values.len());
                message.extend_from_slice(&self.values);
            }
            kind => {
                message.put_head(kind, nested_len(1, self.values.len()));
                message.put_head(1, self.values.len());
                message.extend_from_slice(&self.values);
            }
        }
        message
    }
}

/// Reads a number, which may be no number or infinite only where it says so.
pub(super) fn float(text: &str) -> Option<f32> {
    let value: f32 = text.parse().ok()?;
    let is_said = !text.bytes().any(|byte| byte.is_ascii_digit());
    (value.is_finite() || is_said).then_some(value)
}

fn unexpected(at: String, name: &str, value: &Bytes) -> Malformed {
    Malformed::new(
        at,
        format!(
            "Feature: {name} has element with unexpected JSON type: {}",
            kind_text(value)
        ),
    )
}

/// Why a message has no JSON.
#[derive(Debug)]
pub(super) enum Unwritten {
    Wire(Wire),
    Json(json::Malformed),
    Unknown,
}

impl Unwritten {
    pub(super) fn at(self, field: &str) -> Malformed {
        match self {
            Self::Wire(fault) => Malformed::new(field, format!("{field}: {fault}")),
            Self::Json(fault) => Malformed::of(field, fault),
            Self::Unknown => {
                Malformed::new(field, format!("{field} has a field that is not known"))
            }
        }
    }
}

impl From<Wire> for Unwritten {
    fn from(fault: Wire) -> Self {
        Self::Wire(fault)
    }
}

impl From<json::Malformed> for Unwritten {
    fn from(fault: json::Malformed) -> Self {
        Self::Json(fault)
    }
}

/// Appends the object of features that a message is.
fn write_example(message: &[u8], out: &mut Writer) -> Result<(), Unwritten> {
    out.put(b"{");
    let mut first = true;
    let mut fields = Fields::new(message, 0..message.len());
    while let Some(field) = fields.next()? {
        let (1, Value::Bytes(features)) = (field.number, field.value) else {
            return Err(Unwritten::Unknown);
        };
        let mut fields = Fields::new(message, features);
        while let Some(field) = fields.next()? {
            let (1, Value::Bytes(entry)) = (field.number, field.value) else {
                return Err(Unwritten::Unknown);
            };
            let mut name = 0..0;
            let mut feature = 0..0;
            let mut fields = Fields::new(message, entry);
            while let Some(field) = fields.next()? {
                match (field.number, field.value) {
                    (1, Value::Bytes(key)) => name = key,
                    (2, Value::Bytes(value)) => feature = value,
                    _ => return Err(Unwritten::Unknown),
                }
            }
            let name = message.get(name).unwrap_or_default();
            let name = std::str::from_utf8(name).map_err(|_| Unwritten::Unknown)?;
            out.name(name, std::mem::take(&mut first));
            out.put(b"[");
            write_feature(message.get(feature).unwrap_or_default(), out)?;
            out.put(b"]");
        }
    }
    out.put(b"}");
    Ok(())
}

/// Appends the values of a feature, with commas between them.
fn write_feature(message: &[u8], out: &mut Writer) -> Result<(), Unwritten> {
    let mut list = None;
    let mut fields = Fields::new(message, 0..message.len());
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (kind @ 1..=3, Value::Bytes(values)) if list.is_none() => list = Some((kind, values)),
            _ => return Err(Unwritten::Unknown),
        }
    }
    let Some((kind, list)) = list else {
        return Ok(());
    };
    // The values as a tensor's elements, which know how they are written.
    let mut data = BytesMut::new();
    let mut fields = Fields::new(message, list);
    while let Some(field) = fields.next()? {
        match (kind, field.number, field.value) {
            (TEXTS, 1, Value::Bytes(text)) => {
                let len = u32::try_from(text.len()).map_err(|_| Unwritten::Unknown)?;
                data.put_u32_le(len);
                data.extend_from_slice(message.get(text).unwrap_or_default());
            }
            (FLOATS, 1, Value::Bytes(values) | Value::Fixed32(values)) => {
                data.extend_from_slice(message.get(values).unwrap_or_default());
                if !data.len().is_multiple_of(4) {
                    return Err(Unwritten::Unknown);
                }
            }
            (INTEGERS, 1, Value::Varint(value)) => data.put_u64_le(value),
            (INTEGERS, 1, Value::Bytes(packed)) => {
                let mut values = Fields::new(message, packed);
                while let Some(value) = values.next_varint()? {
                    data.put_u64_le(value);
                }
            }
            _ => return Err(Unwritten::Unknown),
        }
    }
    let datatype = match kind {
        TEXTS => Datatype::Bytes,
        FLOATS => Datatype::Fp32,
        _ => Datatype::Int64,
    };
    json::write_flat(datatype, &data, Strings::Either, out.small())?;
    Ok(())
}

fn context(parameters: &Parameters) -> Result<Option<Vec<u8>>, Malformed> {
    let bytes = match parameters.get(CONTEXT) {
        None => return Ok(None),
        Some(Parameter::String(text)) => BASE64_STANDARD.decode(text.as_bytes()).ok(),
        Some(_) => None,
    };
    match bytes {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Malformed::new(CONTEXT, "context is not base64")),
    }
}

const TEXTS: u32 = 1;
const FLOATS: u32 = 2;
const INTEGERS: u32 = 3;
