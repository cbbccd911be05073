//! A request with more rows than a call may have is answered in parts, where that is wanted.

use outrigger_native::{Datatype, Synthetic, TensorSpec};
use outrigger_tests::{
    gateway::Gateway,
    model::{Served, serve},
    patience::{until, within},
    protocol::Protocol,
    wire::Wire,
};

use crate::{
    gather::{Inference, batches},
    merging::before,
    protocols::behind,
};

const SPLIT: &str = "models: { m: { batch: { controller: fixed, split: true } } }";

/// A model that refuses calls of more than 16 rows.
async fn small() -> Served {
    serve(Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        max_batch_size: 16,
        ..Synthetic::new("m")
    })
    .await
}

fn values(rows: usize) -> Vec<f32> {
    (0..rows).map(|row| row as f32 + 0.5).collect()
}

#[tokio::test]
async fn a_request_over_the_limit_has_its_rows_back_in_order_in_every_protocol() {
    let served = small().await;
    let direct = before(&served, "models: { m: {} }").await;
    let split = SPLIT.replace("split", "max_batch_size: 16, split");
    for server in ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"] {
        let gateway = behind(&direct, server, &split).await;
        let wire = Wire::connect(gateway.address()).await;
        for protocol in Protocol::ALL {
            let what = format!("{protocol:?} served by {server}");
            // What the server says of the inputs is known before rows are counted.
            assert_eq!(served_rows(&wire, protocol, 1).await, values(1), "{what}");
            served.model.reset_counters();
            assert_eq!(served_rows(&wire, protocol, 50).await, values(50), "{what}");
            let counters = served.model.counters();
            assert_eq!((counters.calls, counters.rows), (4, 50), "{what}");
            assert_eq!(counters.largest_batch(), 16, "{what}");
        }
    }
}

async fn served_rows(wire: &Wire, protocol: Protocol, rows: usize) -> Vec<f32> {
    let values = values(rows);
    let answer = protocol.send(wire, "m", &values);
    protocol.read(&within("an answer", answer).await.unwrap())
}

#[tokio::test]
async fn without_being_told_to_nothing_is_divided() {
    let served = small().await;
    let whole = before(
        &served,
        &SPLIT.replace(", split: true", ", max_batch_size: 16"),
    )
    .await;
    let parts = before(
        &served,
        &SPLIT.replace("split", "max_batch_size: 16, split"),
    )
    .await;
    let asked = Inference::of(&outrigger_tests::model::rows("m", &values(50)));
    let asked = asked.header("outrigger-explain", "1");
    let ask = async |gateway: &Gateway| {
        let wire = Wire::connect(gateway.address()).await;
        within("an answer", asked.send(&wire)).await.unwrap()
    };
    let refused = ask(&whole).await;
    assert_eq!(refused.grpc_status(), Some("3"), "{refused:?}");
    let reply = ask(&parts).await;
    assert_eq!(Protocol::OipGrpc.read(&reply), values(50));
    let told = reply.headers["outrigger-explain"].to_str().unwrap();
    assert!(told.starts_with("batch;reason=split;rows=16;"), "{told}");
}

#[tokio::test]
async fn what_is_left_of_a_request_shares_its_call_with_others() {
    let served = small().await;
    let gateway = before(
        &served,
        &SPLIT.replace("split", "max_batch_size: 16, split"),
    )
    .await;
    let wire = Wire::connect(gateway.address()).await;
    served.model.pause();
    let send = |rows: usize| {
        let wire = wire.clone();
        tokio::spawn(async move { served_rows(&wire, Protocol::OipGrpc, rows).await })
    };
    let first = send(1);
    until("the first is at the model", || {
        served.model.counters().received == 1
    })
    .await;
    let waits = |rows: u64| gateway.learned("m", "queue_rows") == rows;
    let large = send(20);
    until("all of it waits", || waits(20)).await;
    let small = send(12);
    until("both wait", || waits(32)).await;
    served.model.resume();
    for (call, rows) in [(first, 1), (large, 20), (small, 12)] {
        assert_eq!(call.await.unwrap(), values(rows));
    }
    assert_eq!(batches(&served.model), [(16, 2)]);
}
