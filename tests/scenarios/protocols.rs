//! Clients keep what they speak and servers keep what they speak, and requests of different
//! protocols for one model share one call.

use outrigger_native::{Datatype, Synthetic, TensorSpec};
use outrigger_tests::{
    gateway::Gateway,
    model::{Served, rows, serve},
    patience::{until, within},
    protocol::Protocol,
    wire::Wire,
};

use crate::{
    gather::{Inference, batches},
    merging::{batched, before},
};

/// A model that echoes one FP32 column.
async fn echo() -> Served {
    serve(Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new("m")
    })
    .await
}

/// A second proxy, which speaks to the model's server in a protocol of its own choice by way of the
/// first one: the first one's front is the server that the second one sees.
async fn behind(first: &Gateway, protocol: &str, rest: &str) -> Gateway {
    let gateway = Gateway::before(&[first.address()], &format!("protocol: {protocol}"), rest);
    until("the models are known", || {
        let table = gateway.state().table();
        table.models().all(|model| model.is_learned())
    })
    .await;
    gateway
}

#[tokio::test]
async fn clients_of_every_protocol_share_one_call() {
    let served = echo().await;
    let gateway = before(&served, &batched("m", "")).await;
    let wire = Wire::connect(gateway.address()).await;
    // What the server says of the inputs is known before anybody waits for it.
    for protocol in Protocol::ALL {
        let reply = protocol.send(&wire, "m", &[1.]).await.unwrap();
        assert_eq!(protocol.read(&reply), [1.], "{protocol:?}");
    }
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
    let mut calls = Vec::new();
    for (index, protocol) in Protocol::ALL.into_iter().enumerate() {
        let values = [index as f32 + 0.1, 1e-7 - index as f32];
        let wire = wire.clone();
        calls.push(tokio::spawn(async move {
            let reply = protocol.send(&wire, "m", &values).await.unwrap();
            assert_eq!(reply.headers["outrigger-batch-size"], "12", "{protocol:?}");
            assert_eq!(protocol.read(&reply), values, "{protocol:?}");
        }));
    }
    until("all wait", || gateway.learned("m", "queue_rows") == 12).await;
    served.model.resume();
    within("the first", plug).await.unwrap().unwrap();
    for call in calls {
        within("an answer", call).await.unwrap();
    }
    assert_eq!(batches(&served.model), [(12, 1)]);
}

#[tokio::test]
async fn every_protocol_is_served_by_every_other() {
    let served = echo().await;
    let first = before(&served, "models: { m: {} }").await;
    for server in ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"] {
        for rest in ["models: { m: {} }", &batched("m", "")] {
            let second = behind(&first, server, rest).await;
            let wire = Wire::connect(second.address()).await;
            for protocol in Protocol::ALL {
                for values in [&[0.1_f32, -1e-7, 3.4e38][..], &[f32::MIN_POSITIVE]] {
                    let reply = protocol.send(&wire, "m", values).await.unwrap();
                    let what = format!("{protocol:?} served by {server}, {rest}");
                    assert_eq!(protocol.read(&reply), values, "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_the_callers_protocol() {
    let served = echo().await;
    let gateway = before(&served, &batched("m", "")).await;
    let wire = Wire::connect(gateway.address()).await;
    let (request, _) = Protocol::OipRest.ask("m", &[1.]);
    let body =
        r#"{"inputs": [{"name": "input0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}"#;
    let reply = wire.exchange(request, &[body.into()], None).await.unwrap();
    assert_eq!(reply.status, 400, "{reply:?}");
    let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(json["error"].as_str().unwrap().contains("input0"), "{json}");
}

#[tokio::test]
async fn what_the_server_cannot_be_told_is_named() {
    let served = echo().await;
    let gateway = before(&served, &batched("m", "")).await;
    let wire = Wire::connect(gateway.address()).await;
    for (path, body, field) in [
        (
            "/v1/models/m:predict",
            r#"{"instances": [[1]], "signature_name": "other"}"#,
            "signature_name",
        ),
        (
            "/v1/models/m/labels/x:predict",
            r#"{"instances": [[1]]}"#,
            "label",
        ),
        (
            "/v1/models/m:classify",
            r#"{"examples": [{"x": 1}]}"#,
            "classify",
        ),
        (
            "/v1/models/m:predict",
            r#"{"instances": [["a"]]}"#,
            "'instances'",
        ),
        ("/v1/models/m:predict", r#"{"instances": [[1]"#, ""),
        ("/v2/models/m/infer", r#"{"inputs": 1}"#, "inputs"),
        (
            "/v2/models/m/infer",
            r#"{"inputs": [{"name": "input0", "datatype": "FP32", "shape": [2, 1], "data": [1]}]}"#,
            "input",
        ),
    ] {
        let request = http::Request::post(format!("http://model.test{path}"))
            .version(http::Version::HTTP_2)
            .body(())
            .unwrap();
        let reply = wire.exchange(request, &[body.into()], None).await.unwrap();
        assert_eq!(reply.status, 400, "{path} {body}: {reply:?}");
        let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let words = json["error"].as_str().unwrap();
        assert!(words.contains(field), "{path} {body}: {words}");
    }
    assert_eq!(served.model.counters().received, 0);
}

#[tokio::test]
async fn a_lone_call_keeps_its_headers_under_another_name_and_in_another_protocol() {
    let served = echo().await;
    let rest = "models: { other: { arms: { a: { upstream: server, model: m } } } }";
    let gateway = before(&served, rest).await;
    let wire = Wire::connect(gateway.address()).await;
    for protocol in Protocol::ALL {
        let (mut request, body) = protocol.ask("other", &[1.]);
        let trace = format!("00-{:032x}-{:016x}-01", protocol as u8 + 1, 1);
        request
            .headers_mut()
            .insert("traceparent", trace.parse().unwrap());
        let reply = wire.exchange(request, &[body], None).await.unwrap();
        assert_eq!(protocol.read(&reply), [1.], "{protocol:?}");
        let seen = served.model.counters().last_metadata;
        assert_eq!(seen.get("traceparent").unwrap(), &*trace, "{protocol:?}");
        assert!(seen.get("inference-header-content-length").is_none());
    }
}

#[tokio::test]
async fn a_model_that_nobody_has_is_not_found_in_the_callers_words() {
    let served = echo().await;
    let gateway = before(&served, "models: { m: {} }").await;
    let wire = Wire::connect(gateway.address()).await;
    for (protocol, words) in [
        (Protocol::OipRest, "unknown model: 'other'"),
        (
            Protocol::TfservingRest,
            "Servable not found for request: Latest(other)",
        ),
    ] {
        let reply = protocol.send(&wire, "other", &[1.]).await.unwrap();
        assert_eq!(reply.status, 404, "{reply:?}");
        let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert!(json["error"].as_str().unwrap().contains(words), "{json}");
    }
}
