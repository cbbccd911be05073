//! Whoever cannot be answered learns it at once, by its own cause, in every protocol.

use std::{net::SocketAddr, time::Duration};

use outrigger_native::Synthetic;
use outrigger_tests::{
    gateway::Gateway,
    model::{Served, rows, serve},
    origin::Origin,
    patience::{until, within},
    protocol::Protocol,
    wire::{Reply, Wire},
};
use tokio::task::JoinSet;

use crate::{gather::Inference, merging::before};

/// Two ways to queue, each with room for fifty besides the one that the model is at.
const QUEUES: [(&str, &str); 2] = [
    (
        "batch: { controller: fixed, max_batch_size: 16, max_in_flight: 1, max_queue_rows: 50 }",
        "queue_rows",
    ),
    (
        "admission: { max_concurrency: 1, max_queue_requests: 50 }",
        "queue_requests",
    ),
];

/// The codes of gRPC and of HTTP for a cause.
const EXPIRED: (&str, u16) = ("4", 504);
const OVERLOADED: (&str, u16) = ("8", 429);
const UNREACHED: (&str, u16) = ("14", 503);

/// Checks what a caller was told, and that only who meets too much load is told when to come again.
fn told(reply: &Reply, (code, status): (&str, u16)) {
    match reply.grpc_status() {
        Some(said) => assert_eq!(said, code, "{reply:?}"),
        None => assert_eq!(reply.status, status, "{reply:?}"),
    }
    let overloaded = (code, status) == OVERLOADED;
    let pushback = |reply: &Reply| {
        let field = reply.trailers.as_ref().unwrap_or(&reply.headers);
        field.get("grpc-retry-pushback-ms").cloned()
    };
    let hint = match reply.grpc_status() {
        Some(_) => pushback(reply),
        None => reply.headers.get("retry-after").cloned(),
    };
    assert_eq!(hint.is_some(), overloaded, "{reply:?}");
    if let Some(hint) = hint {
        let hint: u64 = hint.to_str().unwrap().parse().unwrap();
        assert!(hint > 0);
    }
}

/// A proxy that knows already what the model takes, in every protocol.
async fn known(served: &Served, of_model: &str) -> (Gateway, Wire) {
    let gateway = before(served, &format!("models: {{ m: {{ {of_model} }} }}")).await;
    let wire = Wire::connect(gateway.address()).await;
    for protocol in Protocol::ALL {
        let reply = within("an answer", protocol.send(&wire, "m", &[1.])).await;
        assert_eq!(reply.unwrap().status, 200, "{protocol:?}");
    }
    (gateway, wire)
}

fn ask(calls: &mut JoinSet<Reply>, wire: &Wire, requests: usize) {
    for _ in 0..requests {
        let (wire, request) = (wire.clone(), Inference::of(&rows("m", &[1.])));
        calls.spawn(async move { request.send(&wire).await.unwrap() });
    }
}

/// Fills the place at the model and the queue behind it; nothing moves from then on.
async fn fill(served: &Served, gateway: &Gateway, wire: &Wire, queue: &str) -> JoinSet<Reply> {
    let mut calls = JoinSet::new();
    served.model.reset_counters();
    served.model.pause();
    ask(&mut calls, wire, 1);
    until("the model is busy", || {
        served.model.counters().received == 1
    })
    .await;
    ask(&mut calls, wire, 50);
    until("the queue is full", || gateway.learned("m", queue) == 50).await;
    calls
}

async fn nowhere() -> SocketAddr {
    let origin = Origin::http2(|_| async {}).await;
    let address = origin.address();
    origin.stop().await;
    address
}

#[tokio::test]
async fn far_more_than_there_is_room_for_is_refused_at_once_and_all_recovers() {
    for (of_model, queue) in QUEUES {
        let served = serve(Synthetic::new("m")).await;
        let (gateway, wire) = known(&served, of_model).await;
        let waiting = fill(&served, &gateway, &wire, queue).await;
        let mut refused = JoinSet::new();
        for nth in 0..1200 {
            let protocol = Protocol::ALL[nth % Protocol::ALL.len()];
            let wire = wire.clone();
            refused.spawn(async move { protocol.send(&wire, "m", &[1.]).await.unwrap() });
        }
        for reply in within("refusals while nothing moves", refused.join_all()).await {
            told(&reply, OVERLOADED);
        }
        assert_eq!(gateway.learned("m", queue), 50);
        assert_eq!(served.model.counters().received, 1);
        served.model.resume();
        for reply in within("answers", waiting.join_all()).await {
            assert_eq!(reply.grpc_status(), Some("0"));
        }
        for number in [queue, "queue_bytes", "in_flight"] {
            until("nothing is held", || gateway.learned("m", number) == 0).await;
        }
        for protocol in Protocol::ALL {
            let reply = within("an answer", protocol.send(&wire, "m", &[1.])).await;
            assert_eq!(reply.unwrap().status, 200, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn a_deadline_too_much_load_and_a_server_that_is_gone_are_told_apart() {
    for (of_model, queue) in QUEUES {
        let served = serve(Synthetic::new("m")).await;
        let deadline = "deadline: { default: 100ms }";
        // None is before another one: who waits is refused when it would wait for too long.
        let beside = of_model.replace(": 1,", ": 8,");
        let (gateway, wire) = known(&served, &format!("{beside}, {deadline}")).await;
        served.model.pause();
        for protocol in Protocol::ALL {
            let reply = within("the deadline", protocol.send(&wire, "m", &[1.])).await;
            told(&reply.unwrap(), EXPIRED);
        }
        served.model.resume();
        until("nothing is held", || gateway.learned("m", "in_flight") == 0).await;
        drop(gateway);

        let (gateway, wire) = known(&served, of_model).await;
        let _waiting = fill(&served, &gateway, &wire, queue).await;
        for protocol in Protocol::ALL {
            let reply = within("a refusal", protocol.send(&wire, "m", &[1.])).await;
            told(&reply.unwrap(), OVERLOADED);
        }
        served.model.resume();

        let rest = format!("models: {{ m: {{ {of_model}, {deadline} }} }}");
        let gone = Gateway::before(&[nowhere().await], "protocol: oip-grpc", &rest);
        let wire = Wire::connect(gone.address()).await;
        // Who has to know first what the model takes asks more than once for it.
        let patient = Duration::from_secs(10);
        for protocol in Protocol::ALL {
            let (mut request, body) = protocol.ask("m", &[1.]);
            let timeout = format!("{}s", patient.as_secs()).parse().unwrap();
            request.headers_mut().insert("outrigger-timeout", timeout);
            let reply = within("a refusal", wire.exchange(request, &[body], None)).await;
            told(&reply.unwrap(), UNREACHED);
        }
    }
}
