//! Who asks with `outrigger-explain: 1` is told what became of its request, and nobody else is.

use bytes::Bytes;
use http::Request;
use outrigger_native::{
    Synthetic,
    inference::{ModelInferRequest, infer_parameter::ParameterChoice::Uint64Param},
};
use outrigger_tests::{
    gateway::Gateway,
    model::{Served, parameter, rows, serve},
    patience::{until, within},
    protocol::Protocol,
    wire::{Reply, Wire},
};

use crate::{
    gather::{Inference, batches, together},
    merging::{batched, before},
    protocols::{behind, echo},
};

const EXPLAIN: &str = "outrigger-explain";
const LONE: &str = "batch;reason=idle;rows=1;members=1;limit=16;\
                    note=\"the endpoint was free and nothing else waited to be merged\"";
const DIRECT: &str = "direct;note=\"no filter is configured for the model\"";

fn explanation(reply: &Reply) -> Option<&str> {
    // In the headers, which gRPC calls initial metadata, and not behind the message.
    if let Some(trailers) = &reply.trailers {
        assert!(trailers.get(EXPLAIN).is_none(), "{reply:?}");
    }
    let value = reply.headers.get(EXPLAIN)?;
    Some(value.to_str().unwrap())
}

fn asking((mut request, body): (Request<()>, Bytes)) -> (Request<()>, Bytes) {
    let headers = request.headers_mut();
    headers.insert(EXPLAIN, "1".parse().unwrap());
    (request, body)
}

async fn send(wire: &Wire, (request, body): (Request<()>, Bytes)) -> Reply {
    let body = [body];
    let answer = wire.exchange(request, &body, None);
    within("an answer", answer).await.unwrap()
}

/// Tells whether the last call that reached the model had the header.
fn was_told(served: &Served) -> bool {
    let seen = served.model.counters().last_metadata;
    seen.get(EXPLAIN).is_some()
}

#[tokio::test]
async fn a_lone_caller_of_any_protocol_is_told_that_there_was_nobody_else() {
    let served = echo().await;
    let over_grpc = before(&served, &batched("m", "")).await;
    let plain = before(&served, "models: { m: {} }").await;
    let over_rest = behind(&plain, "oip-rest", &batched("m", "")).await;
    for gateway in [over_grpc, over_rest] {
        let wire = Wire::connect(gateway.address()).await;
        for protocol in Protocol::ALL {
            let reply = send(&wire, asking(protocol.ask("m", &[1.]))).await;
            assert_eq!(protocol.read(&reply), [1.], "{protocol:?}");
            assert_eq!(explanation(&reply), Some(LONE), "{protocol:?}");
            assert!(!was_told(&served), "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn nobody_is_told_who_did_not_ask() {
    let served = echo().await;
    let gateway = before(&served, &batched("m", "")).await;
    let wire = Wire::connect(gateway.address()).await;
    for protocol in Protocol::ALL {
        for value in [None, Some("0"), Some("true")] {
            let (mut request, body) = protocol.ask("m", &[1.]);
            if let Some(value) = value {
                let headers = request.headers_mut();
                headers.insert(EXPLAIN, value.parse().unwrap());
            }
            let reply = send(&wire, (request, body)).await;
            assert_eq!(protocol.read(&reply), [1.], "{protocol:?}");
            assert_eq!(explanation(&reply), None, "{protocol:?} {value:?}");
        }
    }
}

#[tokio::test]
async fn who_asks_shares_a_call_with_who_does_not() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let two = Inference::of(&rows("m", &[1., 2.]));
    let asks = two.clone().header(EXPLAIN, "1");
    let shared = together(&gateway, &served.model, &[asks.clone(), two.clone()]).await;
    assert_eq!(batches(&served.model), [(4, 1)]);
    assert!(!was_told(&served));
    let told: Vec<_> = shared.iter().flatten().map(explanation).collect();
    let wanted = "batch;reason=idle;rows=4;members=2;limit=16;note=\"nothing else waited\"";
    assert_eq!(told, [Some(wanted), None]);

    // Nine of two rows: eight fill a call, and the ninth is the rest.
    let nine = together(&gateway, &served.model, &[(); 9].map(|()| asks.clone())).await;
    assert_eq!(batches(&served.model), [(2, 1), (16, 1)]);
    let told: Vec<_> = nine.iter().flatten().flat_map(explanation).collect();
    let full =
        "batch;reason=full;rows=16;members=8;limit=16;note=\"the limit of rows was reached\"";
    assert_eq!(told[..8], [full; 8]);
    assert!(told[8].starts_with("batch;reason=idle;rows=2;members=1;limit=16;"));

    let other = asks.clone().header("x-tenant", "b");
    let unlike = together(&gateway, &served.model, &[asks, other]).await;
    assert_eq!(batches(&served.model), [(2, 2)]);
    let told: Vec<_> = unlike.iter().flatten().flat_map(explanation).collect();
    assert!(told[0].starts_with("batch;reason=incompatible;rows=2;"));
    assert!(told[1].starts_with("batch;reason=idle;rows=2;"));
}

#[tokio::test]
async fn callers_over_rest_are_told_of_the_call_that_they_share() {
    let served = echo().await;
    let gateway = before(&served, &batched("m", "")).await;
    let wire = Wire::connect(gateway.address()).await;
    served.model.pause();
    let plug = tokio::spawn({
        let wire = wire.clone();
        async move { Protocol::OipGrpc.send(&wire, "m", &[0.]).await }
    });
    until("the first is at the model", || {
        served.model.counters().received == 1
    })
    .await;
    let callers = Protocol::ALL.map(|protocol| {
        let wire = wire.clone();
        tokio::spawn(async move { send(&wire, asking(protocol.ask("m", &[1.]))).await })
    });
    until("all wait", || gateway.learned("m", "queue_rows") == 6).await;
    served.model.resume();
    within("the first", plug).await.unwrap().unwrap();
    for caller in callers {
        let reply = within("an answer", caller).await.unwrap();
        let wanted = "batch;reason=idle;rows=6;members=6;limit=16;note=\"nothing else waited\"";
        assert_eq!(explanation(&reply), Some(wanted));
    }
}

#[tokio::test]
async fn who_goes_alone_is_told_why() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let mut sequence = rows("m", &[1.]);
    let id = parameter(Uint64Param(7));
    sequence.parameters.insert("sequence_id".to_owned(), id);
    let unasked = serve(Synthetic {
        batchable: false,
        ..Synthetic::new("m")
    })
    .await;
    let unbatched = before(&unasked, "models: { m: { batch: {} } }").await;
    let ask = async |gateway: &Gateway, request: &ModelInferRequest| {
        let request = Inference::of(request).header(EXPLAIN, "1");
        let wire = Wire::connect(gateway.address()).await;
        within("an answer", request.send(&wire)).await.unwrap()
    };
    let told = ask(&gateway, &sequence).await;
    let wanted = "alone;reason=sequence;note=\"it belongs to a sequence\"";
    assert_eq!(explanation(&told), Some(wanted));
    assert!(!was_told(&served));
    let told = ask(&unbatched, &rows("m", &[1.])).await;
    let wanted = "alone;reason=unbatchable;\
                  note=\"the model takes no batches, or does not say that it does\"";
    assert_eq!(explanation(&told), Some(wanted));
    assert!(!was_told(&unasked));
}

/// Between protocols, and under another name, a request is read although no filter wants it.
#[tokio::test]
async fn who_asks_for_a_model_without_a_filter_is_told_that_there_is_none() {
    let served = echo().await;
    let gateway = before(
        &served,
        "models: { m: {}, other: { arms: { a: { upstream: server, model: m } } } }",
    )
    .await;
    let wire = Wire::connect(gateway.address()).await;
    for protocol in Protocol::ALL {
        for model in ["m", "other"] {
            if (protocol, model) == (Protocol::OipGrpc, "m") {
                continue;
            }
            let reply = send(&wire, asking(protocol.ask(model, &[1.]))).await;
            assert_eq!(protocol.read(&reply), [1.], "{protocol:?}");
            assert_eq!(explanation(&reply), Some(DIRECT), "{protocol:?} {model}");
            assert!(!was_told(&served), "{protocol:?} {model}");
        }
    }
    // What is not read passes as if there were no proxy.
    let reply = send(&wire, asking(Protocol::OipGrpc.ask("m", &[1.]))).await;
    assert_eq!(explanation(&reply), None);
    assert!(was_told(&served));
}
