//! Each request has exactly one answer, its own, whatever happens to its neighbours.

use std::time::Duration;

use h2::Reason;
use outrigger_native::{Curve, Fault, Faults, Synthetic, inference::ModelInferResponse};
use outrigger_tests::{
    gateway::{Gateway, configuration},
    http1::get_json,
    metrics::Metrics,
    model::{Client, connect, numbers, rows, serve},
    patience::{until, within},
    wire::Wire,
};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::{Code, Status, metadata::MetadataMap};

use crate::{
    gather::{Inference, batches, together},
    merging::{batched, before},
};

/// Clients of so many connections.
async fn clients(gateway: &Gateway, connections: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(gateway.address()).await);
    }
    clients
}

/// A caller's own contents.
fn contents(caller: usize) -> Vec<f32> {
    (0..=caller % 4)
        .map(|row| (caller * 10 + row) as f32)
        .collect()
}

fn queues_are_empty(gateway: &Gateway, model: &str) -> bool {
    ["queue_rows", "queue_bytes", "in_flight"]
        .iter()
        .all(|number| gateway.learned(model, number) == 0)
}

#[tokio::test]
async fn every_caller_gets_its_own_rows_whoever_leaves_and_whatever_is_reloaded() {
    let curve = Curve::new(Duration::from_millis(2), Duration::from_micros(20));
    let served = serve(Synthetic {
        curve,
        ..Synthetic::new("m")
    })
    .await;
    let address = [served.server.address()];
    let config =
        |rest: &str| format!("models: {{ m: {{ batch: {{ max_batch_size: 256 }} }}{rest} }}");
    let mut gateway = before(&served, &config("")).await;
    let clients = clients(&gateway, 8).await;
    let mut random = StdRng::seed_from_u64(1);
    let mut callers = tokio::task::JoinSet::new();
    let mut leaving = 0;
    for caller in 0..2000 {
        let mut client = clients[caller % clients.len()].clone();
        let patience = random
            .random_bool(0.2)
            .then(|| Duration::from_micros(random.random_range(0..40_000)));
        leaving += usize::from(patience.is_some());
        callers.spawn(async move {
            let mine = contents(caller);
            let mut request = rows("m", &mine);
            request.id = caller.to_string();
            let call = client.model_infer(request);
            let answer = match patience {
                None => call.await,
                Some(patience) => match tokio::time::timeout(patience, call).await {
                    Ok(answer) => answer,
                    Err(_) => return false,
                },
            };
            let answer = answer.unwrap().into_inner();
            assert_eq!(answer.id, caller.to_string());
            assert_eq!(numbers(&answer), mine);
            true
        });
    }
    // A model beside it comes and goes, and then its own settings change: those who wait in the
    // old queue are answered from there.
    let others = ", other: { batch: {} }";
    for rest in [config(others), config(""), config("").replace("256", "128")] {
        served.model.until(|counters| counters.calls > 3).await;
        gateway
            .reload(&configuration(&address, "protocol: oip-grpc", &rest))
            .await
            .unwrap();
    }
    let answered = within("all callers", callers.join_all()).await;
    let answered = answered.into_iter().filter(|answered| *answered).count();
    assert!(answered >= 2000 - leaving);
    assert!(
        served.model.counters().largest_batch() > 4,
        "they did share calls"
    );
    until("nothing is left", || queues_are_empty(&gateway, "m")).await;
    until("all are counted", || {
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        let count = |code| {
            metrics.sum(
                "outrigger_requests_total",
                &[("model", "m"), ("code", code)],
            )
        };
        count("OK") >= answered as f64 && count("OK") + count("CANCELLED") <= 2000.
    })
    .await;
}

#[tokio::test]
async fn the_models_error_reaches_every_member_and_nobody_else() {
    let served = serve(Synthetic::new("m")).await;
    let mut metadata = MetadataMap::new();
    metadata.insert("x-cause", "row".parse().unwrap());
    let status = Status::with_details_and_metadata(
        // One that no row causes.
        Code::ResourceExhausted,
        "thirteen – is too much",
        bytes::Bytes::from_static(b"details"),
        metadata,
    );
    let fault = Fault::Error(status);
    served.model.set_faults(Faults::on_marked_row(13., fault));
    let config = batched("m", "").replace("16", "4");
    let gateway = before(&served, &config).await;
    let requests: Vec<_> = [1., 13., 2., 3., 4., 5., 6., 7.]
        .iter()
        .map(|value| Inference::of(&rows("m", &[*value])))
        .collect();
    let direct = Wire::connect(served.server.address()).await;
    let direct = requests[1].send(&direct).await.unwrap();
    let replies = together(&gateway, &served.model, &requests).await;
    assert_eq!(batches(&served.model), [(4, 2)]);
    for (n, reply) in replies.into_iter().enumerate() {
        let reply = reply.unwrap();
        if n < 4 {
            assert_eq!(
                reply.meaning(),
                direct.meaning(),
                "member {n} has what the model said"
            );
        } else {
            assert_eq!(reply.grpc_status(), Some("0"));
            let response = ModelInferResponse::decode(&reply.body[5..]).unwrap();
            assert_eq!(numbers(&response), [n as f32]);
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_divide_is_asked_for_again_one_by_one() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    for wrong in [1, -1, 3] {
        served
            .model
            .set_faults(Faults::on_marked_row(13., Fault::WrongRowCount(wrong)));
        if wrong == 1 {
            let values = [1., 13., 2.];
            let requests = values.map(|value| Inference::of(&rows("m", &[value])));
            let replies = together(&gateway, &served.model, &requests).await;
            assert_eq!(batches(&served.model), [(1, 3), (3, 1)]);
            for (value, reply) in values.iter().zip(replies) {
                let reply = reply.unwrap();
                let response = ModelInferResponse::decode(&reply.body[5..]).unwrap();
                let expected = if *value == 13. { 2 } else { 1 };
                assert_eq!(
                    numbers(&response).len(),
                    expected,
                    "as the model itself answers it"
                );
                assert_eq!(numbers(&response)[0], *value);
            }
        }
    }
    let models = gateway.state().models();
    assert_eq!(models["m"]["arms"]["m"]["batchable"], "no: uneven_output");
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    assert_eq!(
        metrics.sum("outrigger_batch_uneven_total", &[("model", "m")]),
        1.
    );
    let plain = Inference::of(&rows("m", &[1.]));
    together(&gateway, &served.model, &[plain.clone(), plain]).await;
    assert_eq!(
        batches(&served.model),
        [(1, 2)],
        "its requests go alone from then on"
    );
}

#[tokio::test]
async fn failures_of_the_connection_are_told_to_each_member() {
    for (fault, reason) in [
        (Fault::ResetStream, Reason::INTERNAL_ERROR),
        // Whether the server cancels its streams before it goes is a race of its own.
        (Fault::CloseConnection, Reason::CANCEL),
    ] {
        let closes = matches!(fault, Fault::CloseConnection);
        let served = serve(Synthetic::new("m")).await;
        served.model.set_faults(Faults::on_marked_row(13., fault));
        // Else they would be sent again.
        let gateway = before(&served, &batched("m", ", retry: { budget: 0 }")).await;
        let values = [1., 13., 2.];
        let requests = values.map(|value| Inference::of(&rows("m", &[value])));
        let replies = together(&gateway, &served.model, &requests).await;
        assert_eq!(batches(&served.model), [(3, 1)]);
        for reply in replies {
            match reply {
                Err(error) => assert_eq!(error.reason(), Some(reason)),
                Ok(reply) => assert_eq!((closes, reply.grpc_status()), (true, Some("14"))),
            }
        }
        let wire = Wire::connect(gateway.address()).await;
        let after = Inference::of(&rows("m", &[5.])).send(&wire).await.unwrap();
        assert_eq!(after.grpc_status(), Some("0"));
    }
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_takes_nothing_more() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let clients = clients(&gateway, 4).await;
    served.model.pause();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..200 {
        let mut client = clients[caller % clients.len()].clone();
        callers.spawn(async move {
            let mine = contents(caller);
            let answer = client.model_infer(rows("m", &mine)).await.unwrap();
            assert_eq!(numbers(answer.get_ref()), mine);
        });
    }
    until("all have come", || {
        served.model.counters().in_flight == 1 && gateway.learned("m", "queue_rows") > 490
    })
    .await;
    let all: usize = (0..200).map(|caller| contents(caller).len()).sum();
    until("all wait", || {
        let first = served.model.counters().received;
        first == 1 && gateway.learned("m", "queue_rows") as usize >= all - 4
    })
    .await;
    let mut drained = gateway.drain();
    until("it says so", || {
        std::net::TcpStream::connect(gateway.address()).is_err()
    })
    .await;
    let (status, page) = within("a page", get_json(gateway.admin(), "/ready")).await;
    assert_eq!(status, 503, "{page}");
    assert!(drained.try_recv().is_err(), "calls are under way");
    served.model.resume();
    within("every answer", callers.join_all()).await;
    within("the end, as soon as none is left", drained)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_caller_who_leaves_the_queue_is_never_sent_to_the_model() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let client = connect(gateway.address()).await;
    served.model.pause();
    let infer = |value: f32| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(rows("m", &[value])).await })
    };
    let first = infer(1.);
    served.model.until(|counters| counters.in_flight == 1).await;
    let (stays, leaves) = (infer(2.), infer(3.));
    until("both wait", || gateway.learned("m", "queue_rows") == 2).await;
    leaves.abort();
    until("its place is free", || {
        gateway.learned("m", "queue_rows") == 1
    })
    .await;
    served.model.resume();
    for call in [first, stays] {
        within("an answer", call).await.unwrap().unwrap();
    }
    assert_eq!(served.model.counters().rows, 2);
    until("all are counted", || {
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        let count = |code| {
            metrics.sum(
                "outrigger_requests_total",
                &[("model", "m"), ("code", code)],
            )
        };
        (count("OK"), count("CANCELLED")) == (2., 1.)
            && metrics.sum("outrigger_batch_cancelled_total", &[("model", "m")]) == 1.
    })
    .await;
}
