//! Answers to `classify` and `regress`: arrays in JSON, and the bytes of messages.
//!
//! ```text
//! Classifications { 1: Class { 1: label, 2: score } ... }  <->  [["label", 0.5], ...]
//! Regression { 1: value }                                  <->  0.5
//! ```

use bytes::{BufMut, BytesMut};
use outrigger_filters::inference::{Datatype, Method, Tensor};

use super::{
    Malformed,
    columns::Writer,
    examples::{Rows, Unwritten, each_row, float},
};
use crate::codec::{
    json::{self, Reader, Strings},
    protobuf::{Fields, Put, Value},
    tfs_grpc::RESULTS,
};

/// Reads an array of results as one tensor.
pub(super) fn read(reader: &mut Reader<'_>, method: Method) -> Result<Tensor, Malformed> {
    let mut rows = Rows::default();
    let mut message = BytesMut::new();
    reader.array()?;
    while reader.element()? {
        if method == Method::Classify {
            reader.array()?;
            while reader.element()? {
                let mut class = BytesMut::new();
                reader.array()?;
                if reader.element()? {
                    class.put_text(1, &reader.string()?);
                }
                if reader.element()? {
                    put_number(2, reader, &mut class)?;
                }
                if reader.element()? {
                    return Err(Malformed::new(RESULTS, "a class has more than two parts"));
                }
                message.put_head(1, class.len());
                message.extend_from_slice(&class);
            }
        } else {
            put_number(1, reader, &mut message)?;
        }
        rows.push(&message)?;
        message.clear();
    }
    Ok(rows.finish(RESULTS))
}

/// Writes the results of an answer.
pub(super) fn write(method: Method, tensors: &[Tensor], out: &mut Writer) -> Result<(), Malformed> {
    out.name(RESULTS, true);
    out.put(b"[");
    let mut first = true;
    each_row(tensors, RESULTS, |row, message| {
        if !std::mem::take(&mut first) {
            out.put(b",");
        }
        let written = match method {
            Method::Classify => write_classes(message, out),
            Method::Regress | Method::Infer => write_number(1, message, out),
        };
        written.map_err(|fault| fault.at(&format!("{RESULTS}[{row}]")))
    })?;
    if first {
        return Err(Malformed::new(
            RESULTS,
            match method {
                Method::Classify => "Cannot convert empty ClassificationResults to JSON",
                _ => "Cannot convert empty RegressionResults to JSON",
            },
        ));
    }
    out.put(b"]");
    Ok(())
}

fn write_classes(message: &[u8], out: &mut Writer) -> Result<(), Unwritten> {
    out.put(b"[");
    let mut first = true;
    let mut fields = Fields::new(message, 0..message.len());
    while let Some(field) = fields.next()? {
        let (1, Value::Bytes(class)) = (field.number, field.value) else {
            return Err(Unwritten::Unknown);
        };
        let class = message.get(class).unwrap_or_default();
        let mut label = 0..0;
        let mut fields = Fields::new(class, 0..class.len());
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(text)) => label = text,
                (2, Value::Fixed32(_)) => {}
                _ => return Err(Unwritten::Unknown),
            }
        }
        let label = class.get(label).unwrap_or_default();
        let label = std::str::from_utf8(label).map_err(|_| Unwritten::Unknown)?;
        out.put(if std::mem::take(&mut first) {
            b"["
        } else {
            b",["
        });
        json::put_string(label, out.small());
        out.put(b",");
        write_number(2, class, out)?;
        out.put(b"]");
    }
    out.put(b"]");
    Ok(())
}

/// Appends the float in field `number` of a message that has but a text besides.
fn write_number(number: u32, message: &[u8], out: &mut Writer) -> Result<(), Unwritten> {
    let mut bytes = [0; 4];
    let mut fields = Fields::new(message, 0..message.len());
    while let Some(field) = fields.next()? {
        match field.value {
            Value::Fixed32(value) if field.number == number => {
                let value = message.get(value).unwrap_or_default();
                bytes = value.try_into().unwrap_or_default();
            }
            Value::Bytes(_) if field.number < number => {}
            _ => return Err(Unwritten::Unknown),
        }
    }
    json::write_flat(Datatype::Fp32, &bytes, Strings::Plain, out.small())?;
    Ok(())
}

fn put_number(number: u32, reader: &mut Reader<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
    let text = reader.number()?;
    let value =
        float(text).ok_or_else(|| Malformed::new(RESULTS, format!("{text} is not a float")))?;
    if value.to_bits() != 0 {
        out.put_u8((number << 3 | 5) as u8);
        out.put_f32_le(value);
    }
    Ok(())
}
