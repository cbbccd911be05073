//! What is fuzzed: one function per target. Each takes any bytes, and panics where a promise of
//! the codecs is broken. `proxy/tests/corpus.rs` runs the same functions over the corpus.

use bytes::Bytes;
use outrigger::codec::{
    grpc::{Encoding, FrameReader, message, timeout},
    oip_grpc::{
        Peek, decode_request, decode_response, encode_request, encode_response, model_name,
    },
};
use outrigger_filters::inference::{Datatype, Form, Payload, RequestParts, ResponseParts, Tensor};

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("oip_request", oip_request),
    ("oip_response", oip_response),
    ("grpc_frame", grpc_frame),
    ("json", json),
    ("oip_rest_request", oip_rest_request),
    ("oip_rest_response", oip_rest_response),
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

fn rest_body(input: &[u8]) -> Option<(Bytes, Option<usize>)> {
    let (&tail, body) = input.split_first()?;
    let json_len = usize::from(tail)
        .checked_sub(1)
        .map(|tail| body.len().saturating_sub(tail));
    Some((Bytes::copy_from_slice(body), json_len))
}
