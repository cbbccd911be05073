//! The filter before a scripted server, on a paused clock.

mod bounds;
mod flights;
mod properties;
mod rows;
mod sameness;
mod staleness;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::advance,
};
use tower::{Layer as _, Service};

use super::{
    key::{Cut, Keys},
    store::{Asking, Entries, Entry, Place, Seek},
    *,
};
use crate::{
    batch::{Batchable, Capability, Unbatchable},
    inference::{
        CacheControl, CacheReport, CacheResult, Code, Datatype, Error, Form, Head, Metadata,
        Parameter, Parameters, Payload, Request, RequestParts, RequestedOutput, Response,
        ResponseParts, Shape, Status, Tensor,
    },
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
    cache: Cache<Upstream>,
    calls: mpsc::UnboundedReceiver<Sent>,
    capability: Capability,
}

type Caller = JoinHandle<Result<Response, Error>>;

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
        let capability = Capability::new(Batchable::Yes {
            max_batch_size: None,
        });
        let layer = CacheLayer::new(config, capability.clone(), Handles::default());
        Self {
            cache: layer.layer(Upstream(sender)),
            calls,
            capability,
        }
    }

    fn send(&mut self, request: Request) -> Caller {
        tokio::spawn(self.cache.call(request))
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

    /// Sends a request, answers the call that it makes with itself, and returns the answer.
    async fn ask(&mut self, request: Request) -> Response {
        let caller = self.send(request);
        if let Some(call) = self.call().await {
            call.echo();
        }
        answer(caller).await.unwrap()
    }

    /// Sends a request that the server need not answer.
    async fn hit(&mut self, request: Request) -> Response {
        let caller = self.send(request);
        self.expect_no_call().await;
        answer(caller).await.unwrap()
    }

    /// Tells whether a request is answered without the server.
    async fn knows(&mut self, request: Request) -> bool {
        let caller = self.send(request);
        let call = self.call().await;
        let knows = call.is_none();
        if let Some(call) = call {
            call.echo();
        }
        answer(caller).await.unwrap();
        knows
    }

    fn view(&self) -> View {
        self.cache.store().view()
    }
}

impl Sent {
    /// Answers each row with itself.
    fn echo(self) {
        let answer = echo(&self.request);
        self.answer(answer);
    }

    fn answer(self, answer: Response) {
        // The caller may have left.
        let _ = self.reply.send(Ok(answer));
    }

    fn fail(self, cause: impl Into<Error>) {
        let _ = self.reply.send(Err(cause.into()));
    }

    fn marks(&self) -> Vec<u8> {
        self.request.inputs[0]
            .data
            .to_bytes()
            .chunks(2)
            .map(|row| row[0])
            .collect()
    }
}

/// A store without a filter, in which whatever is asked has one digest.
#[derive(Debug)]
struct Collided {
    entries: Entries,
    by_row: bool,
}

impl Collided {
    fn new(by_row: bool) -> Self {
        Self {
            entries: Entries::new(&Config::default(), Handles::default()),
            by_row,
        }
    }

    fn cut<'a>(&self, request: &'a Request) -> Cut<'a> {
        let mut cut = cut(self.entries.keys(), request, self.by_row);
        cut.common = DIGEST;
        cut
    }

    fn place(&self, request: &Request, seek: Seek, asking: &mut Option<Asking>) -> Place {
        let cut = self.cut(request);
        self.entries.place(&cut, 0, DIGEST, seek, asking, 0)
    }

    /// Begins a call for a row.
    fn begin(&self, request: &Request) -> Asking {
        let seek = Seek {
            asks: true,
            ..NOWHERE
        };
        let mut asking = None;
        self.place(request, seek, &mut asking);
        asking.expect("a call")
    }

    /// Answers a row with itself.
    fn land(&self, asking: Asking, request: &Request) {
        let Self { entries, by_row } = self;
        let response = echo(request);
        let answers = frame::cut(&response, 1, *by_row).unwrap();
        let entry = Entry::new(
            asking.question,
            &asking.sent[0],
            entries.frame(&response, *by_row),
            answers.iter().map(|cells| &cells[0]),
            entries.term(DIGEST, 0, entries.now()),
        );
        entries.land(&asking.call, 0, DIGEST, entry);
    }

    fn is_under_way(&self, request: &Request) -> bool {
        let seek = Seek {
            under_way: true,
            asks: true,
            ..NOWHERE
        };
        let place = self.place(request, seek, &mut None);
        matches!(place, Place::UnderWay(..))
    }

    fn is_stored(&self, request: &Request) -> bool {
        let seek = Seek {
            stored: true,
            ..NOWHERE
        };
        let place = self.place(request, seek, &mut None);
        matches!(place, Place::Stored(_))
    }
}

fn cut<'a>(keys: &Keys, request: &'a Request, by_row: bool) -> Cut<'a> {
    match by_row {
        true => Cut::by_row(request, keys).expect("rows"),
        false => Cut::whole(request, keys),
    }
}

async fn settle() {
    for _ in 0..12 {
        tokio::task::yield_now().await;
    }
}

async fn answer(caller: Caller) -> Result<Response, Error> {
    settle().await;
    assert!(caller.is_finished(), "no answer yet");
    caller.await.unwrap()
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

/// A request of rows that are each a mark twice.
fn request(id: &str, marks: &[u8]) -> Request {
    let data: Vec<u8> = marks.iter().flat_map(|mark| [*mark, *mark]).collect();
    Request::from(RequestParts {
        head: Head {
            model: "digits".into(),
            id: id.into(),
            ..Head::default()
        },
        inputs: vec![tensor("x", marks.len(), data)],
        ..RequestParts::default()
    })
}

fn with(mut request: Request, change: impl FnOnce(&mut RequestParts)) -> Request {
    change(&mut request);
    request
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
    let bytes = response.outputs[0].data.to_bytes();
    bytes.chunks(2).map(|row| row[0]).collect()
}

fn reported(response: &Response) -> CacheReport {
    response.report.cache.expect("a report")
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

const DIGEST: u64 = 7;
const NOWHERE: Seek = Seek {
    stored: false,
    under_way: false,
    asks: false,
    max_age: None,
};
