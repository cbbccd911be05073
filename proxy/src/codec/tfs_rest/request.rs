use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{
    Datatype, Form, Method, Parameters, Payload, RequestParts, Signature, Tensor, TensorSpec,
};

use super::{
    Layout, Malformed, Reply,
    columns::{Reading, Writer, keep, write_columns, write_rows},
    examples,
};
use crate::codec::{
    json::{Kind, Reader, Strings},
    tfs_grpc::control::DEFAULT_SIGNATURE,
};

/// Reads the body of a request, and tells how it wants to be answered. The head has the signature
/// and the method; model, version and label stand in the path.
///
/// `signature` looks a signature up by its name, empty for the default one. Where it knows it, names
/// and datatypes are its own; where it does not, tensors have the names of the members, or none, and
/// are `INT64`, `FP64`, `BOOL` or `BYTES`, as all their elements look. Contents are made in the
/// form that is wanted; `Form::Rows` keeps them as the slices of the body that they are. Examples
/// are serialized in any case.
///
/// # Errors
///
/// Fails where the body is not understood, or a server would refuse it, in the server's own words.
pub fn decode_request<'a>(
    method: Method,
    body: &Bytes,
    signature: impl Fn(&str) -> Option<&'a Signature>,
    wanted: Form,
) -> Result<(RequestParts, Reply), Malformed> {
    let mut reader = begin(body)?;
    let mut name = ByteString::new();
    let mut is_named = false;
    let mut data = None;
    let mut context = None;
    let mut unknown = Vec::new();
    while let Some(member) = reader.member()? {
        match (method, &*member) {
            (_, "signature_name") => {
                if std::mem::replace(&mut is_named, true) {
                    let words = "signature_name is there twice";
                    return Err(Malformed::new("signature_name", words));
                }
                if reader.peek()? != Kind::String {
                    return Err(Malformed::format(
                        "signature_name",
                        body,
                        "not formatted correctly. 'signature_name' key must be a string value.",
                    ));
                }
                name = reader.string()?;
                if name == DEFAULT_SIGNATURE {
                    name = ByteString::new();
                }
            }
            (Method::Infer, "instances" | "inputs") => {
                if data.is_some() {
                    return Err(Malformed::format(
                        "inputs",
                        body,
                        "Not formatted correctly expecting only one of 'inputs' or 'instances' \
                         keys to exist ",
                    ));
                }
                let layout = match &*member {
                    "instances" => Layout::Rows,
                    _ => Layout::Columns,
                };
                let at = reader.clone();
                let tensors = read(&mut reader, layout, signature(&name), wanted);
                if tensors.is_err() {
                    // Maybe by a signature whose name comes later.
                    reader = at.clone();
                    reader.skip()?;
                }
                data = Some((layout, at, name.clone(), tensors));
            }
            (Method::Classify | Method::Regress, "context") if context.is_none() => {
                context = Some(examples::read_context(&mut reader)?);
            }
            (Method::Classify | Method::Regress, "examples") if data.is_none() => {
                let at = reader.clone();
                let tensor = examples::read(&mut reader)?;
                data = Some((Layout::Rows, at, name.clone(), Ok(vec![tensor])));
            }
            (Method::Classify | Method::Regress, "context" | "examples") => {
                return Err(Malformed::new(&*member, format!("{member} is there twice")));
            }
            _ => keep(&member, &reader.value()?, &mut unknown),
        }
    }
    reader.end()?;
    let Some((layout, mut at, read_by, tensors)) = data else {
        return Err(match method {
            Method::Infer => Malformed::new("instances", "Missing 'inputs' or 'instances' key"),
            Method::Classify | Method::Regress => Malformed::format(
                "examples",
                body,
                "When method is classify, key 'examples' is expected and was not found",
            ),
        });
    };
    let inputs = match method {
        Method::Infer if read_by != name => read(&mut at, layout, signature(&name), wanted),
        _ => tensors,
    }?;
    let mut parts = RequestParts {
        inputs,
        parameters: Parameters::from_iter(context),
        unknown: Bytes::from(unknown).into(),
        ..RequestParts::default()
    };
    parts.head.method = method;
    parts.head.signature = name;
    Ok((parts, Reply { method, layout }))
}

/// Writes the body of a request: its tensors as rows where those of the answer can stand in rows
/// too and all of them have as many, or as columns. A server refuses to answer rows with outputs
/// that have none; where no signature is known it speaks KServe V1, whose models take rows.
///
/// A tensor without a name, or the only one that the signature has, is written without objects around
/// its rows, and rows that still are text are shared then. Servers of KServe V1, of which no
/// signature is known, may look for the name. Neither parameters nor the outputs that are wanted have a place
/// in this protocol: they are left out.
///
/// # Errors
///
/// Fails where contents are absent, or not as long as their shape says.
pub fn encode_request(
    request: &RequestParts,
    signature: Option<&Signature>,
) -> Result<Payload, Malformed> {
    let alone = match (&*request.inputs, signature.map(|known| &*known.inputs)) {
        ([input], Some([known])) => input.name.is_empty() || input.name == known.name,
        ([input], _) => input.name.is_empty(),
        _ => false,
    };
    let mut out = Writer::default();
    out.put(b"{");
    if !request.head.signature.is_empty() {
        out.name("signature_name", true);
        crate::codec::json::put_string(&request.head.signature, out.small());
        out.put(b",");
    }
    match request.head.method {
        Method::Infer if have_rows(&request.inputs) && answers_rows(signature) => {
            write_rows(
                "instances",
                &request.inputs,
                alone,
                |_| Strings::Either,
                &mut out,
            )?;
        }
        Method::Infer => {
            write_columns(
                "inputs",
                &request.inputs,
                alone,
                |_| Strings::Either,
                &mut out,
            )?;
        }
        Method::Classify | Method::Regress => examples::write(request, &mut out)?,
    }
    out.unknown(&request.unknown);
    out.put(b"}");
    Ok(out.finish())
}

/// Goes into the object that a body must be.
pub(super) fn begin(body: &Bytes) -> Result<Reader<'_>, Malformed> {
    if body.is_empty() {
        return Err(Malformed::new(
            "",
            "JSON Parse error: The document is empty",
        ));
    }
    let mut reader = Reader::new(body);
    if reader.peek()? != Kind::Object {
        let value = reader.value()?;
        return Err(Malformed::format("", &value, "Is not object"));
    }
    reader.object()?;
    Ok(reader)
}

fn read(
    reader: &mut Reader<'_>,
    layout: Layout,
    signature: Option<&Signature>,
    wanted: Form,
) -> Result<Vec<Tensor>, Malformed> {
    let reading = |field| Reading {
        field,
        specs: signature.map(|signature| &*signature.inputs),
        whole: Datatype::Int64,
        wanted,
    };
    match layout {
        Layout::Rows => reading("instances").rows(reader),
        Layout::Columns => reading("inputs").columns(reader),
    }
}

/// Tells whether all outputs have as many rows as are asked for, or nothing is known of them.
fn answers_rows(signature: Option<&Signature>) -> bool {
    let is_open = |output: &TensorSpec| {
        let shape = output.shape.as_ref();
        shape.is_some_and(|shape| shape.dimensions().first() == Some(&-1))
    };
    signature.is_none_or(|known| !known.outputs.is_empty() && known.outputs.iter().all(is_open))
}

/// Tells whether all tensors have the same number of rows, at least one.
fn have_rows(tensors: &[Tensor]) -> bool {
    let rows = tensors.first().and_then(|tensor| tensor.shape.rows());
    rows.is_some() && tensors.iter().all(|tensor| tensor.shape.rows() == rows)
}
