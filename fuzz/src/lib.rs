//! What is fuzzed: one function per target. Each takes any bytes, and panics where a promise of
//! the codecs is broken. `proxy/tests/corpus.rs` runs the same functions over the corpus.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use outrigger::codec::{
    feedback::{Outcome, Subject, Told, decode_json, decode_message},
    grpc::{Encoding, FrameReader, message, timeout},
    oip_grpc::{
        Peek, decode_request, decode_response, encode_request, encode_response, model_name,
    },
    tfs_grpc::{
        self,
        control::{ModelMetadata, Question, VersionStatus},
    },
    tfs_rest,
};
use outrigger_filters::{
    inference::{
        Datatype, Form, Method, Payload, RequestParts, ResponseParts, Signature, Tensor, TensorSpec,
    },
    select::{Keys, Refused, Token},
};

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 14] = [
    ("oip_request", oip_request),
    ("oip_response", oip_response),
    ("grpc_frame", grpc_frame),
    ("tfs_request", tfs_request),
    ("tfs_response", tfs_response),
    ("tfs_control", tfs_control),
    ("tfs_rest_request", tfs_rest_request),
    ("tfs_rest_response", tfs_rest_response),
    ("tfs_rest_control", tfs_rest_control),
    ("json", json),
    ("oip_rest_request", oip_rest_request),
    ("oip_rest_response", oip_rest_response),
    ("prediction_id", prediction_id),
    ("feedback", feedback),
];

/// A request that is read is, when written anew and read again, the same request.
pub fn oip_request(input: &[u8]) {
    let peek = model_name(input, input.len());
    let Ok(first) = decode_request(&Bytes::copy_from_slice(input)) else {
        return;
    };
    match peek {
        Peek::Found(name) => assert!(input.get(name).is_some()),
        Peek::Absent => assert!(first.head.model.is_empty()),
        Peek::Incomplete | Peek::Malformed => panic!("a name was read that cannot be found"),
    }
    let payload: usize = first.inputs.iter().map(|tensor| tensor.data.len()).sum();
    assert!(payload <= 8 * input.len());

    let written = write_request(&first);
    let second = decode_request(&written).expect("what is written is read");
    assert_eq!(write_request(&second), written);
    assert_eq!(contents(&second.inputs), contents(&first.inputs));
    assert_eq!(second.outputs.len(), first.outputs.len());
    assert_eq!(second.parameters.len(), first.parameters.len());
    assert_eq!(second.unknown, first.unknown);
    assert_eq!(second.head.model, first.head.model);
}

/// A response that is read is, when written anew in either form and read again, the same response.
pub fn oip_response(input: &[u8]) {
    let Ok(first) = decode_response(&Bytes::copy_from_slice(input)) else {
        return;
    };
    for wanted in [Form::Raw, Form::Typed] {
        let written = write_response(&first, wanted);
        let second = decode_response(&written).expect("what is written is read");
        assert_eq!(write_response(&second, wanted), written);
        assert_eq!(contents(&second.outputs), contents(&first.outputs));
        assert_eq!(second.unknown, first.unknown);
        assert_eq!(second.model, first.model);
    }
}

/// Messages are found in the same way however the bytes are cut into chunks. The first byte says
/// how they are cut; the rest comes from the network, and serves as header values too.
pub fn grpc_frame(input: &[u8]) {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let mut whole = FrameReader::new(MAX_MESSAGE);
    whole.push(Bytes::copy_from_slice(stream));
    let mut parts = FrameReader::new(MAX_MESSAGE);
    for chunk in stream.chunks(usize::from(cut).max(1)) {
        parts.push(Bytes::copy_from_slice(chunk));
    }
    loop {
        let front = whole
            .front()
            .map(|front| front.map(|front| (front.compressed, front.len)));
        assert_eq!(
            parts
                .front()
                .map(|front| front.map(|front| (front.compressed, front.len))),
            front
        );
        let frame = whole.next_frame();
        assert_eq!(parts.next_frame(), frame);
        match frame {
            Ok(Some(frame)) => {
                assert!(frame.message.len() <= MAX_MESSAGE);
                for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
                    if let Ok(message) = frame.clone().into_message(encoding, MAX_MESSAGE) {
                        assert!(message.len() <= MAX_MESSAGE);
                    }
                }
            }
            Ok(None) | Err(_) => break,
        }
    }
    assert_eq!(whole.is_empty(), parts.is_empty());
    let left: Vec<u8> = parts.into_chunks().flatten().collect();
    assert!(stream.ends_with(&left), "what is not taken is given back");

    let text = message::decode(stream);
    assert_eq!(message::decode(message::encode(&text).as_bytes()), text);
    if let Some(read) = timeout::parse(stream) {
        assert!(timeout::parse(timeout::format(read).as_bytes()).is_some());
    }
}

/// A request of TensorFlow Serving that is read is, when written anew and read again, the same
/// request. The first byte says which method it is for.
pub fn tfs_request(input: &[u8]) {
    let Some((&choice, message)) = input.split_first() else {
        return;
    };
    let method = method(choice);
    let peek = tfs_grpc::model_name(message, message.len());
    let Ok(first) = tfs_grpc::decode_request(method, &Bytes::copy_from_slice(message), MAX_MADE)
    else {
        return;
    };
    match peek {
        Peek::Found(name) => assert!(message.get(name).is_some()),
        Peek::Absent => assert!(first.head.model.is_empty()),
        Peek::Incomplete | Peek::Malformed => panic!("a name was read that cannot be found"),
    }
    if len(&first.inputs) > MAX_EXPANSION {
        return;
    }
    let write = |request| {
        unframed(&tfs_grpc::encode_request(request).expect("what is read can be written"))
    };
    let written = write(&first);
    let second =
        tfs_grpc::decode_request(method, &written, MAX_MADE).expect("what is written is read");
    assert_eq!(write(&second), written);
    assert_eq!(contents(&second.inputs), contents(&first.inputs));
    assert_eq!(second.outputs, first.outputs);
    assert_eq!(second.parameters, first.parameters);
    assert_eq!(second.unknown, first.unknown);
    assert_eq!(second.head.model, first.head.model);
    assert_eq!(second.head.version, first.head.version);
    assert_eq!(second.head.label, first.head.label);
    assert_eq!(second.head.signature, first.head.signature);
}

/// An answer of TensorFlow Serving is the same when it is written in either form and read again.
/// The first byte says which method it answers.
pub fn tfs_response(input: &[u8]) {
    let Some((&choice, message)) = input.split_first() else {
        return;
    };
    let method = method(choice);
    let Ok(first) = tfs_grpc::decode_response(method, &Bytes::copy_from_slice(message), MAX_MADE)
    else {
        return;
    };
    if len(&first.outputs) > MAX_EXPANSION {
        return;
    }
    for wanted in [Form::Raw, Form::Typed] {
        let write = |response| {
            let written = tfs_grpc::encode_response(method, response, "", wanted);
            unframed(&written.expect("what is read can be written"))
        };
        let written = write(&first);
        let second =
            tfs_grpc::decode_response(method, &written, MAX_MADE).expect("what is written is read");
        assert_eq!(write(&second), written);
        let but_bools = |tensors: &[Tensor]| {
            // A byte that is neither 0 nor 1 is a truth value all the same.
            let mut contents = contents(tensors);
            contents.retain(|(_, datatype, ..)| *datatype != "BOOL");
            contents
        };
        assert_eq!(but_bools(&second.outputs), but_bools(&first.outputs));
        assert_eq!(second.unknown, first.unknown);
        assert_eq!(second.model, first.model);
        assert_eq!(second.version, first.version);
    }
}

/// Questions about models and their answers are the same when they are written and read again.
pub fn tfs_control(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    if let Ok(metadata) = ModelMetadata::read(&input) {
        let again = ModelMetadata::read(&metadata.write());
        assert_eq!(again.as_ref(), Ok(&metadata));
        let rest = tfs_rest::control::write_metadata(&metadata);
        let rest = tfs_rest::control::read_metadata(&rest).expect("what is written is read");
        assert!(rest.signatures.len() <= metadata.signatures.len());
    }
    if let Ok(all) = VersionStatus::read_all(&input) {
        let again = VersionStatus::read_all(&VersionStatus::write_all(&all));
        assert_eq!(again.as_ref(), Ok(&all));
        let rest = tfs_rest::control::write_status(&all);
        assert_eq!(tfs_rest::control::read_status(&rest), Ok(all));
    }
    if let Ok(question) = Question::read(&input) {
        assert_eq!(Question::read(&question.write()), Ok(question));
    }
}

/// A body that is read is, when written anew and read again, the same request, and so it is when it
/// stayed text in between. The first byte says the method, and whether the signature is known.
pub fn tfs_rest_request(input: &[u8]) {
    let Some((&choice, body)) = input.split_first() else {
        return;
    };
    let (method, known) = (method(choice), signature(choice));
    let known = known.as_ref();
    let read = |body: &Bytes, wanted| {
        tfs_rest::decode_request(method, body, |_| known, wanted).map(|(request, _)| request)
    };
    let write = |request: &RequestParts| {
        let written = tfs_rest::encode_request(request, known);
        written.expect("what is read can be written").to_bytes()
    };
    let body = Bytes::copy_from_slice(body);
    let first = read(&body, Form::Raw);
    for wanted in [Form::Rows, Form::Flat] {
        let text = read(&body, wanted);
        let Ok(first) = &first else { continue };
        let again = write(&text.expect("what is parsed can be scanned"));
        let again = read(&again, Form::Raw).expect("what is written is read");
        assert_eq!(write(&again), write(first));
    }
    let Ok(first) = first else { return };
    assert!(len(&first.inputs) <= 8 * body.len() + 64);
    let written = write(&first);
    let second = read(&written, Form::Raw).expect("what is written is read");
    assert_eq!(write(&second), written);
    assert_eq!(second.head.signature, first.head.signature);
    assert_eq!(second.parameters, first.parameters);
}

/// An answer is the same when it is written in either layout and read again. The first byte says
/// the method that it answers, and whether the signature is known.
pub fn tfs_rest_response(input: &[u8]) {
    let Some((&choice, body)) = input.split_first() else {
        return;
    };
    let (method, known) = (method(choice), signature(choice));
    let known = known.as_ref();
    let body = Bytes::copy_from_slice(body);
    let Ok(first) = tfs_rest::decode_response(method, &body, known) else {
        return;
    };
    for layout in [tfs_rest::Layout::Rows, tfs_rest::Layout::Columns] {
        let reply = tfs_rest::Reply { method, layout };
        // Columns need not have rows in common.
        let Ok(written) = tfs_rest::encode_response(&first, &reply, known) else {
            continue;
        };
        let written = written.to_bytes();
        let Ok(second) = tfs_rest::decode_response(method, &written, known) else {
            // No rows at all say nothing of themselves.
            let shapes = first.outputs.iter().map(|output| output.shape.elements());
            assert!(shapes.into_iter().any(|elements| elements == Some(0)));
            continue;
        };
        let again = tfs_rest::encode_response(&second, &reply, known);
        let again = again.expect("it was written before").to_bytes();
        // White space around the elements of text goes with the brackets that move.
        let but_space = |body: &Bytes| -> Vec<u8> {
            let bytes = body.iter().copied();
            bytes.filter(|byte| !byte.is_ascii_whitespace()).collect()
        };
        assert_eq!(but_space(&again), but_space(&written));
        assert_eq!(second.unknown, first.unknown);
    }
}

/// What is said of models is the same when it is written and read again.
pub fn tfs_rest_control(input: &[u8]) {
    let _ = tfs_rest::control::ready(input);
    if let Ok(metadata) = tfs_rest::control::read_metadata(input) {
        let written = tfs_rest::control::write_metadata(&metadata);
        assert_eq!(tfs_rest::control::read_metadata(&written), Ok(metadata));
    }
    if let Ok(all) = tfs_rest::control::read_status(input) {
        let written = tfs_rest::control::write_status(&all);
        assert_eq!(tfs_rest::control::read_status(&written), Ok(all));
    }
}

fn method(choice: u8) -> Method {
    match choice % 3 {
        0 => Method::Infer,
        1 => Method::Classify,
        _ => Method::Regress,
    }
}

fn signature(choice: u8) -> Option<Signature> {
    let spec = |name: &'static str, datatype| TensorSpec {
        name: name.into(),
        datatype,
        shape: None,
    };
    let specs = match choice / 3 % 4 {
        0 => return None,
        1 => vec![spec("x", Datatype::Fp32)],
        2 => vec![spec("x", Datatype::Bytes)],
        _ => vec![spec("x", Datatype::Fp16), spec("y", Datatype::Int32)],
    };
    Some(Signature {
        inputs: specs.clone(),
        outputs: specs,
    })
}

fn len(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.data.len()).sum()
}

fn write_request(request: &RequestParts) -> Bytes {
    unframed(&encode_request(request).expect("what is read can be written"))
}

fn write_response(response: &ResponseParts, wanted: Form) -> Bytes {
    unframed(&encode_response(response, wanted).expect("what is read can be written"))
}

fn unframed(payload: &Payload) -> Bytes {
    payload.to_bytes().slice(5..)
}

/// What a tensor is, but for its form, and its parameters, which may be no numbers.
type Contents = Vec<(String, &'static str, Vec<i64>, Bytes, Bytes)>;

fn contents(tensors: &[Tensor]) -> Contents {
    tensors
        .iter()
        .map(|tensor| {
            (
                tensor.name.to_string(),
                tensor.datatype.name(),
                tensor.shape.dimensions().to_vec(),
                tensor.data.to_bytes(),
                tensor.unknown.to_bytes(),
            )
        })
        .collect()
}

/// Small, so that the bound is met.
const MAX_MESSAGE: usize = 256;

/// What may be made of a message of TensorFlow Serving.
const MAX_MADE: usize = 64 << 20;

/// Short lists become long tensors, which would only cost time here.
const MAX_EXPANSION: usize = 1 << 20;
/// A tensor's text has one meaning, whichever way it is read: scanned, parsed, or number by number.
pub fn json(input: &[u8]) {
    use outrigger::codec::json::{Kind, Leaf, Reader, Strings, parse, scan, write_flat};

    let message = Bytes::copy_from_slice(input);
    let value = Reader::new(&message).value();
    let scanned = scan(input);
    if scanned.is_ok() {
        assert!(value.is_ok(), "what is a tensor is a value");
    }
    for datatype in Datatype::ALL {
        let Ok(parsed) = parse(input, datatype, Strings::Either) else {
            continue;
        };
        let (found, len) = scanned.as_ref().expect("what is parsed is scanned");
        assert_eq!((&parsed.shape, parsed.len), (&found.shape, *len));
        assert!(found.leaf.suits(datatype, Strings::Either));
        assert!(parsed.data.len() <= 8 * input.len());

        let write = |data: &[u8]| {
            let mut text = vec![b'['];
            write_flat(datatype, data, Strings::Either, &mut text).expect("it was read");
            text.push(b']');
            text
        };
        let text = write(&parsed.data);
        let again = parse(&text, datatype, Strings::Either).expect("what is written is read");
        assert_eq!(write(&again.data), text);
        assert_eq!(again.elements, parsed.elements);
    }
    // One number at a time, as the standard library reads it.
    let mut reader = Reader::new(&message);
    if reader.array().is_err() {
        return;
    }
    let (mut numbers, mut whole) = (Vec::new(), true);
    let complete = loop {
        match reader.element() {
            Ok(true) => {}
            end => break end.is_ok(),
        }
        if reader.peek() != Ok(Kind::Number) {
            return;
        }
        let Ok(text) = reader.number() else {
            break false;
        };
        if text.contains('N') || text.contains('I') {
            return;
        }
        whole &= !text.contains(['.', 'e', 'E']);
        numbers.push(text.parse::<f64>().expect("it is a number"));
    };
    assert_eq!(scanned.is_ok(), complete);
    if let Ok((found, _)) = scanned
        && !numbers.is_empty()
    {
        assert_eq!(found.leaf == Leaf::Integer, whole);
        let parsed = parse(input, Datatype::Fp64, Strings::Plain);
        assert_eq!(
            parsed.is_ok(),
            numbers.iter().all(|number| number.is_finite())
        );
        if let Ok(parsed) = parsed {
            let wanted: Vec<u8> = numbers.into_iter().flat_map(f64::to_le_bytes).collect();
            assert_eq!(parsed.data, wanted);
        }
    }
}

/// A request that is read is, when written anew and read again, the same request. The first byte
/// says how many bytes at the end are no JSON; 0 says that all are.
pub fn oip_rest_request(input: &[u8]) {
    use outrigger::codec::oip_rest::{decode_request, encode_request};

    let Some((body, json_len)) = rest_body(input) else {
        return;
    };
    for wanted in [Form::Raw, Form::Flat, Form::Rows] {
        let Ok((first, reply)) = decode_request(&body, json_len, wanted) else {
            continue;
        };
        let payload: usize = first.inputs.iter().map(|tensor| tensor.data.len()).sum();
        assert!(payload <= 64 * (input.len() + 64));
        let written = encode_request(&first);
        let (second, _) = decode_request(&written.payload.to_bytes(), written.json_len, wanted)
            .expect("what is written is read");
        assert_eq!(encode_request(&second), written);
        assert_eq!(contents(&second.inputs), contents(&first.inputs));
        assert_eq!(second.outputs.len(), first.outputs.len());
        assert_eq!(second.parameters.len(), first.parameters.len());
        assert_eq!(second.unknown, first.unknown);
        assert_eq!(second.head.id, first.head.id);
        for output in &first.outputs {
            reply.is_binary(&output.name);
        }
    }
}

/// An answer that is read is, when written for callers of either kind and read again, the same.
pub fn oip_rest_response(input: &[u8]) {
    use outrigger::codec::oip_rest::{Reply, decode_request, decode_response, encode_response};

    let Some((body, json_len)) = rest_body(input) else {
        return;
    };
    let Ok(first) = decode_response(&body, json_len) else {
        return;
    };
    let binary = br#"{"parameters":{"binary_data_output":true},"inputs":[]}"#;
    let (_, binary) =
        decode_request(&Bytes::from_static(binary), None, Form::Raw).expect("it is well formed");
    for reply in [Reply::json(), binary] {
        let Ok(written) = encode_response(&first, &reply) else {
            continue;
        };
        let second = decode_response(&written.payload.to_bytes(), written.json_len)
            .expect("what is written is read");
        let again = encode_response(&second, &reply).expect("what was written is written");
        assert_eq!(again, written);
        assert_eq!(second.outputs.len(), first.outputs.len());
        assert_eq!(second.unknown, first.unknown);
        assert_eq!(second.model, first.model);
    }
}

/// What is read of a prediction id is, when written anew and read again, the same; a text that
/// nobody signed is no id.
pub fn prediction_id(input: &[u8]) {
    let keys = Keys::new(b"a key that is long enough", None).expect("it is long enough");
    if let Ok(text) = std::str::from_utf8(input) {
        let opened = Token::open(text, &keys, UNIX_EPOCH, Duration::MAX);
        assert!(matches!(opened, Err(Refused::Malformed | Refused::Foreign)));
    }
    let Some(first) = Token::decode(input) else {
        return;
    };
    assert_eq!(Token::decode(&first.encode()).as_ref(), Some(&first));
    let opened = Token::open(&first.seal(&keys), &keys, UNIX_EPOCH, Duration::MAX);
    // Arms without end are no id.
    assert!(opened == Ok(first) || input.len() > 2048);
}

/// What is read of a report, as JSON or as a message, is something that can be learned from.
pub fn feedback(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    let reports = [
        decode_json(&input, |_| Form::Raw),
        decode_json(&input, |_| Form::Rows),
        decode_message(&input),
    ];
    for item in reports.into_iter().flatten().flat_map(|report| {
        assert!(!report.items.is_empty());
        report.items
    }) {
        assert!(item.row.is_none() || !item.outcome.is_rows());
        match &item.outcome {
            Outcome::Loss(Told::Whole(loss)) => assert!((0. ..=1.).contains(loss)),
            Outcome::Loss(Told::Rows(rows)) => {
                let mut losses = rows.iter().flatten().peekable();
                assert!(losses.peek().is_some());
                assert!(losses.all(|loss| (0. ..=1.).contains(loss)));
            }
            Outcome::Label(Told::Whole(_)) => {}
            Outcome::Label(Told::Rows(rows)) => assert!(rows.iter().any(Option::is_some)),
        }
        if let Subject::Inputs { request, .. } = &item.subject {
            assert!(matches!(item.outcome, Outcome::Label(_)));
            assert!(!request.inputs.is_empty());
        }
    }
}

fn rest_body(input: &[u8]) -> Option<(Bytes, Option<usize>)> {
    let (&tail, body) = input.split_first()?;
    let json_len = usize::from(tail)
        .checked_sub(1)
        .map(|tail| body.len().saturating_sub(tail));
    Some((Bytes::copy_from_slice(body), json_len))
}
