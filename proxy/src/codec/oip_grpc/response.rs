use bytes::Bytes;
use outrigger_filters::inference::{Form, Parameters, Payload, ResponseParts};

use super::{
    Cause, Malformed,
    malformed::Place,
    parameters,
    rope::Rope,
    tensor::{self, Found, Tensors},
};
use crate::codec::protobuf::{Key, Kind, Put, Source, Unknown, text_len};

/// Reads a `ModelInferResponse`. Names and contents are slices of the message.
///
/// # Errors
///
/// Fails where the message is not understood to its last field; the caller may well understand it.
pub fn decode_response(message: &Bytes) -> Result<ResponseParts, Malformed> {
    let mut source = Source::new(message);
    let (mut model, mut version, mut id) = (0..0, 0..0, 0..0);
    let mut parameters = Parameters::default();
    let mut found = Found::default();
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
            OUTPUTS => {
                source.count().ok_or(Cause::TooMany)?;
                found.tensors.push(fields.delimited()?);
            }
            RAW_OUTPUT_CONTENTS => {
                source.count().ok_or(Cause::TooMany)?;
                found.raw.push(fields.delimited()?);
            }
            key if key.number() <= RAW_OUTPUT_CONTENTS.number() => {
                return Err(Cause::Type(key.number()).into());
            }
            key => unknown
                .keep(&mut source, fields.skip(key)?)
                .ok_or(Cause::TooMany)?,
        }
    }
    Ok(ResponseParts {
        outputs: tensor::read(&mut source, &found, Place::Output)?,
        model: source.text(model).ok_or(Cause::Text)?,
        version: source.text(version).ok_or(Cause::Text)?,
        id: source.text(id).ok_or(Cause::Text)?,
        parameters,
        unknown: unknown.finish(&source),
    })
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
    let outputs = Tensors::new(&response.outputs, form, Place::Output)?;
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

const MODEL_NAME: Key = Key::new(1, Kind::Bytes);
const MODEL_VERSION: Key = Key::new(2, Kind::Bytes);
const ID: Key = Key::new(3, Kind::Bytes);
const PARAMETERS: Key = Key::new(4, Kind::Bytes);
const OUTPUTS: Key = Key::new(5, Kind::Bytes);
const RAW_OUTPUT_CONTENTS: Key = Key::new(6, Kind::Bytes);
