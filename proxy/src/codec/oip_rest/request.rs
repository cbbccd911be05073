use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{
    Form, Parameter, Parameters, Payload, RequestParts, RequestedOutput, Tensor,
};

use super::{
    Body, Fault, Malformed, Reply,
    body::{self, Binary},
    parameters,
    tensor::{self, Side, Wanted},
    text::{Text, Unknown},
};
use crate::codec::json::{Reader, put_string};

/// Reads a request. `json_len` is the value of `Inference-Header-Content-Length`; where it is 0 the
/// body is one tensor without a description, which only the server can read.
///
/// Contents in JSON become what is `wanted`: canonical bytes, flat text or rows. Names and binary
/// contents are slices of the body. The model, its version and the deadline stand elsewhere in the
/// call; a `model_name` in the JSON, which some clients write and no server reads, is left out.
pub fn decode_request(
    body: &Bytes,
    json_len: Option<usize>,
    wanted: Form,
) -> Result<(RequestParts, Reply), Malformed> {
    let (json, mut binary) = body::cut(body, json_len)?;
    let mut reader = Reader::new(&json);
    let mut request = RequestParts::default();
    let mut reply = Reply::default();
    let mut unknown = Unknown::default();
    let mut seen = Seen::default();
    reader.object()?;
    while let Some(member) = reader.member()? {
        let fault = |fault| Malformed::new(&*member, Fault::from(fault));
        if matches!(&*member, "id" | "parameters" | "inputs" | "outputs")
            && reader.null().map_err(fault)?
        {
            continue;
        }
        let repeated = match &*member {
            "id" => {
                request.head.id = reader.string().map_err(fault)?;
                std::mem::replace(&mut seen.id, true)
            }
            "parameters" => {
                let (parameters, wishes) = parameters::read(&mut reader)?;
                request.parameters = parameters;
                reply.binary = wishes.binary_data_output.unwrap_or(false);
                std::mem::replace(&mut seen.parameters, true)
            }
            "inputs" => {
                read_inputs(&mut reader, &json, &mut binary, wanted, &mut request)?;
                std::mem::replace(&mut seen.inputs, true)
            }
            "outputs" => {
                read_outputs(&mut reader, &mut request, &mut reply)?;
                std::mem::replace(&mut seen.outputs, true)
            }
            "model_name" => {
                reader.skip().map_err(fault)?;
                false
            }
            _ => {
                unknown.keep(reader.whole_member().map_err(fault)?);
                false
            }
        };
        if repeated {
            return Err(Malformed::new(&*member, Fault::Repeated));
        }
    }
    reader.end()?;
    binary.end()?;
    if !seen.inputs {
        return Err(Malformed::new("inputs", Fault::Missing));
    }
    request.unknown = unknown.finish();
    request.head.priority = priority(&request.parameters);
    reply.id = request.head.id.clone();
    reply.outputs.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((request, reply))
}

/// Reads the inputs of a request by themselves, all of them in JSON.
pub(in crate::codec) fn decode_inputs(
    json: &Bytes,
    wanted: Form,
) -> Result<Vec<Tensor>, Malformed> {
    let (json, mut binary) = body::cut(json, None)?;
    let mut request = RequestParts::default();
    let mut reader = Reader::new(&json);
    read_inputs(&mut reader, &json, &mut binary, wanted, &mut request)?;
    reader.end()?;
    Ok(request.inputs)
}

/// Writes a request: canonical inputs as binary tensors, those that are text as JSON. Where one is
/// binary, the outputs are asked for in binary too.
pub fn encode_request(request: &RequestParts) -> Body {
    let binary = request
        .inputs
        .iter()
        .any(|input| matches!(input.form, Form::Raw | Form::Typed));
    let mut out = Text::with_capacity(256);
    let small = out.small();
    small.push(b'{');
    if !request.head.id.is_empty() {
        small.extend_from_slice(b"\"id\":");
        put_string(&request.head.id, small);
        small.push(b',');
    }
    if binary || !request.parameters.is_empty() {
        small.extend_from_slice(b"\"parameters\":{");
        parameters::write(&request.parameters, small);
        if binary {
            parameters::write_binary_data_output(small);
        }
        out.close(b"},");
    }
    out.small().extend_from_slice(b"\"inputs\":[");
    for input in &request.inputs {
        tensor::write(input, &mut out);
    }
    out.close(b"],");
    if !request.outputs.is_empty() {
        out.small().extend_from_slice(b"\"outputs\":[");
        for output in &request.outputs {
            write_output(output, binary, &mut out);
        }
        out.close(b"],");
    }
    tensor::write_unknown(&request.unknown, &mut out);
    out.close(b"}");
    body(
        out,
        request
            .inputs
            .iter()
            .filter(|_| binary)
            .map(|input| (input.form, &input.data)),
    )
}

/// Puts binary contents behind the JSON.
pub(super) fn body<'a>(json: Text, contents: impl Iterator<Item = (Form, &'a Payload)>) -> Body {
    let mut payload = json.finish();
    let len = payload.len();
    let mut json_len = None;
    for (form, contents) in contents {
        if matches!(form, Form::Raw | Form::Typed) {
            payload.append(contents);
            json_len = Some(len);
        }
    }
    Body { payload, json_len }
}

/// Which members have been read.
#[derive(Debug, Default)]
struct Seen {
    id: bool,
    parameters: bool,
    inputs: bool,
    outputs: bool,
}

fn read_inputs(
    reader: &mut Reader<'_>,
    json: &Bytes,
    binary: &mut Binary,
    wanted: Form,
    request: &mut RequestParts,
) -> Result<(), Malformed> {
    let fault = |fault| Malformed::new("inputs", Fault::from(fault));
    reader.array().map_err(fault)?;
    while reader.element().map_err(fault)? {
        let index = request.inputs.len();
        if index >= MAX_TENSORS {
            return Err(Malformed::new("inputs", Fault::TooMany));
        }
        let input = tensor::read(reader, json, binary, Wanted::Form(wanted), Side::Input)
            .map_err(|malformed| malformed.within("inputs", index))?;
        if index == 0 {
            // Most messages have one; a vector would make room for four.
            request.inputs.reserve_exact(1);
        }
        request.inputs.push(input);
    }
    Ok(())
}

fn read_outputs(
    reader: &mut Reader<'_>,
    request: &mut RequestParts,
    reply: &mut Reply,
) -> Result<(), Malformed> {
    let fault = |fault| Malformed::new("outputs", Fault::from(fault));
    reader.array().map_err(fault)?;
    while reader.element().map_err(fault)? {
        let index = request.outputs.len();
        if index >= MAX_TENSORS {
            return Err(Malformed::new("outputs", Fault::TooMany));
        }
        let (output, binary) =
            read_output(reader).map_err(|malformed| malformed.within("outputs", index))?;
        reply.outputs.push((output.name.clone(), binary));
        request.outputs.push(output);
    }
    Ok(())
}

fn read_output(reader: &mut Reader<'_>) -> Result<(RequestedOutput, bool), Malformed> {
    let mut name: Option<ByteString> = None;
    let mut parameters: Option<Parameters> = None;
    let mut binary = false;
    let mut unknown = Unknown::default();
    reader.object()?;
    while let Some(member) = reader.member()? {
        let fault = |fault| Malformed::new(&*member, Fault::from(fault));
        let repeated = match &*member {
            "name" => name.replace(reader.string().map_err(fault)?).is_some(),
            "parameters" if reader.null().map_err(fault)? => false,
            "parameters" => {
                let (read, wishes) = parameters::read(reader)?;
                binary = wishes.binary_data.unwrap_or(false);
                parameters.replace(read).is_some()
            }
            _ => {
                unknown.keep(reader.whole_member().map_err(fault)?);
                false
            }
        };
        if repeated {
            return Err(Malformed::new(&*member, Fault::Repeated));
        }
    }
    let output = RequestedOutput {
        name: name.ok_or_else(|| Malformed::new("name", Fault::Missing))?,
        parameters: parameters.unwrap_or_default(),
        unknown: unknown.finish(),
    };
    Ok((output, binary))
}

fn write_output(output: &RequestedOutput, binary: bool, out: &mut Text) {
    let small = out.small();
    small.extend_from_slice(b"{\"name\":");
    put_string(&output.name, small);
    small.push(b',');
    // What lies in shared memory is not in the answer, and servers refuse to be asked for both.
    let binary = binary && output.parameters.get("shared_memory_region").is_none();
    if binary || !output.parameters.is_empty() {
        small.extend_from_slice(b"\"parameters\":{");
        parameters::write(&output.parameters, small);
        if binary {
            parameters::write_binary_data(small);
        }
        out.close(b"},");
    }
    tensor::write_unknown(&output.unknown, out);
    out.close(b"},");
}

fn priority(parameters: &Parameters) -> u64 {
    match parameters.get("priority") {
        Some(Parameter::Uint64(priority)) => *priority,
        Some(Parameter::Int64(priority)) => u64::try_from(*priority).unwrap_or(0),
        _ => 0,
    }
}

/// Tensors, or requested outputs, of one message.
pub(super) const MAX_TENSORS: usize = 16_384;
