//! What the batch filter costs: `cargo bench -p outrigger-filters --bench batch`.
//!
//! Each figure is the least of several rounds, in nanoseconds: what the code takes when nothing
//! else has the core.

#![expect(
    clippy::disallowed_types,
    reason = "a program, which measures real time"
)]

use std::{
    future::{Future, poll_fn},
    hint::black_box,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use outrigger_filters::{
    batch::{
        Aimd, Batch, BatchLimit, Call, Capability, Config, Controller, Handles, InFlight, Quantile,
        key,
    },
    inference::{
        Datatype, Error, Form, Head, Parameters, Payload, Request, RequestParts, Response,
        ResponseParts, Shape, Tensor, concat, split,
    },
};
use tower::Service;

/// Answers one row with one number, once the bench opens the gate.
#[derive(Clone, Debug, Default)]
struct Upstream(Arc<Mutex<Gate>>);

#[derive(Debug, Default)]
struct Gate {
    open: bool,
    waker: Option<Waker>,
}

fn main() {
    let image = Bytes::from(vec![7; 3072]);
    let requests: Vec<Request> = (0..MEMBERS).map(|_| request(&image)).collect();
    let rows = [1; MEMBERS];

    let clone = measure(100_000, || requests[0].clone());
    report("clone of a request", clone);
    let state = foldhash::fast::RandomState::default();
    let (one, other) = (request(&image), request(&image));
    report(
        "key: digest",
        measure(100_000, || key::digest(&state, &one)),
    );
    report(
        "key: comparison",
        measure(100_000, || key::same(&one, &other)),
    );
    let joined = measure(10_000, || concat(&requests));
    report("concat, a row of 32", joined / MEMBERS as f64);
    let answer = response(&concat(&requests));
    let cloned = measure(10_000, || answer.clone());
    let divided = measure(10_000, || split(answer.clone(), &rows).is_ok());
    report("split, a row of 32", (divided - cloned) / MEMBERS as f64);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let upstream = Upstream::default();
    let batch = Batch::new(
        upstream.clone(),
        Config {
            controller: Controller::Fixed,
            max_batch_size: Some(MEMBERS),
            max_in_flight: InFlight::Fixed(1),
            ..Config::default()
        },
        Capability::default(),
        Handles::default(),
    );
    // One request keeps the endpoint busy while the others come to wait: they go as one batch.
    let filter = |what: &str, due: fn(usize) -> Option<Duration>| {
        let mut whole = f64::INFINITY;
        for _ in 0..ROUNDS {
            let mut took = Duration::ZERO;
            for _ in 0..2000 {
                let now = tokio::time::Instant::now();
                let members = requests.iter().enumerate().map(|(index, request)| {
                    let mut request = request.clone();
                    request.head.deadline = due(index).map(|due| now + due);
                    request
                });
                let members = members.collect();
                let plug = requests[0].clone();
                took += runtime.block_on(round(&batch, &upstream, plug, members));
            }
            whole = whole.min(took.as_nanos() as f64 / 2000.);
        }
        report(what, whole / (MEMBERS + 1) as f64);
    };
    filter("filter, a request of a batch of 32", |_| None);
    filter("the same, all due in a second", |_| {
        Some(Duration::from_secs(1))
    });
    filter("the same, the last due first", |index| {
        Some(Duration::from_millis(2000 - index as u64))
    });
    let mut alone = f64::INFINITY;
    for _ in 0..ROUNDS {
        let mut took = Duration::ZERO;
        for _ in 0..20_000 {
            let plug = requests[0].clone();
            took += runtime.block_on(round(&batch, &upstream, plug, Vec::new()));
        }
        alone = alone.min(took.as_nanos() as f64 / 20_000.);
    }
    report("filter, a lone request", alone);

    let objective = Duration::from_millis(20);
    report("aimd, a call", controller(Aimd::new(objective)));
    report("quantile, a call", controller(Quantile::new(objective)));
}

/// Calls that are full, of a model with a little noise.
fn controller(mut limit: impl BatchLimit) -> f64 {
    let mut noise = 0_u32;
    measure(100_000, || {
        let rows = limit.limit(4096);
        noise = (noise + 37) % 100;
        limit.observe(&Call {
            rows,
            requests: rows,
            full: true,
            answered: true,
            queue: Duration::from_millis(5),
            model: Duration::from_micros(813 + 19 * rows as u64) * (1000 + noise) / 1000,
            most: 4096,
            places: 1,
        });
        rows
    })
}

async fn round(
    batch: &Batch<Upstream>,
    upstream: &Upstream,
    plug: Request,
    members: Vec<Request>,
) -> Duration {
    let began = Instant::now();
    upstream.set(false);
    let mut batch = batch.clone();
    let mut callers = Vec::with_capacity(members.len() + 1);
    callers.push(Some(batch.call(plug)));
    tokio::task::yield_now().await;
    callers.extend(members.into_iter().map(|member| Some(batch.call(member))));
    upstream.set(true);
    let mut left = callers.len();
    poll_fn(|cx| {
        for slot in &mut callers {
            if let Some(caller) = slot
                && let Poll::Ready(answer) = Pin::new(caller).poll(cx)
            {
                black_box(answer.is_ok());
                *slot = None;
                left -= 1;
            }
        }
        match left {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    began.elapsed()
}

impl Upstream {
    fn set(&self, open: bool) {
        let mut gate = self.0.lock().expect("nobody panicked");
        gate.open = open;
        if open && let Some(waker) = gate.waker.take() {
            waker.wake();
        }
    }
}

impl Service<Request> for Upstream {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let gate = Arc::clone(&self.0);
        Box::pin(async move {
            poll_fn(|cx| {
                let mut gate = gate.lock().expect("nobody panicked");
                if gate.open {
                    return Poll::Ready(());
                }
                gate.waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            Ok(response(&request))
        })
    }
}

/// A picture of 32 by 32 by 3, as one row.
fn request(image: &Bytes) -> Request {
    Request::from(RequestParts {
        head: Head {
            model: "digits".into(),
            id: "a-request".into(),
            ..Head::default()
        },
        inputs: vec![Tensor {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: Shape::new([1, 32, 32, 3]),
            parameters: Parameters::default(),
            data: Payload::from(image.clone()),
            form: Form::Raw,
            unknown: Payload::new(),
        }],
        ..RequestParts::default()
    })
}

/// One label for each row.
fn response(request: &Request) -> Response {
    let rows = request.inputs[0].shape.rows().unwrap_or(0);
    Response::from(ResponseParts {
        model: request.head.model.clone(),
        version: "1".into(),
        id: request.head.id.clone(),
        outputs: vec![Tensor {
            name: "label".into(),
            datatype: Datatype::Int64,
            shape: Shape::new([rows as i64, 1]),
            parameters: Parameters::default(),
            data: Payload::from(Bytes::from(vec![1; rows * 8])),
            form: Form::Raw,
            unknown: Payload::new(),
        }],
        ..ResponseParts::default()
    })
}

fn measure<T>(times: u32, mut act: impl FnMut() -> T) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..times {
                black_box(act());
            }
            began.elapsed().as_nanos() as f64 / f64::from(times)
        })
        .fold(f64::INFINITY, f64::min)
}

fn report(what: &str, nanos: f64) {
    println!("{what:<36} {nanos:>8.0} ns");
}

const MEMBERS: usize = 32;
const ROUNDS: usize = 7;
