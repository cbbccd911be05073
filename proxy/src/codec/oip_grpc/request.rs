use std::ops::Range;

use bytes::Bytes;
use outrigger_filters::inference::{
    Form, Head, Parameter, Parameters, Payload, RequestParts, RequestedOutput,
};

use super::{
    Malformed, parameters,
    rope::Rope,
    tensor::{self, Raw, Tensors},
};
use crate::codec::protobuf::{Put, Source, Unknown, Value, nested_len, text_len};

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
    let mut parts = RequestParts::default();
    let mut raw = Raw::new();
    let mut unknown = Unknown::default();
    let mut fields = source.all();
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => {
                parts.head.model = source.text(text).ok_or(Malformed::Text)?;
            }
            (2, Value::Bytes(text)) => {
                parts.head.version = source.text(text).ok_or(Malformed::Text)?;
            }
            (3, Value::Bytes(text)) => parts.head.id = source.text(text).ok_or(Malformed::Text)?,
            (4, Value::Bytes(entry)) => {
                parameters::read(&mut source, entry, &mut parts.parameters)?;
            }
            (5, Value::Bytes(message)) => {
                tensor::read(&mut source, message, &mut parts.inputs)?;
            }
            (6, Value::Bytes(message)) => {
                let output = read_output(&mut source, message)?;
                parts.outputs.push(output);
            }
            (7, Value::Bytes(contents)) => {
                source.count().ok_or(Malformed::TooMany)?;
                raw.push(contents);
            }
            (number @ 1..=7, _) => return Err(Malformed::Type(number)),
            _ => unknown
                .keep(&mut source, field.span)
                .ok_or(Malformed::TooMany)?,
        }
    }
    tensor::attach(&source, &mut parts.inputs, raw)?;
    parts.unknown = unknown.finish(&source);
    parts.head.priority = priority(&parts.parameters);
    Ok(parts)
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
    let inputs = Tensors::new(&request.inputs, form(request))?;
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

fn read_output(source: &mut Source<'_>, range: Range<usize>) -> Result<RequestedOutput, Malformed> {
    source.count().ok_or(Malformed::TooMany)?;
    let mut output = RequestedOutput {
        name: Default::default(),
        parameters: Parameters::default(),
        unknown: Payload::new(),
    };
    let mut unknown = Unknown::default();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => output.name = source.text(text).ok_or(Malformed::Text)?,
            (2, Value::Bytes(entry)) => parameters::read(source, entry, &mut output.parameters)?,
            (number @ 1..=2, _) => return Err(Malformed::Type(number)),
            _ => unknown.keep(source, field.span).ok_or(Malformed::TooMany)?,
        }
    }
    output.unknown = unknown.finish(source);
    Ok(output)
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
