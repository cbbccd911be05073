//! What the admission filter costs: `cargo bench -p outrigger-filters --bench admission`.
//!
//! Each figure is the least of several rounds, in nanoseconds: what the code takes when nothing
//! else has the core.

#![expect(
    clippy::disallowed_types,
    reason = "a program, which measures real time"
)]

use std::{
    future::{Future, Ready, ready},
    hint::black_box,
    num::NonZeroUsize,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use outrigger_filters::{
    admission::{Admission, Concurrency, Config, Handles},
    inference::{Error, Request, RequestParts, Response, ResponseParts},
};
use tower::{Service, ServiceExt};

/// Answers at once.
#[derive(Clone, Debug)]
struct Upstream;

impl Service<Request> for Upstream {
    type Response = Response;
    type Error = Error;
    type Future = Ready<Result<Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        ready(Ok(Response::from(ResponseParts::default())))
    }
}

/// Answers never.
#[derive(Clone, Debug)]
struct Silent;

impl Service<Request> for Silent {
    type Response = Response;
    type Error = Error;
    type Future = std::future::Pending<Result<Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        std::future::pending()
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let _on = runtime.enter();
    let mut context = Context::from_waker(Waker::noop());
    let request = Request::from(RequestParts::default());

    let bare = measure(|| {
        let mut call = std::pin::pin!(Upstream.oneshot(request.clone()));
        call.as_mut().poll(&mut context).is_ready()
    });
    for concurrency in [fixed(64), Concurrency::Auto] {
        let mut filter = Admission::new(Upstream, config(concurrency), Handles::default());
        let whole = measure(|| {
            let mut call = std::pin::pin!(filter.call(request.clone()));
            call.as_mut().poll(&mut context).is_ready()
        });
        report(
            &format!("a request that does not wait, {concurrency:?}"),
            whole - bare,
        );
    }
    // Each comes behind a thousand that wait, and leaves.
    for waiting in [0, 1000] {
        let mut filter = Admission::new(Silent, config(fixed(1)), Handles::default());
        let mut waits: Vec<Pin<Box<_>>> = Vec::new();
        for _ in 0..=waiting {
            let mut call = Box::pin(filter.call(request.clone()));
            let _pending = call.as_mut().poll(&mut context).is_pending();
            waits.push(call);
        }
        let whole = measure(|| {
            let mut call = std::pin::pin!(filter.call(request.clone()));
            call.as_mut().poll(&mut context).is_pending()
        });
        report(
            &format!("one that waits behind {waiting}, and leaves"),
            whole - bare,
        );
    }
}

fn fixed(calls: usize) -> Concurrency {
    Concurrency::Fixed(NonZeroUsize::new(calls).expect("some calls"))
}

fn config(max_concurrency: Concurrency) -> Config {
    Config {
        max_concurrency,
        max_queue_requests: 2000,
        latency_objective: Duration::from_secs(1),
        ..Config::default()
    }
}

fn measure<T>(mut act: impl FnMut() -> T) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..TIMES {
                black_box(act());
            }
            began.elapsed().as_nanos() as f64 / f64::from(TIMES)
        })
        .fold(f64::INFINITY, f64::min)
}

fn report(what: &str, nanos: f64) {
    println!("{what:<48} {nanos:>8.0} ns");
}

const ROUNDS: usize = 7;
const TIMES: u32 = 50_000;
