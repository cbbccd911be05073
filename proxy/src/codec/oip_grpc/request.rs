use std::{ops::Range, sync::Arc};

use http::HeaderMap;
use outrigger_filters::inference::{
    Form, Head, Parameter, Parameters, Payload, Request, RequestParts, RequestedOutput,
};
use tokio::time::Instant;

use super::{
    Call, Malformed, Rejected, parameters,
    rope::Rope,
    tensor::{self, Raw, Tensors},
};
use crate::codec::{
    grpc::{self, metadata, timeout},
    protobuf::{Put, Source, Unknown, Value, nested_len, text_len},
};

/// Reads a call. Names and contents are slices of its message, which the request keeps as its
/// wire form; a call that is not understood comes back untouched.
pub fn decode_request(call: Call) -> Result<Request, Rejected<Call>> {
    match read(&call) {
        Ok(parts) => {
            let len = call.message.len();
            Ok(Request::from_wire(parts, Arc::new(call), len))
        }
        Err(cause) => Err(Rejected::new(call, cause)),
    }
}

/// Writes a request as one gRPC message with its five bytes before it.
///
/// An unchanged request is the message that came. Of any other the contents are shared, typed
/// where all of them came typed, raw otherwise.
pub fn encode_request(request: &Request) -> Payload {
    let wire = request.wire().and_then(|wire| wire.downcast_ref::<Call>());
    match wire {
        Some(call) => grpc::frame(call.message.clone()),
        None => write(request),
    }
}

/// Tells the form in which a caller sent its contents, and so wants them in the answer.
pub fn form(request: &RequestParts) -> Form {
    tensor::form(&request.inputs)
}

#[inline]
fn read(call: &Call) -> Result<RequestParts, Malformed> {
    let mut source = Source::new(&call.message);
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
    parts.head.deadline = deadline(&call.headers, call.received);
    parts.head.metadata = metadata::of_call(&call.headers);
    Ok(parts)
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

fn write(request: &RequestParts) -> Payload {
    let Head {
        model, version, id, ..
    } = &request.head;
    let inputs = Tensors::new(&request.inputs, form(request));
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
    rope.finish()
}

fn output_len(output: &RequestedOutput) -> usize {
    text_len(1, &output.name) + parameters::len(2, &output.parameters) + output.unknown.len()
}

fn deadline(headers: &HeaderMap, received: Instant) -> Option<Instant> {
    received.checked_add(timeout::of_call(headers)?)
}

fn priority(parameters: &Parameters) -> u64 {
    match parameters.get("priority") {
        Some(Parameter::Uint64(priority)) => *priority,
        Some(Parameter::Int64(priority)) => u64::try_from(*priority).unwrap_or(0),
        _ => 0,
    }
}
