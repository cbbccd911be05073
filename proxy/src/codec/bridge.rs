//! The bridge between protocols: what one can say and another cannot.
//!
//! Codecs read and write; what they read is one inference, whatever the protocol. Here stands what
//! must be true of it before another protocol's codec writes it, so that nothing is lost unsaid.

use std::fmt::Display;

use bytestring::ByteString;
use outrigger_filters::inference::{
    Datatype, Form, Method, Parameters, Payload, RequestParts, Response, ResponseParts, Tensor,
};
use tracing::debug;

use super::{json, tfs_grpc};
use crate::config::Protocol;

/// A part of an inference that a protocol has no words for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {fault}")]
pub struct Unsayable {
    field: String,
    fault: String,
}

/// Makes a request of one protocol one that another's codec can write, with tensors in the
/// `wanted` form. The text that is made of their contents may be `max_message` bytes, together.
///
/// # Errors
///
/// Names the first field that cannot be said.
pub(crate) fn request(
    parts: &mut RequestParts,
    from: Protocol,
    to: Protocol,
    wanted: Form,
    max_message: usize,
) -> Result<(), Unsayable> {
    if from == to {
        return Ok(());
    }
    let unsayable = |field: &str, why: &str| Unsayable::of(field, format_args!("{to} {why}"));
    known(&parts.unknown, "request")?;
    let head = &parts.head;
    if is_oip(to) {
        match head.method {
            Method::Infer => {}
            Method::Classify => return Err(unsayable("method", "has no classify")),
            Method::Regress => return Err(unsayable("method", "has no regress")),
        }
        if !head.label.is_empty() {
            return Err(unsayable("version_label", "has no labels of versions"));
        }
        if !head.signature.is_empty() {
            return Err(unsayable("signature_name", "has no signatures with names"));
        }
    } else {
        if !head.version.is_empty() && head.version.parse::<i64>().is_err() {
            return Err(unsayable("model_version", "has numbers for versions"));
        }
        // Examples may have a context, which both of its protocols can say.
        let besides = (head.method != Method::Infer).then_some(tfs_grpc::CONTEXT);
        none(&parts.parameters, besides, "parameters", to)?;
    }
    for (index, output) in parts.outputs.iter().enumerate() {
        let field = format!("outputs[{index}]");
        known(&output.unknown, &field)?;
        if !is_oip(to) {
            none(&output.parameters, None, &format!("{field}.parameters"), to)?;
        }
    }
    let mut left = max_message;
    for (index, input) in parts.inputs.iter_mut().enumerate() {
        let field = format!("inputs[{index}]");
        known(&input.unknown, &field)?;
        if !is_oip(to) {
            none(&input.parameters, None, &format!("{field}.parameters"), to)?;
        }
        if input.name.is_empty() && to != Protocol::TfservingRest {
            return Err(Unsayable {
                field,
                fault: "has no name, and the server does not say it".to_owned(),
            });
        }
        let dimensions = input.shape.dimensions();
        if to == Protocol::TfservingRest && dimensions.contains(&0) {
            // Its lists end there, and with them the dimensions behind.
            let field = format!("{field}.shape");
            return Err(unsayable(&field, "has no dimension of zero"));
        }
        // Examples are messages, which the codecs write as they are.
        if parts.head.method == Method::Infer {
            let was_text = input.form.is_text();
            as_form(input, wanted, &field, (from, to), left)?;
            if input.form.is_text() && !was_text {
                left = left.saturating_sub(input.data.len());
            }
        }
    }
    Ok(())
}

/// Makes an answer of one protocol one that another's codec can write: to a caller who asked for
/// these outputs under this id.
///
/// # Errors
///
/// Names the first field that cannot be said.
pub(crate) fn response(
    parts: &mut ResponseParts,
    asked: &Asked,
    from: Protocol,
    to: Protocol,
) -> Result<(), Unsayable> {
    if from == to {
        return Ok(());
    }
    // They stand in the form of the protocol that knows them not.
    parts.unknown = Payload::new();
    for output in &mut parts.outputs {
        output.unknown = Payload::new();
    }
    if is_oip(to) && !is_oip(from) {
        parts.id.clone_from(&asked.id);
    }
    if parts.model.is_empty() {
        // Answers over TensorFlow Serving's REST name neither model nor version.
        parts.model.clone_from(&asked.model);
    }
    if from == Protocol::TfservingRest && !asked.outputs.is_empty() {
        choose(&mut parts.outputs, &asked.outputs)?;
    }
    for (index, output) in parts.outputs.iter_mut().enumerate() {
        // Each protocol writes texts as JSON in its own way, but knows no other's.
        let unlike = to.is_grpc() || output.datatype == Datatype::Bytes;
        if output.form.is_text() && unlike {
            let field = format!("outputs[{index}]");
            as_form(output, Form::Raw, &field, (from, to), usize::MAX)?;
        }
    }
    Ok(())
}

/// Leaves the outputs that were asked for, of an answer to a request that could not name them.
fn choose(outputs: &mut Vec<Tensor>, asked: &[ByteString]) -> Result<(), Unsayable> {
    if let ([output], [name]) = (&mut **outputs, asked)
        && output.name.is_empty()
    {
        // Where nothing is known of the model, one output has no name.
        output.name.clone_from(name);
    }
    let is_there = |name: &&ByteString| outputs.iter().any(|output| output.name == **name);
    if let Some(missing) = asked.iter().find(|name| !is_there(name)) {
        return Err(Unsayable {
            field: format!("outputs[{missing}]"),
            fault: "is not in the server's answer".to_owned(),
        });
    }
    outputs.retain(|output| asked.contains(&output.name));
    Ok(())
}

/// What a caller said of the answer that it wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    model: ByteString,
    id: ByteString,
    outputs: Vec<ByteString>,
}

impl Asked {
    /// Remembers it of a request that is about to be sent.
    pub(crate) fn of(parts: &RequestParts) -> Self {
        Self {
            model: parts.head.model.clone(),
            id: parts.head.id.clone(),
            outputs: parts
                .outputs
                .iter()
                .map(|output| output.name.clone())
                .collect(),
        }
    }
}

fn is_oip(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::OipGrpc | Protocol::OipRest)
}

impl Unsayable {
    fn of(field: &str, why: impl Display) -> Self {
        Self {
            field: field.to_owned(),
            fault: format!("cannot be said: {why}"),
        }
    }
}

fn known(unknown: &Payload, field: &str) -> Result<(), Unsayable> {
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Unsayable {
        field: field.to_owned(),
        fault: "has fields that are not known".to_owned(),
    })
}

fn none(
    parameters: &Parameters,
    besides: Option<&str>,
    field: &str,
    protocol: Protocol,
) -> Result<(), Unsayable> {
    let mut others = parameters
        .iter()
        .filter(|(name, _)| besides.is_none_or(|besides| **name != *besides));
    match others.next() {
        None => Ok(()),
        Some((name, _)) => Err(Unsayable::of(
            &format!("{field}.{name}"),
            format_args!("{protocol} has no such parameter"),
        )),
    }
}

/// Makes text of a request's bytes, for a server that speaks the same protocol but takes none. Tells
/// whether there were any.
///
/// # Errors
///
/// Fails where text cannot say them, or it would be more than `max_text`.
pub(crate) fn in_text(
    request: &mut RequestParts,
    protocol: Protocol,
    wanted: Form,
    max_text: usize,
) -> Result<bool, Unsayable> {
    let mut left = max_text;
    let mut were_bytes = false;
    if !wanted.is_text() {
        return Ok(were_bytes);
    }
    for (index, input) in request.inputs.iter_mut().enumerate() {
        if !matches!(input.form, Form::Raw | Form::Typed) {
            continue;
        }
        let field = format!("inputs[{index}]");
        as_form(input, wanted, &field, (protocol, protocol), left)?;
        left = left.saturating_sub(input.data.len());
        were_bytes = true;
    }
    Ok(were_bytes)
}

/// Makes bytes of an answer's text, so that it goes together with answers of other protocols; what
/// cannot be read stays as it is.
pub(crate) fn in_bytes(response: &mut Response, from: Protocol) {
    if !response.outputs.iter().any(|output| output.form.is_text()) {
        return;
    }
    for output in &mut response.outputs {
        let made = as_form(output, Form::Raw, "", (from, from), usize::MAX);
        if let Err(error) = made {
            debug!(%error, "an answer of text is not what its type says");
        }
    }
}

fn as_form(
    tensor: &mut Tensor,
    wanted: Form,
    field: &str,
    (from, to): (Protocol, Protocol),
    max_text: usize,
) -> Result<(), Unsayable> {
    match (tensor.form, wanted) {
        (Form::Absent, _) if is_oip(to) => return Ok(()),
        (Form::Absent, _) => {
            let why = format_args!("{to} has no shared memory");
            return Err(Unsayable::of(field, why));
        }
        (Form::Raw | Form::Typed, Form::Raw | Form::Typed) => return Ok(()),
        _ => {}
    }
    tensor.data = json::translate(tensor, wanted, strings(from), strings(to), max_text)
        .map_err(|error| Unsayable::of(field, error))?;
    tensor.form = wanted;
    Ok(())
}

/// Only TensorFlow Serving's JSON has a way to write bytes that are no text.
fn strings(protocol: Protocol) -> json::Strings {
    match protocol {
        Protocol::TfservingRest => json::Strings::Either,
        _ => json::Strings::Plain,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use outrigger_filters::inference::{Parameter, Shape};

    use super::*;
    use crate::codec::{oip_rest, tfs_rest};

    fn tensor(form: Form, data: &'static [u8]) -> Tensor {
        Tensor {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: Shape::new([2, 1]),
            parameters: Parameters::default(),
            data: Bytes::from_static(data).into(),
            form,
            unknown: Payload::new(),
        }
    }

    fn asking(change: impl FnOnce(&mut RequestParts)) -> RequestParts {
        let mut parts = RequestParts {
            inputs: vec![tensor(Form::Raw, &[1, 2])],
            ..RequestParts::default()
        };
        change(&mut parts);
        parts
    }

    fn refusal(change: impl FnOnce(&mut RequestParts), from: Protocol, to: Protocol) -> String {
        let refused = request(&mut asking(change), from, to, Form::Raw, 1 << 20);
        refused.map_or_else(|error| error.field, |()| String::new())
    }

    #[test]
    fn what_the_servers_protocol_cannot_say_is_named() {
        use Protocol::{OipGrpc, OipRest, TfservingGrpc, TfservingRest};
        type Change = fn(&mut RequestParts);
        let unknown = || Bytes::from_static(b"?").into();
        assert_eq!(refusal(|_| {}, OipGrpc, TfservingGrpc), "");
        let to_oip: [(Change, &str); 4] = [
            (|parts| parts.head.method = Method::Classify, "method"),
            (|parts| parts.head.label = "stable".into(), "version_label"),
            (
                |parts| parts.head.signature = "other".into(),
                "signature_name",
            ),
            (|parts| parts.inputs[0].name = "".into(), "inputs[0]"),
        ];
        for (change, field) in to_oip {
            assert_eq!(refusal(change, TfservingRest, OipGrpc), field);
            assert_eq!(refusal(change, TfservingGrpc, OipRest), field);
            assert_eq!(refusal(change, TfservingRest, TfservingRest), "");
        }
        let one = |parameters: &mut Parameters| {
            parameters.insert("priority".into(), Parameter::Int64(1));
        };
        let refused = |change: &dyn Fn(&mut RequestParts)| refusal(change, OipRest, TfservingGrpc);
        assert_eq!(
            refused(&|parts| parts.head.version = "v1".into()),
            "model_version"
        );
        assert_eq!(
            refused(&|parts| one(&mut parts.parameters)),
            "parameters.priority"
        );
        assert_eq!(
            refused(&|parts| one(&mut parts.inputs[0].parameters)),
            "inputs[0].parameters.priority"
        );
        assert_eq!(
            refused(&|parts| parts.inputs[0].form = Form::Absent),
            "inputs[0]"
        );
        assert_eq!(refused(&|parts| parts.unknown = unknown()), "request");
        assert_eq!(
            refused(&|parts| parts.inputs[0].unknown = unknown()),
            "inputs[0]"
        );
    }

    #[test]
    fn a_refusal_says_who_has_no_words_for_what() {
        let words = |change: &dyn Fn(&mut RequestParts), to| {
            let refused = request(
                &mut asking(change),
                Protocol::OipRest,
                to,
                Form::Raw,
                1 << 20,
            );
            refused.unwrap_err().to_string()
        };
        let parameter = |parts: &mut RequestParts| {
            let one = Parameter::Int64(1);
            parts.inputs[0].parameters.insert("x".into(), one);
        };
        assert_eq!(
            words(&parameter, Protocol::TfservingGrpc),
            "inputs[0].parameters.x cannot be said: tfserving-grpc has no such parameter"
        );
        let classify = |parts: &mut RequestParts| parts.head.method = Method::Classify;
        assert_eq!(
            words(&classify, Protocol::OipGrpc),
            "method cannot be said: oip-grpc has no classify"
        );
        let nameless = |parts: &mut RequestParts| parts.inputs[0].name = "".into();
        assert_eq!(
            words(&nameless, Protocol::OipGrpc),
            "inputs[0] has no name, and the server does not say it"
        );
    }

    #[test]
    fn a_context_of_examples_goes_from_one_of_its_protocols_to_the_other() {
        let with = |parts: &mut RequestParts| {
            parts.head.method = Method::Regress;
            let context = Parameter::String("AA==".into());
            parts.parameters.insert(tfs_grpc::CONTEXT.into(), context);
        };
        let (from, to) = (Protocol::TfservingRest, Protocol::TfservingGrpc);
        assert_eq!(refusal(with, from, to), "");
    }

    #[test]
    fn a_tensor_takes_the_form_that_the_server_wants() {
        for (wanted, text) in [(Form::Flat, "1,2"), (Form::Rows, "[1],[2]")] {
            let mut parts = asking(|_| {});
            request(
                &mut parts,
                Protocol::OipGrpc,
                Protocol::TfservingRest,
                wanted,
                3 + 4,
            )
            .unwrap();
            assert_eq!(parts.inputs[0].form, wanted);
            assert_eq!(parts.inputs[0].data.to_bytes(), text);
        }
    }

    fn text(name: &str, form: Form, data: &'static [u8]) -> Tensor {
        Tensor {
            name: name.to_owned().into(),
            datatype: Datatype::Bytes,
            ..tensor(form, data)
        }
    }

    #[test]
    fn bytes_are_said_in_the_words_of_the_servers_json() {
        let asked = |form, data, from, to| {
            let mut parts = asking(|parts| parts.inputs[0] = text("x", form, data));
            request(&mut parts, from, to, form, 1 << 20)
                .map(|()| parts.inputs.remove(0).data.to_bytes())
        };
        let (oip, tfs) = (Protocol::OipRest, Protocol::TfservingRest);
        let said = asked(Form::Flat, br#"{"b64":"aGk="}, "b\u0061""#, tfs, oip);
        assert_eq!(said.unwrap(), r#""hi","ba""#);
        let refused = asked(Form::Flat, br#"{"b64":"/w=="},"a""#, tfs, oip).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "inputs[0] cannot be said: element 0 is not UTF-8"
        );
        let said = asked(Form::Rows, br#"["a"],["b"]"#, oip, tfs);
        assert_eq!(said.unwrap(), r#"["a"],["b"]"#);
        let said = asked(
            Form::Raw,
            &[1, 0, 0, 0, 0xff, 0, 0, 0, 0],
            Protocol::OipGrpc,
            tfs,
        );
        assert!(said.is_ok());
    }

    #[test]
    fn bytes_of_an_answer_are_said_in_the_words_of_the_callers_json() {
        let (oip, tfs) = (Protocol::OipRest, Protocol::TfservingRest);
        let answer = |output, from, to| {
            let mut parts = ResponseParts {
                outputs: vec![output],
                ..ResponseParts::default()
            };
            response(&mut parts, &Asked::default(), from, to).map(|()| parts)
        };
        let rows = text("y", Form::Rows, br#"[{"b64":"aGk="}],["a"]"#);
        let said = answer(rows, tfs, oip).unwrap();
        let body = oip_rest::encode_response(&said, &oip_rest::Reply::json()).unwrap();
        let body = String::from_utf8(body.payload.to_bytes().to_vec()).unwrap();
        assert!(body.contains(r#""data":["hi","a"]"#), "{body}");
        // An object of bytes is none to others.
        let flat = text("y", Form::Flat, br#"{"b64":"aGk="},"a""#);
        assert!(answer(flat, oip, Protocol::OipGrpc).is_err());
        let flat = text("y_bytes", Form::Flat, br#""hi","a""#);
        let said = answer(flat, oip, tfs).unwrap();
        let reply = tfs_rest::Reply::default();
        let body = tfs_rest::encode_response(&said, &reply, None).unwrap();
        assert_eq!(
            body.to_bytes(),
            r#"{"predictions":[[{"b64":"aGk="}],[{"b64":"YQ=="}]]}"#
        );
        // Numbers stay the text that they are.
        let numbers = tensor(Form::Rows, b"[1],[02.50]");
        let said = answer(numbers, tfs, oip).unwrap();
        assert_eq!(said.outputs[0].data.to_bytes(), "[1],[02.50]");
    }

    #[test]
    fn examples_cross_as_they_are() {
        let (from, to) = (Protocol::TfservingGrpc, Protocol::TfservingRest);
        for method in [Method::Classify, Method::Regress] {
            let mut parts = asking(|parts| {
                parts.head.method = method;
                parts.inputs[0] = text(tfs_grpc::EXAMPLES, Form::Raw, &[0; 8]);
                parts.inputs[0].shape = Shape::new([2]);
            });
            request(&mut parts, from, to, Form::Rows, 1 << 20).unwrap();
            let body = tfs_rest::encode_request(&parts, None).unwrap();
            assert_eq!(body.to_bytes(), r#"{"examples":[{},{}]}"#);
        }
    }

    #[test]
    fn a_dimension_of_zero_cannot_be_said_in_lists_of_lists() {
        let none = |parts: &mut RequestParts| {
            parts.inputs[0].shape = Shape::new([0, 2]);
            parts.inputs[0].data = Payload::new();
        };
        let (from, to) = (Protocol::OipGrpc, Protocol::TfservingRest);
        assert_eq!(refusal(none, from, to), "inputs[0].shape");
        assert_eq!(refusal(none, from, Protocol::TfservingGrpc), "");
    }

    #[test]
    fn the_outputs_that_were_asked_for_are_there_or_named() {
        let chosen = |names: &[&'static str], asked: &[&'static str]| {
            let outputs = names
                .iter()
                .map(|name| text(name, Form::Rows, br#"["a"],["b"]"#));
            let mut parts = ResponseParts {
                outputs: outputs.collect(),
                ..ResponseParts::default()
            };
            let asked = Asked {
                outputs: asked.iter().map(|name| (*name).into()).collect(),
                ..Asked::default()
            };
            let (from, to) = (Protocol::TfservingRest, Protocol::OipRest);
            response(&mut parts, &asked, from, to)
                .map(|()| parts.outputs.into_iter().map(|output| output.name))
                .map(|names| names.collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        assert_eq!(chosen(&[""], &["y"]), Ok(vec!["y".into()]));
        assert_eq!(chosen(&["x", "y"], &["y"]), Ok(vec!["y".into()]));
        assert_eq!(chosen(&[""], &[]), Ok(vec!["".into()]));
        for (names, asked) in [
            (&["x", "z"][..], &["x", "y"][..]),
            (&[""], &["x", "y"]),
            (&["x"], &["y"]),
        ] {
            let missing = "outputs[y] is not in the server's answer";
            let missing = if names == [""] {
                "outputs[x] is not in the server's answer"
            } else {
                missing
            };
            assert_eq!(chosen(names, asked), Err(missing.to_owned()));
        }
    }

    #[test]
    fn the_text_of_contents_is_no_longer_than_a_message_may_be() {
        for (datatype, form, elements) in [
            (Datatype::Int8, Form::Rows, 1 << 20),
            (Datatype::Fp32, Form::Flat, 1 << 18),
            (Datatype::Bytes, Form::Flat, 1 << 18),
        ] {
            let mut parts = asking(|parts| {
                parts.inputs[0].datatype = datatype;
                parts.inputs[0].shape = Shape::new([elements / 2, 2]);
                parts.inputs[0].data = Bytes::from(vec![0; 1 << 20]).into();
            });
            let (from, to) = (Protocol::TfservingGrpc, Protocol::TfservingRest);
            let refused = request(&mut parts.clone(), from, to, form, 1 << 19).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "inputs[0] cannot be said: its text would be longer than limits.max_message allows"
            );
            request(&mut parts, from, to, form, 1 << 22).unwrap();
            let len = parts.inputs[0].data.len();
            // Two inputs share what there is.
            let mut parts = asking(|parts| {
                parts.inputs = vec![tensor(Form::Raw, &[1, 2]), tensor(Form::Raw, &[1, 2])];
            });
            assert!(request(&mut parts.clone(), from, to, Form::Flat, 6).is_ok());
            let refused = request(&mut parts, from, to, Form::Flat, 5).unwrap_err();
            assert_eq!((refused.field.as_str(), len > 1 << 19), ("inputs[1]", true));
        }
    }

    #[test]
    fn an_answer_crosses_without_what_only_its_own_protocol_can_write() {
        let mut output = tensor(Form::Rows, b"[7],[8]");
        output.unknown = Bytes::from_static(b"?").into();
        let mut other = tensor(Form::Rows, b"[0],[0]");
        other.name = "y".into();
        let mut parts = ResponseParts {
            outputs: vec![output, other],
            unknown: Bytes::from_static(br#","k":1"#).into(),
            ..ResponseParts::default()
        };
        let asked = Asked {
            model: "m".into(),
            id: "17".into(),
            outputs: vec!["x".into()],
        };
        let (from, to) = (Protocol::TfservingRest, Protocol::OipGrpc);
        response(&mut parts, &asked, from, to).unwrap();
        assert_eq!((&*parts.model, &*parts.id), ("m", "17"));
        assert!(parts.unknown.is_empty());
        let [output] = &parts.outputs[..] else {
            panic!("one was asked for");
        };
        assert!(output.unknown.is_empty());
        assert_eq!(
            (output.form, output.data.to_bytes().to_vec()),
            (Form::Raw, vec![7, 8])
        );
    }
}
