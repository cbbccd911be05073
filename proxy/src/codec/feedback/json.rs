use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{Form, RequestParts};

use super::{
    Fault, Item, Malformed, Report, Told, Truth,
    draft::{self, Counts, Draft, LOSS},
};
use crate::{
    codec::{
        json::{Kind, Reader},
        oip_rest,
    },
    config::Protocol,
};

/// Reads a report in JSON: one item, or a list of them as `feedback`. `form` says in which form a
/// model's inputs are wanted.
///
/// # Errors
///
/// Fails where anything in it is not as it should be.
pub fn decode_json(body: &Bytes, form: impl Fn(&str) -> Form) -> Result<Report, Malformed> {
    let mut reader = Reader::new(body);
    let mut counts = Counts::default();
    let mut draft = Draft::default();
    let mut alone = None;
    let mut items = None;
    reader.object()?;
    while let Some(name) = reader.member()? {
        if name == "feedback" {
            let list = read_list(&mut reader, &mut counts, &form)?;
            if items.replace(list).is_some() {
                return Err(Malformed::new("feedback", Fault::Repeated));
            }
        } else {
            read_member(&mut reader, &mut counts, &name, &mut draft)?;
            alone = Some(name);
        }
    }
    reader.end()?;
    let items = match (items, alone) {
        (Some(_), Some(name)) => return Err(Malformed::new(&*name, Fault::Beside("feedback"))),
        (Some(items), None) if items.is_empty() => {
            return Err(Malformed::new("feedback", Fault::Empty));
        }
        (Some(items), None) => items,
        (None, _) => vec![finish(draft, &form)?],
    };
    Ok(Report { items })
}

fn read_list(
    reader: &mut Reader<'_>,
    counts: &mut Counts,
    form: &impl Fn(&str) -> Form,
) -> Result<Vec<Item>, Malformed> {
    let fault = |fault: Fault| Malformed::new("feedback", fault);
    if reader.peek()? != Kind::Array {
        return Err(fault(Fault::Expected("a list")));
    }
    let mut items = Vec::new();
    reader.array()?;
    while reader.element()? {
        counts.item().map_err(fault)?;
        let index = items.len();
        let item = read_item(reader, counts, form).map_err(|fault| fault.of_item(index))?;
        items.push(item);
    }
    Ok(items)
}

fn read_item(
    reader: &mut Reader<'_>,
    counts: &mut Counts,
    form: &impl Fn(&str) -> Form,
) -> Result<Item, Malformed> {
    if reader.peek()? != Kind::Object {
        return Err(Malformed::new("", Fault::Expected("an object")));
    }
    let mut draft = Draft::default();
    reader.object()?;
    while let Some(name) = reader.member()? {
        read_member(reader, counts, &name, &mut draft)?;
    }
    finish(draft, form)
}

fn read_member(
    reader: &mut Reader<'_>,
    counts: &mut Counts,
    name: &str,
    draft: &mut Draft<Bytes>,
) -> Result<(), Malformed> {
    let fault = |fault: Fault| Malformed::new(name, fault);
    // As clients write what they do not set.
    let is_null = |reader: &mut Reader<'_>| reader.null().map_err(|error| fault(error.into()));
    let repeated = match name {
        "prediction_id" | "model" | "inputs" | "context" | "loss" | "label" | "row"
            if is_null(reader)? =>
        {
            false
        }
        "prediction_id" => {
            let read = text(reader).map_err(fault)?;
            draft.prediction_id.replace(read).is_some()
        }
        "model" => draft.model.replace(text(reader).map_err(fault)?).is_some(),
        "context" => draft
            .context
            .replace(text(reader).map_err(fault)?)
            .is_some(),
        "inputs" => {
            let read = reader.value().map_err(|error| fault(error.into()))?;
            draft.inputs.replace(read).is_some()
        }
        "loss" => {
            let read = told(reader, counts, loss).map_err(fault)?;
            draft.loss.replace(read).is_some()
        }
        "label" => {
            let read = told(reader, counts, truth).map_err(fault)?;
            draft.label.replace(read).is_some()
        }
        "row" => draft.row.replace(row(reader).map_err(fault)?).is_some(),
        _ => return Err(fault(Fault::Unknown)),
    };
    match repeated {
        true => Err(fault(Fault::Repeated)),
        false => Ok(()),
    }
}

fn finish(draft: Draft<Bytes>, form: &impl Fn(&str) -> Form) -> Result<Item, Malformed> {
    draft.finish(Protocol::OipRest, |model, inputs: Bytes| {
        let model = model.ok_or_else(|| Malformed::new("model", Fault::Missing))?;
        let inputs = oip_rest::decode_inputs(&inputs, form(&model))
            .map_err(|malformed| Malformed::new("", Fault::Tensors(malformed)))?;
        let mut request = RequestParts::default();
        request.head.model = model;
        request.inputs = inputs;
        Ok(request)
    })
}

/// Reads one value, or a list of one for each row.
fn told<T>(
    reader: &mut Reader<'_>,
    counts: &mut Counts,
    one: impl Fn(&mut Reader<'_>) -> Result<T, Fault>,
) -> Result<Told<T>, Fault> {
    if reader.peek()? != Kind::Array {
        return one(reader).map(Told::Whole);
    }
    let mut rows = Vec::new();
    reader.array()?;
    while reader.element()? {
        counts.row()?;
        let known = !reader.null()?;
        rows.push(known.then(|| one(reader)).transpose()?);
    }
    Ok(Told::Rows(rows))
}

fn text(reader: &mut Reader<'_>) -> Result<ByteString, Fault> {
    match reader.peek()? {
        Kind::String => Ok(reader.string()?),
        _ => Err(Fault::Expected("a text")),
    }
}

fn loss(reader: &mut Reader<'_>) -> Result<f64, Fault> {
    match reader.peek()? {
        Kind::Number => draft::loss(reader.number()?.parse().unwrap_or(f64::NAN)),
        _ => Err(Fault::Expected(LOSS)),
    }
}

fn truth(reader: &mut Reader<'_>) -> Result<Truth, Fault> {
    let expected = Fault::Expected("a number, a text or a truth value");
    Ok(match reader.peek()? {
        Kind::String => Truth::String(reader.string()?),
        Kind::Bool => Truth::Bool(reader.bool()?),
        Kind::Number => {
            let text = reader.number()?;
            if let Ok(integer) = text.parse() {
                return Ok(Truth::Integer(integer));
            }
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            Truth::Number(number.ok_or(expected)?)
        }
        _ => return Err(expected),
    })
}

fn row(reader: &mut Reader<'_>) -> Result<u32, Fault> {
    let expected = Fault::Expected("the number of a row, from 0,");
    match reader.peek()? {
        Kind::Number => reader.number()?.parse().map_err(|_| expected),
        _ => Err(expected),
    }
}
