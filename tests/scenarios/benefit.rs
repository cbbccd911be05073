//! What batching brings is measured and shown, and a model that gains nothing is not batched.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_native::{Curve, Synthetic};
use outrigger_tests::{
    http1::{get, get_json},
    memory::Memory,
    metrics::Metrics,
    model::{rows, serve},
    origin::EchoServer,
    patience::until,
    wire::{Reply, Wire},
};
use serde_json::Value;

use crate::{alone::memory, gather::Inference, merging::before};

fn config(rest: &str) -> String {
    format!("models: {{ m: {{ batch: {{ controller: fixed, max_batch_size: 64{rest} }} }} }}")
}

fn asking() -> Inference {
    Inference::of(&rows("m", &[1.])).header("outrigger-explain", "1")
}

/// Sixteen callers that ask again as soon as they have their answers, until there have been so many
/// requests or a condition holds; returns how many there were.
async fn callers(wire: &Wire, most: usize, enough: impl Fn() -> bool) -> usize {
    let asked = Arc::new(AtomicUsize::new(0));
    let ends = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (wire, asked, ends) = (wire.clone(), asked.clone(), ends.clone());
        callers.spawn(async move {
            while !ends.load(Ordering::SeqCst) && asked.fetch_add(1, Ordering::SeqCst) < most {
                let reply: Reply = asking().send(&wire).await.unwrap();
                assert_eq!(reply.grpc_status(), Some("0"));
            }
        });
    }
    until("it is enough", || {
        enough() || asked.load(Ordering::SeqCst) >= most
    })
    .await;
    ends.store(true, Ordering::SeqCst);
    callers.join_all().await;
    asked.load(Ordering::SeqCst).min(most)
}

fn model(memory: &Memory) -> Value {
    memory.table.show(&memory.metrics);
    memory.table.arms().next().unwrap().view()
}

fn pays(memory: &Memory) -> String {
    model(memory)["benefit"]["pays"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn sum(memory: &Memory, name: &str, label: (&str, &str)) -> f64 {
    let metrics = Metrics::read(&memory.metrics.text()).unwrap();
    metrics.sum(name, &[("model", "m"), ("arm", "m"), label])
}

fn largest(server: &EchoServer) -> i64 {
    let calls = std::mem::take(&mut *server.calls.lock().unwrap());
    calls.iter().map(|shape| shape[0]).max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_time_is_in_proportion_to_rows_is_found_out_and_sent_singly() {
    let server = EchoServer {
        per_row: Duration::from_millis(1),
        ..EchoServer::new(Duration::ZERO)
    };
    let memory = memory(&server, &config(", holdout: 0.2"));
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pays(&memory), "unknown");
    let asked = callers(&wire, 5000, || pays(&memory) == "no").await;
    assert_eq!(pays(&memory), "no", "after {asked} requests");
    assert!(largest(&server) > 8);
    let shown = model(&memory);
    let says = shown["benefit"]["says"].as_str().unwrap();
    assert!(
        says.contains("does not pay") && says.contains("singly"),
        "{says}"
    );
    let speed_up = shown["benefit"]["speed_up"].as_f64().unwrap();
    assert!((0.9..1.1).contains(&speed_up), "{speed_up}");
    assert_eq!(shown["endpoints"][0]["batching"], "no");
    let endpoints = |pays| sum(&memory, "outrigger_batch_endpoints", ("pays", pays));
    assert_eq!(
        (endpoints("yes"), endpoints("no"), endpoints("unknown")),
        (0., 1., 0.)
    );
    let held_out = sum(
        &memory,
        "outrigger_batch_closed_total",
        ("reason", "holdout"),
    );
    assert!(
        held_out >= 24. && held_out < asked as f64 * 0.2,
        "{held_out} of {asked}"
    );

    // All go at once and by themselves, and are told so.
    callers(&wire, 200, || false).await;
    assert_eq!(largest(&server), 1);
    let told = asking().send(&wire).await.unwrap();
    let told = told.headers["outrigger-explain"].to_str().unwrap();
    let wanted = "alone;reason=does_not_pay;note=\"batching does not pay for this model\"";
    assert_eq!(told, wanted);

    // After a minute it is tried again, and found out again.
    tokio::time::sleep(Duration::from_secs(61)).await;
    callers(&wire, 100, || false).await;
    assert!(largest(&server) > 8);
    callers(&wire, 5000, || pays(&memory) == "no").await;
    assert_eq!(pays(&memory), "no");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_gains_is_batched_and_the_gain_is_shown() {
    let server = EchoServer {
        per_row: Duration::from_micros(100),
        ..EchoServer::new(Duration::from_millis(5))
    };
    let memory = memory(&server, &config(", holdout: 0.2"));
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = callers(&wire, 5000, || pays(&memory) == "yes").await;
    assert_eq!(pays(&memory), "yes", "after {asked} requests");
    let shown = &model(&memory)["benefit"];
    // A row by itself takes 5.1 ms, and one of 15 takes 0.43.
    let speed_up = shown["speed_up"].as_f64().unwrap();
    assert!((5. ..13.).contains(&speed_up), "{shown:#}");
    let gauge = Metrics::read(&memory.metrics.text()).unwrap();
    let gauge = gauge.sum("outrigger_batch_speedup_ratio", &[("model", "m")]);
    assert!((gauge - speed_up).abs() < 1e-6, "{gauge} {speed_up}");
    assert!(
        shown["without"]["p99"].as_f64().unwrap() > 0.004,
        "{shown:#}"
    );
    callers(&wire, 200, || false).await;
    assert!(largest(&server) > 8);
}

#[tokio::test(start_paused = true)]
async fn without_a_share_nothing_is_held_out_and_nothing_is_judged() {
    let server = EchoServer {
        per_row: Duration::from_millis(1),
        ..EchoServer::new(Duration::ZERO)
    };
    let memory = memory(&server, &config(", holdout: 0"));
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    callers(&wire, 5000, || false).await;
    assert_eq!(pays(&memory), "unknown");
    assert_eq!(model(&memory)["benefit"]["held_out"], 0);
    let held_out = sum(
        &memory,
        "outrigger_batch_closed_total",
        ("reason", "holdout"),
    );
    assert_eq!(held_out, 0.);
    server.calls.lock().unwrap().clear();
    callers(&wire, 200, || false).await;
    assert!(largest(&server) > 8);
}

/// The names of the table in the filter's own words, with the labels that it gives them.
fn written() -> Vec<(String, Vec<String>)> {
    let text = include_str!("../../filters/src/batch/README.md");
    let (_, text) = text.split_once("\n## Metrics\n").unwrap();
    let (text, _) = text.split_once("\n## ").unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split(", "));
    names
        .map(|name| {
            let name = name
                .trim()
                .trim_matches('`')
                .replace("..", "outrigger_batch");
            match name.trim_end_matches('}').split_once('{') {
                Some((name, label)) => (name.to_owned(), vec![label.to_owned()]),
                None => (name, Vec::new()),
            }
        })
        .collect()
}

#[tokio::test]
async fn the_pages_show_all_that_the_words_promise() {
    let served = serve(Synthetic {
        curve: Curve::new(Duration::from_millis(1), Duration::from_micros(10)),
        ..Synthetic::new("m")
    })
    .await;
    let gateway = before(&served, &config(", holdout: 0.5")).await;
    let wire = Wire::connect(gateway.address()).await;
    let shown = || gateway.state().models()["m"]["arms"]["m"]["benefit"].clone();
    let known = || {
        let shown = shown();
        shown["speed_up"].is_f64() && shown["rows_per_second"].is_f64()
    };
    callers(&wire, 100_000, known).await;

    let (status, page) = get_json(gateway.admin(), "/models").await;
    assert_eq!(status, 200);
    let arm = &page["m"]["arms"]["m"];
    let benefit = arm["benefit"].as_object().unwrap();
    for (name, is) in benefit {
        let part = |name: &str| is[name].is_f64();
        let known = match &**name {
            "says" => is.as_str().unwrap().contains("because of batching"),
            "pays" => ["yes", "unknown"].contains(&is.as_str().unwrap()),
            "speed_up" => is.as_f64().unwrap() > 1.,
            "held_out" => is.as_u64().unwrap() >= 5,
            "with" => part("seconds_per_row") && part("calls_under_way"),
            "without" => ["seconds_per_row", "calls_under_way", "p50", "p99"]
                .into_iter()
                .all(part),
            _ => is.is_f64(),
        };
        assert!(known, "{name} in {benefit:#?}");
    }
    assert_eq!(benefit.len(), 9);
    for number in ["p50", "p99", "expected_completion"] {
        assert!(
            arm["endpoints"][0][number].as_f64().unwrap() > 0.,
            "{number}"
        );
    }

    let page = get(gateway.admin(), "/metrics").await;
    let text = std::str::from_utf8(&page.body).unwrap();
    let metrics = Metrics::read(text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    let written = written();
    assert!(written.len() >= 17, "{written:?}");
    for (name, mut labels) in written {
        let histogram = metrics
            .families
            .get(&name)
            .is_some_and(|of| of == "histogram");
        let sample = if histogram {
            format!("{name}_bucket")
        } else {
            name
        };
        labels.extend(["model".to_owned(), "arm".to_owned()]);
        let labels: Vec<_> = labels.iter().map(|label| &**label).collect();
        assert!(metrics.has(&sample, &labels), "{sample} {labels:?}\n{text}");
    }
    for mode in ["batched", "held-out", "lone"] {
        let spent = metrics.sum("outrigger_batch_model_seconds_total", &[("mode", mode)]);
        let rows = metrics.sum("outrigger_batch_model_rows_total", &[("mode", mode)]);
        // One row takes a millisecond at least, whoever it is.
        assert!(
            mode == "batched" || spent >= rows * 0.001,
            "{mode}: {spent} {rows}"
        );
        assert!(rows > 0., "{mode}");
    }
}
