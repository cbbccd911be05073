use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::RequestParts;

use super::{
    Fault, Item, Malformed, Report, Told, Truth,
    draft::{self, Counts, Draft},
};
use crate::{
    codec::{
        oip_grpc,
        protobuf::{Fields, Source, Value},
    },
    config::Protocol,
};

/// Reads a `ReportRequest`.
///
/// # Errors
///
/// Fails where anything in it is not as it should be.
pub fn decode_message(message: &Bytes) -> Result<Report, Malformed> {
    let source = Source::new(message);
    let mut counts = Counts::default();
    let mut items = Vec::new();
    let mut fields = source.all();
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(range)) => {
                let index = items.len();
                let fault = |fault| Malformed::new("feedback", fault);
                counts.item().map_err(fault)?;
                let item = read_item(&source, range, &mut counts);
                items.push(item.map_err(|malformed| malformed.of_item(index))?);
            }
            (1, _) => return Err(Malformed::new("feedback", KIND)),
            (number, _) => return Err(unknown(number)),
        }
    }
    match items.is_empty() {
        true => Err(Malformed::new("feedback", Fault::Empty)),
        false => Ok(Report { items }),
    }
}

fn read_item(
    source: &Source<'_>,
    range: Range<usize>,
    counts: &mut Counts,
) -> Result<Item, Malformed> {
    let mut draft = Draft::default();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        let (name, repeated) = match (field.number, field.value) {
            (1, Value::Bytes(range)) => {
                let name = "prediction_id";
                let id = text(source, range).map_err(|fault| Malformed::new(name, fault))?;
                (name, draft.prediction_id.replace(id).is_some())
            }
            (2, Value::Bytes(range)) => {
                let (request, context) = read_inputs(source, range)?;
                draft.context = context;
                ("inputs", draft.inputs.replace(request).is_some())
            }
            (3, Value::Fixed64(range)) => {
                let told = draft::loss(double(source, range)).map(Told::Whole);
                let told = told.map_err(|fault| Malformed::new("loss", fault))?;
                ("loss", draft.loss.replace(told).is_some())
            }
            (4, Value::Bytes(range)) => {
                let told = rows(source, range, counts, read_loss);
                let told = told.map_err(|fault| Malformed::new("losses", fault))?;
                ("losses", draft.loss.replace(told).is_some())
            }
            (5, Value::Bytes(range)) => {
                let told = read_label(source, range).and_then(|label| label.ok_or(Fault::Empty));
                let told = told.map_err(|fault| Malformed::new("label", fault))?;
                ("label", draft.label.replace(Told::Whole(told)).is_some())
            }
            (6, Value::Bytes(range)) => {
                let told = rows(source, range, counts, read_label);
                let told = told.map_err(|fault| Malformed::new("labels", fault))?;
                ("labels", draft.label.replace(told).is_some())
            }
            (7, Value::Varint(row)) => {
                let row = u32::try_from(row);
                let row = row.map_err(|_| Malformed::new("row", Fault::Expected("32 bits")))?;
                ("row", draft.row.replace(row).is_some())
            }
            (number, _) => {
                let name = FIELDS.iter().find(|(known, _)| *known == number);
                return Err(
                    name.map_or_else(|| unknown(number), |(_, name)| Malformed::new(*name, KIND))
                );
            }
        };
        if repeated {
            return Err(Malformed::new(name, Fault::Repeated));
        }
    }
    draft.finish(Protocol::OipGrpc, |_, request| Ok(request))
}

fn read_inputs(
    source: &Source<'_>,
    range: Range<usize>,
) -> Result<(RequestParts, Option<ByteString>), Malformed> {
    let mut request = None;
    let mut context = None;
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        let (name, repeated) = match (field.number, field.value) {
            (1, Value::Bytes(range)) => {
                let read = oip_grpc::decode_request(&source.share(range));
                let read = read.map_err(|malformed| {
                    Malformed::new("inputs.request", Fault::Request(malformed))
                })?;
                ("inputs.request", request.replace(read).is_some())
            }
            (2, Value::Bytes(range)) => {
                let name = "inputs.context";
                let read = text(source, range).map_err(|fault| Malformed::new(name, fault))?;
                (name, context.replace(read).is_some())
            }
            (1, _) => return Err(Malformed::new("inputs.request", KIND)),
            (2, _) => return Err(Malformed::new("inputs.context", KIND)),
            (number, _) => return Err(unknown(number)),
        };
        if repeated {
            return Err(Malformed::new(name, Fault::Repeated));
        }
    }
    let request = request.ok_or_else(|| Malformed::new("inputs.request", Fault::Missing))?;
    if request.head.model.is_empty() {
        let name = "inputs.request.model_name";
        return Err(Malformed::new(name, Fault::Missing));
    }
    Ok((request, context))
}

/// Reads the list of rows in `Losses` or `Labels`.
fn rows<T>(
    source: &Source<'_>,
    range: Range<usize>,
    counts: &mut Counts,
    one: fn(&Source<'_>, Range<usize>) -> Result<Option<T>, Fault>,
) -> Result<Told<T>, Fault> {
    let mut rows = Vec::new();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(range)) => {
                counts.row()?;
                rows.push(one(source, range)?);
            }
            (1, _) => return Err(KIND),
            _ => return Err(Fault::Unknown),
        }
    }
    Ok(Told::Rows(rows))
}

fn read_loss(source: &Source<'_>, range: Range<usize>) -> Result<Option<f64>, Fault> {
    let mut fields = source.fields(range);
    one(&mut fields, |number, value| match (number, value) {
        (1, Value::Fixed64(range)) => draft::loss(double(source, range)),
        (1, _) => Err(KIND),
        _ => Err(Fault::Unknown),
    })
}

fn read_label(source: &Source<'_>, range: Range<usize>) -> Result<Option<Truth>, Fault> {
    let mut fields = source.fields(range);
    one(&mut fields, |number, value| {
        Ok(match (number, value) {
            (1, Value::Varint(value)) => Truth::Integer((value as i64).into()),
            (2, Value::Fixed64(range)) => match double(source, range) {
                number if number.is_finite() => Truth::Number(number),
                _ => return Err(Fault::Expected("a finite number")),
            },
            (3, Value::Bytes(range)) => Truth::String(text(source, range)?),
            (4, Value::Varint(value)) => Truth::Bool(value != 0),
            (1..=4, _) => return Err(KIND),
            _ => return Err(Fault::Unknown),
        })
    })
}

/// Reads the one field of a message.
fn one<T>(
    fields: &mut Fields<'_>,
    read: impl Fn(u32, Value) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut found = None;
    while let Some(field) = fields.next()? {
        if found.replace(read(field.number, field.value)?).is_some() {
            return Err(Fault::Repeated);
        }
    }
    Ok(found)
}

fn text(source: &Source<'_>, range: Range<usize>) -> Result<ByteString, Fault> {
    source.text(range).ok_or(Fault::Expected("UTF-8"))
}

fn double(source: &Source<'_>, range: Range<usize>) -> f64 {
    let bytes = source.bytes().get(range);
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(f64::NAN, f64::from_le_bytes)
}

fn unknown(number: u32) -> Malformed {
    Malformed::new(format!("field {number}"), Fault::Unknown)
}

pub(super) const FIELDS: [(u32, &str); 7] = [
    (1, "prediction_id"),
    (2, "inputs"),
    (3, "loss"),
    (4, "losses"),
    (5, "label"),
    (6, "labels"),
    (7, "row"),
];

const KIND: Fault = Fault::Expected("another wire type");
