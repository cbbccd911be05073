use bytes::Bytes;
use outrigger_filters::inference::{
    Datatype, Form, Method, Payload, ResponseParts, Signature, Tensor,
};

use super::{
    Layout, Malformed, Reply,
    columns::{Reading, Writer, keep, write_columns, write_rows},
    request::begin,
    results,
};
use crate::codec::json::Strings;

/// Reads the body of an answer. Tensors stay text, as slices of the body; results of `classify` and
/// `regress` are serialized as the other protocol does.
///
/// Where the signature is known, names and datatypes are its own. Where it is not, all numbers are
/// `FP64`, whole ones too: an answer's datatype must not depend on its values. What stands beside the tensors,
/// as KServe's servers may write, is kept.
///
/// # Errors
///
/// Fails where the body is not understood.
pub fn decode_response(
    method: Method,
    body: &Bytes,
    signature: Option<&Signature>,
) -> Result<ResponseParts, Malformed> {
    let mut reader = begin(body)?;
    let mut unknown = Vec::new();
    let mut outputs = None;
    let reading = |field| Reading {
        field,
        specs: signature.map(|signature| &*signature.outputs),
        // The next answer may have a fraction, and would have to be of another datatype.
        whole: Datatype::Fp64,
        wanted: Form::Rows,
    };
    while let Some(member) = reader.member()? {
        let read = match (method, &*member) {
            (Method::Infer, "predictions") => reading("predictions").rows(&mut reader)?,
            (Method::Infer, "outputs") => reading("outputs").columns(&mut reader)?,
            (Method::Classify | Method::Regress, "results") => {
                vec![results::read(&mut reader, method)?]
            }
            _ => {
                keep(&member, &reader.value()?, &mut unknown);
                continue;
            }
        };
        if outputs.replace(read).is_some() {
            return Err(Malformed::new(
                &*member,
                format!("{member}: the answer has its tensors twice"),
            ));
        }
    }
    reader.end()?;
    Ok(ResponseParts {
        outputs: outputs
            .ok_or_else(|| Malformed::new("", "the answer has neither predictions nor outputs"))?,
        unknown: Bytes::from(unknown).into(),
        ..ResponseParts::default()
    })
}

/// Writes the body of an answer as its caller wants it. An output that is alone stands without its
/// name, and rows of it that still are text are shared; but where no signature is known and its rows
/// came in objects, as those of a server of KServe V1 may, they go in objects.
///
/// Texts of outputs whose names end in `_bytes` are written as base64, and so are those of others
/// that are not UTF-8, which the server would write as they are.
///
/// # Errors
///
/// Fails, in the server's own words, where outputs that should stand in rows have not the same
/// number of them; and where contents are absent, or not as long as their shape says.
pub fn encode_response(
    response: &ResponseParts,
    reply: &Reply,
    signature: Option<&Signature>,
) -> Result<Payload, Malformed> {
    let mut out = Writer::default();
    out.put(b"{");
    match reply.method {
        Method::Infer => {
            let outputs = &response.outputs;
            if outputs.is_empty() {
                return Err(Malformed::new(
                    "outputs",
                    "Cannot convert empty tensor map to JSON",
                ));
            }
            let alone = match &**outputs {
                [output] => {
                    output.name.is_empty() || signature.is_some() || output.form != Form::Rows
                }
                _ => false,
            };
            match reply.layout {
                Layout::Rows => write_rows("predictions", outputs, alone, strings, &mut out)?,
                Layout::Columns => write_columns("outputs", outputs, alone, strings, &mut out)?,
            }
        }
        Method::Classify | Method::Regress => {
            results::write(reply.method, &response.outputs, &mut out)?;
        }
    }
    out.unknown(&response.unknown);
    out.put(b"}");
    Ok(out.finish())
}

fn strings(tensor: &Tensor) -> Strings {
    if tensor.datatype == Datatype::Bytes && tensor.name.ends_with("_bytes") {
        Strings::Base64
    } else {
        Strings::Either
    }
}
