//! `outrigger probe` finds out what a model does with its rows, whatever its server speaks.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use clap::Parser as _;
use outrigger::{
    cli::{Cli, Command, Probe},
    config::Config,
    probe::{Error, Report, Verdict, examine},
};
use outrigger_native::{Curve, Datatype, Fault, Faults, Shapes, Synthetic, TensorSpec};
use outrigger_tests::{
    gateway::{Gateway, configuration},
    model::{Served, serve},
};

use crate::{
    gather::batches,
    merging::{batched, before},
    protocols::echo,
};

fn options(flags: &str) -> Probe {
    let line = format!("outrigger probe --config unread m {flags}");
    match Cli::try_parse_from(line.split_whitespace())
        .unwrap()
        .command
    {
        Command::Probe(options) => options,
        other => panic!("not probe: {other:?}"),
    }
}

async fn probe_at(
    addresses: &[SocketAddr],
    protocol: &str,
    model: &str,
    flags: &str,
) -> Result<Report, Error> {
    let text = configuration(addresses, &format!("protocol: {protocol}"), model);
    examine(Config::read(text).unwrap(), &options(flags)).await
}

/// Probes a model that the configuration batches.
async fn probe(served: &Served, flags: &str) -> Report {
    let address = served.server.address();
    let report = probe_at(
        &[address],
        "oip-grpc",
        "models: { m: { batch: {} } }",
        flags,
    )
    .await;
    report.unwrap()
}

fn verdicts(report: &Report) -> (Verdict, Verdict) {
    report.endpoints()[0].verdicts().unwrap()
}

/// What is told of the first endpoint.
fn told(report: &Report, what: &str) -> String {
    let reason = report.json()["endpoints"][0][what]["reason"].clone();
    reason.as_str().unwrap().to_owned()
}

fn error(report: &Report) -> String {
    let error = report.json()["endpoints"][0]["error"].clone();
    error.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_honest_model_is_safe_and_what_batching_is_worth_is_told() {
    let served = serve(Synthetic {
        curve: Curve::new(Duration::from_millis(4), Duration::from_micros(50)),
        inputs: vec![
            TensorSpec::new("x", Datatype::Fp32, &[3]),
            TensorSpec::new("words", Datatype::Bytes, &[1]),
        ],
        ..Synthetic::new("m")
    })
    .await;
    let report = probe(&served, "").await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Safe, Verdict::Safe),
        "{report}"
    );
    assert_eq!(report.status(), 0);
    let json = report.json();
    assert_eq!(json["endpoints"][0]["batching"]["largest_difference"], 0.);
    assert_eq!(json["endpoints"][0]["caching"]["bit_equal"], true);
    // 16 x 4.05 ms against 4.8 ms, on a machine that may have more to do.
    let worth = json["endpoints"][0]["speedup_per_row"].as_f64().unwrap();
    assert!(worth > 3., "{report}");
    let sizes: Vec<_> = batches(&served.model).iter().map(|batch| batch.0).collect();
    assert!(
        [1, 2, 3, 8, 16].iter().all(|size| sizes.contains(size)),
        "{sizes:?}"
    );
    let text = report.to_string();
    assert!(
        text.contains("Batching is safe: ") && text.contains("Caching is safe: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_model_whose_rows_leak_into_their_neighbours_is_not_batched_safely() {
    let served = echo().await;
    served
        .model
        .set_faults(Faults::always(Fault::Neighbours(0.01)));
    let report = probe(&served, "").await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Unsafe, Verdict::Safe),
        "{report}"
    );
    assert_eq!(report.status(), 1);
    let reason = told(&report, "batching");
    assert!(
        reason.starts_with("output `output0`, row ") && reason.contains(" alone, "),
        "{reason}"
    );
    assert!(reason.contains("; largest difference "), "{reason}");
    assert!(report.to_string().contains("UNSAFE"), "{report}");
    // Not batched, it does no harm.
    let address = [served.server.address()];
    let report = probe_at(&address, "oip-grpc", "models: { m: {} }", "")
        .await
        .unwrap();
    assert_eq!(verdicts(&report).0, Verdict::Unsafe);
    assert_eq!(report.status(), 0);
    // So much is as good as nothing to whoever says so.
    let report = probe(&served, "--tolerance 0.5").await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Safe, Verdict::Safe),
        "{report}"
    );
}

#[tokio::test]
async fn a_batch_of_one_written_into_the_model_is_found() {
    let served = echo().await;
    for fault in [Fault::FirstRow, Fault::WrongRowCount(-1)] {
        served.model.set_faults(Faults::always(fault.clone()));
        let report = probe(&served, "").await;
        assert_eq!(
            verdicts(&report),
            (Verdict::Unsafe, Verdict::Safe),
            "{fault:?}: {report}"
        );
        assert_eq!(report.status(), 1);
    }
}

#[tokio::test]
async fn wrong_row_counts_are_told_with_the_call_that_had_them() {
    let served = serve(Synthetic {
        max_batch_size: 4,
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new("m")
    })
    .await;
    served
        .model
        .set_faults(Faults::always(Fault::WrongRowCount(1)));
    let report = probe(&served, "").await;
    assert_eq!(verdicts(&report).0, Verdict::Unsafe);
    let reason = told(&report, "batching");
    assert!(
        reason.contains("1 rows were sent and 2 came back"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_random_model_is_not_cached_safely_and_nothing_is_known_of_batching() {
    let served = echo().await;
    served.model.set_faults(Faults::always(Fault::Noise(0.05)));
    let report = probe(&served, "").await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Unknown, Verdict::Unsafe),
        "{report}"
    );
    let reason = told(&report, "caching");
    assert!(
        reason.starts_with("answers differ when repeated: "),
        "{reason}"
    );
    assert_eq!(report.status(), 1);
}

#[tokio::test]
async fn what_is_not_cached_safely_counts_where_a_cache_is_configured() {
    let served = echo().await;
    let address = [served.server.address()];
    let probe = async |model: &str, fault: Option<Fault>| {
        served
            .model
            .set_faults(fault.map_or(Faults::none(), Faults::always));
        let model = format!("models: {{ m: {{ {model} }} }}");
        let report = probe_at(&address, "oip-grpc", &model, "").await.unwrap();
        (report.status(), report.to_string())
    };
    let (random, leaking) = (Some(Fault::Noise(0.05)), Some(Fault::Neighbours(0.01)));
    for (model, fault, status, words) in [
        ("cache: {}", None, 0, "Caching is safe: "),
        ("", random.clone(), 0, "Caching would be unsafe: "),
        (
            "cache: {}",
            random.clone(),
            1,
            "Caching is UNSAFE, and configured: answers differ when repeated: ",
        ),
        (
            "cache: { unit: request }",
            random,
            1,
            "Caching is UNSAFE, and configured: ",
        ),
        // A row's answer would be given again among other rows than it was given for.
        (
            "cache: {}",
            leaking.clone(),
            1,
            "Caching by row is UNSAFE, and configured, ",
        ),
        (
            "cache: { unit: request }",
            leaking.clone(),
            0,
            "Caching is safe with `unit: request`: ",
        ),
        ("", leaking, 0, "Caching is safe with `unit: request`: "),
    ] {
        let (told, report) = probe(model, fault.clone()).await;
        assert_eq!(told, status, "{model} {fault:?}: {report}");
        assert!(report.contains(words), "{model} {fault:?}: {report}");
    }
}

#[tokio::test]
async fn rounding_errors_are_within_the_tolerance_and_told() {
    let served = echo().await;
    served.model.set_faults(Faults::always(Fault::Noise(1e-6)));
    let report = probe(&served, "").await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Safe, Verdict::Safe),
        "{report}"
    );
    assert_eq!(report.json()["endpoints"][0]["caching"]["bit_equal"], false);
    let largest = report.json()["endpoints"][0]["batching"]["largest_difference"].clone();
    assert!(
        (1e-8..1e-5).contains(&largest.as_f64().unwrap()),
        "{report}"
    );
    assert!(
        told(&report, "caching").contains("not bit by bit"),
        "{report}"
    );
    let exact = probe(&served, "--tolerance 0").await;
    assert_eq!(
        verdicts(&exact),
        (Verdict::Unknown, Verdict::Unsafe),
        "{exact}"
    );
}

#[tokio::test]
async fn no_call_has_more_rows_than_the_model_or_the_configuration_allows() {
    let served = serve(Synthetic {
        max_batch_size: 6,
        inputs: vec![TensorSpec::new("input0", Datatype::Int64, &[1])],
        ..Synthetic::new("m")
    })
    .await;
    assert_eq!(
        verdicts(&probe(&served, "").await),
        (Verdict::Safe, Verdict::Safe)
    );
    assert_eq!(batches(&served.model).last().map(|batch| batch.0), Some(6));
    served.model.reset_counters();
    let model = "models: { m: { batch: { max_batch_size: 3 } } }";
    let report = probe_at(&[served.server.address()], "oip-grpc", model, "").await;
    assert_eq!(verdicts(&report.unwrap()), (Verdict::Safe, Verdict::Safe));
    assert_eq!(batches(&served.model).last().map(|batch| batch.0), Some(3));
}

#[tokio::test]
async fn a_model_without_batches_is_judged_by_whole_requests() {
    let served = serve(Synthetic {
        batchable: false,
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[-1, 2])],
        ..Synthetic::new("m")
    })
    .await;
    let report = probe(&served, "").await;
    assert!(error(&report).contains("`--dim input0=N`"), "{report}");
    assert_eq!(report.status(), 2);
    let report = probe(&served, "--dim 3").await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Idle, Verdict::Safe),
        "{report}"
    );
    assert_eq!(report.status(), 0);
    assert!(report.to_string().contains("takes no batches"), "{report}");
}

#[tokio::test]
async fn a_decoupled_model_is_refused() {
    let served = serve(Synthetic {
        decoupled: Some(2),
        ..Synthetic::new("m")
    })
    .await;
    let report = probe(&served, "").await;
    assert!(
        error(&report).contains("none or several answers"),
        "{report}"
    );
    assert_eq!((report.status(), served.model.counters().received), (2, 0));
}

#[tokio::test]
async fn rows_of_a_file_are_asked_in_place_of_random_ones() {
    let served = serve(Synthetic {
        shapes: Shapes::Absent,
        config_unimplemented: true,
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[2])],
        ..Synthetic::new("m")
    })
    .await;
    let refused = probe(&served, "").await;
    assert!(error(&refused).contains("--input"), "{refused}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let rows = r#"{"inputs": [{"name": "input0", "datatype": "FP32", "shape": [3, 2],
                               "data": [[1, 2], [3, 4], [5, 6]]}]}"#;
    file.write_all(rows.as_bytes()).unwrap();
    let flags = format!("--input {0} --input {0}", file.path().display());
    let report = probe(&served, &flags).await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Safe, Verdict::Safe),
        "{report}"
    );
    assert_eq!(report.json()["endpoints"][0]["rows"], 6);
    // The server does not say that it takes batches, so none are sent.
    assert_eq!(
        report.json()["endpoints"][0]["batching"]["configured"],
        false
    );
    assert!(
        report.to_string().contains("batch.max_batch_size"),
        "{report}"
    );
    served
        .model
        .set_faults(Faults::always(Fault::Neighbours(1.)));
    assert_eq!(probe(&served, &flags).await.status(), 0);
    let model = "models: { m: { batch: { max_batch_size: 4 } } }";
    let configured = probe_at(&[served.server.address()], "oip-grpc", model, &flags).await;
    assert_eq!(configured.unwrap().status(), 1);
}

#[tokio::test]
async fn a_row_that_has_no_answer_says_what_the_server_said() {
    let served = echo().await;
    let refusal = tonic::Status::invalid_argument("not a picture");
    served
        .model
        .set_faults(Faults::always(Fault::Error(refusal)));
    let report = probe(&served, "").await;
    let error = error(&report);
    assert!(
        error.contains("not a picture") && error.contains("--input"),
        "{error}"
    );
    assert_eq!(report.status(), 2);
}

#[tokio::test]
async fn a_call_that_only_fails_merged_is_unsafe() {
    let served = serve(Synthetic {
        max_batch_size: 1,
        config_unimplemented: true,
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new("m")
    })
    .await;
    let report = probe(&served, "").await;
    assert_eq!(
        verdicts(&report),
        (Verdict::Unsafe, Verdict::Safe),
        "{report}"
    );
    let reason = told(&report, "batching");
    assert!(
        reason.contains("a call of 2 rows fails while a row alone is answered"),
        "{reason}"
    );
}

#[tokio::test]
async fn every_endpoint_is_probed_and_the_worst_one_counts() {
    let (good, bad) = (echo().await, echo().await);
    bad.model.set_faults(Faults::always(Fault::Neighbours(1.)));
    let addresses = [&good, &bad].map(|served| served.server.address());
    let report = probe_at(&addresses, "oip-grpc", &batched("m", ""), "")
        .await
        .unwrap();
    let verdicts: Vec<_> = report
        .endpoints()
        .iter()
        .map(|examined| examined.verdicts().unwrap().0)
        .collect();
    assert_eq!(verdicts, [Verdict::Safe, Verdict::Unsafe]);
    assert_eq!(report.status(), 1);
}

#[tokio::test]
async fn a_server_of_every_protocol_is_probed() {
    let served = echo().await;
    // The front of a proxy is the server that is seen.
    let gateway = before(&served, "models: { m: {} }").await;
    for protocol in ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"] {
        served.model.set_faults(Faults::none());
        let model = "models: { m: { batch: {} } }";
        let probe = async || {
            probe_at(&[gateway.address()], protocol, model, "")
                .await
                .unwrap()
        };
        let report = probe().await;
        assert_eq!(
            verdicts(&report),
            (Verdict::Safe, Verdict::Safe),
            "{protocol}: {report}"
        );
        served
            .model
            .set_faults(Faults::always(Fault::Neighbours(0.01)));
        let report = probe().await;
        assert_eq!(
            verdicts(&report),
            (Verdict::Unsafe, Verdict::Safe),
            "{protocol}: {report}"
        );
        served.model.set_faults(Faults::always(Fault::Noise(0.01)));
        let report = probe().await;
        assert_eq!(
            verdicts(&report),
            (Verdict::Unknown, Verdict::Unsafe),
            "{protocol}: {report}"
        );
    }
}

#[tokio::test]
async fn nobody_there_and_no_such_model_are_told() {
    let gateway = Gateway::before(&["127.0.0.1:1".parse().unwrap()], "protocol: oip-grpc", "");
    let report = probe_at(&[gateway.address()], "oip-grpc", "models: { m: {} }", "").await;
    let report = report.unwrap();
    assert!(report.to_string().contains("Not probed: "), "{report}");
    assert_eq!(report.status(), 2);
    let nameless = probe_at(&[gateway.address()], "oip-grpc", "models: { n: {} }", "").await;
    assert_eq!(
        nameless.unwrap_err().to_string(),
        "the configuration names no model `m` (it names n)"
    );
}
