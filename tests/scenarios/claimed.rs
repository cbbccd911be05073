//! Calls of models of the configuration: where they go, and how their answers look.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use outrigger_native::inference::{
    InferTensorContents, ModelInferResponse, model_infer_response::InferOutputTensor,
};
use outrigger_tests::{
    gateway::Gateway,
    model::rows,
    origin::{Exchange, Origin},
    patience::within,
    wire::{Wire, drink, framed},
};
use prost::Message as _;

use crate::gather::Inference;

/// A server that says who it is.
async fn called(name: &'static str) -> Origin {
    Origin::http2(move |(request, respond): Exchange| async move {
        let _ = drink(&mut request.into_body()).await;
        trailers_only(respond, name);
    })
    .await
}

fn trailers_only(mut respond: SendResponse<Bytes>, name: &str) {
    let answer = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "3")
        .header("server", name)
        .body(());
    let _ = respond.send_response(answer.unwrap(), true);
}

#[tokio::test]
async fn a_call_that_is_not_understood_goes_to_the_server_of_its_model() {
    let (general, special) = (called("general").await, called("special").await);
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", upstream: general }}]\n\
         upstreams:\n\
         \x20 general: {{ protocol: oip-grpc, endpoints: [\"http://{}\"] }}\n\
         \x20 special: {{ protocol: oip-grpc, endpoints: [\"http://{}\"] }}\n\
         models: {{ m: {{ arms: {{ a: {{ upstream: special, model: m }} }} }} }}\n",
        general.address(),
        special.address()
    ));
    let wire = Wire::connect(gateway.address()).await;
    let message = |model: &str| rows(model, &[1.]).encode_to_vec();
    let twice = |model: &str| [framed(&message(model)), framed(&message(model))].concat();
    let spoilt = |model: &str| framed(&[message(model), vec![0x2a, 0x7f]].concat()).to_vec();
    let short = |model: &str| {
        let mut framed = framed(&message(model)).to_vec();
        framed.pop();
        framed
    };
    for (model, server) in [("m", "special"), ("other", "general")] {
        for (what, body) in [
            ("two messages", twice(model)),
            ("no protobuf", spoilt(model)),
            ("an end within the message", short(model)),
        ] {
            let request = Inference::raw(body.into());
            let reply = within("an answer", request.send(&wire)).await.unwrap();
            assert_eq!(reply.headers["server"], server, "{what} of {model}");
        }
    }
}

/// The length of an answer that is written anew is another one.
#[tokio::test]
async fn an_answer_in_another_form_does_not_keep_the_length_that_it_had() {
    let answer = ModelInferResponse {
        model_name: "m".to_owned(),
        outputs: vec![InferOutputTensor {
            name: "y".to_owned(),
            datatype: "INT64".to_owned(),
            shape: vec![1, 2],
            contents: Some(InferTensorContents {
                int64_contents: vec![1, 2],
                ..InferTensorContents::default()
            }),
            ..InferOutputTensor::default()
        }],
        ..ModelInferResponse::default()
    };
    let body = framed(&answer.encode_to_vec());
    let served = body.clone();
    let origin = Origin::http2(move |(request, mut respond): Exchange| {
        let body = served.clone();
        async move {
            let _ = drink(&mut request.into_body()).await;
            let head = Response::builder()
                .header("content-type", "application/grpc")
                .header("content-length", body.len());
            let mut stream = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            stream.send_data(body, false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    })
    .await;
    let gateway = Gateway::before(
        &[origin.address()],
        "protocol: oip-grpc",
        "models: { m: { arms: { a: { upstream: server, model: m } } } }",
    );
    let wire = Wire::connect(gateway.address()).await;
    let request = Inference::of(&rows("m", &[1.]));
    let reply = within("an answer", request.send(&wire)).await.unwrap();
    assert_eq!(reply.grpc_status(), Some("0"));
    let raw = ModelInferResponse::decode(&reply.body[5..]).unwrap();
    assert_eq!(raw.raw_output_contents[0].len(), 16);
    assert_ne!(reply.body.len(), body.len());
    assert_eq!(reply.headers.get("content-length"), None);
}
