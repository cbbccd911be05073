//! Model servers that do what a script says.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use outrigger_filters::inference::{Form, ResponseParts};
use parking_lot::Mutex;
use tokio::{
    io::{self, DuplexStream},
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use crate::{
    codec::{
        grpc::{self, timeout},
        oip_grpc,
    },
    io::BoxStream,
};

/// What becomes of a call, after so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Act {
    /// Each row is answered with itself.
    Answer(u64),
    /// It fails with a status.
    Fail(u64, u8),
    /// Nothing is said until all servers are released.
    Hang,
    /// The head of an answer is said, and no more until all servers are released.
    Stall,
    /// The stream is reset.
    Reset(u64, h2::Reason),
    /// The connection ends, and all its calls with it.
    Close(u64),
}

/// What becomes of a try to connect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Greeting {
    /// The server greets after so many milliseconds.
    After(u64),
    /// It takes no connection.
    Refuse,
    /// It takes the connection, and never greets.
    Silent,
}

/// One inference as a server saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The marks of its rows.
    pub(super) marks: Vec<i64>,
    pub(super) at: Instant,
    /// The time that it was told to have.
    pub(super) told: Option<Duration>,
}

/// A server; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Server(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What becomes of the calls, one after the other, and from the beginning again.
    acts: Vec<Act>,
    /// What becomes of the first tries to connect; all later ones are greeted at once.
    greetings: Vec<Greeting>,
    calls: AtomicUsize,
    connects: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    released: watch::Sender<bool>,
}

impl Server {
    pub(super) fn new(acts: Vec<Act>, greetings: Vec<Greeting>) -> Self {
        Self(Arc::new(Shared {
            acts,
            greetings,
            calls: AtomicUsize::new(0),
            connects: AtomicUsize::new(0),
            seen: Mutex::default(),
            released: watch::Sender::new(false),
        }))
    }

    /// Ends all that hangs: it is answered, and from now on so is everything at once.
    pub(super) fn release(&self) {
        self.0.released.send_replace(true);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().clone()
    }

    fn is_released(&self) -> bool {
        *self.0.released.borrow()
    }

    /// Opens a connection, if the script has one.
    pub(super) fn connect(&self) -> io::Result<BoxStream> {
        let nth = self.0.connects.fetch_add(1, Ordering::Relaxed);
        let greeting = self.0.greetings.get(nth).copied();
        let greeting = greeting.filter(|_| !self.is_released());
        let (near, far) = io::duplex(PIPE);
        match greeting.unwrap_or(Greeting::After(0)) {
            Greeting::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
            Greeting::Silent => drop(tokio::spawn(silent(far))),
            Greeting::After(millis) => {
                let server = self.clone();
                tokio::spawn(async move {
                    wait(millis).await;
                    server.serve(far).await;
                });
            }
        }
        Ok(Box::new(near))
    }

    async fn serve(self, pipe: DuplexStream) {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_reset_streams(RESETS)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(None);
        // The proxy may be gone by now.
        let Ok(mut connection) = builder.handshake(pipe).await else {
            return;
        };
        let ends = Arc::new(Notify::new());
        let ended = ends.notified();
        let mut ended = std::pin::pin!(ended);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut ended => return,
                accepted = connection.accept() => accepted,
            };
            let Some(Ok((request, respond))) = accepted else {
                return;
            };
            let at = Instant::now();
            tokio::spawn(self.clone().exchange(at, request, respond, ends.clone()));
        }
    }

    async fn exchange(
        self,
        at: Instant,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        ends: Arc<Notify>,
    ) {
        let (head, mut body) = request.into_parts();
        let mut message = Vec::new();
        while let Some(data) = body.data().await {
            let Ok(data) = data else { return };
            let _ = body.flow_control().release_capacity(data.len());
            message.extend_from_slice(&data);
        }
        let message = Bytes::from(message);
        match head.uri.path() {
            INFER => {}
            CONFIG => return answer(respond, Bytes::from_static(TAKES_ROWS)),
            READY => return answer(respond, Bytes::from_static(IS_READY)),
            _ => return fail(respond, 12),
        }
        let parts = oip_grpc::decode_request(&message.slice(5..)).unwrap();
        let rows = parts.inputs[0].data.to_bytes();
        let marks = rows
            .chunks(8)
            .map(|row| i64::from_le_bytes(row.try_into().unwrap()));
        self.0.seen.lock().push(Seen {
            marks: marks.collect(),
            at,
            told: timeout::of_call(&head.headers),
        });
        let reply = || {
            let mut outputs = parts.inputs.clone();
            outputs[0].name = "y".into();
            let parts = ResponseParts {
                model: parts.head.model.clone(),
                id: parts.head.id.clone(),
                outputs,
                ..ResponseParts::default()
            };
            let framed = oip_grpc::encode_response(&parts, Form::Raw).unwrap();
            framed.to_bytes().slice(5..)
        };
        let nth = self.0.calls.fetch_add(1, Ordering::Relaxed);
        let act = match self.is_released() {
            true => Act::Answer(0),
            false => self.0.acts[nth % self.0.acts.len()],
        };
        // Whoever asks may give up.
        let acts = async {
            match act {
                Act::Answer(millis)
                | Act::Fail(millis, _)
                | Act::Reset(millis, _)
                | Act::Close(millis) => wait(millis).await,
                Act::Hang | Act::Stall => {}
            }
        };
        if !unless_reset(&mut respond, acts).await {
            return;
        }
        let mut released = self.0.released.subscribe();
        match act {
            Act::Answer(_) => answer(respond, reply()),
            Act::Fail(_, code) => fail(respond, code),
            Act::Reset(_, reason) => respond.send_reset(reason),
            Act::Close(_) => ends.notify_waiters(),
            Act::Hang => {
                let released = async { drop(released.wait_for(|released| *released).await) };
                if unless_reset(&mut respond, released).await {
                    answer(respond, reply());
                }
            }
            Act::Stall => {
                let Ok(mut stream) = respond.send_response(head_of_answer(), false) else {
                    return;
                };
                tokio::select! {
                    _ = released.wait_for(|released| *released) => {}
                    _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
                }
                let framed = grpc::frame(reply()).to_bytes();
                let _ = stream.send_data(framed, false);
                let _ = stream.send_trailers(trailers(0));
            }
        }
    }
}

/// Waits for something, unless the stream is reset first; tells whether it was not.
async fn unless_reset(respond: &mut SendResponse<Bytes>, what: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        _ = poll_fn(|cx| respond.poll_reset(cx)) => false,
        () = what => true,
    }
}

async fn wait(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// Reads what comes, and says nothing.
async fn silent(mut pipe: DuplexStream) {
    let _ = io::copy(&mut pipe, &mut io::sink()).await;
}

fn head_of_answer() -> Response<()> {
    let mut head = Response::new(());
    let content_type = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert("content-type", content_type);
    head
}

fn trailers(code: u8) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    trailers
}

fn answer(mut respond: SendResponse<Bytes>, message: Bytes) {
    if let Ok(mut stream) = respond.send_response(head_of_answer(), false) {
        let _ = stream.send_data(grpc::frame(message).to_bytes(), false);
        let _ = stream.send_trailers(trailers(0));
    }
}

fn fail(mut respond: SendResponse<Bytes>, code: u8) {
    let mut head = head_of_answer();
    head.headers_mut().extend(trailers(code));
    let _ = respond.send_response(head, true);
}

pub(super) const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const CONFIG: &str = "/inference.GRPCInferenceService/ModelConfig";
const READY: &str = "/inference.GRPCInferenceService/ModelReady";
/// `config { name: "m", max_batch_size: 8 }`, as Triton has it.
const TAKES_ROWS: &[u8] = b"\x0a\x05\x0a\x01m\x20\x08";
const IS_READY: &[u8] = b"\x08\x01";
const RESETS: usize = 1 << 16;
/// What a pipe holds: about what a socket's buffers do.
pub(super) const PIPE: usize = 64 << 10;
