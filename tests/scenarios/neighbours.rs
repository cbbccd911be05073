//! What one caller does is not felt by another.

use bytes::Bytes;
use http::{Request, Response};
use outrigger_tests::{
    gateway::Gateway,
    origin::{Exchange, Origin, mirror},
    patience::within,
    wire::{Wire, grpc, send},
};

const GRPC: &str = "protocol: oip-grpc";

/// Answers with four megabytes, or with a word.
async fn large_or_small((request, mut respond): Exchange) {
    let large = request.uri().path() == "/p.S/Large";
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else {
        return;
    };
    let size = if large { 4 << 20 } else { 3 };
    let _ = send(&mut stream, Bytes::from(vec![7; size]), true).await;
}

#[tokio::test]
async fn readers_that_stop_stop_nobody_else() {
    let origin = Origin::http2(large_or_small).await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    // One connection to each worker, and the next two again.
    let mut silent = Vec::new();
    for _ in 0..2 {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(0);
        let socket = tokio::net::TcpStream::connect(gateway.address()).await;
        let wire = Wire::with(builder, socket.unwrap()).await;
        for _ in 0..40 {
            let (answer, stream) = wire.open(grpc("/p.S/Large"), true).await.unwrap();
            let head = within("the head of an answer", answer).await.unwrap();
            silent.push((head, stream));
        }
    }
    for _ in 0..2 {
        let wire = Wire::connect(gateway.address()).await;
        let reply = wire.exchange(grpc("/p.S/Small"), &[], None);
        let reply = within("a neighbour's answer", reply).await.unwrap();
        assert_eq!(reply.body.len(), 3);
    }
    drop(silent);
}

#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head_while_the_request_is_open() {
    let origin = Origin::http2(|(_request, mut respond): Exchange| async move {
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "7");
        let _ = respond.send_response(head.body(()).unwrap(), true);
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let wire = Wire::connect(gateway.address()).await;
    let (answer, request) = wire.open(grpc("/p.S/Refused"), false).await.unwrap();
    let answer = within("an answer", answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "7");
    // A gRPC client takes a separate end of the stream for a broken answer.
    assert!(answer.body().is_end_stream());
    drop(request);
}

#[tokio::test]
async fn answers_to_head_have_no_body_over_http_2() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    origin.stop().await;
    for (address, path) in [(gateway.admin(), "/live"), (gateway.address(), "/gone")] {
        let wire = Wire::connect(address).await;
        let request = Request::head(format!("http://it{path}")).body(()).unwrap();
        let (answer, _) = wire.open(request, true).await.unwrap();
        let answer = within("an answer", answer).await.unwrap();
        assert!(answer.body().is_end_stream(), "{path}");
    }
}
