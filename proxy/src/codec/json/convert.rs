use bytes::Bytes;
use outrigger_filters::inference::{Datatype, Form, Payload, Shape, Tensor, Values};

use super::{Malformed, Strings, agree, parse::parse_all, string, write};

/// Makes a tensor's contents have another form.
///
/// From text to text only brackets move: each element stays the text that it was. What has the form
/// already is shared, and so are the rows of a tensor of one dimension, which look the same flat.
pub fn convert(tensor: &Tensor, wanted: Form, strings: Strings) -> Result<Payload, Malformed> {
    convert_within(tensor, wanted, strings, usize::MAX)
}

fn convert_within(
    tensor: &Tensor,
    wanted: Form,
    strings: Strings,
    limit: usize,
) -> Result<Payload, Malformed> {
    let shape = &tensor.shape;
    match (tensor.form, wanted) {
        (Form::Absent, _) | (_, Form::Absent) => Err(Malformed::Absent),
        (Form::Raw | Form::Typed, Form::Raw | Form::Typed)
        | (Form::Flat, Form::Flat)
        | (Form::Rows, Form::Rows) => Ok(tensor.data.clone()),
        (Form::Raw | Form::Typed, Form::Flat) => {
            let elements = shape.elements().ok_or(Malformed::Count)?;
            let flat = Shape::new(i64::try_from(elements));
            let data = tensor.data.to_bytes();
            let mut out = Vec::new();
            write::write_within(tensor.datatype, &flat, &data, strings, limit, &mut out)?;
            Ok(Bytes::from(out).into())
        }
        (Form::Raw | Form::Typed, Form::Rows) => {
            let data = tensor.data.to_bytes();
            let mut out = Vec::new();
            write::write_within(tensor.datatype, shape, &data, strings, limit, &mut out)?;
            Ok(Bytes::from(out).into())
        }
        (Form::Rows, Form::Flat) => Ok(flat(tensor.data.to_bytes(), shape)?.into()),
        (Form::Flat, Form::Rows) => Ok(rows(tensor.data.to_bytes(), shape)?.into()),
        (form @ (Form::Flat | Form::Rows), Form::Raw | Form::Typed) => {
            let elements = shape.elements().ok_or(Malformed::Count)?;
            let text = tensor.data.to_bytes();
            let parsed = parse_all(&text, tensor.datatype, strings, elements)?;
            let regular =
                form == Form::Flat || shape.dimensions().is_empty() || agree(shape, &parsed.shape);
            if parsed.elements != elements || !regular {
                return Err(Malformed::Count);
            }
            Ok(Bytes::from(parsed.data).into())
        }
    }
}

/// Makes a tensor's contents have another form in another protocol: texts are `read` as the one
/// says them, and written (`said`) as the other one does. Numbers stay the text that they are.
///
/// Text that is made of bytes may be as long as the `limit`.
pub(crate) fn translate(
    tensor: &Tensor,
    wanted: Form,
    read: Strings,
    said: Strings,
    limit: usize,
) -> Result<Payload, Malformed> {
    let is_text = tensor.form.is_text();
    if is_text && wanted.is_text() && tensor.datatype == Datatype::Bytes && read != said {
        let bytes = Tensor {
            data: convert(tensor, Form::Raw, read)?,
            form: Form::Raw,
            ..tensor.clone()
        };
        return convert_within(&bytes, wanted, said, limit);
    }
    convert_within(tensor, wanted, if is_text { read } else { said }, limit)
}

/// Takes the brackets off the text of one array: what is left are the values in it.
pub fn within(array: &Bytes) -> Bytes {
    array.slice(1.min(array.len())..array.len().saturating_sub(1).max(1.min(array.len())))
}

/// Takes the brackets out of the text of rows, or of a whole array, of a shape.
pub fn flat(text: Bytes, shape: &Shape) -> Result<Bytes, Malformed> {
    if shape.elements().ok_or(Malformed::Count)? == 0 {
        return Ok(Bytes::new());
    }
    if !text.iter().any(|byte| matches!(byte, b'[' | b']')) {
        return Ok(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    let mut begin = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'[' | b']' => {
                out.extend_from_slice(text.get(begin..at).unwrap_or_default());
                begin = at + 1;
                at = begin;
            }
            b'"' => at = string::end(&text, at + 1)?.0 + 1,
            _ => at += 1,
        }
    }
    out.extend_from_slice(text.get(begin..).unwrap_or_default());
    Ok(out.into())
}

/// Puts the brackets of a shape's rows around the text of elements.
pub fn rows(text: Bytes, shape: &Shape) -> Result<Bytes, Malformed> {
    if shape.dimensions().len() <= 1 {
        return Ok(text);
    }
    let mut out = Vec::with_capacity(text.len() + text.len() / 16);
    let len = text.len();
    let mut values = Values::new(text);
    write::nest(shape, len, &mut out, |elements, out| {
        let run = values.take(elements).ok_or(Malformed::Count)?;
        out.extend_from_slice(&run);
        Ok(())
    })?;
    if !values.is_empty() {
        return Err(Malformed::Count);
    }
    Ok(out.into())
}
