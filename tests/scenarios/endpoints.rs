//! Of several endpoints of a model, one that fails or is slow costs its callers little, and has its
//! share again when it is well.

use std::time::Duration;

use outrigger_native::{Curve, Fault, Faults, Server, Synthetic};
use outrigger_tests::{
    gateway::Gateway,
    metrics::Metrics,
    model::{Served, rows, serve},
    patience::{until, within},
    wire::Wire,
};
use tokio::time::Instant;

use crate::{gather::Inference, merging::batched};

async fn serve_each(models: [Synthetic; 3]) -> Vec<Served> {
    let mut served = Vec::new();
    for model in models {
        served.push(serve(model).await);
    }
    served
}

async fn before(served: &[Served]) -> Gateway {
    let addresses: Vec<_> = served.iter().map(|one| one.server.address()).collect();
    let gateway = Gateway::before(&addresses, "protocol: oip-grpc", &batched("m", ""));
    until("the model is known", || {
        let table = gateway.state().table();
        table.arms().all(|arm| arm.is_learned())
    })
    .await;
    gateway
}

/// Asks once, and tells whether there is an answer.
async fn ask(wire: &Wire) -> bool {
    let request = Inference::of(&rows("m", &[1.]));
    let reply = within("an answer", request.send(wire)).await;
    reply.is_ok_and(|reply| reply.grpc_status() == Some("0"))
}

fn sum(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    metrics.sum(name, labels)
}

fn ejected(gateway: &Gateway) -> Vec<bool> {
    let models = gateway.state().models();
    let endpoints = models["m"]["arms"]["m"]["endpoints"].as_array().unwrap();
    let ejected = endpoints.iter().map(|endpoint| &endpoint["ejected"]);
    ejected.map(|ejected| ejected.as_bool().unwrap()).collect()
}

#[tokio::test]
async fn an_endpoint_that_fails_costs_five_callers_and_is_back_when_it_answers() {
    let served = serve_each([(); 3].map(|()| Synthetic::new("m"))).await;
    let gateway = before(&served).await;
    let wire = Wire::connect(gateway.address()).await;
    let unwell = tonic::Status::unavailable("out of memory");
    served[1]
        .model
        .set_faults(Faults::always(Fault::Error(unwell)));
    let began = Instant::now();
    let mut failed = 0;
    for _ in 0..300 {
        failed += usize::from(!ask(&wire).await);
    }
    // After the fifth, one tries again every 750 ms at most.
    let trials = began.elapsed().as_millis() / 750;
    assert!((5..=5 + trials).contains(&(failed as u128)), "{failed}");
    assert_eq!(ejected(&gateway), [false, true, false]);
    let address = served[1].server.address().to_string();
    let labels = [
        ("model", "m"),
        ("upstream", "server"),
        ("endpoint", &*address),
    ];
    assert_eq!(sum(&gateway, "outrigger_endpoint_ejected", &labels), 1.);
    assert!(sum(&gateway, "outrigger_endpoint_ejections_total", &labels) >= 1.);

    served[1].model.set_faults(Faults::none());
    let asked = async {
        while ejected(&gateway)[1] {
            assert!(ask(&wire).await);
        }
    };
    within("it is in use again", asked).await;
    assert_eq!(sum(&gateway, "outrigger_endpoint_ejected", &[]), 0.);
    served[1].model.reset_counters();
    let asked = async {
        while served[1].model.counters().received < 10 {
            assert!(ask(&wire).await);
        }
    };
    within("it has its share again", asked).await;
}

#[tokio::test]
async fn where_all_endpoints_fail_they_are_all_asked_and_all_are_well_at_once() {
    let served = serve_each([(); 3].map(|()| Synthetic::new("m"))).await;
    let gateway = before(&served).await;
    let wire = Wire::connect(gateway.address()).await;
    for one in &served {
        let unwell = tonic::Status::internal("no device");
        one.model.set_faults(Faults::always(Fault::Error(unwell)));
    }
    for _ in 0..100 {
        assert!(!ask(&wire).await);
    }
    assert!(ejected(&gateway).contains(&false));
    for one in &served {
        one.model.set_faults(Faults::none());
    }
    for _ in 0..100 {
        assert!(ask(&wire).await);
    }
}

#[tokio::test]
async fn what_callers_do_wrong_leaves_no_endpoint_out() {
    let served = serve_each([(); 3].map(|()| Synthetic::new("m"))).await;
    let gateway = before(&served).await;
    let wire = Wire::connect(gateway.address()).await;
    let wrong = tonic::Status::invalid_argument("not so");
    let faults = Faults::always(Fault::Error(wrong));
    served[1].model.set_faults(faults);
    for _ in 0..100 {
        ask(&wire).await;
    }
    assert_eq!(ejected(&gateway), [false; 3]);
}

#[tokio::test]
async fn a_slow_endpoint_is_asked_less_than_its_share() {
    let takes = |millis| Synthetic {
        curve: Curve::new(Duration::from_millis(millis), Duration::ZERO),
        ..Synthetic::new("m")
    };
    let served = serve_each([takes(2), takes(60), takes(2)]).await;
    let gateway = before(&served).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let wire = Wire::connect(gateway.address()).await;
        callers.spawn(async move {
            for _ in 0..50 {
                assert!(ask(&wire).await);
            }
        });
    }
    callers.join_all().await;
    let rows: Vec<_> = served.iter().map(|one| one.model.counters().rows).collect();
    assert!(rows[1] * 10 < rows[0] + rows[2], "{rows:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_killed_and_started_again_has_its_share_again() {
    let mut served = serve_each([(); 3].map(|()| Synthetic::new("m"))).await;
    let gateway = before(&served).await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..30 {
        assert!(ask(&wire).await);
    }
    let killed = served.remove(1).server;
    let address = killed.address();
    killed.abort().await;
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(!ask(&wire).await);
    }
    // Nobody was under way; who finds the connection closed goes elsewhere.
    assert!(failed <= 1, "{failed}");
    let again = Server::builder()
        .model(Synthetic::new("m"))
        .threads(1)
        .bind(address)
        .await
        .expect("the port is free again");
    let model = again.handles().next().unwrap();
    let asked = async {
        while model.counters().received < 10 {
            assert!(ask(&wire).await);
        }
    };
    within("it has its share again", asked).await;
}
