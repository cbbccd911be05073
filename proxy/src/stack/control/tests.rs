use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use outrigger_filters::cache::Flush;
use parking_lot::Mutex;

use super::*;
use crate::{
    config::Config,
    telemetry::{Metrics, Requests},
    upstream::{Connector, Upstream},
};

/// What stands for a model's stack, and counts.
#[derive(Debug)]
struct Kept {
    upstream: Arc<Upstream>,
    flushed: Mutex<Vec<Flush>>,
    asked: Mutex<usize>,
}

impl Keeps for Kept {
    fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    fn flush(&self, why: Flush) {
        self.flushed.lock().push(why);
    }

    fn ask_again(&self) {
        *self.asked.lock() += 1;
    }
}

impl Kept {
    fn flushes(&self) -> usize {
        self.flushed.lock().len()
    }

    fn asked(&self) -> usize {
        *self.asked.lock()
    }
}

fn upstream(endpoint: &str) -> Arc<Upstream> {
    let config = format!(
        "{{listeners: [{{address: '127.0.0.1:0', upstream: u}}],
           upstreams: {{u: {{protocol: oip-grpc, endpoints: ['{endpoint}']}}}}}}"
    );
    let config = Config::read(&config).unwrap();
    let connector = Connector::new(|_| std::future::pending());
    Arc::new(Upstream::new("u", &config.upstreams["u"], &connector))
}

fn kept(stacks: &Stacks, endpoint: &str) -> Arc<Kept> {
    let kept = Arc::new(Kept {
        upstream: upstream(endpoint),
        flushed: Mutex::default(),
        asked: Mutex::default(),
    });
    let weak = Arc::downgrade(&kept);
    stacks.add(weak);
    kept
}

fn requests() -> Arc<Requests> {
    Arc::new(Metrics::new().requests("", "http"))
}

/// A call that has been seen, and the stack that it concerns.
fn seen(http: bool) -> (Arc<Stacks>, Arc<Kept>, Box<Watch>) {
    let stacks = Arc::new(Stacks::default());
    let kept = kept(&stacks, "http://triton:8001");
    let seen = Seen::new(stacks.clone(), &upstream("http://triton:8000"));
    assert_eq!(*kept.flushed.lock(), [Flush::Control]);
    let watch = match http {
        true => Watch::http(requests()),
        false => Watch::grpc(requests()),
    };
    (stacks, kept, watch.telling(seen))
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers
}

/// Ends all flushes that are still to come, and returns how many there were.
async fn aftermath(kept: &Kept) -> usize {
    let before = kept.flushes();
    tokio::time::sleep(Duration::from_secs(600)).await;
    kept.flushes() - before
}

/// Reads the next piece of an answer.
async fn read(body: &mut Body) {
    let piece = std::future::poll_fn(|cx| body.poll_piece(cx)).await;
    piece.unwrap().unwrap();
}

#[test]
fn a_call_concerns_all_models_on_the_machine_that_it_goes_to() {
    let stacks = Arc::new(Stacks::default());
    let same = kept(&stacks, "http://triton:8001");
    let other = kept(&stacks, "http://forest:8001");
    let own = kept(&stacks, "http://localhost:8001");
    drop(Seen::new(stacks.clone(), &upstream("http://Triton:8000")));
    assert_eq!((same.flushes(), other.flushes(), own.flushes()), (2, 0, 0));
    drop(Seen::new(stacks, &upstream("http://127.0.0.1:8000")));
    assert_eq!((same.flushes(), other.flushes(), own.flushes()), (2, 0, 2));
}

#[test]
fn a_stack_that_is_gone_is_forgotten() {
    let stacks = Stacks::default();
    let first = kept(&stacks, "http://triton:8001");
    let gone = Arc::downgrade(&first);
    drop(first);
    let second = kept(&stacks, "http://triton:8001");
    stacks.flush(&hosts::Hosts::of(&second.upstream));
    assert_eq!((gone.strong_count(), second.flushes()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn each_step_of_a_call_flushes_before_its_caller_sees_it() {
    let (_stacks, kept, watch) = seen(false);
    let answer = Response::new(Body::full(
        bytes::Bytes::from_static(b"x"),
        Some(status("0")),
    ));
    let answer = watch.answered(answer);
    assert_eq!(
        (kept.flushes(), kept.asked()),
        (2, 0),
        "the head is not out yet"
    );
    let mut body = answer.into_body();
    read(&mut body).await;
    assert_eq!(kept.flushes(), 2);
    read(&mut body).await;
    assert_eq!(
        (kept.flushes(), kept.asked()),
        (3, 1),
        "the trailers are not out yet"
    );
    drop(body);
    assert_eq!(aftermath(&kept).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_ends_with_its_head() {
    let (_stacks, kept, watch) = seen(true);
    drop(watch.answered(Response::new(Body::empty())));
    assert_eq!((kept.flushes(), kept.asked()), (3, 1));
    assert_eq!(aftermath(&kept).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_is_flushed_for_again() {
    for (http, answer) in [
        (false, (StatusCode::OK, status("13"))),
        (true, (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new())),
        // It has only begun.
        (true, (StatusCode::ACCEPTED, HeaderMap::new())),
    ] {
        let (_stacks, kept, watch) = seen(http);
        let mut head = Response::new(Body::empty());
        (*head.status_mut(), *head.headers_mut()) = answer;
        drop(watch.answered(head));
        assert_eq!(kept.flushes(), 3);
        assert_eq!(aftermath(&kept).await, 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_left_is_flushed_for_again() {
    let (_stacks, kept, watch) = seen(false);
    drop(watch);
    assert_eq!((kept.flushes(), kept.asked()), (2, 1));
    assert_eq!(aftermath(&kept).await, 7);
    assert_eq!(kept.asked(), 8);
}

#[tokio::test(start_paused = true)]
async fn callers_who_leave_again_and_again_pile_up_nothing() {
    let stacks = Arc::new(Stacks::default());
    let kept = kept(&stacks, "http://triton:8001");
    for _ in 0..100 {
        drop(Seen::new(stacks.clone(), &upstream("http://triton:8000")));
    }
    assert_eq!(kept.flushes(), 200);
    assert_eq!(aftermath(&kept).await, 7);
    assert_eq!(aftermath(&kept).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_to_come_ends_with_the_stacks() {
    let (stacks, kept, watch) = seen(false);
    drop(watch);
    drop(stacks);
    assert_eq!(aftermath(&kept).await, 0);
}
