//! What one caller does is not felt by another.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use outrigger_tests::{
    gateway::Gateway,
    origin::{Exchange, Origin, mirror},
    patience::within,
    wire::{Wire, grpc, send},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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

/// A socket whose incoming bytes are kept.
#[derive(Debug)]
struct Recorded {
    io: tokio::net::TcpStream,
    read: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let mut read = self.read.lock().unwrap();
        read.extend_from_slice(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Returns the types and flags of the HTTP/2 frames that are here as a whole.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = bytes {
        frames.push((*kind, *flags));
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        bytes = rest.get(len..).unwrap_or_default();
    }
    frames
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
    let origin = Origin::http2(|(request, mut respond): Exchange| async move {
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "7");
        let _ = respond.send_response(head.body(()).unwrap(), true);
        // Neither read nor reset: the request stays open until the test is over.
        let _request = request;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], GRPC, "");
    let socket = tokio::net::TcpStream::connect(gateway.address()).await;
    let read = Arc::<Mutex<Vec<u8>>>::default();
    let wire = Wire::over(Recorded {
        io: socket.unwrap(),
        read: read.clone(),
    })
    .await;
    let (answer, request) = wire.open(grpc("/p.S/Refused"), false).await.unwrap();
    let answer = within("an answer", answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "7");
    let mut body = answer.into_body();
    assert!(within("its end", body.data()).await.is_none());
    drop(request);
    // A gRPC client takes a separate end of the stream for a broken answer, so it is the frames
    // that count: HEADERS (1) with END_STREAM (0x1), and no DATA (0).
    let read = read.lock().unwrap().clone();
    let kinds = frames(&read);
    assert!(
        kinds
            .iter()
            .any(|(kind, flags)| *kind == 1 && flags & 1 == 1),
        "{kinds:?}"
    );
    assert!(kinds.iter().all(|(kind, _)| *kind != 0), "{kinds:?}");
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

/// gRPC's C++ core answers what is no gRPC with frames for which the connection has to be given up.
#[tokio::test]
async fn a_request_that_is_no_grpc_shares_no_connection_with_calls() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-grpc", "");
    let wire = Wire::connect(gateway.address()).await;
    let call = || wire.exchange(grpc("/package.Service/Method"), &[], None);
    let page = || {
        let request = http::Request::get("http://model.test/page")
            .version(http::Version::HTTP_2)
            .body(());
        wire.exchange(request.unwrap(), &[], None)
    };
    within("an answer", call()).await.unwrap();
    assert_eq!(origin.accepted(), 1);
    within("an answer", page()).await.unwrap();
    assert_eq!(origin.accepted(), 2);
    for _ in 0..3 {
        within("an answer", call()).await.unwrap();
        within("an answer", page()).await.unwrap();
    }
    assert_eq!(origin.accepted(), 2);
}
