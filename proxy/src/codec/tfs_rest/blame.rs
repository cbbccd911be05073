//! Finds what the server would say of a tensor that could not be read: slowly, and only then.

use bytes::Bytes;
use outrigger_filters::inference::{Datatype, Shape, TensorSpec};

use super::{
    Malformed,
    columns::is_named,
    malformed::{datatype_text, debug_text, kind_text},
};
use crate::codec::json::{self, Kind, Reader, Strings};

/// Goes through `instances` in the order in which the server does.
pub(super) fn rows(
    field: &str,
    text: &Bytes,
    spec: Option<&TensorSpec>,
    fault: json::Malformed,
) -> Malformed {
    let datatype = spec.map(|spec| spec.datatype);
    match find_row(field, text, datatype) {
        Ok(Some(found)) => found,
        Ok(None) => Malformed::of(field, fault),
        Err(fault) => Malformed::of(field, fault),
    }
}

/// Says what is wrong with the value of one row of a named tensor.
pub(super) fn item(
    field: &str,
    row: usize,
    key: &str,
    text: &Bytes,
    datatype: Option<Datatype>,
    fault: json::Malformed,
) -> Malformed {
    let at = format!("{field}[{row}].{key}");
    match words(text, datatype) {
        Some(words) => Malformed::new(
            at,
            format!(
                "Failed to process element: {row} key: {key} of '{field}' list. \
                 Error: INVALID_ARGUMENT: {words}"
            ),
        ),
        None => Malformed::of(&at, fault),
    }
}

/// Says what is wrong with a whole tensor.
pub(super) fn whole(
    field: &str,
    text: &Bytes,
    datatype: Option<Datatype>,
    fault: json::Malformed,
) -> Malformed {
    match words(text, datatype) {
        Some(words) => Malformed::new(field, words),
        None => Malformed::of(field, fault),
    }
}

/// Says how the shapes of two rows differ, or nothing where they do not.
pub(super) fn shapes(expected: &[i64], found: &[i64]) -> Option<String> {
    let size = |shape: &[i64]| shape.iter().product::<i64>();
    if size(expected) != size(found) {
        return Some(format!(
            "Expecting tensor size: {} but got: {}",
            size(expected),
            size(found)
        ));
    }
    (expected != found).then(|| {
        format!(
            "Expecting shape {} but got: {}",
            shape_text(expected),
            shape_text(found)
        )
    })
}

/// Reads the rows one by one: each costs no more than reading it did, but for the one at fault.
fn find_row(
    field: &str,
    text: &Bytes,
    datatype: Option<Datatype>,
) -> Result<Option<Malformed>, json::Malformed> {
    let mut reader = Reader::new(text);
    reader.array()?;
    let mut first: Option<Shape> = None;
    let mut row = 0;
    while reader.element()? {
        let named = is_named(&mut reader)?;
        let value = reader.value()?;
        let at = format!("{field}[{row}]");
        if named {
            return Ok(Some(Malformed::new(
                at,
                format!("Expecting value/list but got object at item {row} of input list"),
            )));
        }
        let read = match datatype {
            Some(datatype) => {
                json::parse(&value, datatype, Strings::Either).map(|parsed| parsed.shape)
            }
            None => json::scan(&value).map(|(found, _)| found.shape),
        };
        let words = match read {
            Err(fault) => match words(&value, datatype) {
                Some(words) => Some(words),
                None => return Ok(Some(Malformed::of(&at, fault))),
            },
            Ok(shape) => match &first {
                None => {
                    first = Some(shape);
                    None
                }
                Some(first) => shapes(first.dimensions(), shape.dimensions()),
            },
        };
        if let Some(words) = words {
            return Ok(Some(Malformed::new(
                at,
                format!(
                    "Failed to process element: {row} of '{field}' list. \
                     Error: INVALID_ARGUMENT: {words}"
                ),
            )));
        }
        row += 1;
    }
    Ok(None)
}

/// Returns what the server would say of a value, if it is short enough to be looked at so closely.
fn words(text: &Bytes, datatype: Option<Datatype>) -> Option<String> {
    if text.len() > MAX_BLAMED {
        return None;
    }
    tensor(text, datatype).ok()?.err()
}

/// Returns the shape of a value, or what the server would say of it.
fn tensor(
    text: &Bytes,
    datatype: Option<Datatype>,
) -> Result<Result<Vec<i64>, String>, json::Malformed> {
    // The shape is that of the first elements, as deep as there are any.
    let mut shape = Vec::new();
    let mut value = text.clone();
    loop {
        let mut reader = Reader::new(&value);
        if reader.peek()? != Kind::Array {
            break;
        }
        reader.array()?;
        let mut count = 0;
        let mut first = Bytes::new();
        while reader.element()? {
            let element = reader.value()?;
            if count == 0 {
                first = element;
            }
            count += 1;
        }
        shape.push(count);
        if count == 0 {
            break;
        }
        value = first;
    }
    fill(text, 0, &shape, datatype).map(|filled| filled.map(|()| shape))
}

/// Compares a value with the shape and the datatype; nested no deeper than a reader goes.
fn fill(
    text: &Bytes,
    level: usize,
    shape: &[i64],
    datatype: Option<Datatype>,
) -> Result<Result<(), String>, json::Malformed> {
    let mut reader = Reader::new(text);
    if reader.peek()? != Kind::Array {
        if level != shape.len() {
            return Ok(Err(format!(
                "JSON Value: {} found at incorrect level: {} in the JSON DOM. Expected at level: {}",
                debug_text(text),
                level + 1,
                shape.len()
            )));
        }
        return Ok(match datatype {
            Some(datatype) => element(text, datatype),
            None => Ok(()),
        });
    }
    let Some(expected) = shape.get(level) else {
        return Ok(Err(format!(
            "Encountered list at unexpected level: {level} expected < {}",
            shape.len()
        )));
    };
    reader.array()?;
    let mut elements = Vec::new();
    while reader.element()? {
        elements.push(reader.value()?);
    }
    if i64::try_from(elements.len()) != Ok(*expected) {
        return Ok(Err(format!(
            "Encountered list at unexpected size: {} at level: {level} expected size: {expected}",
            elements.len()
        )));
    }
    for element in &elements {
        if let Err(words) = fill(element, level + 1, shape, datatype)? {
            return Ok(Err(words));
        }
    }
    Ok(Ok(()))
}

/// Compares one element with a datatype.
fn element(text: &Bytes, datatype: Datatype) -> Result<(), String> {
    let parsed = json::parse(text, datatype, Strings::Either);
    if parsed.is_ok() {
        return Ok(());
    }
    let value = debug_text(text);
    let kind = kind_text(text);
    match (datatype, kind) {
        (Datatype::Fp32, "Number") => Err(format!(
            "Cannot convert JSON value: {value} to float without loss of precision."
        )),
        (Datatype::Fp64, "Number") => Err(format!(
            "Cannot convert JSON value: {value} to double without loss of precision."
        )),
        (Datatype::Bytes, "Object") => Err(match base64_text(text) {
            Ok(_) => "Unable to base64 decode".to_owned(),
            Err(_) => format!("JSON Value: {value} not formatted correctly for base64 data"),
        }),
        _ => Err(format!(
            "JSON Value: {value} Type: {kind} is not of expected type: {}",
            datatype_text(datatype)
        )),
    }
}

/// Returns the text in an object `{"b64": "..."}`.
pub(super) fn base64_text(value: &Bytes) -> Result<bytestring::ByteString, json::Malformed> {
    let mut reader = Reader::new(value);
    reader.object()?;
    let name = reader.member()?;
    let text = reader.string()?;
    match (name.as_deref(), reader.member()?) {
        (Some("b64"), None) => Ok(text),
        _ => Err(json::Malformed::Mixed),
    }
}

fn shape_text(shape: &[i64]) -> String {
    let dimensions: Vec<_> = shape.iter().map(i64::to_string).collect();
    format!("[{}]", dimensions.join(","))
}

/// The longest value whose every level is looked at: that costs its length at each of them.
const MAX_BLAMED: usize = 256 << 10;
