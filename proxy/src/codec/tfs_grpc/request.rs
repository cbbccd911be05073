use bytes::Bytes;
use outrigger_filters::inference::{
    Form, Method, Parameters, Payload, RequestParts, RequestedOutput,
};

use super::{
    Fault, Malformed, examples,
    spec::Spec,
    tensor::{self, Tensors},
};
use crate::codec::{
    oip_grpc::rope::Rope,
    protobuf::{Put, Source, Unknown, Value, nested_len},
};

/// Reads a `PredictRequest`, a `ClassificationRequest` or a `RegressionRequest`. Names and contents
/// are slices of the message. All contents are `Form::Raw`, however they stood.
/// A list that is shorter than its shape is made as long: all contents together to no more than
/// `max_message` bytes, or than the message has.
///
/// # Errors
///
/// Fails where the message is not understood to the last field.
pub fn decode_request(
    method: Method,
    message: &Bytes,
    max_message: usize,
) -> Result<RequestParts, Malformed> {
    let mut source = Source::within(message, max_message);
    let mut parts = RequestParts::default();
    let mut spec = Spec::default();
    let mut input = None;
    let mut unknown = Unknown::default();
    let mut fields = source.all();
    while let Some(field) = fields.next()? {
        match (method, field.number, field.value) {
            (_, 1, Value::Bytes(message)) => spec
                .read(&source, message)
                .map_err(|malformed| malformed.within("model_spec"))?,
            (Method::Infer, 2, Value::Bytes(entry)) => {
                tensor::read_entry(&mut source, entry, &mut parts.inputs)
                    .map_err(|malformed| malformed.within("inputs"))?;
            }
            (Method::Infer, 3, Value::Bytes(name)) => {
                source.count().ok_or(Fault::TooMany)?;
                let name = source.text(name);
                parts.outputs.push(RequestedOutput {
                    name: name.ok_or_else(|| Malformed::new("output_filter", Fault::Text))?,
                    parameters: Parameters::default(),
                    unknown: Payload::new(),
                });
            }
            (Method::Classify | Method::Regress, 2, Value::Bytes(message)) => {
                if input.replace(message).is_some() {
                    return Err(Malformed::new("input", Fault::Repeated));
                }
            }
            (_, 1 | 2, _) | (Method::Infer, 3, _) => return Err(Fault::Type.into()),
            _ => unknown
                .keep(&mut source, field.span)
                .ok_or(Fault::TooMany)?,
        }
    }
    if method == Method::Infer {
        tensor::sort(&mut parts.inputs);
        sort_filter(&mut parts.outputs)?;
    } else {
        let input = input.unwrap_or_default();
        let examples = examples::read_input(&mut source, input, &mut parts.parameters)
            .map_err(|malformed| malformed.within("input"))?;
        parts.inputs = vec![examples];
    }
    // In which form contents came says nothing to the server, nor of the answer: requests that
    // differ in it alone share a call.
    for input in &mut parts.inputs {
        input.form = Form::Raw;
    }
    spec.into_head(&mut parts.head);
    parts.head.method = method;
    parts.unknown = unknown.finish(&source);
    Ok(parts)
}

/// Writes a request as one gRPC message with its five bytes before it, as the method says that is
/// asked for. Numbers go as `tensor_content`, which shares them; texts, one by one.
///
/// Of the parameters only the [context](super::CONTEXT) of examples has a place in this protocol,
/// as have neither the request's id nor tensors' and outputs' parameters: they are left out.
///
/// # Errors
///
/// Fails where the version is no number, and where contents are text, absent, or not as long as
/// their shape says.
pub fn encode_request(request: &RequestParts) -> Result<Payload, Malformed> {
    let spec = Spec::of(&request.head)?;
    match request.head.method {
        Method::Infer => write_predict(&spec, request),
        Method::Classify | Method::Regress => write_examples(&spec, request),
    }
}

fn write_predict(spec: &Spec, request: &RequestParts) -> Result<Payload, Malformed> {
    let inputs =
        Tensors::new(&request.inputs, Form::Raw).map_err(|malformed| malformed.within("inputs"))?;
    let filter_len: usize = request
        .outputs
        .iter()
        .map(|output| nested_len(3, output.name.len()))
        .sum();
    let len = nested_len(1, spec.len()) + inputs.len(2) + filter_len + request.unknown.len();

    let mut rope = Rope::new();
    inputs.expect(&mut rope);
    rope.expect(&request.unknown);
    rope.begin(len);
    spec.write(1, rope.small());
    inputs.write(2, &mut rope);
    for output in &request.outputs {
        let out = rope.small();
        out.put_head(3, output.name.len());
        out.extend_from_slice(output.name.as_bytes());
    }
    rope.share(&request.unknown);
    Ok(rope.finish())
}

fn write_examples(spec: &Spec, request: &RequestParts) -> Result<Payload, Malformed> {
    let examples =
        examples::write_list(&request.inputs, super::EXAMPLES).map_err(Malformed::at("inputs"))?;
    let context = examples::context(&request.parameters)?;
    let kind = if context.is_some() { 2 } else { 1 };
    let list_len = examples.len()
        + context
            .as_ref()
            .map_or(0, |context| nested_len(2, context.len()));
    let input_len = nested_len(kind, list_len);
    let len = nested_len(1, spec.len()) + nested_len(2, input_len) + request.unknown.len();

    let mut rope = Rope::new();
    rope.expect(&examples);
    rope.expect(&request.unknown);
    rope.begin(len);
    spec.write(1, rope.small());
    let out = rope.small();
    out.put_head(2, input_len);
    out.put_head(kind, list_len);
    rope.share(&examples);
    if let Some(context) = context {
        let out = rope.small();
        out.put_head(2, context.len());
        out.extend_from_slice(&context);
    }
    rope.share(&request.unknown);
    Ok(rope.finish())
}

/// Puts the names into their order, which says nothing to a model. To ask for one twice is an
/// error that the server should tell.
fn sort_filter(outputs: &mut [RequestedOutput]) -> Result<(), Malformed> {
    outputs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if outputs.is_sorted_by(|a, b| a.name < b.name) {
        Ok(())
    } else {
        Err(Malformed::new("output_filter", Fault::Repeated))
    }
}
