//! What becomes of a call when one side stops, gives up or goes away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use outrigger_native::Synthetic;
use outrigger_tests::{
    gateway::Gateway,
    http1::Http1,
    memory::Memory,
    metrics::Metrics,
    model::{INFER, rows, serve},
    origin::{Exchange, Origin, mirror, mirror_http1, serve_http2},
    patience::{until, within},
    wire::{self, Wire, drink, framed, grpc},
};
use tokio::{net::TcpListener, sync::mpsc};

use crate::gather::Inference;

const GRPC: &str = "protocol: oip-grpc";

fn upload() -> Request<()> {
    grpc("/p.S/Upload")
}

/// Answers at once, and reads nothing.
async fn answer_early((request, mut respond): Exchange) {
    let path = request.uri().path().to_owned();
    let mut head = Response::builder().header("content-type", "application/grpc");
    if path == "/p.S/Alone" {
        head = head
            .header("grpc-status", "5")
            .header("x-detail-bin", "AAEC");
        let _ = respond.send_response(head.body(()).unwrap(), true);
        return;
    }
    let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else {
        return;
    };
    let _ = stream.send_data(framed(b"enough"), false);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "8".parse().unwrap());
    trailers.insert("grpc-message", "too%20much".parse().unwrap());
    let _ = stream.send_trailers(trailers);
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let origin = Origin::http2(answer_early).await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let large = vec![Bytes::from(vec![7; 64 << 10]); 128];
    for path in ["/p.S/Alone", "/p.S/Early"] {
        let mut replies = Vec::new();
        for address in [origin.address(), gateway.address()] {
            let wire = Wire::connect(address).await;
            let reply = within(path, wire.exchange(grpc(path), &large, None)).await;
            replies.push(reply.unwrap());
        }
        assert_eq!(replies[0], replies[1], "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_stops_the_writer() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let memory = Memory::start(&["a:1"], "", move |_, pipe| {
        let counted = counted.clone();
        serve_http2(pipe, move |(request, mut respond): Exchange| {
            let counted = counted.clone();
            async move {
                if request.uri().path() == "/p.S/Upload" {
                    // Neither read nor answered, until the client leaves.
                    let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    return;
                }
                let head = Response::new(());
                let mut stream = respond.send_response(head, false).unwrap();
                let piece = Bytes::from(vec![1; 16 << 10]);
                while wire::send(&mut stream, piece.clone(), false).await.is_ok() {
                    counted.fetch_add(piece.len(), Ordering::SeqCst);
                }
            }
        })
    });

    // The client takes the head of the answer and no more.
    let wire = memory.wire().await;
    let (answer, _stream) = wire.open(grpc("/p.S/Download"), true).await.unwrap();
    let mut answer = answer.await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stopped = sent.load(Ordering::SeqCst);
    assert!(stopped > 64 << 10, "it is streamed: {stopped}");
    assert!(stopped < BETWEEN, "{stopped} bytes lie between the two");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(sent.load(Ordering::SeqCst), stopped);
    // A little is read, and a little more is written.
    let mut read = 0;
    while read < 4 << 20 {
        let data = answer.body_mut().data().await.unwrap().unwrap();
        read += data.len();
        answer
            .body_mut()
            .flow_control()
            .release_capacity(data.len())
            .unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let further = sent.load(Ordering::SeqCst);
    assert!((4 << 20..BETWEEN + (4 << 20)).contains(&further));

    // The server does not read what the client writes.
    let (_answer, mut stream) = wire.open(upload(), false).await.unwrap();
    let piece = Bytes::from(vec![1; 16 << 10]);
    let mut written = 0;
    loop {
        let next = wire::send(&mut stream, piece.clone(), false);
        match tokio::time::timeout(Duration::from_secs(60), next).await {
            Ok(result) => result.unwrap(),
            Err(_) => break,
        }
        written += piece.len();
    }
    assert!(written > 64 << 10, "it is streamed: {written}");
    assert!(written < BETWEEN, "{written} bytes lie between the two");
}

/// The windows of both connections, the pipes, and what is gathered for a write.
const BETWEEN: usize = 4 << 20;

#[tokio::test]
async fn a_client_that_gives_up_is_followed_to_the_server() {
    let (reasons, mut told) = mpsc::unbounded_channel();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let origin = Origin::http2(move |(request, mut respond): Exchange| {
        let (reasons, begun) = (reasons.clone(), begun.clone());
        async move {
            if request.uri().path() == "/p.S/Unary" {
                return mirror((request, respond)).await;
            }
            let head = Response::builder().header("content-type", "application/grpc");
            let mut stream = match request.uri().path() {
                "/p.S/Silent" => None,
                _ => respond.send_response(head.body(()).unwrap(), false).ok(),
            };
            begun.send(()).unwrap();
            let reason = match &mut stream {
                None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
                Some(stream) => std::future::poll_fn(|cx| stream.poll_reset(cx)).await,
            };
            reasons
                .send(reason.map_err(|error| error.to_string()))
                .unwrap();
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let wire = Wire::connect(gateway.address()).await;
    for path in ["/p.S/Silent", "/p.S/Talking"] {
        for (ends, reason) in [
            (true, Reason::CANCEL),
            (false, Reason::CANCEL),
            (false, Reason::INTERNAL_ERROR),
        ] {
            let (answer, mut stream) = wire.open(grpc(path), ends).await.unwrap();
            within("the server has it", begins.recv()).await.unwrap();
            let answer = match path {
                "/p.S/Silent" => Err(answer),
                _ => Ok(within("headers", answer).await.unwrap()),
            };
            stream.send_reset(reason);
            let told = within("a reset", told.recv()).await.unwrap();
            // The client's own reason where its body was still being read, CANCEL otherwise.
            assert!(
                told == Ok(reason) || told == Ok(Reason::CANCEL),
                "{path} {ends} {reason:?}: {told:?}"
            );
            drop(answer);
        }
    }
    until("all are counted as cancelled", || {
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        metrics.sum("outrigger_requests_total", &[("code", "CANCELLED")]) == 6.
    })
    .await;
    let after = within("an answer", wire.call("/p.S/Unary", b"")).await;
    assert_eq!(after.unwrap().grpc_status(), Some("0"));
    assert_eq!(origin.accepted(), 1, "one connection has carried it all");
}

#[tokio::test]
async fn the_reason_of_the_servers_reset_reaches_the_client() {
    let origin = Origin::http2(|(request, mut respond): Exchange| async move {
        let path = request.uri().path().to_owned();
        let mut words = path.split('/').skip(2);
        let (when, code) = (words.next().unwrap(), words.next().unwrap());
        let reason = Reason::from(code.parse::<u32>().unwrap());
        match when {
            "before" => respond.send_reset(reason),
            _ => {
                let head = Response::builder().header("content-type", "application/grpc");
                let mut stream = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                stream.send_data(framed(b"half"), false).unwrap();
                // What is buffered is dropped by a reset; the client reads the half first.
                wire::settle().await;
                stream.send_reset(reason);
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    for reason in [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
        Reason::REFUSED_STREAM,
        Reason::INADEQUATE_SECURITY,
    ] {
        for when in ["before", "after"] {
            let path = format!("/s/{when}/{}", u32::from(reason));
            for address in [origin.address(), gateway.address()] {
                let wire = Wire::connect(address).await;
                let result = within(&path, wire.call(&path, b"")).await;
                let error = result.expect_err(&path);
                assert_eq!(error.reason(), Some(reason), "{path}");
                assert!(error.is_reset() && error.is_remote(), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn no_request_is_lost_when_the_server_says_goodbye() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let origin = Origin::connections(move |mut connection| {
        let count = count.clone();
        async move {
            let mut streams = tokio::task::JoinSet::new();
            let mut taken = 0;
            while let Some(Ok(exchange)) = connection.accept().await {
                taken += 1;
                count.fetch_add(1, Ordering::SeqCst);
                streams.spawn(mirror(exchange));
                if taken == 40 {
                    connection.graceful_shutdown();
                }
            }
            streams.join_all().await;
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..16_u8 {
        let wire = Wire::connect(gateway.address()).await;
        callers.spawn(async move {
            for n in 0..40_u8 {
                let message = [caller, n];
                let reply = within("an answer", wire.call("/p.S/Unary", &message)).await;
                let reply = reply.expect("no call is lost");
                assert_eq!(reply.grpc_status(), Some("0"), "{}", reply.grpc_message());
                assert_eq!(reply.body, framed(&message));
            }
        });
    }
    callers.join_all().await;
    assert_eq!(served.load(Ordering::SeqCst), 640, "each was served once");
    assert!(origin.accepted() > 10, "connections were renewed");
}

#[tokio::test]
async fn a_request_that_was_refused_unseen_is_sent_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let origin = Origin::http2(move |(request, mut respond): Exchange| {
        let first = counted.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        async move {
            if first {
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                mirror((request, respond)).await;
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let wire = Wire::connect(gateway.address()).await;
    for size in [0, 10, 30_000, 200_000] {
        let message = vec![3; size];
        let reply = within("an answer", wire.call("/p.S/Unary", &message)).await;
        let reply = reply.expect("it was sent again");
        assert_eq!(reply.body, framed(&message));
    }
    assert_eq!(tries.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn connections_are_added_where_the_server_allows_few_streams() {
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = open.clone();
    let origin = Origin::sockets(move |socket| {
        let gate = gate.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(2);
            let mut connection = builder.handshake(socket).await.unwrap();
            let mut streams = tokio::task::JoinSet::new();
            while let Some(Ok(exchange)) = connection.accept().await {
                let gate = gate.clone();
                streams.spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    mirror(exchange).await;
                });
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    // One client connection, so one worker, whose first call learns what the server allows.
    let wire = Wire::connect(gateway.address()).await;
    open.add_permits(1);
    within("an answer", wire.call("/p.S/Unary", b""))
        .await
        .unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..6_u8 {
        let wire = wire.clone();
        calls.spawn(async move { wire.call("/p.S/Unary", &[n]).await });
    }
    until("three carry two calls each", || origin.accepted() == 3).await;
    open.add_permits(1000);
    for reply in within("answers", calls.join_all()).await {
        assert_eq!(reply.unwrap().grpc_status(), Some("0"));
    }
    // More calls than connections may carry wait for their turn.
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..100_u8 {
        let wire = wire.clone();
        calls.spawn(async move { wire.call("/p.S/Unary", &[n]).await });
    }
    for reply in within("answers", calls.join_all()).await {
        assert_eq!(reply.unwrap().grpc_status(), Some("0"));
    }
    assert!(origin.accepted() <= 8, "{}", origin.accepted());
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_is_not_sent_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let origin = Origin::connections(move |mut connection| {
        let counted = counted.clone();
        async move {
            // The goodbye covers the request, and then the connection ends without an answer.
            if let Some(Ok(exchange)) = connection.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                let _ = std::future::poll_fn(|cx| connection.poll_closed(cx)).await;
                drop(exchange);
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let wire = Wire::connect(gateway.address()).await;
    let reply = within("an end", wire.call("/p.S/Unary", b"once")).await;
    if let Ok(reply) = reply {
        assert_eq!(reply.grpc_status(), Some("14"));
    }
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

/// An address where nobody listens.
async fn nowhere() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_said_to_be_unavailable() {
    let address = nowhere().await;
    for protocol in [GRPC, "protocol: oip-rest"] {
        let gateway = Gateway::before(&[address], protocol, "");
        let wire = Wire::connect(gateway.address()).await;
        for _ in 0..3 {
            let reply = within("a refusal", wire.call("/p.S/Unary", b""))
                .await
                .unwrap();
            assert_eq!(reply.status, 200);
            assert_eq!(reply.grpc_status(), Some("14"));
            let said = reply.grpc_message();
            assert!(
                said.contains("refused") && said.contains(&address.to_string()),
                "{said}"
            );
            assert!(reply.trailers.is_none(), "it is trailers alone");

            let mut client = Http1::connect(gateway.address()).await;
            let get = "GET /v2 HTTP/1.1\r\nhost: m\r\n\r\n";
            let reply = within("a refusal", client.exchange(get)).await.unwrap();
            assert_eq!(reply.status, 503);
            let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            let said = json["error"].as_str().unwrap();
            assert!(
                said.contains("refused") && said.contains(&address.to_string()),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_of_another_protocol_is_said_to_be_unavailable() {
    let origin = Origin::http1(mirror_http1).await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let wire = Wire::connect(gateway.address()).await;
    let reply = within("a refusal", wire.call("/p.S/Unary", b"")).await;
    let reply = reply.unwrap();
    assert_eq!(reply.grpc_status(), Some("14"));
    assert!(
        reply.grpc_message().contains("no connection"),
        "{}",
        reply.grpc_message()
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_tires_of_a_silent_server_does_not_bar_the_way_for_others() {
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = dials.clone();
    let memory = Memory::start(&["a:1"], "", move |_, pipe| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                // Accepts, and says nothing.
                let _held = pipe;
                std::future::pending::<()>().await;
            } else {
                serve_http2(pipe, mirror).await;
            }
        }
    });
    let wire = memory.wire().await;
    let began = tokio::time::Instant::now();
    let tired = tokio::time::timeout(Duration::from_secs(1), wire.call("/p.S/Unary", b"1")).await;
    assert!(tired.is_err());
    // The dial goes on without its caller, but not for ever; who waits for it is told.
    let told = wire.call("/p.S/Unary", b"2").await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(told.grpc_status(), Some("14"));
    // The endpoint is left alone for a moment, and that needs no dial to find out.
    let told = wire.call("/p.S/Unary", b"3").await.unwrap();
    assert!(
        told.grpc_message().contains("next try in"),
        "{}",
        told.grpc_message()
    );
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let reply = wire.call("/p.S/Unary", b"4").await.unwrap();
    assert_eq!(reply.grpc_status(), Some("0"));
    assert_eq!(dials.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again() {
    let first = Origin::http2(mirror).await;
    let address = first.address();
    let gateway = Gateway::before(&[address], GRPC, "");
    let wire = Wire::connect(gateway.address()).await;
    let before = within("an answer", wire.call("/p.S/Unary", b"1"))
        .await
        .unwrap();
    assert_eq!(before.grpc_status(), Some("0"));
    first.stop().await;
    for _ in 0..3 {
        let gone = within("a refusal", wire.call("/p.S/Unary", b"2"))
            .await
            .unwrap();
        assert_eq!(gone.grpc_status(), Some("14"));
    }
    let listener = TcpListener::bind(address).await.expect("it was let go of");
    let back = Origin::listening(listener, |socket| serve_http2(socket, mirror));
    within("it is found again", async {
        loop {
            let reply = wire.call("/p.S/Unary", b"3").await.unwrap();
            if reply.grpc_status() == Some("0") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(back.accepted(), 1);
}

#[tokio::test]
async fn with_one_of_two_endpoints_gone_every_request_is_answered() {
    let dead = nowhere().await;
    let new = Origin::http2(mirror).await;
    let old = Origin::http1(mirror_http1).await;

    let gateway = Gateway::before(&[dead, new.address()], GRPC, "");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let wire = Wire::connect(gateway.address()).await;
        for n in 0..50_u8 {
            let wire = wire.clone();
            calls.spawn(async move { wire.call("/p.S/Unary", &[n]).await });
        }
    }
    for reply in within("answers", calls.join_all()).await {
        let reply = reply.unwrap();
        assert_eq!(reply.grpc_status(), Some("0"), "{}", reply.grpc_message());
    }

    let gateway = Gateway::before(&[dead, old.address()], "protocol: oip-rest", "");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut client = Http1::connect(gateway.address()).await;
        calls.spawn(async move { client.exchange("GET /v2 HTTP/1.1\r\nhost: m\r\n\r\n").await });
    }
    for reply in within("answers", calls.join_all()).await {
        assert_eq!(reply.unwrap().status, 200);
    }
}

#[tokio::test]
async fn with_one_of_two_endpoints_gone_every_inference_is_answered() {
    let served = serve(Synthetic::new("m")).await;
    let endpoints = [nowhere().await, served.server.address()];
    for batch in [
        "batch: { max_batch_size: 16 }",
        "arms: { m: { upstream: server, model: m, version: \"1\" } }",
    ] {
        let gateway = Gateway::before(&endpoints, GRPC, &format!("models: {{ m: {{ {batch} }} }}"));
        for _ in 0..20 {
            let mut calls = tokio::task::JoinSet::new();
            let wire = Wire::connect(gateway.address()).await;
            for n in 0..20_u8 {
                let wire = wire.clone();
                let request = Inference::of(&rows("m", &[f32::from(n)]));
                calls.spawn(async move { request.send(&wire).await });
            }
            for reply in within("answers", calls.join_all()).await {
                let reply = reply.unwrap();
                assert_eq!(reply.grpc_status(), Some("0"), "{}", reply.grpc_message());
            }
        }
    }
}

#[tokio::test]
async fn an_inference_whose_answer_breaks_off_is_not_the_callers_fault() {
    for (reset, status) in [(true, None), (false, Some("14"))] {
        let origin = Origin::connections(move |mut connection| async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() != INFER {
                    respond.send_reset(Reason::INTERNAL_ERROR);
                    continue;
                }
                let head = Response::builder().header("content-type", "application/grpc");
                let mut stream = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                stream
                    .send_data(framed(b"half a message").slice(..9), false)
                    .unwrap();
                let driven = std::future::poll_fn(|cx| connection.poll_closed(cx));
                let _ = tokio::time::timeout(Duration::from_millis(50), driven).await;
                if !reset {
                    return;
                }
                stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            }
        })
        .await;
        let rest = "models: { m: { batch: { max_batch_size: 16 } } }";
        let gateway = Gateway::before(&[origin.address()], GRPC, rest);
        let wire = Wire::connect(gateway.address()).await;
        let request = Inference::of(&rows("m", &[1.]));
        match (within("an end", request.send(&wire)).await, status) {
            (Ok(reply), Some(status)) => assert_eq!(reply.grpc_status(), Some(status)),
            (Err(error), None) => assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM)),
            (reply, _) => panic!("{reply:?}"),
        }
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        let broken = [("model", "m"), ("code", "UNAVAILABLE")];
        assert_eq!(metrics.sum("outrigger_requests_total", &broken), 1.);
    }
}

#[tokio::test]
async fn a_caller_who_leaves_in_the_middle_of_its_message_is_counted() {
    let served = serve(Synthetic::new("m")).await;
    let rest = "models: { m: { batch: { max_batch_size: 16 } } }";
    let gateway = Gateway::before(&[served.server.address()], GRPC, rest);
    let wire = Wire::connect(gateway.address()).await;
    let message = Inference::of(&rows("m", &[1.])).body;
    let (_answer, mut stream) = wire.open(grpc(INFER), false).await.unwrap();
    stream.send_data(message.slice(..20), false).unwrap();
    wire::settle().await;
    stream.send_reset(Reason::CANCEL);
    until("it is counted", || {
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        metrics.sum("outrigger_requests_total", &[("code", "CANCELLED")]) == 1.
    })
    .await;
    assert_eq!(served.model.counters().received, 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let origin = Origin::connections(|mut connection| async move {
        if let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(framed(b"half"), false).unwrap();
            let driven = std::future::poll_fn(|cx| connection.poll_closed(cx));
            let _ = tokio::time::timeout(Duration::from_millis(50), driven).await;
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");

    let wire = Wire::connect(gateway.address()).await;
    let reply = within("an end", wire.call("/p.S/Half", b"")).await.unwrap();
    assert_eq!(
        (reply.body, reply.trailers.is_some()),
        (framed(b"half"), true)
    );

    let get = Request::get("http://m/half").body(()).unwrap();
    let (answer, _) = wire.open(get, true).await.unwrap();
    let mut body = within("a head", answer).await.unwrap().into_body();
    within("an end", drink(&mut body))
        .await
        .expect_err("no whole body");

    let mut client = Http1::connect(gateway.address()).await;
    let half = within(
        "an end",
        client.exchange("GET /half HTTP/1.1\r\nhost: m\r\n\r\n"),
    )
    .await;
    assert_eq!(half, None, "the chunked body has no end");
}

#[tokio::test(start_paused = true)]
async fn a_silent_endpoint_beside_a_good_one_holds_few_requests_up_and_fails_none() {
    let memory = Memory::start(&["silent:1", "good:1"], "", |authority, pipe| async move {
        if authority.starts_with("silent") {
            let _held = pipe;
            std::future::pending::<()>().await;
        } else {
            serve_http2(pipe, mirror).await;
        }
    });
    let wire = memory.wire().await;
    let mut held_up = 0;
    // A request now and then, for a minute and more.
    for n in 0..600_u32 {
        let began = tokio::time::Instant::now();
        let reply = wire.call("/p.S/Unary", &n.to_be_bytes()).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("0"), "{}", reply.grpc_message());
        held_up += usize::from(began.elapsed() >= Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One request for each try; between two tries lie the wait and this client's idleness.
    assert!((1..60).contains(&held_up), "{held_up}");
}
