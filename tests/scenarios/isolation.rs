//! A request that the model cannot answer spoils nobody who shares its call.

use outrigger_native::{Fault, Faults};
use outrigger_tests::{
    gateway::Gateway,
    metrics::Metrics,
    model::{Served, rows},
    patience::{until, within},
    protocol::Protocol,
    wire::{Reply, Wire},
};
use tonic::{Code, Status};

use crate::{
    gather::{Inference, batches},
    merging::{batched, before},
    protocols::{behind, echo},
};

/// Sends one row for each caller, of OIP over gRPC and over REST in turn, so that all of them wait
/// together; returns their answers.
async fn callers(gateway: &Gateway, served: &Served, values: &[f32]) -> Vec<(Protocol, Reply)> {
    let wire = Wire::connect(gateway.address()).await;
    served.model.reset_counters();
    served.model.pause();
    let plug = {
        let (wire, plug) = (wire.clone(), Inference::of(&rows("m", &[0.])));
        tokio::spawn(async move { plug.send(&wire).await })
    };
    until("the first is at the model", || {
        served.model.counters().received == 1
    })
    .await;
    let protocols = [Protocol::OipGrpc, Protocol::OipRest].into_iter().cycle();
    let calls: Vec<_> = protocols
        .zip(values.iter().copied())
        .map(|(protocol, value)| {
            let wire = wire.clone();
            tokio::spawn(async move {
                let reply = protocol.send(&wire, "m", &[value]).await.unwrap();
                (protocol, reply)
            })
        })
        .collect();
    until("all wait", || {
        gateway.learned("m", "queue_rows") == values.len() as u64
    })
    .await;
    served.model.resume();
    within("the first", plug).await.unwrap().unwrap();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(within("an answer", call).await.unwrap());
    }
    replies
}

fn counted(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    metrics.sum(name, &[labels, &[("model", "m")]].concat())
}

#[tokio::test]
async fn one_bad_row_among_sixteen_callers_spoils_only_itself() {
    let served = echo().await;
    let plain = before(&served, "models: { m: {} }").await;
    let over_grpc = before(&served, &batched("m", "")).await;
    let over_rest = behind(&plain, "oip-rest", &batched("m", "")).await;
    for (server, gateway) in [("oip-grpc", over_grpc), ("oip-rest", over_rest)] {
        // A caller of either kind.
        for bad in [5, 10] {
            let what = format!("caller {bad}, served by {server}");
            // Each time another row, for the last one is known.
            let marker = bad as f32 + 100.;
            let status = Status::new(Code::OutOfRange, format!("{marker} is bad"));
            served
                .model
                .set_faults(Faults::on_marked_row(marker, Fault::Error(status)));
            let values: Vec<f32> = (0..16)
                .map(|caller| if caller == bad { marker } else { caller as f32 })
                .collect();
            let replies = callers(&gateway, &served, &values).await;
            let expected = [(1, 2), (2, 2), (4, 2), (8, 2), (16, 1)];
            assert_eq!(batches(&served.model), expected, "{what}");
            for (caller, (protocol, reply)) in replies.iter().enumerate() {
                if caller != bad {
                    assert_eq!(protocol.read(reply), [values[caller]], "{what}");
                } else if *protocol == Protocol::OipRest {
                    assert_eq!(reply.status, 400, "{what}: {reply:?}");
                    let body = String::from_utf8_lossy(&reply.body);
                    assert!(body.contains("is bad"), "{what}: {body}");
                } else {
                    assert_ne!(reply.grpc_status(), Some("0"), "{what}: {reply:?}");
                    let words = reply.grpc_message();
                    assert!(words.contains("is bad"), "{what}: {words}");
                }
            }
            // Tried again, by a caller of either kind, it goes alone.
            let quarantined = || {
                let labels = [("reason", "quarantined")];
                counted(&gateway, "outrigger_batch_alone_total", &labels)
            };
            let before = quarantined();
            let wire = Wire::connect(gateway.address()).await;
            let (protocol, _) = replies[bad];
            let again = protocol.send(&wire, "m", &[marker]).await.unwrap();
            assert_eq!(again.status, replies[bad].1.status, "{what}");
            assert_eq!(quarantined(), before + 1., "{what}");
        }
        for name in [
            "outrigger_batch_halved_total",
            "outrigger_batch_isolated_total",
        ] {
            assert_eq!(counted(&gateway, name, &[]), 2., "{name}, {server}");
        }
    }
}
