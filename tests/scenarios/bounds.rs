//! Every queue and buffer has a bound, and over it callers are refused at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};
use outrigger_native::{Datatype, Server, Synthetic, TensorSpec, inference::ModelInferRequest};
use outrigger_tests::{
    gateway::{Gateway, configuration},
    http1::{Http1, get},
    memory::Memory,
    metrics::Metrics,
    model::{INFER, rows, serve, start, tensor},
    origin::{Exchange, Origin, mirror, serve_http2},
    patience::{until, within},
    protocol::Protocol,
    wire::{self, Reply, Wire, flagged, framed, grpc},
};
use prost::Message as _;

use crate::{gather::Inference, merging::before};

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_names_its_bound() {
    for (bound, size, most) in [
        ("max_queue_rows: 20, max_batch_size: 16", 1, 20),
        (
            "max_queue_bytes: 41KiB, max_batch_bytes: 40KiB, max_batch_size: 16",
            4 << 10,
            10,
        ),
    ] {
        let knob = bound.split(':').next().unwrap();
        let served = serve(Synthetic::new("m")).await;
        let config = format!("models: {{ m: {{ batch: {{ {bound}, controller: fixed }} }} }}");
        let gateway = before(&served, &config).await;
        let wire = Wire::connect(gateway.address()).await;
        let request = Inference::of(&tensor("m", "UINT8", &[1, size], vec![1; size as usize]));
        served.model.pause();
        let mut calls = tokio::task::JoinSet::new();
        // One is at the model, the others wait, and the rest are refused while nothing moves.
        for _ in 0..1 + most + 50 {
            let (wire, request) = (wire.clone(), request.clone());
            calls.spawn(async move { request.send(&wire).await.unwrap() });
        }
        for _ in 0..50 {
            let refused = within("a refusal", calls.join_next())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(refused.grpc_status(), Some("8"));
            assert!(
                refused.grpc_message().contains(knob),
                "{}",
                refused.grpc_message()
            );
        }
        assert_eq!(gateway.learned("m", "queue_rows"), most);
        served.model.resume();
        for reply in within("answers", calls.join_all()).await {
            assert_eq!(reply.grpc_status(), Some("0"));
        }
        for number in ["queue_rows", "queue_bytes", "in_flight"] {
            assert_eq!(gateway.learned("m", number), 0, "{number}");
        }
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        assert_eq!(metrics.sum("outrigger_batch_refused_total", &[]), 50.);
        let refused = [("model", "m"), ("code", "RESOURCE_EXHAUSTED")];
        assert_eq!(metrics.sum("outrigger_requests_total", &refused), 50.);
    }
}

/// Asks for single rows, so many at once.
fn ask(wire: &Wire, calls: &mut tokio::task::JoinSet<Reply>, model: &'static str, requests: u64) {
    for _ in 0..requests {
        let (wire, request) = (wire.clone(), Inference::of(&rows(model, &[1.])));
        calls.spawn(async move { request.send(&wire).await.unwrap() });
    }
}

#[tokio::test]
async fn what_waits_for_all_models_together_has_a_bound_that_a_reload_changes() {
    let models = ["m", "n"].map(|name| Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new(name)
    });
    let [m, n] = models;
    let server = start(Server::builder().model(m).model(n)).await;
    let config = |rows: usize, rest: &str| {
        let batch = "batch: { controller: fixed, max_batch_size: 4, max_queue_rows: 15 }";
        let models = format!("models: {{ m: {{ {batch} }}, n: {{ {batch} }} }}");
        let limits = format!("limits: {{ max_queue_rows: {rows} }}");
        let address = [server.address()];
        configuration(
            &address,
            "protocol: oip-grpc",
            &format!("{models}\n{limits}{rest}"),
        )
    };
    let mut gateway = Gateway::start(&config(20, ""));
    until("the models are known", || {
        let table = gateway.state().table();
        table.arms().all(|arm| arm.is_learned())
    })
    .await;
    let wire = Wire::connect(gateway.address()).await;
    for model in ["m", "n"] {
        for protocol in [Protocol::OipRest, Protocol::TfservingRest] {
            protocol.send(&wire, model, &[1.]).await.unwrap();
        }
    }
    let handles: Vec<_> = server.handles().collect();
    let mut calls = tokio::task::JoinSet::new();
    for model in &handles {
        model.reset_counters();
        model.pause();
    }
    ask(&wire, &mut calls, "m", 1);
    ask(&wire, &mut calls, "n", 1);
    until("both models are busy", || {
        handles.iter().all(|model| model.counters().received == 1)
    })
    .await;
    let waiting =
        |gateway: &Gateway| gateway.learned("m", "queue_rows") + gateway.learned("n", "queue_rows");
    let refused = async |rows: usize| {
        for model in ["m", "n"] {
            for protocol in Protocol::ALL {
                let reply = within("a refusal", protocol.send(&wire, model, &[1.]))
                    .await
                    .unwrap();
                let words = if reply.grpc_status().is_some() {
                    assert_eq!(reply.grpc_status(), Some("8"), "{protocol:?} {reply:?}");
                    reply.grpc_message()
                } else {
                    assert_eq!(reply.status, 429, "{protocol:?} {reply:?}");
                    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                    body["error"].as_str().unwrap().to_owned()
                };
                let wanted = format!("limits.max_queue_rows is {rows}");
                assert!(words.contains(&wanted), "{protocol:?}: {words}");
            }
        }
    };
    ask(&wire, &mut calls, "m", 12);
    until("they wait", || waiting(&gateway) == 12).await;
    ask(&wire, &mut calls, "n", 8);
    until("they wait", || waiting(&gateway) == 20).await;
    refused(20).await;

    // More may wait, and at once.
    gateway.reload(&config(25, "")).await.unwrap();
    ask(&wire, &mut calls, "n", 5);
    until("they wait", || waiting(&gateway) == 25).await;
    refused(25).await;

    // What is refused changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listener = format!("listeners: [{{ address: \"{address}\", upstream: server }}, ");
    let bad = config(1000, "").replace("listeners: [", &listener);
    gateway.reload(&bad).await.unwrap_err();
    refused(25).await;

    // Fewer may wait, and who waits already stays.
    gateway.reload(&config(4, "")).await.unwrap();
    assert_eq!(waiting(&gateway), 25);
    refused(4).await;
    handles.iter().for_each(outrigger_native::Handle::resume);
    for reply in within("answers", calls.join_all()).await {
        assert_eq!(reply.grpc_status(), Some("0"));
    }
    assert_eq!(waiting(&gateway), 0);
    let rows: u64 = handles.iter().map(|model| model.counters().rows).sum();
    assert_eq!(rows, 27);
}

#[tokio::test]
async fn a_message_over_the_bound_is_refused_where_it_would_be_read_and_streamed_where_not() {
    let served = serve(Synthetic::new("m")).await;
    let config = "models: { m: { batch: { max_batch_size: 16 } } }\nlimits: { max_message: 64KiB }";
    let gateway = before(&served, config).await;
    let wire = Wire::connect(gateway.address()).await;
    let large = |model: &str| {
        let data = vec![1; 100 << 10];
        framed(&tensor(model, "UINT8", &[1, 100 << 10], data).encode_to_vec())
    };
    let reply = within("a refusal", Inference::raw(large("m")).send(&wire))
        .await
        .unwrap();
    assert_eq!(reply.grpc_status(), Some("8"));
    assert!(
        reply.grpc_message().contains("limits.max_message"),
        "{}",
        reply.grpc_message()
    );
    // Its length is enough: the bytes need not come.
    let (answer, mut stream) = wire.open(grpc(INFER), false).await.unwrap();
    stream.send_data(large("m").slice(..100), false).unwrap();
    let refused = within("a refusal", answer).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8");

    let other = within("an answer", Inference::raw(large("other")).send(&wire))
        .await
        .unwrap();
    assert_eq!(
        other.grpc_status(),
        Some("5"),
        "the server knows no such model"
    );
    let fits = within("an answer", Inference::of(&rows("m", &[1.])).send(&wire))
        .await
        .unwrap();
    assert_eq!(fits.grpc_status(), Some("0"));
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    let refused = [("model", "m"), ("code", "RESOURCE_EXHAUSTED")];
    assert_eq!(metrics.sum("outrigger_requests_total", &refused), 2.);
}

#[tokio::test]
async fn messages_over_the_bound_together_are_refused_and_their_room_is_given_back() {
    let served = serve(Synthetic::new("m")).await;
    let config = |drain: &str| {
        format!(
            "models: {{ m: {{ batch: {{ max_batch_size: 16 }} }} }}\n\
             limits: {{ max_message: 64KiB, max_gathered: 64KiB, drain: {drain} }}"
        )
    };
    let mut gateway = before(&served, &config("30s")).await;
    let wire = Wire::connect(gateway.address()).await;
    let data = || vec![1; 60 << 10];
    let request = |model: &str| Inference::of(&tensor(model, "UINT8", &[1, 60 << 10], data()));
    let body = request("m").body;
    let half = body.len() / 2 + 4096;

    // Two of them have sent most of their message: the second of these is refused.
    let (first, mut first_stream) = wire.open(grpc(INFER), false).await.unwrap();
    let (second, mut second_stream) = wire.open(grpc(INFER), false).await.unwrap();
    let (mut first, mut second) = (Box::pin(first), Box::pin(second));
    for stream in [&mut first_stream, &mut second_stream] {
        wire::send(stream, body.slice(..half), false).await.unwrap();
    }
    let (refused, (waits, mut stream)) = within("a refusal", async {
        tokio::select! {
            refused = &mut first => (refused, (second, second_stream)),
            refused = &mut second => (refused, (first, first_stream)),
        }
    })
    .await;
    let refused = wire::gather(refused.unwrap()).await.unwrap();
    assert_eq!(refused.grpc_status(), Some("8"));
    let message = refused.grpc_message();
    assert!(message.contains("limits.max_gathered"), "{message}");

    // The bound is the process's: what is held counts after a reload, and on other connections.
    let address = served.server.address();
    let reloaded = configuration(&[address], "protocol: oip-grpc", &config("1s"));
    gateway.reload(&reloaded).await.unwrap();
    let other = Wire::connect(gateway.address()).await;
    let refused = within("a refusal", request("m").send(&other))
        .await
        .unwrap();
    assert_eq!(refused.grpc_status(), Some("8"), "{refused:?}");
    // What passes through is not touched by it.
    let passed = within("an answer", request("other").send(&other))
        .await
        .unwrap();
    assert_eq!(passed.grpc_status(), Some("5"), "{passed:?}");

    wire::send(&mut stream, body.slice(half..), true)
        .await
        .unwrap();
    let reply = wire::gather(within("an answer", waits).await.unwrap());
    assert_eq!(reply.await.unwrap().grpc_status(), Some("0"));
    for _ in 0..8 {
        let reply = within("an answer", request("m").send(&other))
            .await
            .unwrap();
        assert_eq!(reply.grpc_status(), Some("0"), "all of it was given back");
    }
}

#[tokio::test]
async fn an_answer_over_the_bound_is_refused() {
    let served = serve(Synthetic::new("m")).await;
    // The request is just within the bound, and the answer, which says a little more, just over.
    let config = "models: { m: { batch: { max_batch_size: 16 } } }\nlimits: { max_message: 1KiB }";
    let gateway = before(&served, config).await;
    let wire = Wire::connect(gateway.address()).await;
    let request = (900..1024)
        .map(|size| tensor("m", "UINT8", &[1, size], vec![1; size as usize]))
        .rfind(|request| request.encoded_len() <= 1024)
        .unwrap();
    let reply = within("a refusal", Inference::of(&request).send(&wire))
        .await
        .unwrap();
    assert_eq!(reply.grpc_status(), Some("8"), "{}", reply.grpc_message());
    assert!(
        reply.grpc_message().contains("limits.max_message"),
        "{}",
        reply.grpc_message()
    );
}

/// Where the name of the model comes last, nothing may be gathered without a bound until it does.
#[tokio::test(start_paused = true)]
async fn a_message_whose_model_is_not_known_yet_is_not_gathered_without_end() {
    let received = Arc::new(AtomicUsize::new(0));
    let counted = received.clone();
    let memory = Memory::start(
        &["a:1"],
        "models: { m: { batch: { max_batch_size: 16 } } }\nlimits: { max_message: 64KiB }",
        move |_, pipe| {
            let counted = counted.clone();
            serve_http2(pipe, move |(request, _respond): Exchange| {
                let counted = counted.clone();
                async move {
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        counted.fetch_add(data.len(), Ordering::SeqCst);
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                }
            })
        },
    );
    let wire = memory.wire().await;
    for compressed in [0, 1] {
        received.store(0, Ordering::SeqCst);
        // Field 7 first: the tensor of eight megabytes, and the name never comes.
        let size = 8 << 20;
        let mut message = BytesMut::new();
        message.put_slice(&[0x3a]);
        prost::encoding::encode_varint(size, &mut message);
        message.resize(message.len() + size as usize, 1);
        let body = flagged(compressed, &message);
        let mut head = grpc(INFER);
        if compressed == 1 {
            head.headers_mut()
                .insert("grpc-encoding", "gzip".parse().unwrap());
        }
        let (_answer, mut stream) = wire.open(head, false).await.unwrap();
        wire::send(&mut stream, body.slice(..body.len() / 2), false)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let passed = received.load(Ordering::SeqCst);
        assert!(passed > 3 << 20, "{passed} bytes have been passed on");
    }
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_and_places_are_given_back() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(
        &[origin.address()],
        "protocol: oip-grpc",
        "limits: { max_connections: 3 }",
    );
    let request = "GET /v2 HTTP/1.1\r\nhost: m\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = Http1::connect(gateway.address()).await;
        assert_eq!(
            within("an answer", client.exchange(request))
                .await
                .unwrap()
                .status,
            200
        );
        open.push(client);
    }
    let mut fourth = Http1::connect(gateway.address()).await;
    assert!(within("it is closed", fourth.is_closed()).await);
    open.pop();
    within("a place is free", async {
        loop {
            let mut client = Http1::connect(gateway.address()).await;
            if client.exchange(request).await.is_some() {
                return;
            }
        }
    })
    .await;
    for client in &mut open {
        assert_eq!(
            within("an answer", client.exchange(request))
                .await
                .unwrap()
                .status,
            200
        );
    }
    let page = get(gateway.admin(), "/live").await;
    assert_eq!(page.status, 200, "the admin pages have places of their own");
}

#[tokio::test]
async fn nothing_is_left_of_a_storm() {
    let served = serve(Synthetic::new("m")).await;
    let config = "models: { m: { batch: { max_batch_size: 32, max_queue_rows: 100 } } }";
    let gateway = before(&served, config).await;
    let mut wires = Vec::new();
    for _ in 0..8 {
        wires.push(Wire::connect(gateway.address()).await);
    }
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..3000_usize {
        let wire = wires[n % wires.len()].clone();
        calls.spawn(async move {
            let request = Inference::of(&ModelInferRequest {
                id: n.to_string(),
                ..rows("m", &[n as f32])
            });
            if n % 5 == 0 {
                let patience = Duration::from_micros(n as u64 * 7 % 5000);
                let _ = tokio::time::timeout(patience, request.send(&wire)).await;
                return;
            }
            let reply = request.send(&wire).await.unwrap();
            assert!(matches!(reply.grpc_status(), Some("0" | "8")), "{reply:?}");
        });
    }
    within("the storm", calls.join_all()).await;
    until("nothing is left", || {
        ["queue_rows", "queue_bytes", "in_flight"]
            .iter()
            .all(|number| gateway.learned("m", number) == 0)
    })
    .await;
    drop(wires);
    until("no connection is left", || {
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        metrics.sum("outrigger_connections", &[]) == 0.
    })
    .await;
    until("every request is counted once", || {
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        let counted = metrics.sum("outrigger_requests_total", &[("model", "m")]);
        assert!(counted <= 3000.);
        counted >= 2400.
            && counted
                == metrics.sum(
                    "outrigger_request_duration_seconds_count",
                    &[("model", "m")],
                )
    })
    .await;
    let reply = Inference::of(&rows("m", &[1.]))
        .send(&Wire::connect(gateway.address()).await)
        .await
        .unwrap();
    assert_eq!(
        (reply.grpc_status(), reply.body.is_empty()),
        (Some("0"), false)
    );
}
