use std::sync::Arc;

use outrigger_filters::inference::{Form, Payload, Response, ResponseParts};

use super::{
    Answer, Malformed, Rejected, parameters,
    rope::Rope,
    tensor::{self, Raw, Tensors},
};
use crate::codec::{
    grpc::{self, metadata},
    protobuf::{Put, Source, Unknown, Value, text_len},
};

/// Reads an answer. Names and contents are slices of its message, which the response keeps as
/// its wire form; an answer that is not understood comes back untouched.
pub fn decode_response(answer: Answer) -> Result<Response, Rejected<Answer>> {
    match read(&answer) {
        Ok(parts) => {
            let headers = metadata::of_answer(&answer.headers);
            let trailers = metadata::of_answer(&answer.trailers);
            let mut response = Response::from_wire(parts, Arc::new(answer));
            response.headers = headers;
            response.trailers = trailers;
            Ok(response)
        }
        Err(cause) => Err(Rejected::new(answer, cause)),
    }
}

/// Writes a response as one gRPC message with its five bytes before it.
///
/// A caller that sent raw contents (`wanted`) gets raw ones. Any other gets them as the server
/// sent them. An unchanged response that has this form is the message that came.
pub fn encode_response(response: &Response, wanted: Form) -> Payload {
    let form = tensor::form(&response.outputs);
    let wire = response
        .wire()
        .filter(|_| wanted != Form::Raw || form != Form::Typed)
        .and_then(|wire| wire.downcast_ref::<Answer>());
    match wire {
        Some(answer) => grpc::frame(answer.message.clone()),
        None if wanted == Form::Raw => write(response, Form::Raw),
        None => write(response, form),
    }
}

fn read(answer: &Answer) -> Result<ResponseParts, Malformed> {
    let mut source = Source::new(&answer.message);
    let mut parts = ResponseParts::default();
    let mut raw = Raw::new();
    let mut unknown = Unknown::default();
    let mut fields = source.all();
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => parts.model = source.text(text).ok_or(Malformed::Text)?,
            (2, Value::Bytes(text)) => parts.version = source.text(text).ok_or(Malformed::Text)?,
            (3, Value::Bytes(text)) => parts.id = source.text(text).ok_or(Malformed::Text)?,
            (4, Value::Bytes(entry)) => {
                parameters::read(&mut source, entry, &mut parts.parameters)?;
            }
            (5, Value::Bytes(message)) => {
                tensor::read(&mut source, message, &mut parts.outputs)?;
            }
            (6, Value::Bytes(contents)) => {
                source.count().ok_or(Malformed::TooMany)?;
                raw.push(contents);
            }
            (number @ 1..=6, _) => return Err(Malformed::Type(number)),
            _ => unknown
                .keep(&mut source, field.span)
                .ok_or(Malformed::TooMany)?,
        }
    }
    tensor::attach(&source, &mut parts.outputs, raw)?;
    parts.unknown = unknown.finish(&source);
    Ok(parts)
}

fn write(response: &ResponseParts, form: Form) -> Payload {
    let outputs = Tensors::new(&response.outputs, form);
    let len = text_len(1, &response.model)
        + text_len(2, &response.version)
        + text_len(3, &response.id)
        + parameters::len(4, &response.parameters)
        + outputs.len(5, 6)
        + response.unknown.len();

    let mut rope = Rope::new();
    outputs.expect(&mut rope);
    rope.expect(&response.unknown);
    rope.begin(len);

    let out = rope.small();
    out.put_text(1, &response.model);
    out.put_text(2, &response.version);
    out.put_text(3, &response.id);
    parameters::write(4, &response.parameters, out);
    outputs.write(5, &mut rope);
    rope.share(&response.unknown);
    outputs.write_raw(6, &mut rope);
    rope.finish()
}
