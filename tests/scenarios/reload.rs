//! The last good configuration stays in force, and what was learned survives a change of what it
//! does not depend on.

use std::time::Duration;

use outrigger::config::Config;
use outrigger_native::{Curve, Synthetic};
use outrigger_tests::{
    gateway::Gateway,
    http1::{get, get_json},
    metrics::Metrics,
    model::{connect, rows, serve},
    origin::{Origin, mirror, mirror_http1},
    patience::{until, within},
    wire::Wire,
};

use crate::merging::before;

/// Sends rounds of concurrent requests until the limit of rows has grown.
async fn teach(gateway: &Gateway, model: &str) -> u64 {
    let client = connect(gateway.address()).await;
    within("the limit has grown", async {
        loop {
            let mut calls = tokio::task::JoinSet::new();
            for n in 0..64_u8 {
                let (mut client, request) = (client.clone(), rows(model, &[f32::from(n)]));
                calls.spawn(async move { client.model_infer(request).await.unwrap() });
            }
            calls.join_all().await;
            let limit = gateway.learned(model, "batch_limit");
            if limit >= 8 {
                return limit;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_model_keeps_what_it_learned_through_every_change_but_its_own() {
    let curve = Curve::new(Duration::from_micros(500), Duration::from_micros(5));
    let served = serve(Synthetic {
        curve,
        ..Synthetic::new("m")
    })
    .await;
    let address = served.server.address();
    let written = |listeners: &str, model: &str, rest: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:0\", upstream: server }}, \
             {{ address: \"127.0.0.1:0\", upstream: spare }}{listeners}]\n\
             admin: {{ address: \"127.0.0.1:0\" }}\n\
             upstreams: {{ server: {{ protocol: oip-grpc, endpoints: [\"http://{address}\"] }}, \
             spare: {{ protocol: oip-grpc, endpoints: [\"http://{address}\"] }} }}\n\
             models: {{ m: {{ batch: {{ {model} }}, arms: {{ m: {{ upstream: server, model: m }} }} }} }}\n{rest}\n"
        )
    };
    let mut gateway = before(&served, "models: { m: { batch: {} } }").await;
    gateway.reload(&written("", "", "")).await.unwrap();
    let limit = teach(&gateway, "m").await;
    for (what, config) in [
        (
            "another model",
            written("", "", "").replace("models: {", "models: { n: { batch: {} },"),
        ),
        (
            "another listener",
            written(", { address: \"127.0.0.1:0\", upstream: spare }", "", ""),
        ),
        (
            "another upstream",
            written("", "", "").replace("spare", "reserve"),
        ),
        ("the drain", written("", "", "limits: { drain: 1s }")),
        (
            "the connections",
            written("", "", "limits: { max_connections: 7 }"),
        ),
        ("nothing", written("", "", "limits: { max_connections: 7 }")),
    ] {
        gateway.reload(&config).await.unwrap();
        assert_eq!(gateway.learned("m", "batch_limit"), limit, "{what}");
        assert_ne!(
            gateway.state().models()["m"]["arms"]["m"]["batchable"],
            "unknown",
            "{what}"
        );
    }
    gateway
        .reload(&written("", "max_batch_size: 100", ""))
        .await
        .unwrap();
    assert_eq!(
        gateway.learned("m", "batch_limit"),
        1,
        "a model of other settings begins again"
    );
    gateway
        .reload(&written("", "", "").replace("models: {", "# models: {"))
        .await
        .unwrap();
    assert_eq!(gateway.state().models(), serde_json::json!({}));
}

#[tokio::test]
async fn a_reload_keeps_connections_and_changes_what_comes_next() {
    let one = Origin::http2(mirror).await;
    let two = Origin::http1(mirror_http1).await;
    let config = |upstream: &str, rest: &str| {
        format!(
            "listeners: [{{ address: \"127.0.0.1:0\", upstream: {upstream} }}{rest}, \
             {{ address: \"127.0.0.2:0\", upstream: one }}, {{ address: \"127.0.0.3:0\", upstream: two }}]\n\
             admin: {{ address: \"127.0.0.1:0\" }}\n\
             upstreams: {{ one: {{ protocol: oip-grpc, endpoints: [\"http://{}\"] }}, \
             two: {{ protocol: oip-rest, endpoints: [\"http://{}\"] }} }}\n",
            one.address(),
            two.address()
        )
    };
    let mut gateway = Gateway::start(&config("one", ""));
    let address = gateway.address();
    let wire = Wire::connect(address).await;
    let ask = || async {
        within("an answer", wire.call("/p.S/Unary", b"x"))
            .await
            .unwrap()
    };
    assert_eq!(ask().await.headers["seen-te"], "trailers");
    for _ in 0..5 {
        gateway.reload(&config("one", "")).await.unwrap();
        ask().await;
    }
    assert_eq!(one.accepted(), 1, "the connection to the server is kept");

    // The same client connection goes to the other server from now on.
    gateway.reload(&config("two", "")).await.unwrap();
    assert_eq!(gateway.address(), address);
    assert_eq!(ask().await.headers["seen-host"], "model.test");
    assert_eq!(two.accepted(), 1);

    // A listener comes and goes.
    let more = ", { address: \"127.0.0.1:0\", upstream: one }";
    gateway.reload(&config("two", more)).await.unwrap();
    assert_eq!(gateway.address(), address);
    let second = gateway.addresses()[1];
    let beside = Wire::connect(second).await;
    beside.call("/p.S/Unary", b"x").await.unwrap();
    gateway.reload(&config("two", "")).await.unwrap();
    until("its address is closed", || {
        std::net::TcpStream::connect(second).is_err()
    })
    .await;
    // Its connections are told to end: they would keep what the configuration has let go of.
    let told = async { while beside.call("/p.S/Unary", b"x").await.is_ok() {} };
    within("the connection ends", told).await;
    ask().await;
}

#[tokio::test]
async fn the_admin_pages_move_with_the_configuration() {
    let origin = Origin::http2(mirror).await;
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let written =
        outrigger_tests::gateway::configuration(&[origin.address()], "protocol: oip-grpc", "");
    let mut gateway = Gateway::start(&written);
    let first = gateway.admin();
    assert_eq!(get(first, "/live").await.status, 200);
    let moved = free();
    let admin = "admin: { address: \"127.0.0.1:0\" }";
    let config = written.replace(admin, &format!("admin: {{ address: \"{moved}\" }}"));
    gateway.reload(&config).await.unwrap();
    assert_eq!(gateway.admin(), moved);
    assert_eq!(get(moved, "/live").await.status, 200);
    until("the first is closed", || {
        std::net::TcpStream::connect(first).is_err()
    })
    .await;
    gateway.reload(&written.replace(admin, "")).await.unwrap();
    until("the second is closed", || {
        std::net::TcpStream::connect(moved).is_err()
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_taken_changes_nothing() {
    let origin = Origin::http2(mirror).await;
    let written =
        outrigger_tests::gateway::configuration(&[origin.address()], "protocol: oip-grpc", "");
    let mut gateway = Gateway::start(&written);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = written
        .replace(
            "upstream: server }]",
            &format!(
                "upstream: server }}, {{ address: \"{}\", upstream: server }}]",
                taken.local_addr().unwrap()
            ),
        )
        .replace("upstreams: {", "models: { m: { batch: {} } }\nupstreams: {");
    let error = gateway.reload(&bad).await.expect_err("it is taken");
    assert!(
        error
            .to_string()
            .contains(&taken.local_addr().unwrap().to_string()),
        "{error}"
    );
    assert_eq!(
        gateway.state().models(),
        serde_json::json!({}),
        "the last good one is in force"
    );
    let wire = Wire::connect(gateway.address()).await;
    within("an answer", wire.call("/p.S/Unary", b"x"))
        .await
        .unwrap();
    let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
    let reloads = |result| metrics.sum("outrigger_config_reloads_total", &[("result", result)]);
    assert_eq!((reloads("refused"), reloads("applied")), (1., 0.));
    let (_, page) = get_json(gateway.admin(), "/config").await;
    assert_eq!(page["listeners"].as_array().unwrap().len(), 1);
    // It is served once it is free.
    drop(taken);
    gateway.reload(&bad).await.unwrap();
    assert_eq!(gateway.addresses().len(), 2);
}

#[test]
fn a_faulty_configuration_is_refused_with_every_fault_at_once() {
    let faults =
        Config::read("listeners: [{ adress: \"x\", upstream: none }]\nlimits: { drain: soon }\n");
    let text = faults.expect_err("it is faulty").to_string();
    for fault in ["adress", "drain", "listeners[0]"] {
        assert!(text.contains(fault), "{fault}: {text}");
    }
    assert!(text.lines().count() >= 3, "{text}");
}
