//! What a model has answered before is answered again without it, and nothing else is: never to
//! another question, never to another caller, never for longer than it may be.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use outrigger_native::{
    Datatype, Fault, Faults, Server, Synthetic, TensorSpec,
    inference::{
        InferTensorContents, ModelInferRequest, ModelInferResponse,
        infer_parameter::ParameterChoice::{self, BoolParam, Int64Param, StringParam, Uint64Param},
    },
};
use outrigger_tests::{
    gateway::{Gateway, configuration},
    http1::Http1,
    metrics::Metrics,
    model::{Served, numbers, output, parameter, rows, serve, start, tensor},
    origin::{EchoServer, Origin},
    patience::{until, within},
    protocol::Protocol,
    wire::{Reply, Wire, framed},
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use crate::{
    alone::memory,
    gather::Inference,
    merging::{batched, before},
    protocols::{behind, echo},
};

/// A proxy with a cache, and with whatever else the configuration shall say of it and the model, in
/// front of a server that has said whether rows are independent.
async fn cached(served: &Served, cache: &str, model: &str) -> Gateway {
    let gateway = before(served, &config(cache, model)).await;
    learned(&gateway).await;
    gateway
}

fn config(cache: &str, model: &str) -> String {
    format!("models: {{ m: {{ cache: {{ bypass: never{cache} }}{model} }} }}")
}

/// Waits until the servers of all models have said whether rows are independent.
async fn learned(gateway: &Gateway) {
    until("the models are known", || {
        let models = gateway.state().models();
        let models = models.as_object().unwrap().values();
        let mut arms = models.flat_map(|model| model["arms"].as_object().unwrap().values());
        arms.all(|arm| arm["batchable"] != "unasked")
    })
    .await;
}

/// Returns what the caller is told of the cache.
fn said(reply: &Reply) -> &str {
    let word = reply.headers.get("outrigger-cache");
    word.unwrap_or_else(|| panic!("nothing is said of the cache: {reply:?}"))
        .to_str()
        .unwrap()
}

/// Asks the model that echoes, demands the answer, and returns what is said of the cache.
async fn ask(wire: &Wire, protocol: Protocol, values: &[f32]) -> String {
    let answer = within("an answer", protocol.send(wire, "m", values)).await;
    let reply = answer.unwrap();
    assert_eq!(protocol.read(&reply), values, "{protocol:?}");
    said(&reply).to_owned()
}

async fn send(wire: &Wire, inference: &Inference) -> Reply {
    within("an answer", inference.send(wire)).await.unwrap()
}

fn spawn(wire: &Wire, protocol: Protocol, values: &[f32]) -> JoinHandle<Reply> {
    let (wire, values) = (wire.clone(), values.to_vec());
    tokio::spawn(async move { protocol.send(&wire, "m", &values).await.unwrap() })
}

/// Returns a number that `/models` shows of the cache.
fn of_cache(gateway: &Gateway, number: &str) -> u64 {
    let models = gateway.state().models();
    let cache = &models["m"]["arms"]["m"]["cache"];
    cache[number]
        .as_u64()
        .unwrap_or_else(|| panic!("no {number} in {models:#}"))
}

fn sum(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    let metrics = Metrics::read(&gateway.state().metrics_text()).unwrap();
    metrics.sum(name, labels)
}

/// Waits until the proxy has seen so many callers leave.
async fn gone(gateway: &Gateway, callers: usize) {
    until("they have left", || {
        let left = [("code", "CANCELLED")];
        sum(gateway, "outrigger_requests_total", &left) == callers as f64
    })
    .await;
}

/// Posts to an admin page.
async fn post(gateway: &Gateway, path: &str) -> (StatusCode, Value) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let mut connection = Http1::connect(gateway.admin()).await;
    let reply = within("a page", connection.exchange(request)).await;
    let reply = reply.expect("an answer");
    let page = serde_json::from_slice(&reply.body).expect("JSON");
    (reply.status, page)
}

async fn flush(gateway: &Gateway) {
    let (status, page) = post(gateway, "/cache/flush?model=m").await;
    assert_eq!(status, 200, "{page}");
}

fn one(value: f32) -> ModelInferRequest {
    rows("m", &[value])
}

/// The same with typed contents.
fn typed(value: f32) -> ModelInferRequest {
    let mut request = one(value);
    request.raw_input_contents.clear();
    request.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: vec![value],
        ..Default::default()
    });
    request
}

fn with(parameters: &[(&str, ParameterChoice)]) -> ModelInferRequest {
    let named = parameters
        .iter()
        .map(|(name, choice)| ((*name).to_owned(), parameter(choice.clone())));
    ModelInferRequest {
        parameters: named.collect(),
        ..one(1.)
    }
}

fn with_unknown_field() -> Inference {
    let mut message = BytesMut::from(&one(1.).encode_to_vec()[..]);
    // Field 100, a varint.
    message.put_slice(&[0xa0, 0x06, 0x01]);
    Inference::raw(framed(&message))
}

/// What a gRPC caller is answered: maps may be written in any order.
fn answered(reply: &Reply) -> (Option<String>, String, Result<ModelInferResponse, Bytes>) {
    let message = reply.body.get(5..).unwrap_or_default();
    (
        reply.grpc_status().map(str::to_owned),
        reply.grpc_message(),
        ModelInferResponse::decode(message).map_err(|_| reply.body.clone()),
    )
}

const BATCHED: &str = ", batch: { controller: fixed, max_batch_size: 16 }";

#[tokio::test]
async fn an_answer_is_known_to_callers_of_every_protocol() {
    let served = echo().await;
    for model in ["", BATCHED] {
        let gateway = cached(&served, "", model).await;
        let wire = Wire::connect(gateway.address()).await;
        served.model.reset_counters();
        for (index, first) in Protocol::ALL.into_iter().enumerate() {
            let value = [index as f32 + 0.1];
            assert_eq!(ask(&wire, first, &value).await, "miss", "{first:?}");
            for next in Protocol::ALL {
                let word = ask(&wire, next, &value).await;
                assert_eq!(word, "hit", "{next:?} after {first:?}");
            }
            assert_eq!(served.model.counters().rows, index as u64 + 1, "{first:?}");
        }
        let asked = Protocol::ALL.len() as u64;
        assert_eq!(of_cache(&gateway, "rows"), asked);
        assert_eq!(of_cache(&gateway, "misses"), asked);
        assert_eq!(of_cache(&gateway, "hits"), asked * asked);
    }
}

/// Servers of text may write a number in several ways: callers of another protocol may have to ask
/// again, but are never told anything else.
#[tokio::test]
async fn servers_of_every_protocol_are_asked_once_by_callers_of_one() {
    let served = echo().await;
    let first = before(&served, "models: { m: {} }").await;
    for server in ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"] {
        let gateway = behind(&first, server, &config(", unit: row", "")).await;
        learned(&gateway).await;
        let wire = Wire::connect(gateway.address()).await;
        for protocol in Protocol::ALL {
            let what = format!("{protocol:?} before {server}");
            flush(&gateway).await;
            served.model.reset_counters();
            assert_eq!(ask(&wire, protocol, &[0.1, 2.]).await, "miss", "{what}");
            assert_eq!(ask(&wire, protocol, &[2., 0.1]).await, "hit", "{what}");
            assert_eq!(ask(&wire, protocol, &[2., 3.]).await, "partial", "{what}");
            assert_eq!(served.model.counters().rows, 3, "{what}");
            for other in Protocol::ALL {
                ask(&wire, other, &[3., 2., 0.1]).await;
            }
        }
    }
}

#[tokio::test]
async fn an_answer_is_the_servers_own_with_the_callers_id() {
    let served = serve(Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new("m")
    })
    .await;
    let gateway = cached(&served, "", "").await;
    let (straight, proxied) = (served.server.address(), gateway.address());
    let (straight, proxied) = (Wire::connect(straight).await, Wire::connect(proxied).await);
    // Who asks typed is answered typed, whoever filled the cache.
    for (number, request) in [one(1.), typed(1.), one(2.), typed(2.), typed(1.), one(2.)]
        .into_iter()
        .enumerate()
    {
        for id in ["", "a", "another"] {
            let request = Inference::of(&ModelInferRequest {
                id: id.to_owned(),
                ..request.clone()
            });
            let (wanted, found) = (
                send(&straight, &request).await,
                send(&proxied, &request).await,
            );
            assert_eq!(answered(&found), answered(&wanted), "{number} {id}");
        }
    }
    // Two rows in two forms.
    assert_eq!(of_cache(&gateway, "misses"), 4);
    let (request, _) = Protocol::OipRest.ask("m", &[1.]);
    for id in ["b", "c"] {
        let input = json!({"name": "input0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]});
        let body = json!({"id": id, "inputs": [input]}).to_string();
        let body = [body.into()];
        let asked = proxied.exchange(request.clone(), &body, None);
        let reply = within("an answer", asked).await.unwrap();
        assert_eq!(said(&reply), "hit");
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(answer["id"], id);
    }
}

#[tokio::test]
async fn only_unknown_rows_are_asked_for_and_the_answer_is_in_order() {
    let served = echo().await;
    for model in ["", BATCHED] {
        let gateway = cached(&served, "", model).await;
        let wire = Wire::connect(gateway.address()).await;
        for (index, protocol) in Protocol::ALL.into_iter().enumerate() {
            let of = |rows: &[u8]| -> Vec<f32> {
                let rows = rows.iter().map(|row| index as f32 + f32::from(*row) / 8.);
                rows.collect()
            };
            assert_eq!(ask(&wire, protocol, &of(&[1, 2, 3])).await, "miss");
            served.model.reset_counters();
            let mixed = of(&[4, 1, 5, 3, 4, 2]);
            assert_eq!(ask(&wire, protocol, &mixed).await, "partial");
            let counters = served.model.counters();
            assert_eq!((counters.calls, counters.rows), (1, 2), "{protocol:?}");
            assert_eq!(ask(&wire, protocol, &mixed).await, "hit");
            assert_eq!(served.model.counters().rows, 2, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn equal_rows_of_a_request_are_asked_for_once() {
    let served = echo().await;
    let gateway = cached(&served, "", "").await;
    let wire = Wire::connect(gateway.address()).await;
    for (index, protocol) in Protocol::ALL.into_iter().enumerate() {
        let value = index as f32;
        served.model.reset_counters();
        let word = ask(&wire, protocol, &[value; 7]).await;
        assert_eq!(word, "miss", "{protocol:?}");
        assert_eq!(served.model.counters().rows, 1, "{protocol:?}");
    }
    // A zero below zero is another row.
    assert_eq!(ask(&wire, Protocol::OipGrpc, &[-0., 0.]).await, "partial");
}

#[tokio::test]
async fn a_thousand_callers_at_once_ask_the_model_for_one_row() {
    let served = echo().await;
    for model in ["", BATCHED] {
        let gateway = cached(&served, "", model).await;
        let mut wires = Vec::new();
        for _ in 0..10 {
            wires.push(Wire::connect(gateway.address()).await);
        }
        served.model.reset_counters();
        served.model.pause();
        let mut callers = JoinSet::new();
        for caller in 0..1000 {
            let wire = wires[caller % wires.len()].clone();
            let protocol = Protocol::ALL[caller % Protocol::ALL.len()];
            callers.spawn(async move { ask(&wire, protocol, &[0.7]).await });
        }
        until("all wait", || {
            of_cache(&gateway, "misses") + of_cache(&gateway, "joined") == 1000
        })
        .await;
        served.model.resume();
        let words = within("answers", callers.join_all()).await;
        let misses = words.iter().filter(|word| *word == "miss").count();
        let hits = words.iter().filter(|word| *word == "hit").count();
        assert_eq!((misses, hits), (1, 999));
        let counters = served.model.counters();
        assert_eq!((counters.received, counters.rows), (1, 1));
    }
}

#[tokio::test]
async fn rows_under_way_are_waited_for_and_the_rest_is_asked_for() {
    let served = echo().await;
    let gateway = cached(&served, "", "").await;
    let wire = Wire::connect(gateway.address()).await;
    assert_eq!(ask(&wire, Protocol::OipGrpc, &[1.]).await, "miss");
    served.model.reset_counters();
    served.model.pause();
    let first = spawn(&wire, Protocol::OipGrpc, &[2., 3.]);
    until("it asks", || of_cache(&gateway, "misses") == 3).await;
    // Known, under way, unknown; and two that wait for each other's rows.
    let second = spawn(&wire, Protocol::TfservingRest, &[4., 1., 3., 4., 5.]);
    until("it asks", || of_cache(&gateway, "misses") == 5).await;
    let third = spawn(&wire, Protocol::OipRest, &[5., 6., 2.]);
    until("it asks", || of_cache(&gateway, "misses") == 6).await;
    served.model.resume();
    for (caller, protocol, values) in [
        (first, Protocol::OipGrpc, &[2., 3.][..]),
        (second, Protocol::TfservingRest, &[4., 1., 3., 4., 5.]),
        (third, Protocol::OipRest, &[5., 6., 2.]),
    ] {
        let reply = within("an answer", caller).await.unwrap();
        assert_eq!(protocol.read(&reply), values);
    }
    assert_eq!(served.model.counters().rows, 5);
}

#[tokio::test]
async fn nobody_misses_a_caller_who_asked_first_and_left() {
    let served = echo().await;
    let abandoned = BATCHED.replace("fixed", "fixed, cancel: abandoned");
    for model in ["", BATCHED, &abandoned] {
        let gateway = cached(&served, "", model).await;
        let wire = Wire::connect(gateway.address()).await;
        served.model.reset_counters();
        served.model.pause();
        let leader = spawn(&wire, Protocol::OipGrpc, &[1., 2.]);
        until("it asks", || of_cache(&gateway, "misses") == 2).await;
        let others = Protocol::ALL.map(|protocol| (protocol, spawn(&wire, protocol, &[2.])));
        until("they wait", || of_cache(&gateway, "joined") == 6).await;
        leader.abort();
        gone(&gateway, 1).await;
        served.model.resume();
        for (protocol, other) in others {
            let reply = within("an answer", other).await.unwrap();
            assert_eq!(protocol.read(&reply), [2.], "{protocol:?} {model}");
            assert_eq!(said(&reply), "hit");
        }
        let counters = served.model.counters();
        assert_eq!((counters.received, counters.rows), (1, 2), "{model}");
        // What nobody waited for is an answer, too.
        let word = ask(&wire, Protocol::OipGrpc, &[1.]).await;
        assert_eq!(word, "hit", "{model}");
    }
}

#[tokio::test]
async fn what_everybody_has_left_is_neither_waited_for_nor_kept() {
    let served = echo().await;
    for model in ["", BATCHED] {
        let gateway = cached(&served, "", model).await;
        let wire = Wire::connect(gateway.address()).await;
        served.model.reset_counters();
        served.model.pause();
        let leader = spawn(&wire, Protocol::OipGrpc, &[1.]);
        until("it asks", || of_cache(&gateway, "misses") == 1).await;
        let other = spawn(&wire, Protocol::TfservingGrpc, &[1.]);
        until("it waits", || of_cache(&gateway, "joined") == 1).await;
        leader.abort();
        gone(&gateway, 1).await;
        assert_eq!(served.model.counters().cancelled, 0, "{model}");
        other.abort();
        gone(&gateway, 2).await;
        if model.is_empty() {
            until("the model is told", || {
                served.model.counters().cancelled == 1
            })
            .await;
        }
        // Whoever comes now asks anew, and is not kept waiting by what was.
        let next = spawn(&wire, Protocol::OipGrpc, &[1.]);
        until("it asks", || of_cache(&gateway, "misses") == 2).await;
        assert_eq!(of_cache(&gateway, "rows"), 0, "{model}");
        served.model.resume();
        let reply = within("an answer", next).await.unwrap();
        assert_eq!(Protocol::OipGrpc.read(&reply), [1.]);
        assert_eq!(said(&reply), "miss", "{model}");
        assert_eq!(ask(&wire, Protocol::OipRest, &[1.]).await, "hit");
    }
}

#[tokio::test]
async fn a_call_that_fails_is_told_to_those_who_asked_the_same_and_forgotten() {
    let served = echo().await;
    let plain = before(&served, "models: { m: {} }").await;
    let unwell = Fault::Error(tonic::Status::unavailable("out of memory"));
    for model in ["", BATCHED] {
        let gateway = cached(&served, "", model).await;
        let wire = Wire::connect(gateway.address()).await;
        served.model.set_faults(Faults::always(unwell.clone()));
        served.model.reset_counters();
        served.model.pause();
        let first = spawn(&wire, Protocol::OipGrpc, &[1.]);
        until("it asks", || of_cache(&gateway, "misses") == 1).await;
        let mut callers = vec![(Protocol::OipGrpc, first)];
        for caller in 1..30 {
            let protocol = Protocol::ALL[caller % Protocol::ALL.len()];
            callers.push((protocol, spawn(&wire, protocol, &[1.])));
        }
        until("they wait", || of_cache(&gateway, "joined") == 29).await;
        served.model.resume();
        let straight = Wire::connect(plain.address()).await;
        let calls = async |protocol: Protocol| {
            let reply = protocol.send(&straight, "m", &[1.]).await.unwrap();
            told(protocol, &reply)
        };
        let mut refused = Vec::new();
        for (protocol, caller) in callers {
            let reply = within("a refusal", caller).await.unwrap();
            refused.push((protocol, told(protocol, &reply)));
        }
        assert!(served.model.counters().received <= 2, "{model}");
        for (protocol, words) in refused {
            assert_eq!(words, calls(protocol).await, "{protocol:?} {model}");
            assert!(words.1.contains("out of memory"), "{words:?}");
        }
        assert_eq!(of_cache(&gateway, "rows"), 0);
        served.model.set_faults(Faults::none());
        assert_eq!(ask(&wire, Protocol::OipGrpc, &[1.]).await, "miss");
        assert_eq!(ask(&wire, Protocol::OipRest, &[1.]).await, "hit");
    }
}

/// The code and the words of a refusal.
fn told(protocol: Protocol, reply: &Reply) -> (String, String) {
    match protocol {
        Protocol::OipGrpc | Protocol::TfservingGrpc => {
            let status = reply.grpc_status().expect("a status");
            assert_ne!(status, "0", "{reply:?}");
            (status.to_owned(), reply.grpc_message())
        }
        _ => {
            assert!(!reply.status.is_success(), "{reply:?}");
            let page: Value = serde_json::from_slice(&reply.body).expect("JSON");
            let words = page["error"].as_str().expect("words");
            (reply.status.to_string(), words.to_owned())
        }
    }
}

#[tokio::test]
async fn a_bad_row_fails_nobody_who_did_not_ask_for_it() {
    const BAD: f32 = 13.;
    let served = echo().await;
    let refusal = tonic::Status::invalid_argument("not a picture");
    let faults = Faults::on_marked_row(BAD, Fault::Error(refusal));
    served.model.set_faults(faults);
    for model in ["", BATCHED] {
        let gateway = cached(&served, "", model).await;
        let wire = Wire::connect(gateway.address()).await;
        served.model.pause();
        let leader = spawn(&wire, Protocol::OipGrpc, &[BAD, 1.]);
        until("it asks", || of_cache(&gateway, "misses") == 2).await;
        let good = spawn(&wire, Protocol::OipRest, &[1.]);
        until("it waits", || of_cache(&gateway, "joined") == 1).await;
        let more = spawn(&wire, Protocol::TfservingGrpc, &[2., 1., 2.]);
        until("it waits", || of_cache(&gateway, "joined") >= 2).await;
        let bad = spawn(&wire, Protocol::OipGrpc, &[3., BAD]);
        until("it asks", || of_cache(&gateway, "misses") >= 4).await;
        served.model.resume();
        for caller in [leader, bad] {
            let refused = within("a refusal", caller).await.unwrap();
            assert_eq!(refused.grpc_status(), Some("3"), "{model}: {refused:?}");
            assert!(refused.grpc_message().contains("not a picture"));
        }
        let reply = within("an answer", good).await.unwrap();
        assert_eq!(Protocol::OipRest.read(&reply), [1.], "{model}");
        let reply = within("an answer", more).await.unwrap();
        assert_eq!(Protocol::TfservingGrpc.read(&reply), [2., 1., 2.]);
        assert_eq!(ask(&wire, Protocol::OipGrpc, &[2., 1.]).await, "hit");
        // It is refused by the model each time.
        served.model.reset_counters();
        for _ in 0..3 {
            let refused = send(&wire, &Inference::of(&one(BAD))).await;
            assert_eq!(refused.grpc_status(), Some("3"), "{refused:?}");
        }
        assert_eq!(served.model.counters().failed, 3, "{model}");
    }
}

#[tokio::test]
async fn callers_say_whether_an_answer_may_be_one_that_is_stored() {
    let served = echo().await;
    let gateway = cached(&served, "", "").await;
    let wire = Wire::connect(gateway.address()).await;
    for (index, protocol) in Protocol::ALL.into_iter().enumerate() {
        let value = [index as f32];
        let asked = async |control: &str| {
            let (mut request, body) = protocol.ask("m", &value);
            if !control.is_empty() {
                let headers = request.headers_mut();
                headers.insert("cache-control", control.parse().unwrap());
            }
            let body = [body];
            let reply = wire.exchange(request, &body, None);
            within("an answer", reply).await.unwrap()
        };
        served.model.reset_counters();
        for (control, word, rows) in [
            // Nothing of it is stored, nor looked for.
            ("no-store", "bypass", 1),
            ("No-Store", "bypass", 2),
            ("", "miss", 3),
            ("no-store", "bypass", 4),
            ("", "hit", 4),
            // The model is asked, and what it says is stored.
            ("no-cache", "miss", 5),
            ("max-age=0, no-cache", "miss", 6),
            ("max-age=3600", "hit", 6),
            ("MAX-AGE=3600, only-if-cached", "hit", 6),
            ("max-age=0", "miss", 7),
            ("", "hit", 7),
            // Who says something of an answer's age that is not understood wants no old one.
            ("max-age=soon", "miss", 8),
            ("s-maxage=0, no-transform", "hit", 8),
        ] {
            let reply = asked(control).await;
            let what = format!("{protocol:?} {control}");
            assert_eq!(protocol.read(&reply), value, "{what}");
            assert_eq!(said(&reply), word, "{what}");
            assert_eq!(reply.headers.contains_key("age"), word == "hit", "{what}");
            let counters = served.model.counters();
            assert_eq!(counters.rows, rows, "{what}");
            let came = counters.last_metadata.get("cache-control");
            assert!(came.is_none(), "{what}");
        }
    }
}

#[tokio::test]
async fn who_wants_nothing_but_a_stored_answer_costs_the_model_nothing() {
    let served = echo().await;
    let gateway = cached(&served, "", "").await;
    let wire = Wire::connect(gateway.address()).await;
    assert_eq!(ask(&wire, Protocol::OipGrpc, &[1.]).await, "miss");
    served.model.reset_counters();
    for protocol in Protocol::ALL {
        for (values, is_there) in [(&[1.][..], true), (&[1., 2.], false), (&[2.], false)] {
            for control in ["only-if-cached", "only-if-cached, no-store"] {
                let (mut request, body) = protocol.ask("m", values);
                let headers = request.headers_mut();
                headers.insert("cache-control", control.parse().unwrap());
                let reply = wire.exchange(request, &[body], None).await.unwrap();
                if is_there && !control.contains("no-store") {
                    assert_eq!(protocol.read(&reply), values);
                    continue;
                }
                let (code, words) = told(protocol, &reply);
                assert!(["14", "504 Gateway Timeout"].contains(&&*code), "{code}");
                assert!(words.contains("only-if-cached"), "{words}");
            }
        }
    }
    assert_eq!(served.model.counters().received, 0);
}

#[tokio::test]
async fn what_callers_say_of_caches_goes_on_where_there_is_none() {
    let served = serve(Synthetic::new("m")).await;
    let asked = Inference::of(&one(1.)).header("cache-control", "no-cache");
    for config in ["", "models: { m: {} }", &batched("m", "")] {
        let gateway = before(&served, config).await;
        let wire = Wire::connect(gateway.address()).await;
        let reply = send(&wire, &asked).await;
        assert!(reply.headers.get("outrigger-cache").is_none());
        assert!(reply.headers.get("age").is_none());
        let came = served.model.counters().last_metadata;
        assert_eq!(came.get("cache-control").unwrap(), "no-cache", "{config}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_again_for_its_time_and_tells_its_age() {
    let server = EchoServer::new(Duration::from_millis(7));
    let memory = memory(&server, &config(", ttl: 100s", ""));
    let wire = memory.wire().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = async |values: &[f32]| {
        let request = Inference::of(&rows("m", values));
        let reply = request.send(&wire).await.unwrap();
        let answer = ModelInferResponse::decode(&reply.body[5..]).unwrap();
        assert_eq!(numbers(&answer), values);
        let age = reply.headers.get("age");
        let age = age.map(|age| age.to_str().unwrap().parse::<u64>().unwrap());
        (said(&reply).to_owned(), age)
    };
    let told = |word: &str, age| (word.to_owned(), age);
    assert_eq!(asked(&[1.]).await, told("miss", None));
    assert_eq!(asked(&[1.]).await, told("hit", Some(0)));
    tokio::time::sleep(Duration::from_millis(30_500)).await;
    assert_eq!(asked(&[1.]).await, told("hit", Some(30)));
    // The oldest row's age is the answer's.
    assert_eq!(asked(&[2., 1.]).await, told("partial", Some(30)));
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(asked(&[2., 1.]).await, told("hit", Some(89)));
    tokio::time::sleep(Duration::from_secs(11)).await;
    // What came together goes together at most by chance, but none of it late.
    assert_eq!(asked(&[2., 1.]).await, told("partial", Some(70)));
    assert_eq!(asked(&[1.]).await, told("hit", Some(0)));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(asked(&[1., 2.]).await, told("miss", None));
    let calls = server.calls.lock().unwrap();
    let asked: Vec<_> = calls.iter().map(|shape| shape[0]).collect();
    assert_eq!(asked, [1, 1, 1, 2]);
}

#[tokio::test]
async fn what_must_not_be_given_again_is_asked_for_each_time() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = cached(&served, "", "").await;
    let wire = Wire::connect(gateway.address()).await;
    let of = |parameters: &[_]| Inference::of(&with(parameters));
    let region = || parameter(StringParam("r".to_owned()));
    let mut to_memory = one(1.);
    let mut wanted = output("output0");
    wanted
        .parameters
        .insert("shared_memory_region".to_owned(), region());
    to_memory.outputs.push(wanted);
    let mut from_memory = one(1.);
    from_memory.inputs[0]
        .parameters
        .insert("shared_memory_region".to_owned(), region());
    let names: Vec<_> = (0..17).map(|number| format!("p{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (&**name, Int64Param(1))).collect();
    let streamed = Inference {
        path: "/inference.GRPCInferenceService/ModelStreamInfer",
        ..Inference::of(&one(1.))
    };
    for (what, request) in [
        ("sequence", of(&[("sequence_id", Uint64Param(7))])),
        (
            "sequence name",
            of(&[("sequence_id", StringParam("s".to_owned()))]),
        ),
        ("sequence start", of(&[("sequence_start", BoolParam(true))])),
        ("sequence end", of(&[("sequence_end", BoolParam(true))])),
        ("shared memory for an output", Inference::of(&to_memory)),
        ("shared memory for an input", Inference::of(&from_memory)),
        ("unknown fields", with_unknown_field()),
        ("parameters", of(&many)),
        ("a stream", streamed),
    ] {
        served.model.reset_counters();
        let straight = Wire::connect(served.server.address()).await;
        let wanted = send(&straight, &request).await;
        for again in 1..=2 {
            let reply = send(&wire, &request).await;
            assert_eq!(answered(&reply), answered(&wanted), "{what}");
            if let Some(word) = reply.headers.get("outrigger-cache") {
                assert_eq!(word, "bypass", "{what}");
            }
            let counters = served.model.counters();
            assert_eq!(counters.received + counters.refused, 1 + again, "{what}");
        }
    }
    assert_eq!(of_cache(&gateway, "rows"), 0);
}

/// Answers over REST, of which the model's name says what is said besides.
async fn manners(calls: Arc<AtomicUsize>) -> Origin {
    Origin::http1(move |request| {
        let calls = calls.clone();
        async move {
            let path = request.uri().path().to_owned();
            let answer = http::Response::builder().header("content-type", "application/json");
            let mut body = "{}";
            let answer = match path.strip_prefix("/v2/models/") {
                Some(model) if model.ends_with("/infer") => {
                    calls.fetch_add(1, Ordering::SeqCst);
                    body = r#"{"model_name":"y","outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[0.5]}]}"#;
                    match model.split('/').next() {
                        Some("cookie") => answer.header("set-cookie", "a=b"),
                        Some("no-store") => answer.header("cache-control", "No-Store"),
                        Some("no-cache") => answer.header("cache-control", "max-age=5, no-cache"),
                        Some("private") => answer.header("cache-control", "private"),
                        Some("public") => answer.header("cache-control", "public, max-age=5"),
                        Some("error") => answer.status(500),
                        Some("opaque") => {
                            body = r#"{"say": "hello"}"#;
                            answer
                        }
                        _ => answer,
                    }
                }
                _ => answer,
            };
            let body = Full::new(Bytes::from(body));
            answer
                .body(BodyExt::boxed(body.map_err(|never| match never {})))
                .unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn what_a_server_says_for_one_caller_is_told_to_no_other() {
    let calls = Arc::new(AtomicUsize::new(0));
    let origin = manners(calls.clone()).await;
    let models = [
        ("plain", 1),
        ("public", 1),
        ("cookie", 3),
        ("no-store", 3),
        ("no-cache", 3),
        ("private", 3),
        ("error", 3),
        ("opaque", 3),
    ];
    for unit in ["row", "request"] {
        let each = models
            .map(|(name, _)| format!("{name}: {{ cache: {{ bypass: never, unit: {unit} }} }}"));
        let gateway = Gateway::before(
            &[origin.address()],
            "protocol: oip-rest",
            &format!("models: {{ {} }}", each.join(", ")),
        );
        learned(&gateway).await;
        let wire = Wire::connect(gateway.address()).await;
        for (model, wanted) in models {
            calls.store(0, Ordering::SeqCst);
            for _ in 0..3 {
                let reply = Protocol::OipRest.send(&wire, model, &[1.]).await.unwrap();
                match model {
                    "error" => assert_eq!(reply.status, 500),
                    "opaque" => assert_eq!(reply.body, r#"{"say": "hello"}"#),
                    _ => assert_eq!(Protocol::OipRest.read(&reply), [0.5]),
                }
                let cookie = reply.headers.get("set-cookie");
                assert_eq!(cookie.is_some(), model == "cookie");
            }
            assert_eq!(calls.load(Ordering::SeqCst), wanted, "{model} by {unit}");
        }
    }
}

#[tokio::test]
async fn answers_with_other_rows_than_were_sent_are_those_of_the_same_request_only() {
    let served = serve(Synthetic::new("m")).await;
    for difference in [1, -1] {
        let gateway = cached(&served, "", "").await;
        let straight = Wire::connect(served.server.address()).await;
        let wire = Wire::connect(gateway.address()).await;
        served.model.set_faults(Faults::none());
        for values in [&[1.][..], &[1., 2.]] {
            send(&wire, &Inference::of(&rows("m", values))).await;
        }
        let faults = Faults::always(Fault::WrongRowCount(difference));
        served.model.set_faults(faults);
        // Two known rows and one that is not: what is put together is what the model would say.
        for values in [
            &[3., 4.][..],
            &[3., 4.],
            &[5., 1., 2.],
            &[1., 2., 5.],
            &[3.],
            &[4., 3.],
            &[3., 4.],
            &[1., 2., 5.],
        ] {
            let request = Inference::of(&rows("m", values));
            let (wanted, found) = (send(&straight, &request).await, send(&wire, &request).await);
            assert_eq!(answered(&found), answered(&wanted), "{values:?}");
        }
    }
}

#[tokio::test]
async fn what_differs_in_anything_that_counts_never_shares_an_entry() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = cached(&served, "", "").await;
    let of = Inference::of;
    let plain = of(&one(1.));
    let data = 1_f32.to_le_bytes();
    let asking = |outputs| ModelInferRequest { outputs, ..one(1.) };
    let input_with = |choice| {
        let mut request = one(1.);
        let parameters = &mut request.inputs[0].parameters;
        parameters.insert("custom".to_owned(), parameter(choice));
        request
    };
    let output_with = |choice| {
        let mut wanted = output("output0");
        let parameters = &mut wanted.parameters;
        parameters.insert("custom".to_owned(), parameter(choice));
        asking(vec![wanted])
    };
    let pairs = [
        ("a row", of(&one(2.)), plain.clone()),
        (
            "a parameter",
            of(&with(&[("custom", Int64Param(1))])),
            of(&with(&[("custom", Int64Param(2))])),
        ),
        (
            "a parameter and none",
            of(&with(&[("custom", Int64Param(1))])),
            plain.clone(),
        ),
        (
            "a parameter's type",
            of(&with(&[("custom", Int64Param(1))])),
            of(&with(&[("custom", Uint64Param(1))])),
        ),
        (
            "an input's parameter",
            of(&input_with(Int64Param(1))),
            of(&input_with(Int64Param(2))),
        ),
        (
            "an output's parameter",
            of(&output_with(Int64Param(1))),
            of(&output_with(Int64Param(2))),
        ),
        (
            "outputs",
            of(&asking(vec![output("output0")])),
            plain.clone(),
        ),
        (
            "datatype",
            of(&tensor("m", "INT32", &[1, 1], data.to_vec())),
            plain.clone(),
        ),
        // A server answers in the form in which it was asked, and its callers read no other.
        ("typed contents", of(&typed(1.)), plain.clone()),
        (
            "dimensions",
            of(&tensor("m", "FP32", &[1, 1, 1], data.to_vec())),
            plain.clone(),
        ),
        (
            "rows of two and two rows",
            of(&tensor("m", "FP32", &[1, 2], [data, data].concat())),
            plain.clone(),
        ),
        (
            "version",
            of(&ModelInferRequest {
                model_version: "1".to_owned(),
                ..one(1.)
            }),
            plain.clone(),
        ),
        (
            "authorization",
            plain.clone().header("authorization", "one"),
            plain.clone().header("authorization", "two"),
        ),
        (
            "authorization and none",
            plain.clone().header("authorization", "one"),
            plain.clone(),
        ),
        (
            "metadata",
            plain.clone().header("x-tenant", "a"),
            plain.clone().header("x-tenant", "b"),
        ),
        (
            "where a name ends",
            plain.clone().header("x-a", "b").header("x-c", "d"),
            plain.clone().header("x-a", "bx-cd"),
        ),
        (
            "binary metadata",
            plain.clone().header("x-tenant-bin", "AAEC"),
            plain.clone().header("x-tenant-bin", "AAED"),
        ),
    ];
    let wire = Wire::connect(gateway.address()).await;
    let straight = Wire::connect(served.server.address()).await;
    for (what, a, b) in pairs {
        for (first, second) in [(&a, &b), (&b, &a)] {
            flush(&gateway).await;
            assert_eq!(said(&send(&wire, first).await), "miss", "{what}");
            assert_eq!(said(&send(&wire, first).await), "hit", "{what}");
            for word in ["miss", "hit"] {
                let reply = send(&wire, second).await;
                assert_eq!(said(&reply), word, "{what}");
                let wanted = send(&straight, second).await;
                assert_eq!(answered(&reply), answered(&wanted), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn what_says_nothing_to_the_model_keeps_no_answers_apart() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = cached(&served, "", "").await;
    let of = Inference::of;
    let plain = of(&one(1.));
    let trace = |number: u8| format!("00-{number:032x}-{number:016x}-01");
    let pairs = [
        (
            "id",
            plain.clone(),
            of(&ModelInferRequest {
                id: "another".to_owned(),
                ..one(1.)
            }),
        ),
        (
            "timeout",
            of(&with(&[("timeout", Uint64Param(10_000_000))])),
            plain.clone(),
        ),
        (
            "priority",
            of(&with(&[("priority", Uint64Param(1))])),
            of(&with(&[("priority", Uint64Param(2))])),
        ),
        (
            "grpc-timeout",
            plain.clone().header("grpc-timeout", "20S"),
            plain.clone(),
        ),
        (
            "tracing",
            plain.clone().header("traceparent", &trace(1)),
            plain.clone().header("traceparent", &trace(2)),
        ),
        (
            "user-agent",
            plain.clone().header("user-agent", "a"),
            plain.clone().header("user-agent", "b"),
        ),
        (
            "the order of parameters",
            of(&with(&[("a", Int64Param(1)), ("b", Int64Param(2))])),
            of(&with(&[("b", Int64Param(2)), ("a", Int64Param(1))])),
        ),
        (
            "the order of headers",
            plain.clone().header("x-a", "1").header("x-b", "2"),
            plain.clone().header("x-b", "2").header("x-a", "1"),
        ),
    ];
    let wire = Wire::connect(gateway.address()).await;
    let straight = Wire::connect(served.server.address()).await;
    for (what, a, b) in pairs {
        for (first, second) in [(&a, &b), (&b, &a)] {
            flush(&gateway).await;
            assert_eq!(said(&send(&wire, first).await), "miss", "{what}");
            let reply = send(&wire, second).await;
            assert_eq!(said(&reply), "hit", "{what}");
            let wanted = send(&straight, second).await;
            assert_eq!(answered(&reply), answered(&wanted), "{what}");
        }
    }
}

#[tokio::test]
async fn headers_that_are_ignored_keep_no_callers_apart() {
    let served = serve(Synthetic::new("m")).await;
    let ignoring = BATCHED.replace("16", "16, ignore_headers: [x-user]");
    let gateway = cached(&served, "", &ignoring).await;
    let wire = Wire::connect(gateway.address()).await;
    let plain = Inference::of(&one(1.));
    let of = |user: &str| plain.clone().header("x-user", user);
    assert_eq!(said(&send(&wire, &of("a")).await), "miss");
    assert_eq!(said(&send(&wire, &of("b")).await), "hit");
    assert_eq!(said(&send(&wire, &plain).await), "hit");
    let other = of("a").header("authorization", "x");
    assert_eq!(said(&send(&wire, &other).await), "miss");
}

#[tokio::test]
async fn the_scan_of_one_tenant_leaves_the_answers_of_another() {
    const ROW: usize = 1 << 10;
    let served = serve(Synthetic::new("m")).await;
    let tenant = ", max_bytes: 8MiB, tenant: { header: x-tenant, max_bytes: 2MiB }";
    let gateway = cached(&served, tenant, "").await;
    let wire = Wire::connect(gateway.address()).await;
    // Rows of a kilobyte, each of which begins with its number.
    let asked = |tenant: &str, numbers: std::ops::Range<u32>| {
        let rows = numbers.len() as i64;
        let data: Vec<u8> = numbers
            .flat_map(|number| {
                let mut row = vec![0; ROW];
                row[..4].copy_from_slice(&number.to_le_bytes());
                row
            })
            .collect();
        let request = tensor("m", "UINT8", &[rows, ROW as i64], data);
        Inference::of(&request).header("x-tenant", tenant)
    };
    for _ in 0..2 {
        send(&wire, &asked("a", 0..100)).await;
    }
    // Three times as much as the cache holds, and twelve times as much as its share.
    for scanned in 0..190 {
        let numbers = scanned * 64..(scanned + 1) * 64;
        let reply = send(&wire, &asked("b", numbers)).await;
        assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
    }
    assert_eq!(said(&send(&wire, &asked("a", 0..100)).await), "hit");
    let (bytes, rows) = (of_cache(&gateway, "bytes"), of_cache(&gateway, "rows"));
    // Each row is kept with its answer.
    assert!(bytes <= (8 << 20) + (8 << 20) / 50, "{bytes}");
    assert!((600..=1200).contains(&rows), "{rows}");
    assert!(
        sum(
            &gateway,
            "outrigger_cache_removed_total",
            &[("reason", "quota")]
        ) > 10_000.
    );
}

#[tokio::test]
async fn the_cache_keeps_to_its_bytes_and_to_what_is_asked_for_often() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = cached(&served, ", max_bytes: 2MiB", "").await;
    let wire = Wire::connect(gateway.address()).await;
    let asked = |first: u16, rows: u16| {
        let data = (first..first + rows).flat_map(|number| {
            let mut row = [0; 256];
            row[..2].copy_from_slice(&number.to_le_bytes());
            row
        });
        let shape = [i64::from(rows), 256];
        Inference::of(&tensor("m", "UINT8", &shape, data.collect::<Vec<u8>>()))
    };
    let hot = asked(0, 200);
    for _ in 0..10 {
        send(&wire, &hot).await;
    }
    served.model.reset_counters();
    for scanned in 1..300 {
        send(&wire, &asked(scanned * 200, 200)).await;
        let bytes = of_cache(&gateway, "bytes");
        assert!(bytes <= (2 << 20) + (2 << 20) / 50, "{bytes}");
        if scanned % 10 == 0 {
            send(&wire, &hot).await;
        }
    }
    // Sixty thousand rows came that nobody asks for again, of whom thousands have room.
    let rows = served.model.counters().rows - 299 * 200;
    assert!(rows <= 29 * 200 / 20, "{rows} of the hot rows were lost");
}

#[tokio::test]
async fn a_flush_forgets_one_model_or_all_and_says_how_much() {
    let model = |name| Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new(name)
    };
    let builder = Server::builder().model(model("m")).model(model("n"));
    let server = start(builder.model(model("o"))).await;
    let models = "models: { m: { cache: { bypass: never } }, n: { cache: { bypass: never } }, \
                  o: { batch: {} } }";
    let gateway = Gateway::before(&[server.address()], "protocol: oip-grpc", models);
    learned(&gateway).await;
    let wire = Wire::connect(gateway.address()).await;
    let fill = async || {
        for (model, values) in [("m", &[1., 2., 3.][..]), ("n", &[1., 2.])] {
            let reply = Protocol::OipGrpc.send(&wire, model, values).await.unwrap();
            assert_eq!(said(&reply), "miss", "{model}");
        }
    };
    let word = async |model: &str, values: &[f32]| {
        let reply = Protocol::OipGrpc.send(&wire, model, values).await.unwrap();
        said(&reply).to_owned()
    };
    fill().await;
    let (status, page) = post(&gateway, "/cache/flush?model=m").await;
    assert_eq!(status, 200);
    assert_eq!(page, json!({ "flushed": { "m": { "m": 3 } } }));
    assert_eq!(word("m", &[1., 2., 3.]).await, "miss");
    assert_eq!(word("n", &[1., 2.]).await, "hit");
    let (status, page) = post(&gateway, "/cache/flush").await;
    assert_eq!(status, 200);
    assert_eq!(
        page,
        json!({ "flushed": { "m": { "m": 3 }, "n": { "n": 2 } } })
    );
    fill().await;
    for unknown in ["nobody", "o"] {
        let (status, page) = post(&gateway, &format!("/cache/flush?model={unknown}")).await;
        assert_eq!(status, 404, "{page}");
        assert!(page["error"].as_str().unwrap().contains(unknown), "{page}");
    }
    // To look at it changes nothing.
    let mut connection = Http1::connect(gateway.admin()).await;
    let request = "GET /cache/flush?model=m HTTP/1.1\r\nhost: test\r\n\r\n";
    let looked = connection.exchange(request).await.unwrap();
    assert_eq!(looked.status, 405);
    assert_eq!(word("m", &[1., 2., 3.]).await, "hit");
    let flushes = sum(
        &gateway,
        "outrigger_cache_flushes_total",
        &[("model", "m"), ("reason", "asked")],
    );
    assert_eq!(flushes, 2.);
}

#[tokio::test]
async fn what_was_asked_before_a_flush_is_answered_and_kept_from_those_who_come_after() {
    let served = echo().await;
    for model in ["", BATCHED] {
        let gateway = cached(&served, "", model).await;
        let wire = Wire::connect(gateway.address()).await;
        served.model.reset_counters();
        served.model.pause();
        let before = spawn(&wire, Protocol::OipGrpc, &[1.]);
        until("it asks", || of_cache(&gateway, "misses") == 1).await;
        flush(&gateway).await;
        let after = spawn(&wire, Protocol::OipRest, &[1.]);
        until("it asks", || of_cache(&gateway, "misses") == 2).await;
        let late = spawn(&wire, Protocol::OipRest, &[1.]);
        until("it waits", || of_cache(&gateway, "joined") == 1).await;
        served.model.resume();
        let reply = within("an answer", before).await.unwrap();
        assert_eq!(Protocol::OipGrpc.read(&reply), [1.]);
        for caller in [after, late] {
            let reply = within("an answer", caller).await.unwrap();
            assert_eq!(Protocol::OipRest.read(&reply), [1.]);
        }
        assert_eq!(served.model.counters().rows, 2, "{model}");
        assert_eq!(of_cache(&gateway, "rows"), 1);

        served.model.pause();
        let before = spawn(&wire, Protocol::OipGrpc, &[2.]);
        until("it asks", || of_cache(&gateway, "misses") == 3).await;
        flush(&gateway).await;
        served.model.resume();
        within("an answer", before).await.unwrap();
        assert_eq!(ask(&wire, Protocol::OipGrpc, &[2.]).await, "miss");
    }
}

#[tokio::test]
async fn a_reload_keeps_the_answers_of_models_that_it_does_not_change() {
    let builder = ["m", "n"].map(|name| Synthetic {
        inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1])],
        ..Synthetic::new(name)
    });
    let [m, n] = builder;
    let server = start(Server::builder().model(m).model(n)).await;
    let written = |of_m: &str, of_n: &str, rest: &str| {
        let models = format!(
            "models: {{ m: {{ cache: {{ bypass: never{of_m} }} }}, n: {{ cache: {{ bypass: never{of_n} }} }} }}{rest}"
        );
        configuration(&[server.address()], "protocol: oip-grpc", &models)
    };
    let mut gateway = Gateway::start(&written("", "", ""));
    learned(&gateway).await;
    let words = async |gateway: &Gateway| {
        learned(gateway).await;
        let wire = Wire::connect(gateway.address()).await;
        let mut words = Vec::new();
        for model in ["m", "n"] {
            let reply = Protocol::OipGrpc.send(&wire, model, &[1.]).await.unwrap();
            words.push(said(&reply).to_owned());
        }
        words
    };
    assert_eq!(words(&gateway).await, ["miss", "miss"]);
    for (what, config, expected) in [
        ("nothing", written("", "", ""), ["hit", "hit"]),
        (
            "the drain",
            written("", "", "\nlimits: { drain: 1s }"),
            ["hit", "hit"],
        ),
        ("a setting", written("", ", ttl: 1m", ""), ["hit", "miss"]),
        (
            "a filter",
            written("", ", ttl: 1m", "").replace("ttl: 1m }", "ttl: 1m }, batch: {}"),
            ["hit", "hit"],
        ),
        (
            "both",
            written(", max_bytes: 1MiB", "", ""),
            ["miss", "miss"],
        ),
    ] {
        gateway.reload(&config).await.unwrap();
        assert_eq!(words(&gateway).await, expected, "{what}");
        assert_eq!(words(&gateway).await, ["hit", "hit"], "{what}");
    }
    let faulty = written(", ttl: 0s", "", "");
    let refused = outrigger::config::Config::read(&faulty);
    assert!(refused.unwrap_err().to_string().contains("ttl"));
}

#[tokio::test]
async fn whole_requests_are_kept_where_rows_are_not_known_to_be_independent() {
    let inputs = vec![TensorSpec::new("input0", Datatype::Fp32, &[1])];
    for (what, model, unit, word) in [
        (
            "a model without batches",
            Synthetic {
                batchable: false,
                inputs: vec![TensorSpec::any("input0")],
                ..Synthetic::new("m")
            },
            "",
            "miss",
        ),
        (
            "by configuration",
            Synthetic {
                inputs: inputs.clone(),
                ..Synthetic::new("m")
            },
            ", unit: request",
            "miss",
        ),
        (
            "a server that does not say",
            Synthetic {
                config_unimplemented: true,
                shapes: outrigger_native::Shapes::Absent,
                inputs: inputs.clone(),
                ..Synthetic::new("m")
            },
            "",
            "miss",
        ),
        (
            "a server that does not say, but the configuration",
            Synthetic {
                config_unimplemented: true,
                shapes: outrigger_native::Shapes::Absent,
                inputs,
                ..Synthetic::new("m")
            },
            ", unit: row",
            "hit",
        ),
    ] {
        let served = serve(model).await;
        let gateway = cached(&served, unit, "").await;
        let wire = Wire::connect(gateway.address()).await;
        let grpc = Protocol::OipGrpc;
        assert_eq!(ask(&wire, grpc, &[1., 2.]).await, "miss", "{what}");
        assert_eq!(ask(&wire, grpc, &[1., 2.]).await, "hit", "{what}");
        assert_eq!(ask(&wire, grpc, &[2., 1.]).await, word, "{what}");
    }
}

#[tokio::test]
async fn what_the_cache_does_is_counted_and_shown() {
    let served = echo().await;
    let gateway = cached(&served, "", BATCHED).await;
    let wire = Wire::connect(gateway.address()).await;
    ask(&wire, Protocol::OipGrpc, &[1., 2., 3.]).await;
    ask(&wire, Protocol::OipRest, &[3., 4., 1.]).await;
    let stored = Inference::of(&one(9.)).header("cache-control", "no-store");
    send(&wire, &stored).await;
    let rows: BTreeMap<_, _> = ["hit", "joined", "miss", "bypass"]
        .map(|result| {
            let labels = [("model", "m"), ("arm", "m"), ("result", result)];
            (result, sum(&gateway, "outrigger_cache_rows_total", &labels))
        })
        .into();
    let expected = [("hit", 2.), ("joined", 0.), ("miss", 4.), ("bypass", 1.)];
    assert_eq!(rows, expected.into());
    assert_eq!(sum(&gateway, "outrigger_cache_entries", &[]), 4.);
    let bytes = sum(&gateway, "outrigger_cache_bytes", &[]);
    assert!((100. ..10_000.).contains(&bytes), "{bytes}");
    assert_eq!(sum(&gateway, "outrigger_cache_bypassed", &[]), 0.);
    let models = gateway.state().models();
    let shown = &models["m"]["arms"]["m"]["cache"];
    for (name, number) in [
        ("rows", 4.),
        ("hits", 2.),
        ("misses", 4.),
        ("joined", 0.),
        ("bypassed", 1.),
        ("bytes", bytes),
        ("max_bytes", f64::from(64 << 20)),
    ] {
        assert_eq!(shown[name].as_f64(), Some(number), "{name} in {shown}");
    }
    let ratio = shown["hit_ratio"].as_f64().unwrap();
    assert!((ratio - 2. / 6.).abs() < 1e-6, "{shown}");
    assert!(shown["says"].as_str().is_some_and(|says| !says.is_empty()));
}

#[tokio::test]
async fn who_asks_is_told_what_the_cache_did() {
    let served = echo().await;
    let gateway = cached(&served, "", BATCHED).await;
    let wire = Wire::connect(gateway.address()).await;
    let asked = async |values: &[f32], control: &str| {
        let request = Inference::of(&rows("m", values));
        let mut request = request.header("outrigger-explain", "1");
        if !control.is_empty() {
            request = request.header("cache-control", control);
        }
        let reply = send(&wire, &request).await;
        let explanation = &reply.headers["outrigger-explain"];
        explanation.to_str().unwrap().to_owned()
    };
    for (values, control, words) in [
        (
            &[1., 2., 2.][..],
            "",
            "cache;result=miss;hits=0;joined=1;sent=2;reason=absent;",
        ),
        (
            &[1., 3., 2.],
            "",
            "cache;result=partial;hits=2;joined=0;sent=1;reason=absent;",
        ),
        (
            &[1.],
            "no-cache",
            "cache;result=miss;hits=0;joined=0;sent=1;reason=no_cache;",
        ),
        (
            &[1.],
            "no-store",
            "cache;result=bypass;hits=0;joined=0;sent=0;reason=no_store;",
        ),
    ] {
        let told = asked(values, control).await;
        assert!(told.starts_with(words), "{told}");
        // The other filter has its own words behind those.
        assert!(told.contains(", batch;reason=idle;rows="), "{told}");
    }
    let hit = "cache;result=hit;hits=2;joined=0;sent=0;note=\"the model was asked nothing\"";
    assert_eq!(asked(&[3., 1.], "").await, hit);
    let told = asked(&[9.], "only-if-cached").await;
    assert!(told.starts_with("refused;reason=not_cached;"), "{told}");
    let came = served.model.counters().last_metadata;
    assert!(came.get("outrigger-explain").is_none());
}

#[tokio::test]
async fn what_was_asked_for_last_is_asked_again_after_a_flush_where_that_is_wanted() {
    let served = echo().await;
    let gateway = cached(&served, ", warm: 20", "").await;
    let wire = Wire::connect(gateway.address()).await;
    for value in 0..10_u8 {
        ask(&wire, Protocol::OipGrpc, &[f32::from(value)]).await;
    }
    served.model.reset_counters();
    flush(&gateway).await;
    until("it is warm", || of_cache(&gateway, "rows") == 10).await;
    assert_eq!(served.model.counters().rows, 10);
    assert_eq!(ask(&wire, Protocol::OipRest, &[9., 0.]).await, "hit");
}
