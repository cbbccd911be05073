//! Bytes from the network never panic, and what is not understood passes through.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use outrigger_native::{
    Synthetic,
    inference::{ModelInferRequest, infer_parameter::ParameterChoice},
};
use outrigger_tests::{
    gateway::Gateway,
    model::{INFER, output, parameter, rows, serve},
    origin::{Origin, mirror},
    patience::within,
    wire::{Reply, Wire, flagged, framed, grpc},
};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    gather::Inference,
    merging::{batched, before},
};

/// Begins of real conversations, to be cut and spoiled.
fn conversations() -> Vec<Vec<u8>> {
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS, empty.
    http2.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // HEADERS of stream 1: `:method: POST`, `:scheme: http`, `:path: /`, with END_HEADERS.
    http2.extend_from_slice(&[0, 0, 3, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84]);
    // DATA, RST_STREAM, PING, WINDOW_UPDATE, GOAWAY, CONTINUATION.
    http2.extend_from_slice(&[0, 0, 5, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9]);
    http2.extend_from_slice(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8]);
    http2.extend_from_slice(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    http2.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    http2.extend_from_slice(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    http2.extend_from_slice(&[0, 0, 3, 9, 4, 0, 0, 0, 3, 0x83, 0x86, 0x84]);
    vec![
        http2,
        b"POST /v2 HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n\r\n12345".to_vec(),
        b"POST /v2 HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: m\r\nconnection: upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\r\n".to_vec(),
        Vec::new(),
    ]
}

#[tokio::test]
async fn no_bytes_bring_a_listener_down() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(
        &[origin.address()],
        "protocol: oip-grpc",
        "models: { m: { batch: { max_batch_size: 4 } } }",
    );
    let mut random = StdRng::seed_from_u64(3);
    let mut talks = tokio::task::JoinSet::new();
    for round in 0..300 {
        let mut conversations = conversations();
        let mut bytes = conversations.swap_remove(round % conversations.len());
        match round / 5 % 3 {
            0 => bytes.truncate(random.random_range(0..=bytes.len())),
            1 => {
                for _ in 0..random.random_range(1..4) {
                    if !bytes.is_empty() {
                        let at = random.random_range(0..bytes.len());
                        bytes[at] = random.random();
                    }
                }
            }
            _ => {
                let at = random.random_range(0..=bytes.len());
                let noise: Vec<u8> = (0..random.random_range(1..200))
                    .map(|_| random.random())
                    .collect();
                bytes.splice(at..at, noise);
            }
        }
        let address = if round % 10 == 9 {
            gateway.admin()
        } else {
            gateway.address()
        };
        talks.spawn(async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        while talks.len() > 32 {
            within("a talk ends", talks.join_next())
                .await
                .unwrap()
                .unwrap();
        }
    }
    while let Some(talk) = within("a talk ends", talks.join_next()).await {
        talk.unwrap();
    }
    // Every worker still serves.
    for _ in 0..8 {
        let wire = Wire::connect(gateway.address()).await;
        let reply = within("an answer", wire.call("/p.S/Unary", b"still here"))
            .await
            .unwrap();
        assert_eq!(reply.body, framed(b"still here"));
    }
}

fn request() -> ModelInferRequest {
    let mut request = ModelInferRequest {
        id: "an id".to_owned(),
        outputs: vec![output("output0")],
        ..rows("m", &[1., 2., 3.])
    };
    let choice = ParameterChoice::StringParam("value".to_owned());
    request
        .parameters
        .insert("custom".to_owned(), parameter(choice));
    request
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(message).unwrap();
    gzip.finish().unwrap()
}

/// Bodies for `ModelInfer` that no codec should take, though they name a model of the
/// configuration.
fn garbage() -> Vec<(&'static str, Inference)> {
    let message = request().encode_to_vec();
    let named = |rest: &[u8]| {
        let mut message = BytesMut::new();
        // Field 1, `m`.
        message.put_slice(&[0x0a, 1, b'm']);
        message.put_slice(rest);
        framed(&message)
    };
    let mut two = framed(&message).to_vec();
    two.extend_from_slice(&framed(&message));
    let mut trailing = framed(&message).to_vec();
    trailing.extend_from_slice(&[0, 0, 0]);
    let half = framed(&message).slice(..message.len() / 2);
    vec![
        (
            "a field that is cut off",
            Inference::raw(named(&[0x2a, 100, 1, 2])),
        ),
        (
            "a length beyond all",
            Inference::raw(named(&[
                0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
            ])),
        ),
        ("a wire type that is none", Inference::raw(named(&[0x2f]))),
        (
            "a varint without end",
            Inference::raw(named(&[
                0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ])),
        ),
        (
            "an id that is no text",
            Inference::raw(named(&[0x1a, 2, 0xff, 0xfe])),
        ),
        ("field number 0", Inference::raw(named(&[0x02, 0]))),
        (
            "an input that is no message",
            Inference::raw(named(&[0x2a, 3, 0xff, 0xff, 0xff])),
        ),
        ("a flag that is none", Inference::raw(flagged(2, &message))),
        (
            "compression that was not announced",
            Inference::raw(flagged(1, &message)),
        ),
        (
            "compression that is none",
            Inference::raw(flagged(1, &message)).header("grpc-encoding", "gzip"),
        ),
        (
            "garbage behind compression",
            Inference::raw(flagged(1, &gzip(&named(&[0x2a, 100, 1, 2])[5..])))
                .header("grpc-encoding", "gzip"),
        ),
        (
            "two messages, the first compressed",
            Inference::raw(
                [flagged(1, &gzip(&message)), framed(&message)]
                    .concat()
                    .into(),
            )
            .header("grpc-encoding", "gzip"),
        ),
        (
            "an unknown compression",
            Inference::raw(flagged(1, &message)).header("grpc-encoding", "zstd"),
        ),
        ("two messages", Inference::raw(two.into())),
        ("bytes after the message", Inference::raw(trailing.into())),
        ("half a message", Inference::raw(half)),
        (
            "half a prefix",
            Inference::raw(Bytes::from_static(&[0, 0, 0])),
        ),
        ("nothing", Inference::raw(Bytes::new())),
        ("an empty message", Inference::raw(framed(b""))),
        (
            "a length that lies",
            Inference::raw(Bytes::from_static(&[
                0, 0xff, 0xff, 0xff, 0xff, 0x0a, 1, b'x',
            ])),
        ),
    ]
}

#[tokio::test]
async fn what_is_not_understood_reaches_the_server_as_it_came() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(
        &[origin.address()],
        "protocol: oip-grpc",
        "models: { m: { batch: { max_batch_size: 4 } } }",
    );
    let direct = Wire::connect(origin.address()).await;
    let through = Wire::connect(gateway.address()).await;
    for (what, request) in garbage() {
        let direct = within(what, request.send(&direct)).await.unwrap();
        let through = within(what, request.send(&through)).await.unwrap();
        assert_eq!(through, direct, "{what}");
        assert_eq!(through.body, request.body, "{what}");
    }
    let metrics = gateway.state().metrics().text();
    // Whoever is asked for by name counts as asked, also where the proxy does not read the rest.
    assert!(
        metrics.contains("model=\"m\",protocol=\"oip-grpc\",code"),
        "{metrics}"
    );
}

/// What a caller learns of an answer: how it ended, and its contents.
fn meaning(
    reply: &Reply,
) -> (
    Option<String>,
    String,
    Option<impl PartialEq + std::fmt::Debug + use<>>,
) {
    let response = reply
        .body
        .get(5..)
        .and_then(|message| outrigger_native::inference::ModelInferResponse::decode(message).ok());
    (
        reply.grpc_status().map(str::to_owned),
        reply.grpc_message(),
        response,
    )
}

#[tokio::test]
async fn spoiled_requests_get_the_answer_that_the_server_itself_gives() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let direct = Wire::connect(served.server.address()).await;
    let through = Wire::connect(gateway.address()).await;
    let mut random = StdRng::seed_from_u64(11);
    let whole = request().encode_to_vec();
    let mut answered = 0;
    for round in 0..400 {
        let mut message = whole.clone();
        match round % 4 {
            0 => message.truncate(random.random_range(0..message.len())),
            1 => {
                let at = random.random_range(0..message.len());
                message[at] ^= 1 << random.random_range(0..8);
            }
            2 => {
                let at = random.random_range(0..message.len());
                message[at] = random.random();
                let at = random.random_range(0..message.len());
                message.remove(at);
            }
            _ => {
                let at = random.random_range(0..=message.len());
                let to = random.random_range(at..=message.len());
                let part = message[at..to].to_vec();
                message.splice(at..at, part);
            }
        }
        let request = Inference::raw(framed(&message));
        let direct = within("an answer", request.send(&direct)).await.unwrap();
        let through = within("an answer", request.send(&through)).await.unwrap();
        assert_eq!(
            meaning(&through),
            meaning(&direct),
            "round {round}: {message:?}"
        );
        answered += usize::from(direct.grpc_status() == Some("0"));
    }
    assert!(answered > 20, "some were still good: {answered}");
}

#[tokio::test]
async fn a_server_that_answers_garbage_is_told_of_as_such() {
    // A message that is one for its frame is passed on: the client may understand it.
    for (body, is_message) in [
        (framed(&[0x2a, 100, 1]), true),
        (framed(&[0xff; 20]), true),
        (flagged(1, b"not compressed"), false),
        (flagged(9, b"x"), false),
        (Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]), false),
        (Bytes::new(), false),
    ] {
        let answer = body.clone();
        let origin = Origin::http2(move |(_request, mut respond)| {
            let answer = answer.clone();
            async move {
                let head = http::Response::builder().header("content-type", "application/grpc");
                let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else {
                    return;
                };
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let _ = stream.send_data(answer, false);
                let _ = stream.send_trailers(trailers);
            }
        })
        .await;
        let gateway = Gateway::before(
            &[origin.address()],
            "protocol: oip-grpc",
            "models: { m: { batch: { max_batch_size: 4 } } }",
        );
        let wire = Wire::connect(gateway.address()).await;
        let reply = within("an answer", wire.call(INFER, &request().encode_to_vec())).await;
        let reply = reply.unwrap();
        // A message that is not understood is the client's to read; without one there is none.
        if is_message {
            assert_eq!((reply.grpc_status(), &reply.body), (Some("0"), &body));
        } else {
            let status = reply.grpc_status().unwrap();
            assert!(["13", "8"].contains(&status), "{body:?}: {reply:?}");
            assert!(!reply.grpc_message().is_empty(), "{body:?}");
        }
        let other = within("an answer", wire.exchange(grpc("/p.S/Other"), &[], None)).await;
        assert_eq!(
            other.unwrap().body,
            body,
            "what passes through is nobody's business"
        );
    }
}
