//! The filter before a scripted server, on a paused clock.

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

#[tokio::test(start_paused = true)]
async fn a_lone_request_goes_at_once_in_its_wire_form() {
    let mut script = Script::new(fixed(32));
    let wire: Wire = std::sync::Arc::new("the message");
    let lone = Request::from_wire(request("a", 1, 1).into_parts(), wire.clone(), 11);
    let began = Instant::now();
    let mut caller = script.send(lone);
    let sent = script.expect_call().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(std::sync::Arc::ptr_eq(sent.request.wire().unwrap(), &wire));
    assert_eq!(sent.request.head.id, "a");
    let reply: Wire = std::sync::Arc::new("the answer");
    let parts = echo(&sent.request).into_parts();
    advance(Duration::from_millis(5)).await;
    sent.reply
        .send(Ok(Response::from_wire(parts, reply.clone())))
        .unwrap();
    let response = answer(&mut caller).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(response.wire().unwrap(), &reply));
    assert_eq!(response.report.batch_rows, Some(1));
    assert_eq!(response.report.queue, Some(Duration::ZERO));
    assert_eq!(response.report.upstream, Some(Duration::from_millis(5)));
    assert_eq!(script.batch.load(), 0);
    let view = script.batch.view();
    assert_eq!(view.in_flight, 0);
    let p99 = view.p99.expect("a request was answered");
    assert!((5.0..5.7).contains(&(p99.as_secs_f64() * 1e3)), "{p99:?}");
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_what_calls_take() {
    let mut script = Script::new(Config {
        controller: config::Controller::Aimd,
        max_batch_size: Some(100),
        ..Config::default()
    });
    let _callers: Vec<_> = (0..40).map(|_| script.send(request("", 1, 0))).collect();
    let mut rows = Vec::new();
    while let Some(call) = script.call().await {
        rows.push(call.rows());
        advance(Duration::from_millis(1)).await;
        call.echo();
    }
    assert_eq!(rows, [1, 2, 4, 8, 16, 9]);
    assert_eq!(script.batch.view().batch_limit, 32);
    assert_eq!(script.batch.shared().metrics.limit.get(), 32);
    // Calls that take longer than the objective are made smaller.
    let _callers: Vec<_> = (0..101).map(|_| script.send(request("", 1, 0))).collect();
    let mut rows = Vec::new();
    while let Some(call) = script.call().await {
        rows.push(call.rows());
        advance(Duration::from_millis(40)).await;
        call.echo();
    }
    assert_eq!(rows[..4], [1, 32, 16, 8]);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_call_leaves_as_one_batch_in_order() {
    let mut script = Script::new(fixed(32));
    let mut first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut callers: Vec<_> = (1..=5)
        .map(|mark| script.send(request(&format!("id{mark}"), usize::from(mark), mark)))
        .collect();
    script.expect_no_call().await;
    assert_eq!(script.batch.view().queue_rows, 15);
    assert_eq!(script.batch.view().queue_bytes, 30);
    assert_eq!(script.batch.load(), 16);
    advance(Duration::from_millis(3)).await;
    call.echo();
    let merged = script.expect_call().await;
    assert!(poll(&mut first).is_ready());
    assert_eq!(merged.rows(), 15);
    assert_eq!(merged.request.inputs[0].data.pieces().len(), 5);
    assert!(merged.request.head.id.is_empty());
    advance(Duration::from_millis(2)).await;
    merged.echo();
    for (mark, caller) in (1..=5_u8).zip(&mut callers) {
        let response = answer(caller).await.unwrap();
        assert_eq!(response.id, format!("id{mark}"));
        assert_eq!(marks(&response), vec![mark; usize::from(mark) * 2]);
        assert_eq!(response.outputs[0].shape.dimensions(), [i64::from(mark), 2]);
        assert_eq!(response.version, "7");
        assert_eq!(response.report.batch_rows, Some(15));
        assert_eq!(response.report.queue, Some(Duration::from_millis(3)));
        assert_eq!(response.report.upstream, Some(Duration::from_millis(2)));
    }
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_rows_and_the_bound_of_bytes_close_a_batch() {
    let mut script = Script::new(Config {
        max_batch_bytes: 10,
        ..fixed(4)
    });
    let _callers: Vec<_> = [1, 3, 1, 2, 2, 9, 1]
        .map(|rows| script.send(request("", rows, 0)))
        .into();
    for expected in [1, 4, 4, 9, 1] {
        let call = script.expect_call().await;
        assert_eq!(call.rows(), expected);
        call.echo();
    }
    let mut script = Script::new(Config {
        max_batch_bytes: 10,
        ..fixed(400)
    });
    let _callers: Vec<_> = [1, 3, 1, 2, 2, 9, 1]
        .map(|rows| script.send(request("", rows, 0)))
        .into();
    for expected in [1, 4, 4, 9, 1] {
        let call = script.expect_call().await;
        assert_eq!(call.rows(), expected);
        call.echo();
    }
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn the_key_whose_request_is_oldest_goes_next() {
    let mut script = Script::new(fixed(32));
    let other = |id: &str| with(request(id, 1, 9), |parts| parts.head.version = "2".into());
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let _waiting = [
        script.send(other("b1")),
        script.send(request("a1", 1, 0)),
        script.send(other("b2")),
        script.send(request("a2", 1, 0)),
    ];
    call.echo();
    let call = script.expect_call().await;
    assert_eq!((call.rows(), &*call.request.head.version), (2, "2"));
    // Busy as its key is, a request that came later waits behind the other key.
    let _late = script.send(other("b3"));
    call.echo();
    let call = script.expect_call().await;
    assert_eq!((call.rows(), &*call.request.head.version), (2, ""));
    call.echo();
    let call = script.expect_call().await;
    assert_eq!((call.rows(), &*call.request.head.version), (1, "2"));
}

#[tokio::test(start_paused = true)]
async fn as_many_calls_are_under_way_as_the_configuration_says() {
    let mut script = Script::new(Config {
        max_in_flight: InFlight::Fixed(2),
        ..fixed(32)
    });
    let _callers: Vec<_> = (0..5).map(|_| script.send(request("", 1, 0))).collect();
    let one = script.expect_call().await;
    let two = script.expect_call().await;
    script.expect_no_call().await;
    assert_eq!(script.batch.view().in_flight, 2);
    two.echo();
    assert_eq!(script.expect_call().await.rows(), 3);
    one.echo();
    script.expect_no_call().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_caller_frees_its_place_and_its_bytes() {
    let mut script = Script::new(fixed(32));
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut stays = script.send(request("stays", 1, 5));
    let bytes = Bytes::from(vec![0; 64]);
    let leaves = script.send(with(request("leaves", 1, 0), |parts| {
        parts.inputs[0] = tensor("x", 32, bytes.clone());
    }));
    assert!(!bytes.is_unique());
    assert_eq!(script.batch.view().queue_rows, 33);
    drop(leaves);
    assert!(bytes.is_unique());
    assert_eq!(script.batch.view().queue_rows, 1);
    assert_eq!(script.batch.view().queue_bytes, 2);
    assert_eq!(script.batch.load(), 2);
    assert_eq!(script.batch.shared().metrics.cancelled.get(), 1);
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.request.head.id, "stays");
    call.echo();
    assert_eq!(marks(&answer(&mut stays).await.unwrap()), [5, 5]);
    assert_eq!(script.batch.view().queue_bytes, 0);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_a_call_under_way_does_not_abort_the_others() {
    let mut script = Script::new(fixed(32));
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let leaves = script.send(request("leaves", 1, 1));
    let mut stays = script.send(request("stays", 1, 2));
    let leaves_too = script.send(request("leaves too", 1, 3));
    call.echo();
    let call = script.expect_call().await;
    drop(leaves);
    drop(leaves_too);
    settle().await;
    assert_eq!(call.rows(), 3);
    call.echo();
    assert_eq!(marks(&answer(&mut stays).await.unwrap()), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_all_have_left_is_cancelled_if_so_configured_and_frees_its_place() {
    let mut script = Script::new(Config {
        cancel: Cancel::Abandoned,
        ..fixed(32)
    });
    let first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let members: Vec<_> = (0..3).map(|_| script.send(request("", 1, 0))).collect();
    drop(first);
    let merged = script.expect_call().await;
    assert!(call.reply.is_closed());
    assert_eq!(merged.rows(), 3);
    let mut waits = script.send(request("waits", 1, 1));
    for member in members.into_iter().rev() {
        assert!(!merged.reply.is_closed());
        drop(member);
        settle().await;
    }
    assert!(merged.reply.is_closed());
    script.expect_call().await.echo();
    assert_eq!(marks(&answer(&mut waits).await.unwrap()), [1, 1]);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_each_member_with_its_cause() {
    let mut script = Script::new(fixed(32));
    let mut first = script.send(request("first", 1, 0));
    script
        .expect_call()
        .await
        .fail(Status::new(Code::NotFound, "no such model"));
    let error = answer(&mut first).await.unwrap_err();
    assert!(error.downcast_ref::<Status>().is_some());

    let _busy = script.send(request("busy", 1, 0));
    let call = script.expect_call().await;
    let mut callers: Vec<_> = (0..3).map(|_| script.send(request("", 1, 0))).collect();
    call.echo();
    script
        .expect_call()
        .await
        .fail(Status::new(Code::ResourceExhausted, "out of memory"));
    for caller in &mut callers {
        let error = answer(caller).await.unwrap_err();
        let status = cause::<Status>(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "out of memory");
        assert!(error.downcast_ref::<CallFailed>().is_some());
    }
    assert_eq!(script.batch.view().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn members_of_an_uneven_answer_are_sent_singly_and_merged_no_more() {
    let mut script = Script::new(fixed(32));
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut callers: Vec<_> = (1..=3)
        .map(|mark| script.send(request(&format!("id{mark}"), 1, mark)))
        .collect();
    call.echo();
    let merged = script.expect_call().await;
    let waits = script.send(request("id4", 1, 4));
    callers.push(waits);
    merged
        .reply
        .send(Ok(echo(&request("", 1, 9))))
        .expect("the batch waits");
    settle().await;
    assert_eq!(
        script.batch.view().capability,
        Batchable::No(Unbatchable::UnevenOutput)
    );
    assert_eq!(script.batch.shared().metrics.uneven.get(), 1);
    let last = script.send(request("id5", 1, 5));
    callers.push(last);
    // The one that waited may have been sent as a batch of one before the answer was looked at.
    for round in 0..5 {
        for caller in &mut callers {
            assert!(poll(caller).is_pending(), "answered in round {round}");
        }
    }
    let mut calls = Vec::new();
    while let Some(call) = script.call().await {
        assert_eq!(call.rows(), 1);
        calls.push(call);
    }
    assert_eq!(calls.len(), 5);
    calls.into_iter().for_each(Sent::echo);
    for (mark, caller) in (1..=5_u8).zip(&mut callers) {
        let response = answer(caller).await.unwrap();
        assert_eq!(response.id, format!("id{mark}"));
        assert_eq!(marks(&response), [mark, mark]);
    }
    assert_eq!(script.batch.load(), 0);
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

#[tokio::test(start_paused = true)]
async fn one_bad_row_spoils_only_its_own_request() {
    for code in [
        Code::InvalidArgument,
        Code::Internal,
        Code::Unknown,
        Code::OutOfRange,
        Code::FailedPrecondition,
    ] {
        let mut script = Script::new(fixed(32));
        let (mut callers, merged) = gather(&mut script, marked(1..=16)).await;
        let rows = refuse(&mut script, Some(merged), &[11], code).await;
        assert_eq!(rows, [16, 8, 8, 4, 4, 2, 2, 1, 1]);
        for (mark, caller) in (1..=16).zip(&mut callers) {
            let answer = answer(caller).await;
            if mark == 11 {
                let error = answer.unwrap_err();
                // It was alone: the error is its own.
                let status = error.downcast_ref::<Status>().unwrap();
                assert_eq!((status.code(), status.message()), (code, "11 is bad"));
            } else {
                let response = answer.unwrap();
                assert_eq!(response.id, format!("id{mark}"));
                assert_eq!(marks(&response), [mark, mark]);
            }
        }
        let metrics = &script.batch.shared().metrics;
        assert_eq!((metrics.halved.get(), metrics.isolated.get()), (1, 1));
        assert_eq!(metrics.closed(Closed::Halved).get(), 8);
        assert_eq!(script.batch.load(), 0);
        assert_eq!(script.batch.view().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_row_causes_is_told_to_each_member_at_once() {
    let codes = Code::ALL.into_iter().filter(|code| {
        !matches!(
            code,
            Code::Ok
                | Code::InvalidArgument
                | Code::Internal
                | Code::Unknown
                | Code::OutOfRange
                | Code::FailedPrecondition
        )
    });
    let errors: Vec<Error> = codes
        .map(|code| Status::new(code, "no").into())
        .chain(["the connection broke".into()])
        .collect();
    let mut script = Script::new(fixed(32));
    for error in errors {
        let (mut callers, merged) = gather(&mut script, marked(1..=4)).await;
        merged.fail(error);
        script.expect_no_call().await;
        for caller in &mut callers {
            cause::<CallFailed>(&answer(caller).await.unwrap_err());
        }
    }
    assert_eq!(script.batch.shared().metrics.halved.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_requests_own_rows_are_never_divided() {
    let mut script = Script::new(fixed(64));
    let requests = (1..=4).map(|mark| request(&format!("id{mark}"), usize::from(mark) * 3, mark));
    let (mut callers, merged) = gather(&mut script, requests).await;
    let rows = refuse(&mut script, Some(merged), &[2], Code::Internal).await;
    assert_eq!(rows, [30, 9, 21, 3, 6]);
    for (index, caller) in callers.iter_mut().enumerate() {
        assert_eq!(answer(caller).await.is_ok(), index != 1);
    }
}

#[tokio::test(start_paused = true)]
async fn parts_keep_their_place_before_what_came_later_and_teach_the_controller_nothing() {
    let mut script = Script::new(Config {
        controller: config::Controller::Aimd,
        max_batch_size: Some(100),
        ..Config::default()
    });
    let (mut callers, merged) = gather(&mut script, marked(1..=2)).await;
    let limit = script.batch.view().batch_limit;
    let mut late = script.send(request("late", 1, 9));
    merged.fail(Status::new(Code::Internal, "no"));
    assert_eq!(script.batch.load(), 3);
    let first = script.expect_call().await;
    script.expect_no_call().await;
    assert_eq!((first.rows(), &*first.request.head.id), (1, "id1"));
    assert_eq!(script.batch.view().in_flight, 1);
    // Ten times the objective.
    advance(Duration::from_millis(200)).await;
    first.echo();
    let second = script.expect_call().await;
    assert_eq!(&*second.request.head.id, "id2");
    assert_eq!(script.batch.load(), 2);
    second.echo();
    assert_eq!(script.batch.view().batch_limit, limit);
    let call = script.expect_call().await;
    assert_eq!(&*call.request.head.id, "late");
    call.echo();
    for caller in callers.iter_mut().chain([&mut late]) {
        assert!(answer(caller).await.is_ok());
    }
    assert_eq!(script.batch.shared().metrics.isolated.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_or_comes_too_late_during_the_search_is_sent_no_more() {
    // With an objective that is shorter than the deadline, its turn is the last.
    let mut script = Script::new(Config {
        latency_objective: Duration::from_millis(5),
        ..fixed(32)
    });
    let deadline = Instant::now() + Duration::from_millis(10);
    let requests = marked(1..=8).into_iter().map(|request| {
        let id = request.head.id.clone();
        with(request, |parts| {
            if id == "id6" {
                parts.head.deadline = Some(deadline);
            }
        })
    });
    let (mut callers, merged) = gather(&mut script, requests).await;
    merged.fail(Status::new(Code::Internal, "no"));
    let half = script.expect_call().await;
    assert_eq!(half.rows(), 4);
    // The fifth and the seventh.
    drop((callers.remove(6), callers.remove(4)));
    advance(Duration::from_millis(20)).await;
    half.echo();
    let half = script.expect_call().await;
    assert_eq!((half.rows(), &*half.request.head.id), (1, "id8"));
    half.echo();
    cause::<DeadlineExpired>(&answer(&mut callers.remove(4)).await.unwrap_err());
    for caller in &mut callers {
        assert!(answer(caller).await.is_ok());
    }
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_everything_is_not_hammered() {
    let mut script = Script::new(fixed(16));
    let (mut calls, mut parts) = (0, 0);
    for _ in 0..200 {
        let (mut callers, merged) = gather(&mut script, marked(1..=16)).await;
        calls += 2;
        merged.fail(Status::new(Code::Internal, "out of order"));
        while let Some(part) = script.call().await {
            parts += 1;
            part.fail(Status::new(Code::Internal, "out of order"));
        }
        for caller in &mut callers {
            let error = answer(caller).await.unwrap_err();
            assert_eq!(cause::<Status>(&error).message(), "out of order");
        }
    }
    assert!(parts <= 64 + calls / 5, "{parts}");
    let metrics = &script.batch.shared().metrics;
    assert_eq!(metrics.isolated.get(), 0, "nobody is to blame");
    assert_eq!(metrics.alone(Alone::Quarantined).get(), 0);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn contents_that_made_a_call_fail_go_alone_until_they_succeed() {
    let mut script = Script::new(fixed(32));
    let (_callers, merged) = gather(&mut script, marked(1..=4)).await;
    refuse(&mut script, Some(merged), &[3], Code::InvalidArgument).await;

    // It goes at once, although the endpoint is busy.
    let _busy = script.send(request("busy", 1, 0));
    let busy = script.expect_call().await;
    let mut waits = script.send(request("waits", 1, 1));
    let mut again = script.send(request("again", 1, 3));
    assert!(poll(&mut again).is_pending());
    let call = script.expect_call().await;
    assert_eq!(call.request.head.id, "again");
    call.fail(Status::new(Code::InvalidArgument, "bad"));
    cause::<Status>(&answer(&mut again).await.unwrap_err());
    let quarantined = || {
        script
            .batch
            .shared()
            .metrics
            .alone(Alone::Quarantined)
            .get()
    };
    assert_eq!(quarantined(), 1);
    busy.echo();
    script.expect_call().await.echo();
    assert!(answer(&mut waits).await.is_ok());

    // What fails for another reason stays, what succeeds leaves.
    for (fails, known) in [(true, 2), (false, 3), (false, 3)] {
        let mut again = script.send(request("again", 1, 3));
        let _pending = poll(&mut again);
        let call = script.expect_call().await;
        match fails {
            true => call.fail(Status::new(Code::Unavailable, "away")),
            false => call.echo(),
        }
        assert_eq!(answer(&mut again).await.is_err(), fails);
        let counted = script
            .batch
            .shared()
            .metrics
            .alone(Alone::Quarantined)
            .get();
        assert_eq!(counted, known);
    }
}

#[tokio::test(start_paused = true)]
async fn quarantine_ends_after_a_while_and_holds_for_all_endpoints_of_an_arm() {
    let (sender, calls) = mpsc::unbounded_channel();
    let capability = Capability::new(Batchable::Yes {
        max_batch_size: None,
    });
    let layer = BatchLayer::new(fixed(32), capability.clone(), Handles::default());
    let make = || tower::Layer::layer(&layer, Upstream(sender.clone()));
    let mut other = make();
    let mut script = Script {
        batch: make(),
        calls,
        capability,
    };
    let (_callers, merged) = gather(&mut script, marked(1..=4)).await;
    refuse(&mut script, Some(merged), &[3], Code::InvalidArgument).await;
    let quarantined = |script: &Script| {
        script
            .batch
            .shared()
            .metrics
            .alone(Alone::Quarantined)
            .get()
    };
    drop(other.call(request("", 1, 3)));
    assert_eq!(quarantined(&script), 1);
    advance(Duration::from_secs(299)).await;
    drop(other.call(request("", 1, 3)));
    assert_eq!(quarantined(&script), 2);
    advance(Duration::from_secs(2)).await;
    drop(other.call(request("", 1, 3)));
    assert_eq!(quarantined(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn errors_are_read_as_the_layer_is_told() {
    #[derive(Debug)]
    struct Refused;
    impl std::fmt::Display for Refused {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("refused")
        }
    }
    impl std::error::Error for Refused {}

    let (sender, calls) = mpsc::unbounded_channel();
    let capability = Capability::default();
    let layer = BatchLayer::new(fixed(32), capability.clone(), Handles::default());
    let layer = layer.with_verdict(|cause| {
        let refused = cause.downcast_ref::<Refused>()?;
        Some(Status::new(Code::Internal, refused.to_string()))
    });
    let mut script = Script {
        batch: tower::Layer::layer(&layer, Upstream(sender)),
        calls,
        capability,
    };
    let (_callers, merged) = gather(&mut script, marked(1..=2)).await;
    // As a cause, whatever it is wrapped in.
    merged.fail(CallFailed::new(Refused.into()));
    assert_eq!(script.expect_call().await.rows(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_uneven_answer_to_a_part_ends_the_search_and_everybody_goes_alone() {
    let mut script = Script::new(fixed(32));
    let (mut callers, merged) = gather(&mut script, marked(1..=8)).await;
    merged.fail(Status::new(Code::Internal, "no"));
    let half = script.expect_call().await;
    half.reply.send(Ok(echo(&request("", 77, 0)))).unwrap();
    let second = script.expect_call().await;
    assert_eq!(second.rows(), 4);
    second.fail(Status::new(Code::Internal, "no"));
    settle().await;
    for caller in &mut callers {
        assert!(poll(caller).is_pending());
    }
    for _ in 0..8 {
        let call = script.expect_call().await;
        assert_eq!(call.rows(), 1);
        call.echo();
    }
    script.expect_no_call().await;
    for caller in &mut callers {
        assert!(answer(caller).await.is_ok());
    }
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn over_the_bounds_callers_are_refused_at_once_and_admitted_later() {
    let bounds = [
        (
            Config {
                max_queue_rows: 3,
                ..fixed(32)
            },
            Bound::Rows,
            3,
        ),
        (
            Config {
                max_queue_bytes: 6,
                ..fixed(32)
            },
            Bound::Bytes,
            6,
        ),
    ];
    for (config, bound, limit) in bounds {
        let mut script = Script::new(config);
        let _first = script.send(request("", 9, 0));
        let call = script.expect_call().await;
        let _waits = script.send(request("", 2, 0));
        let mut refused = script.send(request("", 2, 0));
        let Poll::Ready(Err(error)) = poll(&mut refused) else {
            panic!("not refused");
        };
        let overloaded = error.downcast_ref::<Overloaded>().unwrap();
        assert_eq!((overloaded.bound(), overloaded.limit()), (bound, limit));
        let _fits = script.send(request("", 1, 0));
        call.echo();
        let call = script.expect_call().await;
        assert_eq!(call.rows(), 3);
        let mut admitted = script.send(request("", 2, 0));
        assert!(poll(&mut admitted).is_pending());
        assert_eq!(script.batch.view().queue_rows, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_counts_as_a_whole_even_if_its_tensors_are_small() {
    let mut script = Script::new(Config {
        max_queue_bytes: 100,
        ..fixed(32)
    });
    let message = |len| {
        let wire: Wire = std::sync::Arc::new(());
        Request::from_wire(request("", 1, 0).into_parts(), wire, len)
    };
    let _first = script.send(request("", 1, 0));
    let call = script.expect_call().await;
    // A changed request has slices of its message still.
    let changed = with(message(60), |parts| parts.head.version = "1".into());
    assert!(changed.wire().is_none());
    let _waits = script.send(changed);
    assert_eq!(script.batch.view().queue_bytes, 60);
    let mut refused = script.send(message(41));
    let Poll::Ready(Err(error)) = poll(&mut refused) else {
        panic!("not refused");
    };
    assert_eq!(cause::<Overloaded>(&error).bound(), Bound::Bytes);
    let _fits = script.send(message(40));
    assert_eq!(script.batch.view().queue_bytes, 100);
    call.echo();
    let _next = script.expect_call().await;
    assert_eq!(script.batch.view().queue_bytes, 40);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_call_answers_its_members_and_wedges_nothing() {
    let mut script = Script::new(fixed(32));
    let panics = |id: &str| {
        with(request(id, 1, 1), |parts| {
            parts.head.model = "panics".into()
        })
    };
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut doomed = [script.send(panics("")), script.send(panics(""))];
    let mut next = script.send(request("next", 1, 2));
    call.echo();
    script.expect_call().await.echo();
    for caller in &mut doomed {
        let error = answer(caller).await.unwrap_err();
        cause::<Interrupted>(&error);
    }
    assert_eq!(marks(&answer(&mut next).await.unwrap()), [2, 2]);
    assert_eq!(script.batch.view().in_flight, 0);
    assert_eq!(script.batch.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn expired_members_are_answered_and_never_sent() {
    let mut script = Script::new(fixed(32));
    let by = |id: &str, millis: u64| {
        let deadline = Instant::now() + Duration::from_millis(millis);
        with(request(id, 1, 1), |parts| {
            parts.head.deadline = Some(deadline)
        })
    };
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let mut late = script.send(by("late", 5));
    let mut later = script.send(by("later", 50));
    let mut latest = script.send(by("latest", 70));
    let deadline = Instant::now() + Duration::from_millis(70);
    advance(Duration::from_millis(10)).await;
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 2);
    assert_eq!(call.request.head.deadline, Some(deadline));
    cause::<DeadlineExpired>(&answer(&mut late).await.unwrap_err());
    let mut dead = script.send(by("dead", 0));
    cause::<DeadlineExpired>(&answer(&mut dead).await.unwrap_err());
    // One member without a deadline takes it from the call.
    let _bound = script.send(by("bound", 90));
    let _boundless = script.send(request("boundless", 1, 1));
    call.echo();
    assert!(answer(&mut later).await.is_ok() && answer(&mut latest).await.is_ok());
    let call = script.expect_call().await;
    assert_eq!((call.rows(), call.request.head.deadline), (2, None));
    assert_eq!(script.batch.shared().metrics.expired.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_merged_call_carries_what_is_left_of_the_shortest_timeout() {
    let mut script = Script::new(fixed(32));
    let within = |micros: i64| {
        with(request("", 1, 1), |parts| {
            parts
                .parameters
                .insert("timeout".into(), Parameter::Int64(micros));
        })
    };
    let _first = script.send(request("first", 1, 0));
    let call = script.expect_call().await;
    let _waiting = [script.send(within(9000)), script.send(within(5000))];
    advance(Duration::from_millis(2)).await;
    let _last = script.send(within(4000));
    call.echo();
    let call = script.expect_call().await;
    assert_eq!(call.rows(), 3);
    assert_eq!(
        call.request.parameters.get("timeout"),
        Some(&Parameter::Int64(3000))
    );
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_merged_goes_alone_at_once_as_it_came() {
    let int = |name: &'static str, value| {
        move |parts: &mut RequestParts| {
            parts.parameters.insert(name.into(), value);
        }
    };
    type Change = Box<dyn FnOnce(&mut RequestParts)>;
    let changes: Vec<(Alone, Change)> = vec![
        (
            Alone::Sequence,
            Box::new(int("sequence_id", Parameter::Int64(4))),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_id", Parameter::String("s".into()))),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_id", Parameter::Unset)),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_start", Parameter::Bool(true))),
        ),
        (
            Alone::Sequence,
            Box::new(int("sequence_end", Parameter::Int64(1))),
        ),
        (
            Alone::SharedMemory,
            Box::new(|parts| {
                parts.inputs[0]
                    .parameters
                    .insert("shared_memory_region".into(), Parameter::String("r".into()));
            }),
        ),
        (
            Alone::SharedMemory,
            Box::new(|parts| {
                let mut parameters = Parameters::default();
                parameters.insert("shared_memory_byte_size".into(), Parameter::Int64(8));
                parts.outputs.push(RequestedOutput {
                    name: "y".into(),
                    parameters,
                    unknown: Payload::new(),
                });
            }),
        ),
        (
            Alone::Unknown,
            Box::new(|parts| parts.unknown = Bytes::from_static(b"?").into()),
        ),
        (
            Alone::Unknown,
            Box::new(|parts| parts.inputs[0].unknown = Bytes::from_static(b"?").into()),
        ),
        (
            Alone::Unknown,
            Box::new(|parts| {
                parts.outputs.push(RequestedOutput {
                    name: "y".into(),
                    parameters: Parameters::default(),
                    unknown: Bytes::from_static(b"?").into(),
                });
            }),
        ),
        (
            Alone::NoRows(NoRows::Absent),
            Box::new(|parts| parts.inputs[0].form = Form::Absent),
        ),
        (
            Alone::NoRows(NoRows::Scalar),
            Box::new(|parts| parts.inputs[0].shape = Shape::default()),
        ),
        (
            Alone::NoRows(NoRows::NotPositive),
            Box::new(|parts| parts.inputs[0].shape = Shape::new([-1, 2])),
        ),
        (
            Alone::NoRows(NoRows::Length),
            Box::new(|parts| parts.inputs[0].shape = Shape::new([1, 3])),
        ),
        (
            Alone::NoRows(NoRows::NoInputs),
            Box::new(|parts| parts.inputs.clear()),
        ),
        (
            Alone::NoRows(NoRows::Disagree),
            Box::new(|parts| parts.inputs.push(tensor("z", 2, vec![0; 4]))),
        ),
        (
            Alone::Parameters,
            Box::new(|parts| {
                for index in 0..17 {
                    parts
                        .parameters
                        .insert(format!("p{index}").into(), Parameter::Unset);
                }
            }),
        ),
    ];
    let mut script = Script::new(fixed(32));
    let _busy = script.send(request("busy", 1, 0));
    let _call = script.expect_call().await;
    for (reason, change) in changes {
        let before = script.batch.shared().metrics.alone(reason).get();
        let wire: Wire = std::sync::Arc::new(());
        let lone = with(request("alone", 1, 1), change).into_parts();
        let mut caller = script.send(Request::from_wire(lone, wire, 11));
        assert!(poll(&mut caller).is_pending());
        let call = script.call().await.unwrap_or_else(|| panic!("{reason:?}"));
        assert!(call.request.wire().is_some(), "{reason:?}");
        let counted = script.batch.shared().metrics.alone(reason).get();
        assert_eq!(counted, before + 1, "{reason:?}");
        assert_eq!(script.batch.load(), 2);
        call.fail("no");
        assert!(answer(&mut caller).await.is_err());
        assert_eq!(script.batch.load(), 1);
    }
    // What says outright that there is no sequence is merged like any other.
    let none = with(request("", 1, 1), |parts| {
        for (name, value) in [
            ("sequence_id", Parameter::Int64(0)),
            ("sequence_start", Parameter::Bool(false)),
        ] {
            parts.parameters.insert(name.into(), value);
        }
    });
    let mut waits = script.send(none);
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.batch.view().queue_rows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_model_of_which_nothing_is_known_is_sent_no_batches() {
    let mut script = Script::new(Config {
        max_batch_size: None,
        ..fixed(32)
    });
    script.capability.set(Batchable::Unknown);
    let mut callers: Vec<_> = (0..3).map(|_| script.send(request("", 1, 0))).collect();
    for caller in &mut callers {
        assert!(poll(caller).is_pending());
        assert_eq!(script.expect_call().await.rows(), 1);
    }
    // Once the server has said so, they are merged, within the server's bound.
    script.capability.set(Batchable::Yes {
        max_batch_size: Some(2),
    });
    let _callers: Vec<_> = (0..4).map(|_| script.send(request("", 1, 0))).collect();
    script.expect_call().await.echo();
    script.expect_call().await.echo();
    assert_eq!(script.expect_call().await.rows(), 1);
    assert_eq!(script.batch.view().batch_limit, 2);
}

#[tokio::test(start_paused = true)]
async fn a_configured_bound_says_that_the_model_takes_batches_unless_it_is_known_not_to() {
    let mut script = Script::new(fixed(3));
    script.capability.set(Batchable::Unknown);
    let _first = script.send(request("", 1, 0));
    let call = script.expect_call().await;
    let mut waits = script.send(request("", 1, 0));
    script.expect_no_call().await;
    script.capability.set(Batchable::No(Unbatchable::Decoupled));
    let mut alone = script.send(request("", 1, 0));
    assert!(poll(&mut alone).is_pending());
    assert_eq!(script.expect_call().await.rows(), 1);
    // Whoever waited is not left behind, although no batch will come for it.
    call.echo();
    settle().await;
    assert!(poll(&mut waits).is_pending());
    assert_eq!(script.expect_call().await.rows(), 1);
    assert_eq!(script.batch.view().in_flight, 0);
}

#[test]
fn when_a_runtime_goes_those_who_wait_on_another_are_served_by_it() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (going, staying) = (runtime(), runtime());
    let mut script = Script::new(fixed(32));
    let mut first = {
        let _on = going.enter();
        script.send(request("first", 1, 0))
    };
    going.block_on(settle());
    let call = script.calls.try_recv().unwrap();
    let mut waits = {
        let _on = staying.enter();
        script.send(request("waits", 1, 3))
    };
    drop(going);
    assert!(call.reply.send(Ok(echo(&call.request))).is_err());
    staying.block_on(async {
        cause::<Interrupted>(&answer(&mut first).await.unwrap_err());
        settle().await;
        assert!(poll(&mut waits).is_pending());
        script.expect_call().await.echo();
        assert_eq!(marks(&answer(&mut waits).await.unwrap()), [3, 3]);
        assert_eq!(script.batch.view().in_flight, 0);
        assert_eq!(script.batch.load(), 0);
        let mut next = script.send(request("next", 1, 4));
        script.expect_call().await.echo();
        assert_eq!(marks(&answer(&mut next).await.unwrap()), [4, 4]);
    });
}

#[test]
fn when_a_runtime_goes_those_who_were_to_be_sent_again_are_sent_by_their_own_futures() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (going, staying) = (runtime(), runtime());
    let mut script = Script::new(fixed(32));
    let (mut callers, _half) = going.block_on(async {
        let (callers, merged) = gather(&mut script, marked(1..=4)).await;
        merged.fail(Status::new(Code::Internal, "no"));
        (callers, script.expect_call().await)
    });
    drop(going);
    staying.block_on(async {
        for caller in &mut callers[..2] {
            cause::<Interrupted>(&answer(caller).await.unwrap_err());
        }
        for caller in &mut callers[2..] {
            assert!(poll(caller).is_pending());
            let call = script.expect_call().await;
            assert_eq!(call.rows(), 1);
            call.echo();
            assert!(answer(caller).await.is_ok());
        }
        assert_eq!(script.batch.view().in_flight, 0);
        assert_eq!(script.batch.load(), 0);
    });
}

#[tokio::test(start_paused = true)]
async fn the_gauge_of_limits_is_the_sum_over_endpoints_and_forgets_those_that_are_gone() {
    let handles = Handles::default();
    let make = |rows| {
        let (sender, _) = mpsc::unbounded_channel();
        Batch::new(
            Upstream(sender),
            fixed(rows),
            Capability::default(),
            handles.clone(),
        )
    };
    let (one, two) = (make(30), make(12));
    assert_eq!(handles.limit.get(), 42);
    drop(one.clone());
    drop(one);
    assert_eq!(handles.limit.get(), 12);
    drop(two);
    assert_eq!(handles.limit.get(), 0);
}

#[test]
fn metrics_have_the_names_that_dashboards_know() {
    let mut registry = prometheus_client::registry::Registry::default();
    let handles = Metrics::register(&mut registry).handles("digits", "svm");
    handles.rows.observe(3.);
    handles.alone(Alone::Sequence).inc();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"outrigger_batch_rows_bucket{le="4.0",model="digits",arm="svm"} 1"#,
        r#"outrigger_batch_limit_rows{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_queue_duration_seconds_count{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_closed_total{model="digits",arm="svm",reason="full"} 0"#,
        r#"outrigger_batch_alone_total{model="digits",arm="svm",reason="sequence"} 1"#,
        r#"outrigger_batch_cancelled_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_uneven_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_halved_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_isolated_total{model="digits",arm="svm"} 0"#,
        r#"outrigger_batch_alone_total{model="digits",arm="svm",reason="quarantined"} 0"#,
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

/// One step of a random life of the filter.
#[derive(Clone, Debug)]
enum Step {
    Send {
        key: u8,
        rows: usize,
        alone: bool,
        patience: Option<u64>,
    },
    Leave(usize),
    Answer(usize),
    Fail(usize),
    Refuse(usize),
    Uneven(usize),
    HangUp(usize),
    Panic,
    Advance(u64),
    Know(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_u8, 1..4_usize, prop::bool::weighted(0.1), prop::option::of(0..9_u64))
            .prop_map(|(key, rows, alone, patience)| Step::Send { key, rows, alone, patience }),
        2 => any::<usize>().prop_map(Step::Leave),
        4 => any::<usize>().prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::Fail),
        2 => any::<usize>().prop_map(Step::Refuse),
        1 => any::<usize>().prop_map(Step::Uneven),
        1 => any::<usize>().prop_map(Step::HangUp),
        1 => Just(Step::Panic),
        2 => (0..5_u64).prop_map(Step::Advance),
        1 => any::<bool>().prop_map(Step::Know),
    ]
}

async fn live(steps: Vec<Step>, max_in_flight: usize, max_batch_size: usize) {
    let mut script = Script::new(Config {
        max_in_flight: InFlight::Fixed(max_in_flight),
        max_queue_rows: 12,
        ..fixed(max_batch_size)
    });
    let mut callers: Vec<(u8, usize, String, Caller)> = Vec::new();
    let mut calls: Vec<Sent> = Vec::new();
    let mut sent = 0_u8;
    for step in steps {
        match step {
            Step::Send {
                key,
                rows,
                alone,
                patience,
            } => {
                sent = sent.wrapping_add(1);
                let id = format!("id{sent}");
                let request = with(request(&id, rows, sent), |parts| {
                    parts.head.version = format!("{key}").into();
                    parts.head.deadline =
                        patience.map(|millis| Instant::now() + Duration::from_millis(millis));
                    if alone {
                        parts
                            .parameters
                            .insert("sequence_id".into(), Parameter::Int64(1));
                    }
                });
                let caller = script.send(request);
                callers.push((sent, rows, id, caller));
            }
            Step::Panic => {
                let request = with(request("panic", 1, 0), |parts| {
                    parts.head.model = "panics".into();
                });
                // Alone, the panic is the caller's own task's; here that would be the test's.
                if matches!(script.capability.get(), Batchable::Yes { .. }) {
                    drop(script.send(request));
                }
            }
            Step::Leave(which) if !callers.is_empty() => {
                drop(callers.remove(which % callers.len()));
            }
            Step::Answer(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                let answer = echo(&call.request);
                // A call that was alone ends with its caller.
                let _left = call.reply.send(Ok(answer));
            }
            Step::Fail(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                let _left = call.reply.send(Err("failed".into()));
            }
            Step::Refuse(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                let status = Status::new(Code::InvalidArgument, format!("{}", which % 2));
                let _left = call.reply.send(Err(status.into()));
            }
            Step::Uneven(which) if !calls.is_empty() => {
                let call = calls.remove(which % calls.len());
                // To a single request an answer of other rows is its own affair.
                if call.request.head.id.is_empty() {
                    let _left = call.reply.send(Ok(echo(&request("", 77, 0))));
                } else {
                    let answer = echo(&call.request);
                    let _left = call.reply.send(Ok(answer));
                }
            }
            Step::HangUp(which) if !calls.is_empty() => {
                calls.remove(which % calls.len());
            }
            Step::Advance(millis) => advance(Duration::from_millis(millis)).await,
            Step::Know(batchable) => {
                script.capability.set(match batchable {
                    true => Batchable::Yes {
                        max_batch_size: None,
                    },
                    false => Batchable::No(Unbatchable::UnevenOutput),
                });
            }
            _ => {}
        }
        round(&mut script, &mut callers, &mut calls).await;
        let view = script.batch.view();
        assert!(view.in_flight <= max_in_flight && view.queue_rows <= 12);
    }
    // Every call is answered until nothing is left: then everybody must have an answer.
    for _ in 0..1000 {
        if callers.is_empty() && calls.is_empty() {
            break;
        }
        for call in calls.drain(..) {
            let answer = echo(&call.request);
            let _left = call.reply.send(Ok(answer));
        }
        round(&mut script, &mut callers, &mut calls).await;
    }
    assert!(callers.is_empty(), "{} without an answer", callers.len());
    let view = script.batch.view();
    assert_eq!(
        (view.queue_rows, view.queue_bytes, view.in_flight),
        (0, 0, 0)
    );
    assert_eq!(script.batch.load(), 0);
}

/// A life among bad rows: calls with one are refused, unless their fate is another.
async fn search(
    members: Vec<(bool, usize, Option<u64>)>,
    fates: Vec<(u8, usize, u64)>,
    max_in_flight: usize,
) {
    let mut script = Script::new(Config {
        max_in_flight: InFlight::Fixed(max_in_flight),
        ..fixed(16)
    });
    let mut bad = Vec::new();
    let mut callers = Vec::new();
    let mut calls = Vec::new();
    for (mark, (is_bad, rows, patience)) in (1..).zip(members) {
        if is_bad {
            bad.push(mark);
        }
        let id = format!("id{mark}");
        let deadline = patience.map(|millis| Instant::now() + Duration::from_millis(millis));
        let request = with(request(&id, rows, mark), |parts| {
            parts.head.deadline = deadline
        });
        callers.push((mark, rows, id, script.send(request)));
    }
    let mut fates = fates.into_iter();
    for _ in 0..1000 {
        round(&mut script, &mut callers, &mut calls).await;
        if callers.is_empty() && calls.is_empty() {
            break;
        }
        assert!(script.batch.view().in_flight <= max_in_flight);
        let (fate, which, millis) = fates.next().unwrap_or((u8::MAX, 0, 0));
        advance(Duration::from_millis(millis)).await;
        if fate == 0 && !callers.is_empty() {
            drop(callers.remove(which % callers.len()));
        }
        if calls.is_empty() {
            continue;
        }
        let call: Sent = calls.remove(which % calls.len());
        let guilty = bad.iter().any(|mark| holds(&call, *mark));
        let answer = match fate {
            1 => Err(Status::new(Code::Unavailable, "away").into()),
            2 => Err(Status::new(Code::Internal, "for no reason").into()),
            3 if call.request.head.id.is_empty() => Ok(echo(&request("", 77, 0))),
            4 => continue,
            _ if guilty => Err(Status::new(Code::InvalidArgument, "bad").into()),
            _ => Ok(echo(&call.request)),
        };
        let _left = call.reply.send(answer);
    }
    assert!(callers.is_empty(), "{} without an answer", callers.len());
    assert_eq!(script.batch.view().in_flight, 0);
    assert_eq!(script.batch.load(), 0);
}

async fn round(
    script: &mut Script,
    callers: &mut Vec<(u8, usize, String, Caller)>,
    calls: &mut Vec<Sent>,
) {
    settle().await;
    callers.retain_mut(|(mark, rows, id, caller)| match poll(caller) {
        Poll::Pending => true,
        Poll::Ready(Ok(response)) => {
            assert_eq!(response.id, *id);
            assert_eq!(marks(&response), vec![*mark; *rows * 2]);
            false
        }
        Poll::Ready(Err(_)) => false,
    });
    while let Some(call) = script.call().await {
        if let Some(deadline) = call.request.head.deadline {
            assert!(deadline > Instant::now(), "expired work was sent");
        }
        calls.push(call);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everybody_gets_exactly_one_answer_its_own(
        steps in prop::collection::vec(step(), 1..60),
        max_in_flight in 1..4_usize,
        max_batch_size in 1..9_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(live(steps, max_in_flight, max_batch_size));
    }

    #[test]
    fn bad_rows_spoil_nobody_who_shares_their_calls(
        bad in prop::collection::vec(prop::bool::weighted(0.2), 2..40),
        max_batch_size in 1..40_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut script = Script::new(fixed(max_batch_size));
            let mut callers: Vec<_> = marked(0..bad.len() as u8)
                .into_iter()
                .map(|request| script.send(request))
                .collect();
            let guilty: Vec<u8> = (0..bad.len() as u8).filter(|mark| bad[usize::from(*mark)]).collect();
            let calls = refuse(&mut script, None, &guilty, Code::InvalidArgument).await.len();
            for (bad, caller) in bad.iter().zip(&mut callers) {
                assert_eq!(answer(caller).await.is_err(), *bad);
            }
            assert!(calls <= 2 * bad.len(), "{calls}");
            assert_eq!(script.batch.load(), 0);
            let metrics = &script.batch.shared().metrics;
            assert!(metrics.isolated.get() <= guilty.len() as u64);
        });
    }

    #[test]
    fn whatever_befalls_a_search_everybody_has_one_answer(
        members in prop::collection::vec((prop::bool::weighted(0.2), 1..4_usize, prop::option::of(0..12_u64)), 2..24),
        fates in prop::collection::vec((0..12_u8, any::<usize>(), 0..3_u64), 0..60),
        max_in_flight in 1..3_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(search(members, fates, max_in_flight));
    }

    #[test]
    fn requests_that_differ_in_any_field_are_never_merged(which in 0..DIFFERENCES, rows in 1..5_usize) {
        let one = rich("one", 2);
        let other = with(rich("other", rows), |parts| differ(parts, which));
        prop_assert!(!key::same(&one, &other));
        prop_assert!(!key::same(&other, &one));
        // Once more, so that the differences are what made the difference.
        let same = rich("same", rows);
        prop_assert!(key::same(&one, &same));
        let hasher = foldhash::fast::RandomState::default();
        prop_assert_eq!(key::digest(&hasher, &one), key::digest(&hasher, &same));
        prop_assert_ne!(key::digest(&hasher, &one), key::digest(&hasher, &other));
    }
}

/// A request with something in every field.
fn rich(id: &str, rows: usize) -> Request {
    let parameters = |pairs: &[(&'static str, Parameter)]| -> Parameters {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect()
    };
    let own = [
        ("a", Parameter::Int64(1)),
        ("b", Parameter::Double(0.)),
        ("c", Parameter::String("s".into())),
        ("timeout", Parameter::Int64(100 + rows as i64)),
    ];
    let sized = [
        ("binary_data_size", Parameter::Int64(rows as i64 * 2)),
        ("k", Parameter::Bool(true)),
    ];
    with(request(id, rows, 1), |parts| {
        parts.head.version = "3".into();
        parts.head.label = "stable".into();
        parts.head.signature = "regress".into();
        parts.head.method = Method::Regress;
        parts.head.priority = 1;
        parts.head.context = Some(id.into());
        parts.head.deadline = None;
        parts.head.metadata = Metadata::new(vec![("tenant".into(), Bytes::from_static(b"blue"))]);
        // A map of the wire has no order.
        parts.parameters = parameters(&own);
        if rows.is_multiple_of(2) {
            let mut reversed = own;
            reversed.reverse();
            parts.parameters = parameters(&reversed);
        }
        parts.inputs.push(tensor("z", rows, vec![0; rows * 2]));
        for input in &mut parts.inputs {
            input.parameters = parameters(&sized);
        }
        parts.outputs = ["p", "q"]
            .map(|name| RequestedOutput {
                name: name.into(),
                parameters: parameters(&[("classification", Parameter::Int64(3))]),
                unknown: Payload::new(),
            })
            .into();
    })
}

const DIFFERENCES: usize = 27;

fn differ(parts: &mut RequestParts, which: usize) {
    fn set(parameters: &mut Parameters, name: &'static str, value: Parameter) {
        parameters.insert(name.into(), value);
    }
    let without = |parameters: &Parameters, gone: &str| -> Parameters {
        parameters
            .iter()
            .filter(|(name, _)| *name != gone)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let input = &mut parts.inputs[1];
    match which {
        0 => parts.head.model = "other".into(),
        1 => parts.head.version = "".into(),
        2 => parts.head.priority = 2,
        3 => parts.head.metadata = Metadata::default(),
        4 => {
            parts.head.metadata = Metadata::new(vec![("tenant".into(), Bytes::from_static(b"red"))])
        }
        5 => set(&mut parts.parameters, "a", Parameter::Int64(2)),
        6 => set(&mut parts.parameters, "a", Parameter::Uint64(1)),
        7 => set(&mut parts.parameters, "b", Parameter::Double(-0.)),
        8 => set(&mut parts.parameters, "d", Parameter::Unset),
        9 => parts.parameters = without(&parts.parameters, "c"),
        10 => input.name = "w".into(),
        11 => input.datatype = Datatype::Int8,
        12 => input.form = Form::Typed,
        13 => input.shape = Shape::new([input.shape.dimensions()[0], 3]),
        14 => input.shape = Shape::new([input.shape.dimensions()[0], 2, 1]),
        15 => set(&mut input.parameters, "k", Parameter::Bool(false)),
        16 => input.parameters = without(&input.parameters, "k"),
        17 => drop(parts.inputs.pop()),
        18 => parts.outputs[1].name = "r".into(),
        19 => drop(parts.outputs.pop()),
        24 => parts.head.label = "canary".into(),
        25 => parts.head.signature = "".into(),
        26 => parts.head.method = Method::Infer,
        20 => parts.outputs.clear(),
        21 => set(
            &mut parts.outputs[0].parameters,
            "classification",
            Parameter::Int64(5),
        ),
        22 => parts.inputs.swap(0, 1),
        _ => parts.outputs.swap(0, 1),
    }
}

#[test]
fn a_timeout_is_compared_with_timeouts_only() {
    let timed = |value: Option<Parameter>| {
        with(request("", 1, 0), |parts| {
            if let Some(value) = value {
                parts.parameters.insert("timeout".into(), value);
            }
        })
    };
    let kinds = [
        None,
        Some(Parameter::Int64(0)),
        Some(Parameter::Int64(5)),
        Some(Parameter::Uint64(5)),
        Some(Parameter::String("5".into())),
    ];
    for (index, kind) in kinds.iter().enumerate() {
        for (other_index, other) in kinds.iter().enumerate() {
            let same = key::same(&timed(kind.clone()), &timed(other.clone()));
            assert_eq!(same, index == other_index, "{kind:?} {other:?}");
        }
    }
    let longer = timed(Some(Parameter::Int64(9)));
    assert!(key::same(&timed(kinds[2].clone()), &longer));
}

/// Which spans there are, which are entered, and which follow from which.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    spans: Vec<&'static tracing::Metadata<'static>>,
    entered: Vec<u64>,
    links: Vec<(u64, u64)>,
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span()
    }

    fn new_span(&self, attributes: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let spans = &mut self.0.lock().spans;
        spans.push(attributes.metadata());
        tracing::span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, span: &tracing::span::Id, follows: &tracing::span::Id) {
        let link = (span.into_u64(), follows.into_u64());
        self.0.lock().links.push(link);
    }

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, span: &tracing::span::Id) {
        self.0.lock().entered.push(span.into_u64());
    }

    fn exit(&self, _: &tracing::span::Id) {
        self.0.lock().entered.pop();
    }

    fn current_span(&self) -> tracing_core::span::Current {
        let seen = self.0.lock();
        match seen.entered.last() {
            Some(id) => tracing_core::span::Current::new(
                tracing::span::Id::from_u64(*id),
                seen.spans[*id as usize - 1],
            ),
            None => tracing_core::span::Current::none(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_call_follows_from_those_of_its_members() {
    async fn three_members() {
        let mut script = Script::new(fixed(4));
        let mut callers = Vec::new();
        for value in 0..3 {
            let span = tracing::debug_span!("member");
            callers.push(span.in_scope(|| script.send(request("", 1, value))));
        }
        script.expect_call().await.echo();
        let merged = script.expect_call().await;
        assert_eq!(merged.rows(), 2);
        merged.echo();
        for caller in callers {
            caller.await.unwrap();
        }
    }
    // Once before anybody listens: a place in the code that another test's thread reaches for the
    // first time while the listener comes would be remembered as one that nobody listens to.
    three_members().await;
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    tracing_core::callsite::rebuild_interest_cache();
    three_members().await;
    let seen = spans.0.lock();
    let name = |id: u64| seen.spans[id as usize - 1].name();
    let linked: Vec<_> = seen
        .links
        .iter()
        .map(|(span, follows)| (name(*span), name(*follows)))
        .collect();
    assert_eq!(linked, [("batch", "member"); 3]);
}
