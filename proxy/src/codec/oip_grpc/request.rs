use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{
    CacheControl, Form, Head, Metadata, Method, Parameter, Parameters, Payload, RequestParts,
    RequestedOutput,
};

use super::{
    Cause, Malformed,
    malformed::Place,
    parameters,
    rope::Rope,
    tensor::{self, Found, Tensors},
};
use crate::codec::protobuf::{Key, Kind, Put, Source, Unknown, Value, nested_len, text_len};

/// Reads a `ModelInferRequest`. Names and contents are slices of the message.
///
/// The head says what the message does: deadline and metadata, which stand in headers, are left
/// out.
///
/// # Errors
///
/// Fails where the message is not understood to its last field; the server may well understand it.
pub fn decode_request(message: &Bytes) -> Result<RequestParts, Malformed> {
    let mut source = Source::new(message);
    let (mut model, mut version, mut id) = (0..0, 0..0, 0..0);
    let mut parameters = Parameters::default();
    let mut found = Found::default();
    let mut outputs = Vec::new();
    let mut unknown = Unknown::default();
    let mut fields = source.all();
    while let Some(key) = fields.next_key()? {
        match key {
            MODEL_NAME => source
                .set_text(&mut model, fields.delimited()?)
                .ok_or(Cause::Text)?,
            MODEL_VERSION => source
                .set_text(&mut version, fields.delimited()?)
                .ok_or(Cause::Text)?,
            ID => source
                .set_text(&mut id, fields.delimited()?)
                .ok_or(Cause::Text)?,
            PARAMETERS => parameters::read(&mut source, fields.delimited()?, &mut parameters)?,
            INPUTS => {
                source.count().ok_or(Cause::TooMany)?;
                found.tensors.push(fields.delimited()?);
            }
            OUTPUTS => {
                let output = read_output(&mut source, fields.delimited()?)
                    .map_err(|cause| cause.at(Place::Output(outputs.len())))?;
                outputs.push(output);
            }
            RAW_INPUT_CONTENTS => {
                source.count().ok_or(Cause::TooMany)?;
                found.raw.push(fields.delimited()?);
            }
            key if key.number() <= RAW_INPUT_CONTENTS.number() => {
                return Err(Cause::Type(key.number()).into());
            }
            key => unknown
                .keep(&mut source, fields.skip(key)?)
                .ok_or(Cause::TooMany)?,
        }
    }
    let inputs = tensor::read(&mut source, &found, Place::Input)?;
    let unknown = unknown.finish(&source);
    let model = source.text(model).ok_or(Cause::Text)?;
    let version = source.text(version).ok_or(Cause::Text)?;
    let id = source.text(id).ok_or(Cause::Text)?;
    let priority = priority(&parameters);
    Ok(RequestParts {
        head: Head {
            model,
            version,
            label: ByteString::new(),
            signature: ByteString::new(),
            method: Method::Infer,
            id,
            deadline: None,
            may_be_late: false,
            priority,
            context: None,
            metadata: Metadata::default(),
            cache: CacheControl::default(),
        },
        inputs,
        outputs,
        parameters,
        unknown,
    })
}

/// Writes a request as one gRPC message with its five bytes before it.
///
/// Contents are shared, typed where all of them came typed, raw otherwise.
///
/// # Errors
///
/// Fails where a tensor is still JSON text.
pub fn encode_request(request: &RequestParts) -> Result<Payload, Malformed> {
    let Head {
        model, version, id, ..
    } = &request.head;
    let inputs = Tensors::new(&request.inputs, form(request), Place::Input)?;
    let len = text_len(1, model)
        + text_len(2, version)
        + text_len(3, id)
        + parameters::len(4, &request.parameters)
        + inputs.len(5, 7)
        + request
            .outputs
            .iter()
            .map(|output| nested_len(6, output_len(output)))
            .sum::<usize>()
        + request.unknown.len();

    let mut rope = Rope::new();
    inputs.expect(&mut rope);
    request
        .outputs
        .iter()
        .for_each(|output| rope.expect(&output.unknown));
    rope.expect(&request.unknown);
    rope.begin(len);

    let out = rope.small();
    out.put_text(1, model);
    out.put_text(2, version);
    out.put_text(3, id);
    parameters::write(4, &request.parameters, out);
    inputs.write(5, &mut rope);
    for output in &request.outputs {
        let out = rope.small();
        out.put_head(6, output_len(output));
        out.put_text(1, &output.name);
        parameters::write(2, &output.parameters, out);
        rope.share(&output.unknown);
    }
    rope.share(&request.unknown);
    inputs.write_raw(7, &mut rope);
    Ok(rope.finish())
}

/// Tells the form in which a caller sent its contents, and so wants them in the answer.
pub fn form(request: &RequestParts) -> Form {
    tensor::form(&request.inputs)
}

fn read_output(source: &mut Source<'_>, range: Range<usize>) -> Result<RequestedOutput, Cause> {
    source.count().ok_or(Cause::TooMany)?;
    let mut name = 0..0;
    let mut parameters = Parameters::default();
    let mut unknown = Unknown::default();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => source.set_text(&mut name, text).ok_or(Cause::Text)?,
            (2, Value::Bytes(entry)) => parameters::read(source, entry, &mut parameters)?,
            (number @ 1..=2, _) => return Err(Cause::Type(number)),
            _ => unknown.keep(source, field.span).ok_or(Cause::TooMany)?,
        }
    }
    Ok(RequestedOutput {
        name: source.text(name).ok_or(Cause::Text)?,
        parameters,
        unknown: unknown.finish(source),
    })
}

fn output_len(output: &RequestedOutput) -> usize {
    text_len(1, &output.name) + parameters::len(2, &output.parameters) + output.unknown.len()
}

fn priority(parameters: &Parameters) -> u64 {
    match parameters.get("priority") {
        Some(Parameter::Uint64(priority)) => *priority,
        Some(Parameter::Int64(priority)) => u64::try_from(*priority).unwrap_or(0),
        _ => 0,
    }
}

const MODEL_NAME: Key = Key::new(1, Kind::Bytes);
const MODEL_VERSION: Key = Key::new(2, Kind::Bytes);
const ID: Key = Key::new(3, Kind::Bytes);
const PARAMETERS: Key = Key::new(4, Kind::Bytes);
const INPUTS: Key = Key::new(5, Kind::Bytes);
const OUTPUTS: Key = Key::new(6, Kind::Bytes);
const RAW_INPUT_CONTENTS: Key = Key::new(7, Kind::Bytes);
