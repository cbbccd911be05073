//! Clients keep what they speak and servers keep what they speak, and requests of different
//! protocols for one model share one call.

use std::io::Write as _;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use outrigger_native::{Datatype, Synthetic, TensorSpec};
use outrigger_tests::{
    gateway::Gateway,
    model::{Served, rows, serve},
    origin::Origin,
    patience::{until, within},
    protocol::Protocol,
    wire::Wire,
};

use crate::{
    gather::{Inference, batches},
    merging::{batched, before},
};

/// A model that echoes one FP32 column.
pub(crate) async fn echo() -> Served {
    serve(Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new("m")
    })
    .await
}

/// A second proxy, which speaks to the model's server in a protocol of its own choice by way of the
/// first one: the first one's front is the server that the second one sees.
pub(crate) async fn behind(first: &Gateway, protocol: &str, rest: &str) -> Gateway {
    let gateway = Gateway::before(&[first.address()], &format!("protocol: {protocol}"), rest);
    until("the models are known", || {
        let table = gateway.state().table();
        table.arms().all(|arm| arm.is_learned())
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
        ("/v2/models/m/infer?x=1", r#"{"inputs": []}"#, "query"),
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

/// The raw body of header value 0 is not read: a server that knows the model by another name gets
/// it under that.
#[tokio::test]
async fn what_is_not_read_goes_to_the_servers_model_and_no_other() {
    let origin = Origin::http1(|request| async move {
        let path = request.uri().path().to_owned();
        let body = Full::new(Bytes::from(path));
        http::Response::new(BodyExt::boxed(body.map_err(|never| match never {})))
    })
    .await;
    let gateway = Gateway::before(
        &[origin.address()],
        "protocol: oip-rest",
        "models: { alias: { arms: { a: { upstream: server, model: \"m n\", version: \"7\" } } } }",
    );
    let wire = Wire::connect(gateway.address()).await;
    let request = http::Request::post("http://model.test/v2/models/alias/infer")
        .version(http::Version::HTTP_2)
        .header("inference-header-content-length", "0")
        .body(());
    let asked = http::Request::post("http://model.test/v2/models/alias/infer?x=1")
        .version(http::Version::HTTP_2)
        .body(());
    let reply = wire.exchange(asked.unwrap(), &[], None).await.unwrap();
    assert_eq!(reply.body, "/v2/models/m%20n/versions/7/infer");
    let body = [Bytes::from_static(b"\0\0\x80\x3f")];
    let reply = wire.exchange(request.unwrap(), &body, None).await.unwrap();
    assert_eq!(reply.body, "/v2/models/m%20n/versions/7/infer");
}

#[tokio::test]
async fn a_compressed_body_over_the_bound_is_refused_as_a_plain_one() {
    let served = echo().await;
    let rest = format!("{}\nlimits: {{ max_message: 1KiB }}", batched("m", ""));
    let gateway = before(&served, &rest).await;
    let wire = Wire::connect(gateway.address()).await;
    let (_, plain) = Protocol::OipRest.ask("m", &[1.; 400]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&plain).unwrap();
    let gzip = Bytes::from(gzip.finish().unwrap());
    assert!(plain.len() > 1024 && gzip.len() < 1024);
    for (encoding, body) in [("identity", plain), ("gzip", gzip)] {
        let (mut request, _) = Protocol::OipRest.ask("m", &[1.]);
        let headers = request.headers_mut();
        headers.insert("content-encoding", encoding.parse().unwrap());
        let reply = wire.exchange(request, &[body], None).await.unwrap();
        assert_eq!(reply.status, 429, "{encoding}: {reply:?}");
        let words = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(words.contains("limits.max_message"), "{words}");
    }
}

/// What a server answers compressed although nobody asked for that is read, and told plain.
#[tokio::test]
async fn a_compressed_answer_is_read() {
    let origin = Origin::http1(|request| async move {
        let body = match request.uri().path() {
            "/v2/models/m/infer" => {
                r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[0.1]}]}"#
            }
            _ => "{}",
        };
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(body.as_bytes()).unwrap();
        let body = Full::new(Bytes::from(gzip.finish().unwrap()));
        http::Response::builder()
            .header("content-type", "application/json")
            .header("content-encoding", "GZIP")
            .body(BodyExt::boxed(body.map_err(|never| match never {})))
            .unwrap()
    })
    .await;
    let gateway = Gateway::before(
        &[origin.address()],
        "protocol: oip-rest",
        "models: { m: { batch: { max_batch_size: 4 } } }",
    );
    let wire = Wire::connect(gateway.address()).await;
    for protocol in [Protocol::OipRest, Protocol::OipGrpc] {
        let reply = protocol.send(&wire, "m", &[1.]).await.unwrap();
        assert_eq!(protocol.read(&reply), [0.1], "{protocol:?}");
        assert!(reply.headers.get("content-encoding").is_none());
        if let Some(len) = reply.headers.get("content-length") {
            assert_eq!(len.to_str().unwrap(), reply.body.len().to_string());
        }
    }
}
