//! The filter before a scripted server, on a paused clock.

mod bounds;
mod hanging;
mod leaving;
mod order;
mod properties;
mod sending;
mod telling;
mod timing;

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, advance},
};
use tower::{Layer, Service};

use super::*;
use crate::{
    deadline::Expired,
    inference::{
        Datatype, Error, Form, Head, Parameter, Parameters, Payload, Request, RequestParts,
        Response, ResponseParts, Shape, Tensor,
    },
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
    admission: Admission<Upstream>,
    calls: mpsc::UnboundedReceiver<Sent>,
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
        Self {
            admission: Admission::new(Upstream(sender), config, Handles::default()),
            calls,
        }
    }

    fn send(&mut self, request: Request) -> Caller {
        let mut caller = Box::pin(self.admission.call(request));
        // What is sent at once is sent when its caller first looks.
        assert!(poll(&mut caller).is_pending(), "answered at once");
        caller
    }

    /// Sends a request that is refused at once.
    fn refused(&mut self, request: Request) -> Error {
        let mut caller = Box::pin(self.admission.call(request));
        match poll(&mut caller) {
            Poll::Ready(answer) => answer.unwrap_err(),
            Poll::Pending => panic!("not refused"),
        }
    }

    /// Returns the next call that the server has seen.
    fn call(&mut self) -> Option<Sent> {
        self.calls.try_recv().ok()
    }

    fn expect_call(&mut self) -> Sent {
        self.call().expect("a call")
    }

    fn expect_no_call(&mut self) {
        assert!(self.call().is_none(), "an unexpected call");
    }

    /// Teaches the filter that a call takes so long.
    async fn teach(&mut self, millis: u64) {
        for _ in 0..64 {
            let mut caller = self.send(request(""));
            let call = self.expect_call();
            advance(Duration::from_millis(millis)).await;
            call.echo();
            assert!(answer(&mut caller).is_ok());
        }
    }

    /// Nobody waits, nothing is under way, and all that was reserved is given back.
    fn nothing_is_left(&self) {
        let view = self.admission.view();
        assert_eq!(
            (
                view.queue_requests,
                view.queue_bytes,
                view.in_flight,
                view.beside
            ),
            (0, 0, 0, 0)
        );
        assert_eq!(self.admission.load(), 0);
        assert_eq!(self.admission.shared().room.used(), (0, 0));
    }
}

impl Sent {
    fn id(&self) -> &str {
        &self.request.head.id
    }

    fn echo(self) {
        let answer = echo(&self.request);
        self.reply.send(Ok(answer)).unwrap();
    }
}

/// A fixed limit, so that what is tested is the filter and not what it learns.
fn fixed(calls: usize) -> Config {
    Config {
        max_concurrency: Concurrency::Fixed(NonZeroUsize::new(calls).unwrap()),
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

fn answer(caller: &mut Caller) -> Result<Response, Error> {
    match poll(caller) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("no answer yet"),
    }
}

fn request(id: &str) -> Request {
    holding(id, vec![1, 2])
}

fn holding(id: &str, data: impl Into<Bytes>) -> Request {
    let data = data.into();
    Request::from(RequestParts {
        head: Head {
            model: "digits".into(),
            id: id.into(),
            ..Head::default()
        },
        inputs: vec![Tensor {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: Shape::new([1, data.len() as i64]),
            parameters: Parameters::default(),
            data: Payload::from(data),
            form: Form::Raw,
            unknown: Payload::new(),
        }],
        ..RequestParts::default()
    })
}

fn with(mut request: Request, change: impl FnOnce(&mut RequestParts)) -> Request {
    change(&mut request);
    request
}

/// A request that is due in so many milliseconds.
fn due(id: &str, millis: u64) -> Request {
    with(request(id), |parts| {
        parts.head.deadline = Some(Instant::now() + Duration::from_millis(millis));
    })
}

fn of_class(id: &str, class: u64) -> Request {
    with(request(id), |parts| parts.head.priority = class)
}

fn echo(request: &Request) -> Response {
    Response::from(ResponseParts {
        model: request.head.model.clone(),
        id: request.head.id.clone(),
        ..ResponseParts::default()
    })
}

fn cause<E: std::error::Error + 'static>(error: &Error) -> &E {
    error.downcast_ref().expect("an error of that type")
}
