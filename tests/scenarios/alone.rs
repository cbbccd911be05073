//! A lone request on an idle upstream goes at once, by itself.

use std::time::Duration;

use outrigger_native::inference::ModelInferResponse;
use outrigger_tests::{
    memory::Memory,
    model::{numbers, rows},
    origin::{EchoServer, serve_http2},
};
use prost::Message as _;
use tokio::time::Instant;

use crate::gather::Inference;

const LATENCY: Duration = Duration::from_millis(7);

/// A proxy without sockets in front of a server.
pub(crate) fn memory(server: &EchoServer, rest: &str) -> Memory {
    let server = server.clone();
    Memory::start(&["a:1"], rest, move |_, pipe| {
        let server = server.clone();
        serve_http2(pipe, move |exchange| server.clone().answer(exchange))
    })
}

#[tokio::test(start_paused = true)]
async fn a_lone_request_takes_no_longer_than_the_model() {
    for rest in [
        "models: { m: { batch: {} } }",
        "models: { m: { batch: { max_batch_size: 64, controller: fixed } } }",
        "models: { m: { batch: { max_delay: 5ms } } }",
        "models: { m: { batch: { max_in_flight: auto, split: true, holdout: 0.5 } } }",
        "",
    ] {
        let server = EchoServer::new(LATENCY);
        let memory = memory(&server, rest);
        let wire = memory.wire().await;
        // What the server says of the model is learned meanwhile.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for n in 0..50_u8 {
            let began = Instant::now();
            let request = Inference::of(&rows("m", &[f32::from(n)]));
            let reply = request.send(&wire).await.unwrap();
            assert_eq!(began.elapsed(), LATENCY, "{rest}");
            let response = ModelInferResponse::decode(&reply.body[5..]).unwrap();
            assert_eq!(numbers(&response), [f32::from(n)]);
            match reply.headers.get("outrigger-batch-size") {
                Some(size) => assert_eq!(size, "1"),
                None => assert_eq!(rest, ""),
            }
            tokio::time::sleep(Duration::from_millis(u64::from(n))).await;
        }
        assert_eq!(*server.calls.lock().unwrap(), vec![vec![1, 1]; 50]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_another_goes_as_soon_as_that_is_answered() {
    let server = EchoServer::new(LATENCY);
    let memory = memory(
        &server,
        "models: { m: { batch: { max_batch_size: 64, controller: fixed } } }",
    );
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let request = Inference::of(&rows("m", &[1.]));
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..5 {
        let (wire, request) = (wire.clone(), request.clone());
        calls.spawn(async move {
            tokio::time::sleep(Duration::from_millis(n)).await;
            request.send(&wire).await.unwrap();
            began.elapsed()
        });
    }
    let mut ended = calls.join_all().await;
    ended.sort();
    assert_eq!(ended[0], LATENCY);
    assert_eq!(ended[1..], [LATENCY * 2; 4]);
    assert_eq!(*server.calls.lock().unwrap(), [[1, 1], [4, 1]]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_is_under_way_and_for_nothing_else() {
    let server = EchoServer::new(LATENCY);
    let memory = memory(&server, "models: { m: { batch: { max_batch_size: 64 } } }");
    let wire = memory.wire().await;
    let idle = memory.wire().await;
    let silent = memory.pipe();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let call = tokio::spawn({
        let wire = wire.clone();
        async move { Inference::of(&rows("m", &[1.])).send(&wire).await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (mut drain, table) = memory.into_drain();
    drain.begin();
    drain.finished().await;
    assert_eq!(began.elapsed(), LATENCY);
    assert_eq!(call.await.unwrap().unwrap().grpc_status(), Some("0"));
    drop((idle, silent, table));
}
