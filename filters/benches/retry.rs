//! What second tries cost where none is made: `cargo bench -p outrigger-filters --bench retry`.
//!
//! Each figure is the least of several rounds, in nanoseconds: what the code takes when nothing
//! else has the core.

#![expect(
    clippy::disallowed_types,
    reason = "a program, which measures real time"
)]

use std::{
    future::{Future, Ready, poll_fn, ready},
    hint::black_box,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use outrigger_filters::{
    batch::Share,
    inference::{
        Datatype, Error, Head, Parameters, Payload, Request, RequestParts, Response, ResponseParts,
        Shape, Tensor,
    },
    retry::{Config, Endpoints, Handles, Hedge, Knows, RetryLayer},
};
use tower::{Layer as _, Service as _};

/// That of the proxy's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Two endpoints that answer at once, or when they are asked a second time.
#[derive(Clone, Copy, Debug)]
struct Model {
    waits: bool,
}

#[derive(Debug)]
struct Answer {
    waits: bool,
    answer: Ready<Result<Response, Error>>,
}

impl Future for Answer {
    type Output = Result<Response, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::take(&mut self.waits) {
            return Poll::Pending;
        }
        Pin::new(&mut self.answer).poll(cx)
    }
}

impl Endpoints for Model {
    type Future = Answer;

    fn count(&self) -> usize {
        2
    }

    fn send(&self, request: Request) -> (usize, Answer) {
        drop(request);
        let answer = ready(Ok(ResponseParts::default().into()));
        let waits = self.waits;
        (0, Answer { waits, answer })
    }

    fn send_elsewhere(
        &self,
        request: Request,
        _: usize,
        _: bool,
    ) -> Result<(usize, Answer), Request> {
        Err(request)
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let off = Config {
        budget: Share::NONE,
        hedge: None,
    };
    let hedge = Config {
        hedge: Some(Hedge::default()),
        ..Config::default()
    };
    println!(
        "| bytes | kept by itself | off | retry | retry and hedge, answered at once | answered later |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for bytes in [64, 150_528, 64 << 20] {
        let request = request(bytes);
        let kept = least(|| drop(black_box(request.clone())));
        let figures = [
            (off, true),
            (Config::default(), true),
            (hedge, false),
            (hedge, true),
        ];
        let figures = figures.map(|(config, waits)| {
            runtime.block_on(async {
                let knows = Knows {
                    is_lost: |_| false,
                    is_repeatable: Arc::new(|request| request.apart().is_none()),
                };
                let layer = RetryLayer::new(config, knows, Handles::default());
                let mut retry = layer.layer(Model { waits });
                let bare = least(|| {
                    let (_, mut call) = Model { waits }.send(request.clone());
                    poll(&mut call);
                });
                let filtered = least(|| {
                    let mut call = Box::pin(retry.call(request.clone()));
                    poll(&mut call);
                });
                poll_fn(|_| Poll::Ready(())).await;
                filtered - bare
            })
        });
        let [off, retry, at_once, later] = figures;
        println!("| {bytes} | {kept:.0} | {off:.0} | {retry:.0} | {at_once:.0} | {later:.0} |");
    }
}

fn poll(call: &mut (impl Future<Output = Result<Response, Error>> + Unpin)) {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while Pin::new(&mut *call).poll(&mut cx).is_pending() {}
}

/// Returns the nanoseconds that an act takes, in the fastest of several rounds.
fn least(mut act: impl FnMut()) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        (0..ACTS).for_each(|_| act());
        start.elapsed().as_nanos() as f64 / f64::from(ACTS)
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn request(bytes: usize) -> Request {
    let tensor = Tensor {
        name: "INPUT0".into(),
        datatype: Datatype::Fp32,
        shape: Shape::new([1, (bytes / 4) as i64]),
        parameters: Parameters::default(),
        data: Payload::from(Bytes::from(vec![7; bytes])),
        form: outrigger_filters::inference::Form::Raw,
        unknown: Payload::default(),
    };
    let parts = RequestParts {
        head: Head {
            model: "resnet".to_owned().into(),
            id: "a-request-of-a-client".to_owned().into(),
            ..Head::default()
        },
        inputs: vec![tensor],
        ..RequestParts::default()
    };
    let message: Arc<dyn std::any::Any + Send + Sync> = Arc::new(());
    Request::from_wire(parts, message.clone(), bytes).with_origin(message)
}

const ROUNDS: u32 = 50;
const ACTS: u32 = 2000;
