//! Callers who leave, by the thousand and at any moment, cost no connection to the server, leave nothing
//! behind, and take nothing away from those who stay.

use std::time::Duration;

use outrigger::worker;
use outrigger_native::{Curve, Server, Synthetic};
use outrigger_tests::{
    bench::{
        leavers::{Progress, Storm},
        soak::connections_to,
    },
    gateway::Gateway,
    metrics::Metrics,
    model::start,
    patience::until,
};

/// A call takes so long that those who leave do so at all moments.
const COST: Curve = Curve::new(Duration::from_micros(500), Duration::from_micros(20));

fn server() -> outrigger_native::Builder {
    ["m", "a", "b", "c"]
        .into_iter()
        .fold(Server::builder(), |builder, name| {
            builder.model(Synthetic {
                curve: COST,
                concurrency: 4,
                ..Synthetic::new(name)
            })
        })
}

/// Storms through a proxy with this configuration of the model.
async fn storm(config: &str, known: f64) {
    let server = start(server()).await;
    let port = server.address().port();
    let models = format!("models: {{ m: {config} }}");
    let gateway = Gateway::before(&[server.address()], "protocol: oip-grpc", &models);
    until("the models are known", || {
        gateway.state().table().arms().all(|arm| arm.is_learned())
    })
    .await;
    let storm = |cancels, seed| Storm {
        address: gateway.address(),
        model: "m",
        cancels,
        connections: 4,
        at_once: 8,
        http1: 1,
        staying: 2,
        patience: Duration::from_millis(3),
        known,
        seed,
    };
    storm(200, 1).rage(&Progress::default()).await;
    let connections = connections_to(port).unwrap();
    assert!(!connections.is_empty());

    let progress = Progress::default();
    let count = storm(4000, 2).rage(&progress).await;
    assert_eq!(count.wrong, 0, "{config}: {:?}", progress.first_wrong());
    assert_eq!(count.lost, 0, "{config}: {:?}", progress.first_lost());
    assert!(count.cancelled() >= 4000, "{config}: {count:?}");
    for (kind, seen) in [
        ("half asked", count.half_asked),
        ("at once", count.at_once),
        ("later", count.later),
        ("hung up", count.hung_up),
        ("over HTTP/1.1", count.http1),
        ("answered", count.answered),
    ] {
        assert!(seen > 0, "{config}: {kind}: {count:?}");
    }
    until("the server has nothing left to do", || {
        server
            .handles()
            .all(|model| model.counters().in_flight == 0)
    })
    .await;
    until("nothing waits, and nothing is under way", || {
        is_idle(&gateway.state().models())
    })
    .await;
    until("all clients have gone", || {
        let metrics = Metrics::read(&gateway.state().metrics_text()).unwrap();
        metrics.sum("outrigger_connections", &[]) == 0.
    })
    .await;
    // One worker or another may have called for the first time, and what watches a server for its
    // cache has a connection of its own; but all that there were stand.
    let after = connections_to(port).unwrap();
    assert!(
        connections.is_subset(&after),
        "{config}: {connections:?} {after:?}"
    );
    assert!(after.len() <= worker::count() + 1, "{config}: {after:?}");
}

/// Tells whether no queue and no place of an endpoint is taken.
fn is_idle(models: &serde_json::Value) -> bool {
    let arms = models["m"]["arms"].as_object().unwrap();
    let endpoints = arms
        .values()
        .flat_map(|arm| arm["endpoints"].as_array().unwrap());
    let gauges = [
        "queue_rows",
        "queue_requests",
        "queue_bytes",
        "in_flight",
        "beside",
    ];
    endpoints
        .flat_map(|endpoint| gauges.map(|gauge| endpoint[gauge].as_f64().unwrap_or(0.)))
        .all(|gauge| gauge == 0.)
}

#[tokio::test]
async fn who_leaves_a_queue_leaves_nothing_behind() {
    storm("{ batch: {} }", 0.).await;
}

#[tokio::test]
async fn cancelling_abandoned_calls_costs_no_connection() {
    storm("{ batch: { cancel: abandoned } }", 0.).await;
}

#[tokio::test]
async fn who_leaves_before_the_deadline_costs_no_connection() {
    storm("{ deadline: { default: 10s } }", 0.).await;
}

#[tokio::test]
async fn who_leaves_an_ensemble_leaves_all_of_its_arms() {
    storm(
        "{ arms: { a: { upstream: server, model: a }, b: { upstream: server, model: b }, \
         c: { upstream: server, model: c } }, selection: { policy: fixed, ensemble: true }, deadline: { default: 10s } }",
        0.,
    )
    .await;
}

#[tokio::test]
async fn who_leaves_a_row_that_others_want_too_takes_it_from_nobody() {
    storm("{ cache: { max_bytes: 1MiB }, batch: {} }", 0.5).await;
}
