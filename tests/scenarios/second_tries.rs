//! A server that goes down, or pauses, costs callers nothing where another one can answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use outrigger_native::{Curve, Synthetic, inference::infer_parameter::ParameterChoice::Int64Param};
use outrigger_tests::{
    gateway::Gateway,
    memory::Memory,
    metrics::Metrics,
    model::{Served, parameter, rows, serve},
    origin::{EchoServer, serve_http2},
    patience::{until, within},
    protocol::Protocol,
    wire::Wire,
};
use tokio::{task::JoinSet, time::Instant};

use crate::gather::Inference;

const BATCHED: &str = "models: { m: { batch: { max_batch_size: 8, max_in_flight: 8 } } }";
const NOT_BATCHED: &str = "models: { m: { retry: { budget: 0.1 } } }";

/// Two servers that take a while, so that calls are always under way.
async fn two(takes: Duration) -> [Served; 2] {
    let model = || Synthetic {
        curve: Curve::new(takes, Duration::ZERO),
        concurrency: 16,
        ..Synthetic::new("m")
    };
    [serve(model()).await, serve(model()).await]
}

async fn before(served: &[Served], config: &str) -> Gateway {
    let addresses: Vec<_> = served.iter().map(|one| one.server.address()).collect();
    let gateway = Gateway::before(&addresses, "protocol: oip-grpc", config);
    until("the model is known", || {
        let table = gateway.state().table();
        table.arms().all(|arm| arm.is_learned())
    })
    .await;
    gateway
}

fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    Metrics::read(text).unwrap().sum(name, labels)
}

/// Lets callers ask without a pause, kills one of two servers, and returns how many answers were
/// no good.
async fn errors_when_one_is_killed(config: &str, protocol: Protocol, values: usize) -> usize {
    let [killed, other] = two(Duration::from_millis(20)).await;
    let served = [killed, other];
    let gateway = before(&served, config).await;
    let values: Arc<Vec<f32>> = Arc::new((0..values).map(|value| value as f32).collect());
    let (answered, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let wire = Wire::connect(gateway.address()).await;
        let (values, answered, stop) = (values.clone(), answered.clone(), stop.clone());
        callers.spawn(async move {
            let mut errors = 0;
            while !stop.load(SeqCst) {
                let reply = within("an answer", protocol.send(&wire, "m", &values)).await;
                match reply {
                    Ok(reply)
                        if reply.status.is_success()
                            && reply.grpc_status().is_none_or(|status| status == "0") =>
                    {
                        assert!(protocol.read(&reply) == *values, "another's answer");
                    }
                    _ => errors += 1,
                }
                answered.fetch_add(1, SeqCst);
            }
            errors
        });
    }
    let more = |than: usize| answered.load(SeqCst) >= than;
    until("they are at work", || more(40)).await;
    let [killed, other] = served;
    killed.model.pause();
    until("a call is under way", || {
        killed.model.counters().in_flight > 0
    })
    .await;
    killed.server.abort().await;
    let then = answered.load(SeqCst);
    until("all have asked again", || more(then + 40)).await;
    stop.store(true, SeqCst);
    let errors = callers.join_all().await.iter().sum();
    assert!(other.model.counters().received > 0);
    let again = sum(
        &gateway.state().metrics().text(),
        "outrigger_retry_tries_total",
        &[("kind", "lost"), ("result", "answered")],
    );
    assert!(again > 0. || errors > 0, "nothing was lost");
    errors
}

#[tokio::test]
async fn no_caller_notices_that_a_server_is_killed_however_large_the_tensors() {
    for config in [BATCHED, NOT_BATCHED] {
        for (protocol, values) in [
            (Protocol::OipGrpc, 1),
            (Protocol::OipGrpc, 60_000),
            (Protocol::OipBinary, 60_000),
        ] {
            let errors = errors_when_one_is_killed(config, protocol, values).await;
            assert_eq!(errors, 0, "{config} {protocol:?} {values}");
        }
    }
}

#[tokio::test]
async fn without_a_budget_callers_notice_it() {
    let config = "models: { m: { retry: { budget: 0 } } }";
    assert!(errors_when_one_is_killed(config, Protocol::OipGrpc, 1).await > 0);
}

#[tokio::test]
async fn a_request_of_a_sequence_is_sent_once() {
    // One with few parameters, and one with more than are looked at elsewhere.
    for parameters in [0, 20] {
        let served = two(Duration::from_secs(2)).await;
        let gateway = before(&served, NOT_BATCHED).await;
        let mut request = rows("m", &[1.]);
        for index in 0..parameters {
            let value = parameter(Int64Param(1));
            request.parameters.insert(format!("p{index}"), value);
        }
        let id = parameter(Int64Param(7));
        request.parameters.insert("sequence_id".to_owned(), id);
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let (wire, request) = (
                Wire::connect(gateway.address()).await,
                Inference::of(&request),
            );
            callers.spawn(async move {
                let reply = within("an answer", request.send(&wire)).await;
                reply.is_ok_and(|reply| reply.grpc_status() == Some("0"))
            });
        }
        let [killed, other] = served;
        let received = |served: &Served| served.model.counters().received as usize;
        until("all are sent", || received(&killed) + received(&other) == 8).await;
        let lost = received(&killed);
        assert!(lost > 0);
        killed.server.abort().await;
        let answered = callers.join_all().await.into_iter().filter(|good| *good);
        assert_eq!(answered.count(), 8 - lost, "{parameters}");
        assert_eq!(received(&other), 8 - lost, "sent a second time");
    }
}

/// Asks one after the other, of two servers of which one pauses in one call of twenty; returns what
/// requests took and how many pauses they met, once there is enough to learn from.
async fn before_one_that_pauses(config: &str) -> (Vec<Duration>, usize, usize, String) {
    let server = EchoServer::new(QUICK);
    let (calls, pauses) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let memory = Memory::start(&["a:1", "b:1"], config, {
        let (server, pauses) = (server.clone(), pauses.clone());
        move |authority, pipe| {
            let (server, calls, pauses) = (server.clone(), calls.clone(), pauses.clone());
            let pausing = authority.starts_with('b');
            serve_http2(pipe, move |exchange| {
                let is_inference = exchange.0.uri().path().ends_with("ModelInfer");
                let pauses_now = pausing && is_inference && calls.fetch_add(1, SeqCst) % 20 == 19;
                let latency = match pauses_now {
                    true => PAUSE,
                    false => QUICK,
                };
                pauses.fetch_add(usize::from(pauses_now), SeqCst);
                let server = EchoServer {
                    latency,
                    ..server.clone()
                };
                server.answer(exchange)
            })
        }
    });
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let request = Inference::of(&rows("m", &[1.]));
    let mut took = Vec::new();
    for asked in 0..3000 {
        if asked == 500 {
            took.clear();
            pauses.store(0, SeqCst);
        }
        let began = Instant::now();
        let reply = request.send(&wire).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("0"));
        took.push(began.elapsed());
    }
    // What goes on without its caller ends.
    tokio::time::sleep(2 * PAUSE).await;
    took.sort_unstable();
    let cancelled = server.cancelled.load(SeqCst);
    (took, pauses.load(SeqCst), cancelled, memory.metrics.text())
}

#[tokio::test(start_paused = true)]
async fn who_meets_a_server_that_pauses_is_answered_by_the_other_one_and_no_stream_is_reset() {
    let (took, pauses, ..) = before_one_that_pauses(NOT_BATCHED).await;
    assert!(pauses > 0 && took[took.len() - 1] >= PAUSE, "{pauses}");
    for config in [
        "models: { m: { hedge: {} } }",
        "models: { m: { hedge: {}, batch: { controller: fixed, max_batch_size: 8 } } }",
    ] {
        let (took, pauses, cancelled, metrics) = before_one_that_pauses(config).await;
        assert!(pauses > 0, "{config}");
        let worst = took[took.len() - 1];
        assert!(worst <= 3 * QUICK, "{config}: {worst:?}");
        assert_eq!(cancelled, 0, "{config}");
        let labels = [("kind", "hedge"), ("result", "answered")];
        let copies = sum(&metrics, "outrigger_retry_tries_total", &labels);
        assert!(copies >= pauses as f64, "{config}: {copies} of {pauses}");
    }
}

const QUICK: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(100);
