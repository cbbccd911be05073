use bytes::Bytes;
use outrigger_filters::inference::{ResponseParts, Tensor};

use super::{
    Body, Fault, Malformed, Reply, body, parameters,
    request::{self, MAX_TENSORS},
    tensor::{self, Side, Wanted},
    text::{Text, Unknown},
};
use crate::codec::json::{Reader, put_string};

/// Reads an answer. Contents in JSON stay text, rows or flat as they came; binary ones are slices
/// of the body.
pub fn decode_response(body: &Bytes, json_len: Option<usize>) -> Result<ResponseParts, Malformed> {
    let (json, mut binary) = body::cut(body, json_len)?;
    let mut reader = Reader::new(&json);
    let mut response = ResponseParts::default();
    let mut unknown = Unknown::default();
    let mut seen = Seen::default();
    reader.object()?;
    while let Some(member) = reader.member()? {
        let fault = |fault| Malformed::new(&*member, Fault::from(fault));
        if matches!(&*member, "id" | "model_version" | "parameters")
            && reader.null().map_err(fault)?
        {
            continue;
        }
        let repeated = match &*member {
            "model_name" => {
                response.model = reader.string().map_err(fault)?;
                std::mem::replace(&mut seen.model, true)
            }
            "model_version" => {
                response.version = reader.string().map_err(fault)?;
                std::mem::replace(&mut seen.version, true)
            }
            "id" => {
                response.id = reader.string().map_err(fault)?;
                std::mem::replace(&mut seen.id, true)
            }
            "parameters" => {
                (response.parameters, _) = parameters::read(&mut reader)?;
                std::mem::replace(&mut seen.parameters, true)
            }
            "outputs" => {
                reader.array().map_err(fault)?;
                while reader.element().map_err(fault)? {
                    let index = response.outputs.len();
                    if index >= MAX_TENSORS {
                        return Err(Malformed::new("outputs", Fault::TooMany));
                    }
                    let output = tensor::read(
                        &mut reader,
                        &json,
                        &mut binary,
                        Wanted::AsItIs,
                        Side::Output,
                    )
                    .map_err(|malformed| malformed.within("outputs", index))?;
                    if index == 0 {
                        // Most messages have one; a vector would make room for four.
                        response.outputs.reserve_exact(1);
                    }
                    response.outputs.push(output);
                }
                std::mem::replace(&mut seen.outputs, true)
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
    if !seen.outputs {
        return Err(Malformed::new("outputs", Fault::Missing));
    }
    response.unknown = unknown.finish();
    Ok(response)
}

/// Writes an answer as the caller wants it: each output binary, or in JSON as a flat list.
pub fn encode_response(response: &ResponseParts, reply: &Reply) -> Result<Body, Malformed> {
    let outputs = response
        .outputs
        .iter()
        .enumerate()
        .map(|(index, output)| {
            tensor::answered(output, reply.is_binary(&output.name))
                .map_err(|malformed| malformed.within("outputs", index))
        })
        .collect::<Result<Vec<Tensor>, _>>()?;
    let mut out = Text::with_capacity(256);
    let small = out.small();
    small.push(b'{');
    let id = if response.id.is_empty() {
        &reply.id
    } else {
        &response.id
    };
    if !id.is_empty() {
        small.extend_from_slice(b"\"id\":");
        put_string(id, small);
        small.push(b',');
    }
    small.extend_from_slice(b"\"model_name\":");
    put_string(&response.model, small);
    small.push(b',');
    if !response.version.is_empty() {
        small.extend_from_slice(b"\"model_version\":");
        put_string(&response.version, small);
        small.push(b',');
    }
    if !response.parameters.is_empty() {
        small.extend_from_slice(b"\"parameters\":{");
        parameters::write(&response.parameters, small);
        out.close(b"},");
    }
    out.small().extend_from_slice(b"\"outputs\":[");
    for output in &outputs {
        tensor::write(output, &mut out);
    }
    out.close(b"],");
    tensor::write_unknown(&response.unknown, &mut out);
    out.close(b"}");
    let contents = outputs.iter().map(|output| (output.form, &output.data));
    Ok(request::body(out, contents))
}

/// Which members have been read.
#[derive(Debug, Default)]
struct Seen {
    model: bool,
    version: bool,
    id: bool,
    parameters: bool,
    outputs: bool,
}
