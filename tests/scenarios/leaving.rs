//! Callers that leave cost the model's server nothing, or the calls that nobody waits for, as
//! configured; and never a connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_native::inference::{
    ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice::Uint64Param,
};
use outrigger_tests::{
    memory::Memory,
    model::{numbers, parameter, rows},
    origin::{EchoServer, serve_http2},
    patience::until,
    protocol::Protocol,
    wire::Wire,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::JoinHandle,
};

use crate::{alone::memory, gather::Inference};

const NEVER: &str = "models: { m: { batch: { controller: fixed, max_batch_size: 64 } } }";
const ABANDONED: &str =
    "models: { m: { batch: { controller: fixed, max_batch_size: 64, cancel: abandoned } } }";

/// A call takes so long that whoever leaves leaves in the middle of it.
const LATENCY: Duration = Duration::from_millis(100);
const A_WHILE: Duration = Duration::from_millis(1);

/// One row of a sequence, which is a call of its own.
fn alone() -> ModelInferRequest {
    let mut request = rows("m", &[1.]);
    let id = parameter(Uint64Param(7));
    request.parameters.insert("sequence_id".to_owned(), id);
    request
}

fn spawn(wire: &Wire, request: &ModelInferRequest) -> JoinHandle<()> {
    let (wire, request) = (wire.clone(), Inference::of(request));
    tokio::spawn(async move {
        let reply = request.send(&wire).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("0"));
    })
}

async fn leave(callers: impl IntoIterator<Item = JoinHandle<()>>) {
    callers.into_iter().for_each(|caller| caller.abort());
    tokio::time::sleep(A_WHILE).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_everybody_has_left_go_on_and_are_cancelled_only_if_so_configured() {
    for (config, cancels) in [(NEVER, 0), (ABANDONED, 1)] {
        let server = EchoServer::new(LATENCY);
        let memory = memory(&server, config);
        let wire = memory.wire().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let cancelled = || server.cancelled.load(Ordering::SeqCst);
        let calls = || {
            let calls = server.calls.lock().unwrap();
            calls.iter().map(|shape| shape[0]).collect::<Vec<_>>()
        };

        // One by itself.
        let lone = spawn(&wire, &rows("m", &[1.]));
        tokio::time::sleep(A_WHILE).await;
        let three = [(); 3].map(|()| spawn(&wire, &rows("m", &[1.])));
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(calls(), [1]);
        leave([lone]).await;
        assert_eq!(cancelled(), cancels, "{config}");
        // Its place is free where the server has been told, and taken where the server is busy.
        let second = if cancels > 0 { &[1, 3][..] } else { &[1] };
        assert_eq!(calls(), second, "{config}");
        tokio::time::sleep(LATENCY).await;
        assert_eq!(calls(), [1, 3], "{config}");

        // One that several share, of whom some leave, and then the last.
        let [first, second, third] = match cancels {
            0 => three,
            _ => {
                for caller in three {
                    caller.await.unwrap();
                }
                let plug = spawn(&wire, &rows("m", &[1.]));
                tokio::time::sleep(A_WHILE).await;
                let again = [(); 3].map(|()| spawn(&wire, &rows("m", &[1.])));
                plug.await.unwrap();
                tokio::time::sleep(A_WHILE).await;
                again
            }
        };
        leave([first, second]).await;
        assert_eq!(cancelled(), cancels, "one is still there");
        leave([third]).await;
        assert_eq!(cancelled(), 2 * cancels, "{config}");

        // One that must not be merged.
        let sequence = spawn(&wire, &alone());
        tokio::time::sleep(A_WHILE).await;
        leave([sequence]).await;
        assert_eq!(cancelled(), 3 * cancels, "{config}");

        // Over REST it is no different.
        tokio::time::sleep(2 * LATENCY).await;
        let rest = tokio::spawn({
            let wire = wire.clone();
            async move {
                Protocol::OipRest.send(&wire, "m", &[1.]).await.unwrap();
            }
        });
        tokio::time::sleep(A_WHILE).await;
        leave([rest]).await;
        assert_eq!(cancelled(), 4 * cancels, "{config}");
        spawn(&wire, &rows("m", &[2.])).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_calls_that_are_left_cost_no_connection() {
    let passed = "models: { m: {} }";
    // Of those that go on without a caller there are 64 at most.
    for (config, go_on) in [(NEVER, 64), (ABANDONED, 0), (passed, 0)] {
        let server = EchoServer::new(Duration::from_secs(3600));
        let connections = Arc::new(AtomicUsize::new(0));
        let memory = Memory::start(&["a:1"], config, {
            let (server, connections) = (server.clone(), connections.clone());
            move |_, pipe| {
                connections.fetch_add(1, Ordering::SeqCst);
                let server = server.clone();
                serve_http2(pipe, move |exchange| server.clone().answer(exchange))
            }
        });
        let mut builder = h2::client::Builder::new();
        builder
            .initial_max_send_streams(4096)
            // The test's own side shall not be what gives up.
            .max_local_error_reset_streams(None);
        let wire = Wire::with(builder, memory.pipe()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let came = || server.calls.lock().unwrap().len();
        for wave in 1..=100 {
            let callers: Vec<_> = (0..100).map(|_| spawn(&wire, &alone())).collect();
            until("all are at the server", || came() == wave * 100).await;
            leave(callers).await;
        }
        until("the server is told", || {
            server.cancelled.load(Ordering::SeqCst) == 10_000 - go_on
        })
        .await;
        let reply = Inference::of(&alone()).send(&wire).await.unwrap();
        let response = ModelInferResponse::decode(&reply.body[5..]).unwrap();
        assert_eq!(numbers(&response), [1.], "{config}");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{config}");
    }
}

/// What the library says of an answer to a call that it has forgotten counts as its own error, of
/// which it bears a thousand unless it is told otherwise.
#[tokio::test(start_paused = true)]
async fn answers_that_come_to_ten_thousand_who_have_left_cost_no_connection() {
    let late = Arc::new(Late::default());
    let memory = Memory::start(&["a:1"], "", {
        let late = late.clone();
        move |_, pipe| late.clone().serve(pipe)
    });
    let mut builder = h2::client::Builder::new();
    builder
        .initial_max_send_streams(4096)
        .max_local_error_reset_streams(None);
    let wire = Wire::with(builder, memory.pipe()).await;
    let came = || late.came.load(Ordering::SeqCst);
    let call = || {
        let wire = wire.clone();
        tokio::spawn(async move { wire.call("/p.S/Unary", b"x").await.unwrap().status })
    };
    for wave in 1..=100 {
        let callers: Vec<_> = (0..100).map(|_| call()).collect();
        until("all are at the server", || came() == wave * 100).await;
        callers.iter().for_each(JoinHandle::abort);
    }
    until("the server is told", || {
        late.left.load(Ordering::SeqCst) == 10_000
    })
    .await;
    let last = call();
    assert_eq!(last.await.unwrap(), 200);
    assert_eq!(late.connections.load(Ordering::SeqCst), 1);
}

/// A server that answers every call when ten thousand and one have come, whoever has left.
#[derive(Default)]
struct Late {
    connections: AtomicUsize,
    came: AtomicUsize,
    left: AtomicUsize,
}

impl Late {
    async fn serve(self: Arc<Self>, mut pipe: DuplexStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mut preface = [0; 24];
        let _ = pipe.read_exact(&mut preface).await;
        // Settings: any number of streams; a window for all that comes; theirs are taken.
        let _ = pipe.write_all(&frame(4, 0, 0, b"\0\x03\0\x01\0\0")).await;
        let _ = pipe.write_all(&frame(8, 0, 0, b"\x7f\0\0\0")).await;
        let _ = pipe.write_all(&frame(4, 1, 0, b"")).await;
        let mut streams = Vec::new();
        loop {
            let mut head = [0; 9];
            if pipe.read_exact(&mut head).await.is_err() {
                return;
            }
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            let _ = pipe.read_exact(&mut payload).await;
            match kind {
                1 => {
                    streams.push(u32::from_be_bytes(stream));
                    self.came.fetch_add(1, Ordering::SeqCst);
                }
                3 => _ = self.left.fetch_add(1, Ordering::SeqCst),
                6 if flags == 0 => _ = pipe.write_all(&frame(6, 1, 0, &payload)).await,
                _ => {}
            }
            if streams.len() > 10_000 {
                // `:status: 200`, and no more.
                let answers = streams.drain(..).map(|stream| frame(1, 5, stream, &[0x88]));
                let answers: Vec<u8> = answers.flatten().collect();
                let (mut read, mut write) = tokio::io::split(pipe);
                let mut sink = tokio::io::sink();
                // Both ways at once, or neither would have room.
                let _ = tokio::join!(
                    write.write_all(&answers),
                    tokio::io::copy(&mut read, &mut sink)
                );
                return;
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    let head = [&len.to_be_bytes()[1..], &[kind, flags]].concat();
    [&head, &stream.to_be_bytes()[..], payload].concat()
}
