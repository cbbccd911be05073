//! Who waits goes in its turn, or is told at once that it waits in vain.

use std::{sync::atomic::Ordering, time::Duration};

use outrigger_native::{
    Curve, Synthetic, inference::ModelInferRequest, inference::infer_parameter::ParameterChoice,
};
use outrigger_tests::{
    gateway::Gateway,
    metrics::Metrics,
    model::{parameter, rows, serve},
    origin::EchoServer,
    patience::{until, within},
    protocol::Protocol,
    wire::{Reply, Wire},
};
use tokio::{task::JoinHandle, time::Instant};

use crate::{alone::memory, gather::Inference, merging::before};

const FIXED: &str = "models: { m: { batch: { controller: fixed, max_batch_size: 64 } } }";
const A_WHILE: Duration = Duration::from_millis(1);

/// Sends a request, and returns what came of it and how long that took.
fn spawn(wire: &Wire, request: Inference) -> JoinHandle<(Reply, Duration)> {
    let wire = wire.clone();
    tokio::spawn(async move {
        let began = Instant::now();
        let reply = request.send(&wire).await.unwrap();
        (reply, began.elapsed())
    })
}

fn of(values: &[f32]) -> Inference {
    Inference::of(&rows("m", values))
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_in_time_is_told_at_once_and_is_never_sent() {
    // 10 ms for one row, and a hundred times as long for a hundred.
    let server = EchoServer {
        per_row: Duration::from_millis(10),
        ..EchoServer::new(Duration::ZERO)
    };
    let memory = memory(&server, FIXED);
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        assert_eq!(
            of(&[1.]).send(&wire).await.unwrap().grpc_status(),
            Some("0")
        );
    }
    let long = spawn(&wire, of(&[1.; 100]));
    tokio::time::sleep(A_WHILE).await;
    let with = |timeout: &str| spawn(&wire, of(&[2.]).header("grpc-timeout", timeout));
    // A call of one row takes 8 ms at the very least; and the one before them takes a second.
    for (timeout, code, said) in [
        ("5m", "4", "nearer than the model's answer"),
        ("50m", "8", "too much to do"),
        ("500m", "8", "too much to do"),
    ] {
        let (reply, took) = with(timeout).await.unwrap();
        assert_eq!(reply.grpc_status(), Some(code), "{timeout}");
        let words = reply.grpc_message();
        assert!(words.contains(said), "{words}");
        // Who has too much before it is told when to ask again.
        let pushed_back = reply.field("grpc-retry-pushback-ms");
        assert_eq!(pushed_back.is_some(), code == "8", "{reply:?}");
        assert!(took <= A_WHILE, "{timeout}: {took:?}");
    }
    let in_time = with("2S");
    assert_eq!(long.await.unwrap().0.grpc_status(), Some("0"));
    assert_eq!(in_time.await.unwrap().0.grpc_status(), Some("0"));
    let calls: Vec<_> = server.calls.lock().unwrap()[10..].to_vec();
    assert_eq!(calls, [[100, 1], [1, 1]]);
    assert_eq!(server.cancelled.load(Ordering::SeqCst), 0);
    let metrics = Metrics::read(&memory.metrics.text()).unwrap();
    assert_eq!(metrics.sum("outrigger_batch_expired_total", &[]), 1.);
    assert_eq!(metrics.sum("outrigger_batch_shed_total", &[]), 2.);
}

#[tokio::test]
async fn the_model_never_sees_who_could_not_be_in_time() {
    let curve = Curve::new(Duration::from_millis(200), Duration::ZERO);
    let served = serve(Synthetic {
        curve,
        ..Synthetic::new("m")
    })
    .await;
    let gateway = before(&served, FIXED).await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..3 {
        of(&[1.]).send(&wire).await.unwrap();
    }
    served.model.reset_counters();
    served.model.pause();
    let first = spawn(&wire, of(&[1.]));
    until("it is at the model", || {
        served.model.counters().received == 1
    })
    .await;
    let late: Vec<_> = ["1m", "100m", "500m", "1S"]
        .into_iter()
        .map(|timeout| spawn(&wire, of(&[2.]).header("grpc-timeout", timeout)))
        .collect();
    for call in late {
        let (reply, _) = within("a refusal", call).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("4"), "{reply:?}");
    }
    // They have their answers while the model has not moved, and before that was suspicious.
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    assert_eq!(metrics.sum("outrigger_batch_expired_total", &[]), 4.);
    assert_eq!(metrics.sum("outrigger_batch_stuck_total", &[]), 0.);
    assert_eq!(served.model.counters().calls, 0);
    assert_eq!(gateway.learned("m", "queue_rows"), 0);
    served.model.resume();
    within("an answer", first).await.unwrap();
    of(&[1.]).send(&wire).await.unwrap();
    let counters = served.model.counters();
    assert_eq!((counters.received, counters.rows), (2, 2));
    assert_eq!((counters.cancelled, counters.refused), (0, 0));
}

fn of_class(class: u64, values: &[f32]) -> ModelInferRequest {
    let mut request = rows("m", values);
    let class = parameter(ParameterChoice::Uint64Param(class));
    request.parameters.insert("priority".to_owned(), class);
    request
}

#[tokio::test(start_paused = true)]
async fn of_two_classes_the_first_goes_first_whenever_it_came() {
    let server = EchoServer::new(Duration::from_millis(10));
    let memory = memory(&server, FIXED);
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut calls = vec![spawn(&wire, of(&[0.]))];
    tokio::time::sleep(A_WHILE).await;
    // Of each class three requests, told apart by how many rows they have; none is of class 10.
    for (class, values) in [(20, &[1.; 3][..]), (0, &[1.; 2]), (1, &[1.])] {
        for _ in 0..3 {
            calls.push(spawn(&wire, Inference::of(&of_class(class, values))));
        }
        tokio::time::sleep(A_WHILE).await;
    }
    // The class is the parameter's over REST as well.
    let rest = tokio::spawn({
        let wire = wire.clone();
        async move {
            let (request, body) = Protocol::OipRest.ask("m", &[1.; 4]);
            let body = String::from_utf8(body.to_vec()).unwrap();
            let body = body.replacen('{', r#"{"parameters": {"priority": 2}, "#, 1);
            wire.exchange(request, &[body.into()], None).await.unwrap()
        }
    });
    for call in calls {
        assert_eq!(call.await.unwrap().0.grpc_status(), Some("0"));
    }
    assert_eq!(Protocol::OipRest.read(&rest.await.unwrap()), [1.; 4]);
    let rows: Vec<_> = server
        .calls
        .lock()
        .unwrap()
        .iter()
        .map(|shape| shape[0])
        .collect();
    assert_eq!(rows, [1, 3, 4, 6, 9]);
}

#[tokio::test]
async fn a_drain_ends_the_wait_for_company() {
    let curve = Curve::new(Duration::from_millis(500), Duration::ZERO);
    let served = serve(Synthetic {
        curve,
        ..Synthetic::new("m")
    })
    .await;
    let config = "models: { m: { latency_objective: 2s, \
                  batch: { controller: fixed, max_batch_size: 64, max_delay: 400ms } } }";
    let gateway = before(&served, config).await;
    let wire = Wire::connect(gateway.address()).await;
    let waits = within(
        "it waits for company",
        first_that_waits(&gateway, &served.model, &wire),
    )
    .await;
    let drained = gateway.drain();
    let (reply, _) = within("an answer", waits).await.unwrap();
    assert_eq!(reply.grpc_status(), Some("0"));
    drop(wire);
    within("the end", drained).await.unwrap();
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    let closed = |reason| metrics.sum("outrigger_batch_closed_total", &[("reason", reason)]);
    assert_eq!(closed("drain"), 1.);
}

/// Sends bursts of requests until the first of one is kept back for those that come after it.
async fn first_that_waits(
    gateway: &Gateway,
    model: &outrigger_native::Handle,
    wire: &Wire,
) -> JoinHandle<(Reply, Duration)> {
    loop {
        let before = model.counters().received;
        let first = spawn(wire, of(&[1.]));
        let mut waits = false;
        until("it waits or is sent", || {
            waits = gateway.learned("m", "queue_rows") == 1;
            waits || model.counters().received > before
        })
        .await;
        if waits {
            return first;
        }
        let others = [(); 7].map(|()| spawn(wire, of(&[1.])));
        for call in others.into_iter().chain([first]) {
            call.await.unwrap();
        }
    }
}
