//! Lists of serialized messages: the examples of a question, and the results of its answer.

use std::ops::Range;

use base64::{Engine, prelude::BASE64_STANDARD};
use outrigger_filters::inference::{Datatype, Form, Parameter, Parameters, Payload, Shape, Tensor};

use super::{Fault, Malformed, strings};
use crate::codec::protobuf::{Source, Value};

/// The one input of `Classify` and `Regress`: `BYTES` with a serialized `tf.Example` in each row.
pub const EXAMPLES: &str = "examples";

/// The one output of `Classify` and `Regress`: `BYTES` with a serialized `Classifications` or
/// `Regression` in each row.
pub const RESULTS: &str = "results";

/// The parameter of a request in which the context of its examples stands: a serialized
/// `tf.Example` as base64.
pub const CONTEXT: &str = "context";

/// Reads an `Input`: one list of examples, and in `parameters` what is common to them.
pub(super) fn read_input(
    source: &mut Source<'_>,
    range: Range<usize>,
    parameters: &mut Parameters,
) -> Result<Tensor, Malformed> {
    let mut list = None;
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1 | 2, Value::Bytes(message)) => {
                if list.replace((field.number, message)).is_some() {
                    return Err(Fault::Repeated.into());
                }
            }
            (1 | 2, _) => return Err(Fault::Type.into()),
            _ => return Err(Fault::Unknown.into()),
        }
    }
    let (kind, message) = list.ok_or(Fault::List)?;
    let mut context = None;
    let tensor = read_list(source, message, EXAMPLES, |number, value| {
        match (kind, number, value) {
            (2, 2, Value::Bytes(example)) => match context.replace(example) {
                Some(_) => Err(Fault::Repeated),
                None => Ok(()),
            },
            (2, 2, _) => Err(Fault::Type),
            _ => Err(Fault::Unknown),
        }
    })
    .map_err(Malformed::at(match kind {
        1 => "example_list",
        _ => "example_list_with_context",
    }))?;
    if kind == 2 {
        let context = source.bytes().get(context.unwrap_or_default());
        let context = context.unwrap_or_default();
        source
            .make(context.len().saturating_mul(2))
            .ok_or(Fault::TooLong)?;
        parameters.insert(
            CONTEXT.into(),
            Parameter::String(BASE64_STANDARD.encode(context).into()),
        );
    }
    Ok(tensor)
}

/// Reads all fields 1 of the message at `range`; `other` says what else may stand in it.
pub(super) fn read_list(
    source: &mut Source<'_>,
    range: Range<usize>,
    name: &'static str,
    other: impl FnMut(u32, Value) -> Result<(), Fault>,
) -> Result<Tensor, Fault> {
    let (count, data) = strings::read(source, range, 1, other)?;
    Ok(Tensor {
        name: name.into(),
        datatype: Datatype::Bytes,
        shape: Shape::new([i64::try_from(count).map_err(|_| Fault::TooMany)?]),
        parameters: Parameters::default(),
        data,
        form: Form::Typed,
        unknown: Payload::new(),
    })
}

/// Writes the one tensor `name` as fields 1 of a message.
pub(super) fn write_list(tensors: &[Tensor], name: &str) -> Result<Payload, Fault> {
    let [tensor] = tensors else {
        return Err(Fault::List);
    };
    let rank = tensor.shape.dimensions().len();
    if tensor.name != name || tensor.datatype != Datatype::Bytes || rank != 1 {
        return Err(Fault::List);
    }
    if !matches!(tensor.form, Form::Raw | Form::Typed) {
        return Err(Fault::Form);
    }
    let elements = tensor.shape.elements().ok_or(Fault::Shape)?;
    strings::write(1, elements, &tensor.data)
}

/// Returns the context of a request's examples, if they have one.
pub(super) fn context(parameters: &Parameters) -> Result<Option<Vec<u8>>, Malformed> {
    match parameters.get(CONTEXT) {
        None => Ok(None),
        Some(Parameter::String(text)) => BASE64_STANDARD
            .decode(text.as_bytes())
            .map(Some)
            .map_err(|_| Malformed::new("parameters[context]", Fault::Form)),
        Some(_) => Err(Malformed::new("parameters[context]", Fault::Form)),
    }
}
