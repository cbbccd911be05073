use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{Form, Method, Payload, ResponseParts};

use super::{
    Fault, Malformed, examples,
    spec::{DEFAULT_SIGNATURE, Spec},
    tensor::{self, Tensors},
};
use crate::codec::{
    oip_grpc::rope::Rope,
    protobuf::{Put, Source, Unknown, Value, nested_len},
};

/// Reads a `PredictResponse`, a `ClassificationResponse` or a `RegressionResponse`. Names and
/// contents are slices of the message. The signature that the server names is the one that was
/// asked for, and is not kept.
/// A list that is shorter than its shape is made as long: all contents together to no more than
/// `max_message` bytes, or than the message has.
///
/// # Errors
///
/// Fails where the message is not understood to the last field.
pub fn decode_response(
    method: Method,
    message: &Bytes,
    max_message: usize,
) -> Result<ResponseParts, Malformed> {
    let mut source = Source::within(message, max_message);
    let mut parts = ResponseParts::default();
    let mut spec = Spec::default();
    let mut result = None;
    let mut unknown = Unknown::default();
    let mut fields = source.all();
    while let Some(field) = fields.next()? {
        match (method, field.number, field.value) {
            (Method::Infer, 1, Value::Bytes(entry)) => {
                tensor::read_entry(&mut source, entry, &mut parts.outputs)
                    .map_err(|malformed| malformed.within("outputs"))?;
            }
            (Method::Classify | Method::Regress, 1, Value::Bytes(message)) => {
                if result.replace(message).is_some() {
                    return Err(Malformed::new("result", Fault::Repeated));
                }
            }
            (_, 2, Value::Bytes(message)) => spec
                .read(&source, message)
                .map_err(|malformed| malformed.within("model_spec"))?,
            (_, 1 | 2, _) => return Err(Fault::Type.into()),
            _ => unknown
                .keep(&mut source, field.span)
                .ok_or(Fault::TooMany)?,
        }
    }
    if method == Method::Infer {
        tensor::sort(&mut parts.outputs);
    } else {
        let result = result.unwrap_or_default();
        let results = examples::read_list(&mut source, result, super::RESULTS, |_, _| {
            Err(Fault::Unknown)
        })
        .map_err(Malformed::at("result"))?;
        parts.outputs = vec![results];
    }
    parts.version = spec.version_text();
    parts.model = spec.name;
    parts.unknown = unknown.finish(&source);
    Ok(parts)
}

/// Writes a response as one gRPC message with its five bytes before it. It names the signature that
/// was asked for, by its full name also where it is the default one.
///
/// Numbers are written one by one (`Form::Typed`), as servers do by default and clients may expect
/// that read the lists themselves, or as `tensor_content`. For an answer of a server of this
/// protocol, [`form`] tells what it would have written.
///
/// # Errors
///
/// Fails where contents are text, absent, or not as long as their shape says.
pub fn encode_response(
    method: Method,
    response: &ResponseParts,
    signature: &str,
    wanted: Form,
) -> Result<Payload, Malformed> {
    let spec = Spec {
        name: response.model.clone(),
        // Servers of other protocols name versions as they like.
        version: response.version.parse().ok(),
        label: ByteString::new(),
        signature: match signature {
            "" => ByteString::from_static(DEFAULT_SIGNATURE),
            signature => signature.into(),
        },
    };
    let mut rope = Rope::new();
    let spec_len = nested_len(2, spec.len());
    if method == Method::Infer {
        let outputs = Tensors::new(&response.outputs, wanted)
            .map_err(|malformed| malformed.within("outputs"))?;
        outputs.expect(&mut rope);
        rope.expect(&response.unknown);
        rope.begin(outputs.len(1) + spec_len + response.unknown.len());
        outputs.write(1, &mut rope);
    } else {
        let results = examples::write_list(&response.outputs, super::RESULTS)
            .map_err(Malformed::at("outputs"))?;
        rope.expect(&results);
        rope.expect(&response.unknown);
        rope.begin(nested_len(1, results.len()) + spec_len + response.unknown.len());
        rope.small().put_head(1, results.len());
        rope.share(&results);
    }
    spec.write(2, rope.small());
    rope.share(&response.unknown);
    Ok(rope.finish())
}

/// Tells the form in which a server of this protocol has written the numbers of its answer.
pub fn form(response: &ResponseParts) -> Form {
    let mut outputs = response.outputs.iter();
    match outputs.any(|output| output.form == Form::Raw) {
        true => Form::Raw,
        false => Form::Typed,
    }
}
