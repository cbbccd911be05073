//! The filter before a scripted server, on a paused clock.

mod bounds;
mod failing;
mod hanging;
mod leaving;
mod merging;
mod order;
mod properties;
mod runtimes;
mod sameness;
mod shedding;
mod singly;
mod telling;
mod waiting;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, advance},
};
use tower::Service;

use super::*;
use crate::inference::{
    Code, Datatype, Error, Form, Head, Metadata, Method, NoRows, Parameter, Parameters, Payload,
    Request, RequestParts, RequestedOutput, Response, ResponseParts, Shape, Status, Tensor, Wire,
};
use crate::{
    deadline::Expired,
    overload::{Bound, Cancel, Overloaded, Room, Scope},
};

/// A server that the test plays: it sees every call and answers when it likes.
#[derive(Clone, Debug)]
struct Upstream(mpsc::UnboundedSender<Sent>);

#[derive(Debug)]
struct Sent {
    request: Request,
    reply: oneshot::Sender<Result<Response, Error>>,
}

#[derive(Debug)]
struct Script {
    batch: Batch<Upstream>,
    calls: mpsc::UnboundedReceiver<Sent>,
    capability: Capability,
}

type Caller = Pin<Box<ResponseFuture<Upstream>>>;

impl Service<Request> for Upstream {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.head.model == "panics" {
            panic!("as the test asked");
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send(Sent { request, reply });
        Box::pin(async move {
            sent.map_err(|_| "the test is over")?;
            answer.await.map_err(|_| "the server hung up")?
        })
    }
}

impl Script {
    fn new(config: Config) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let capability = Capability::new(Batchable::Yes {
            max_batch_size: None,
        });
        Self {
            batch: Batch::new(
                Upstream(sender),
                config,
                capability.clone(),
                Handles::default(),
            ),
            calls,
            capability,
        }
    }

    fn send(&mut self, request: Request) -> Caller {
        Box::pin(self.batch.call(request))
    }

    /// Returns the next call that the server has seen, once all tasks have come to rest.
    async fn call(&mut self) -> Option<Sent> {
        settle().await;
        self.calls.try_recv().ok()
    }

    async fn expect_call(&mut self) -> Sent {
        self.call().await.expect("a call")
    }

    async fn expect_no_call(&mut self) {
        assert!(self.call().await.is_none(), "an unexpected call");
    }
}

impl Sent {
    fn rows(&self) -> usize {
        self.request.rows().unwrap()
    }

    /// Answers each row with itself.
    fn echo(self) {
        let answer = echo(&self.request);
        self.reply.send(Ok(answer)).unwrap();
    }

    fn fail(self, cause: impl Into<Error>) {
        self.reply.send(Err(cause.into())).unwrap();
    }
}

/// A fixed limit, so that what is tested is the filter and not what it learns.
fn fixed(max_batch_size: usize) -> Config {
    Config {
        controller: config::Controller::Fixed,
        max_batch_size: Some(max_batch_size),
        ..Config::default()
    }
}

async fn settle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

fn poll(caller: &mut Caller) -> Poll<Result<Response, Error>> {
    caller
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

async fn answer(caller: &mut Caller) -> Result<Response, Error> {
    settle().await;
    match poll(caller) {
        Poll::Ready(answer) => answer,
        // A request that is handed back is sent by its own future.
        Poll::Pending => panic!("no answer yet"),
    }
}

fn tensor(name: &'static str, rows: usize, data: impl Into<Bytes>) -> Tensor {
    Tensor {
        name: name.into(),
        datatype: Datatype::Uint8,
        shape: Shape::new([rows as i64, 2]),
        parameters: Parameters::default(),
        data: Payload::from(data.into()),
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

/// A request of so many rows, each of which is the mark twice.
fn request(id: &str, rows: usize, mark: u8) -> Request {
    Request::from(RequestParts {
        head: Head {
            model: "digits".into(),
            id: id.into(),
            ..Head::default()
        },
        inputs: vec![tensor("x", rows, vec![mark; rows * 2])],
        ..RequestParts::default()
    })
}

fn with(mut request: Request, change: impl FnOnce(&mut RequestParts)) -> Request {
    change(&mut request);
    request
}

/// A request that is due in so many milliseconds.
fn due(id: &str, millis: u64) -> Request {
    with(request(id, 1, 1), |parts| {
        parts.head.deadline = Some(Instant::now() + Duration::from_millis(millis));
    })
}

fn echo(request: &Request) -> Response {
    Response::from(ResponseParts {
        model: request.head.model.clone(),
        version: "7".into(),
        id: request.head.id.clone(),
        outputs: request
            .inputs
            .iter()
            .map(|input| Tensor {
                name: "y".into(),
                ..input.clone()
            })
            .collect(),
        ..ResponseParts::default()
    })
}

fn marks(response: &Response) -> Vec<u8> {
    response.outputs[0].data.to_bytes().to_vec()
}

fn cause<E: std::error::Error + 'static>(error: &Error) -> &E {
    let mut cause: &(dyn std::error::Error + 'static) = &**error;
    loop {
        match cause.downcast_ref() {
            Some(cause) => return cause,
            None => cause = cause.source().expect("a cause of that type"),
        }
    }
}

/// Brings requests together in one call, which follows another one; returns their callers and it.
async fn gather(
    script: &mut Script,
    requests: impl IntoIterator<Item = Request>,
) -> (Vec<Caller>, Sent) {
    let mut plug = script.send(request("plug", 1, 0));
    let call = script.expect_call().await;
    let callers = requests
        .into_iter()
        .map(|request| script.send(request))
        .collect();
    call.echo();
    let merged = script.expect_call().await;
    assert!(answer(&mut plug).await.is_ok());
    (callers, merged)
}

fn marked(marks: impl IntoIterator<Item = u8>) -> Vec<Request> {
    let made = |mark| request(&format!("id{mark}"), 1, mark);
    marks.into_iter().map(made).collect()
}

fn holds(call: &Sent, mark: u8) -> bool {
    call.request.inputs[0].data.to_bytes().contains(&mark)
}

/// Plays a server that refuses calls with one of these rows, until nobody calls any more; returns
/// the rows of each call.
async fn refuse(script: &mut Script, first: Option<Sent>, bad: &[u8], code: Code) -> Vec<usize> {
    let mut rows = Vec::new();
    let mut next = first;
    loop {
        let Some(call) = (match next.take() {
            Some(call) => Some(call),
            None => script.call().await,
        }) else {
            return rows;
        };
        rows.push(call.rows());
        match bad.iter().find(|mark| holds(&call, **mark)) {
            Some(mark) => call.fail(Status::new(code, format!("{mark} is bad"))),
            None => call.echo(),
        }
    }
}

/// So many calls of one row and so many milliseconds, one after the other.
async fn quick(script: &mut Script, calls: usize, millis: u64) {
    for _ in 0..calls {
        let mut caller = script.send(request("", 1, 0));
        let call = script.expect_call().await;
        advance(Duration::from_millis(millis)).await;
        call.echo();
        assert!(answer(&mut caller).await.is_ok());
    }
}

/// Callers that all ask again as soon as they have their answers: so many each round, the first at
/// once and the others a little later. Returns the rows of each call of the last rounds.
async fn lockstep(script: &mut Script, rounds: usize) -> Vec<usize> {
    let mut rows = Vec::new();
    for round in 0..rounds {
        let mut callers = vec![script.send(request("", 1, 0))];
        let mut calls = Vec::new();
        calls.extend(script.call().await);
        advance(Duration::from_millis(1)).await;
        callers.extend((0..7).map(|_| script.send(request("", 1, 0))));
        for _ in 0..20 {
            calls.extend(script.call().await);
            advance(Duration::from_millis(1)).await;
            calls.extend(script.call().await);
            if calls.is_empty() {
                continue;
            }
            let call = calls.remove(0);
            if round + 2 >= rounds {
                rows.push(call.rows());
            }
            advance(Duration::from_millis(6 + call.rows() as u64 / 4)).await;
            call.echo();
            settle().await;
            callers.retain_mut(|caller| poll(caller).is_pending());
            if callers.is_empty() {
                break;
            }
        }
        assert!(callers.is_empty());
    }
    rows
}
