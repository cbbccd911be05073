use bytes::Bytes;
use outrigger_filters::inference::{Form, Payload, ResponseParts};

use super::{
    Malformed, parameters,
    rope::Rope,
    tensor::{self, Raw, Tensors},
};
use crate::codec::protobuf::{Put, Source, Unknown, Value, text_len};

/// Reads a `ModelInferResponse`. Names and contents are slices of the message.
///
/// # Errors
///
/// Fails where the message is not understood to its last field; the caller may well understand it.
pub fn decode_response(message: &Bytes) -> Result<ResponseParts, Malformed> {
    let mut source = Source::new(message);
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

/// Writes a response as one gRPC message with its five bytes before it.
///
/// A caller that sent raw contents (`wanted`) gets raw ones. Any other gets them as the server
/// sent them.
///
/// # Errors
///
/// Fails where a tensor is still JSON text.
pub fn encode_response(response: &ResponseParts, wanted: Form) -> Result<Payload, Malformed> {
    let form = match wanted {
        Form::Raw => Form::Raw,
        _ => tensor::form(&response.outputs),
    };
    let outputs = Tensors::new(&response.outputs, form)?;
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
    Ok(rope.finish())
}

/// Tells whether an answer that nobody changed can go to its caller as the message that it was
/// read from: whether this has the form that [`encode_response`] would give it.
pub fn fits(response: &ResponseParts, wanted: Form) -> bool {
    wanted != Form::Raw || tensor::form(&response.outputs) != Form::Typed
}
