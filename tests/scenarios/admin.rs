//! The admin pages say what is, in the form that their readers expect.

use http::Request;
use outrigger_native::{Shapes, Synthetic};
use outrigger_tests::{
    gateway::Gateway,
    http1::{Http1, get, get_json},
    metrics::Metrics,
    model::{rows, serve},
    origin::{Origin, mirror},
    patience::{until, within},
    wire::Wire,
};

use crate::{
    gather::Inference,
    merging::{batched, before},
};

/// Waits until `/ready` gives a status, and returns the page.
async fn ready(gateway: &Gateway, status: u16) -> serde_json::Value {
    within("the page says so", async {
        loop {
            let (is, page) = get_json(gateway.admin(), "/ready").await;
            if is == status {
                return page;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn ready_follows_the_model_and_live_does_not() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = Gateway::before(
        &[served.server.address()],
        "protocol: oip-grpc",
        "models: { m: { batch: {} }, absent: { batch: {} } }",
    );
    let page = ready(&gateway, 503).await;
    assert!(page.to_string().contains("absent"), "{page}");
    let gateway = Gateway::before(
        &[served.server.address()],
        "protocol: oip-grpc",
        &batched("m", ""),
    );
    let page = ready(&gateway, 200).await;
    assert_eq!(page, serde_json::json!({ "ready": true, "missing": [] }));
    served.model.set_ready(false);
    let page = ready(&gateway, 503).await;
    assert!(
        page["missing"][0].as_str().unwrap().contains("model m"),
        "{page}"
    );
    assert_eq!(get(gateway.admin(), "/live").await.status, 200);
    served.model.set_ready(true);
    ready(&gateway, 200).await;
    served.server.abort().await;
    ready(&gateway, 503).await;
    assert_eq!(get(gateway.admin(), "/live").await.status, 200);
}

#[tokio::test]
async fn a_server_that_says_nothing_of_batches_can_be_ready() {
    for shapes in [Shapes::Absent, Shapes::Bare, Shapes::Batched] {
        for rest in ["max_batch_size: 4", ""] {
            // As MLServer, whose inputs and outputs may not be declared at all.
            let served = serve(Synthetic {
                config_unimplemented: true,
                shapes,
                inputs: Vec::new(),
                ..Synthetic::new("m")
            })
            .await;
            let gateway = Gateway::before(
                &[served.server.address()],
                "protocol: oip-grpc",
                &format!("models: {{ m: {{ batch: {{ {rest} }} }} }}"),
            );
            ready(&gateway, 200).await;
        }
    }
}

#[tokio::test]
async fn metrics_have_the_names_and_labels_that_dashboards_know() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..3 {
        Inference::of(&rows("m", &[1.])).send(&wire).await.unwrap();
    }
    let bad = rows("m", &[1.; 100_000]);
    let refused = Inference::of(&bad).send(&wire).await.unwrap();
    assert_eq!(refused.grpc_status(), Some("3"));
    Inference::of(&rows("other", &[1.]))
        .send(&wire)
        .await
        .unwrap();
    let get_request = Request::get("http://m/v2").body(()).unwrap();
    let http = wire.exchange(get_request, &[], None).await.unwrap();
    let page = get(gateway.admin(), "/metrics").await;
    let content_type = page.headers["content-type"].to_str().unwrap();
    assert!(
        content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    let text = std::str::from_utf8(&page.body).unwrap();
    let metrics = Metrics::read(text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    let arm = ["model", "arm"];
    for (name, labels) in [
        (
            "outrigger_requests_total",
            &["model", "protocol", "code"][..],
        ),
        ("outrigger_request_duration_seconds_bucket", &["model"]),
        ("outrigger_batch_rows_bucket", &arm),
        ("outrigger_batch_limit_rows", &arm),
        ("outrigger_batch_queue_duration_seconds_bucket", &arm),
        ("outrigger_batch_closed_total", &["model", "arm", "reason"]),
        ("outrigger_upstream_duration_seconds_bucket", &["upstream"]),
        ("outrigger_connections", &[]),
    ] {
        assert!(metrics.has(name, labels), "{name} {labels:?}\n{text}");
    }
    let count = |labels: &[(&str, &str)]| metrics.sum("outrigger_requests_total", labels);
    assert_eq!(
        count(&[("model", "m"), ("protocol", "oip-grpc"), ("code", "OK")]),
        3.
    );
    assert_eq!(count(&[("model", "m"), ("code", "INVALID_ARGUMENT")]), 1.);
    assert_eq!(
        count(&[("model", ""), ("protocol", "grpc"), ("code", "NOT_FOUND")]),
        1.
    );
    assert_eq!(
        count(&[
            ("model", ""),
            ("protocol", "http"),
            ("code", http.status.as_str())
        ]),
        1.
    );
    assert_eq!(
        metrics.sum("outrigger_request_duration_seconds_count", &[]),
        6.
    );
    assert_eq!(metrics.sum("outrigger_connections", &[]), 1.);
}

#[tokio::test]
async fn calls_that_pass_through_are_counted_by_how_they_end() {
    let origin = Origin::http2(|(request, mut respond)| async move {
        match request.uri().path() {
            "/s/Reset" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            "/s/Silent" => {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            }
            _ => mirror((request, respond)).await,
        }
    })
    .await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-grpc", "");
    let wire = Wire::connect(gateway.address()).await;
    wire.call("/s/Good", b"").await.unwrap();
    wire.call("/s/Reset", b"").await.unwrap_err();
    let silent = wire
        .open(outrigger_tests::wire::grpc("/s/Silent"), true)
        .await
        .unwrap();
    until("it is at the server", || origin.accepted() == 1).await;
    drop(silent);
    until("all are counted", || {
        let metrics = Metrics::read(&gateway.state().metrics().text()).unwrap();
        let count = |code| {
            metrics.sum(
                "outrigger_requests_total",
                &[("protocol", "grpc"), ("code", code)],
            )
        };
        (count("OK"), count("UNAVAILABLE"), count("CANCELLED")) == (1., 1., 1.)
    })
    .await;
}

#[tokio::test]
async fn models_and_config_have_the_shape_of_the_contract() {
    let served = serve(Synthetic::new("m")).await;
    let address = served.server.address();
    let gateway = before(&served, &batched("m", ", latency_objective: 30ms")).await;
    let wire = Wire::connect(gateway.address()).await;
    Inference::of(&rows("m", &[1.])).send(&wire).await.unwrap();
    let (status, page) = get_json(gateway.admin(), "/models").await;
    assert_eq!(status, 200);
    assert_eq!(page["m"]["objective"], "30ms");
    let endpoint = &page["m"]["arms"]["m"]["endpoints"][0];
    assert_eq!(endpoint["address"], address.to_string());
    assert_eq!(endpoint["batch_limit"], 16);
    assert_eq!(
        (&endpoint["queue_rows"], &endpoint["in_flight"]),
        (&0.into(), &0.into())
    );
    assert!(
        endpoint["p99"]
            .as_f64()
            .is_some_and(|p99| p99 > 0. && p99 < 10.),
        "{endpoint}"
    );

    let (status, page) = get_json(gateway.admin(), "/config").await;
    assert_eq!(status, 200);
    assert_eq!(page["models"]["m"]["batch"]["max_batch_size"], 16);
    assert_eq!(
        page["limits"]["max_connections"], 10_000,
        "defaults are written out"
    );
    // What it shows can be given back.
    outrigger::config::Config::read(page.to_string()).unwrap_or_else(|faults| panic!("{faults}"));
}

#[tokio::test]
async fn pages_answer_get_and_head_and_say_which_there_are() {
    let origin = Origin::http2(mirror).await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-grpc", "");
    let (status, page) = get_json(gateway.admin(), "/nothing").await;
    assert_eq!(status, 404);
    assert!(
        page["pages"]
            .as_array()
            .unwrap()
            .contains(&"/metrics".into())
    );
    let mut client = Http1::connect(gateway.admin()).await;
    let head = within(
        "a head",
        client.exchange("HEAD /live HTTP/1.1\r\nhost: a\r\n\r\n"),
    )
    .await;
    assert_eq!(head.unwrap().status, 200);
    let post = "POST /live HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(
        within("a refusal", client.exchange(post))
            .await
            .unwrap()
            .status,
        405
    );
    let wire = Wire::connect(gateway.admin()).await;
    let live = Request::get("http://a/live").body(()).unwrap();
    assert_eq!(wire.exchange(live, &[], None).await.unwrap().status, 200);
}
