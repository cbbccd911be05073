//! What may share a call does, and what must not never does: the model's own count of rows in
//! each call is the witness.

use std::io::Write as _;

use bytes::{BufMut as _, BytesMut};
use outrigger_native::{
    Datatype, Shapes, Synthetic, TensorSpec,
    inference::{
        InferTensorContents, ModelInferRequest, ModelInferResponse,
        infer_parameter::ParameterChoice::{self, BoolParam, Int64Param, StringParam, Uint64Param},
        model_infer_request::InferRequestedOutputTensor,
    },
};
use outrigger_tests::{
    gateway::Gateway,
    model::{INFER, Served, numbers, output, parameter, rows, serve, tensor},
    patience::until,
    wire::{flagged, framed},
};
use prost::Message as _;

use crate::gather::{Inference, batches, together};

/// A batched model, with an upper limit of 16 rows that is there from the start.
pub(crate) fn batched(name: &str, rest: &str) -> String {
    format!("models: {{ {name}: {{ batch: {{ controller: fixed, max_batch_size: 16 }}{rest} }} }}")
}

/// A proxy in front of a model.
pub(crate) async fn before(served: &Served, rest: &str) -> Gateway {
    let gateway = Gateway::before(&[served.server.address()], "protocol: oip-grpc", rest);
    until("the models are known", || {
        let table = gateway.state().table();
        table.arms().all(|arm| arm.is_learned())
    })
    .await;
    gateway
}

fn one(value: f32) -> ModelInferRequest {
    rows("m", &[value])
}

fn with(name: &str, choice: ParameterChoice) -> ModelInferRequest {
    let mut request = one(1.);
    request
        .parameters
        .insert(name.to_owned(), parameter(choice));
    request
}

fn asking(outputs: Vec<InferRequestedOutputTensor>) -> ModelInferRequest {
    ModelInferRequest { outputs, ..one(1.) }
}

fn output_with(name: &str, choice: ParameterChoice) -> InferRequestedOutputTensor {
    let mut output = output("output0");
    output.parameters.insert(name.to_owned(), parameter(choice));
    output
}

fn input_with(name: &str, choice: ParameterChoice) -> ModelInferRequest {
    let mut request = one(1.);
    request.inputs[0]
        .parameters
        .insert(name.to_owned(), parameter(choice));
    request
}

fn typed() -> ModelInferRequest {
    let mut request = one(1.);
    request.raw_input_contents.clear();
    request.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: vec![1.],
        ..Default::default()
    });
    request
}

fn version(version: &str) -> ModelInferRequest {
    ModelInferRequest {
        model_version: version.to_owned(),
        ..one(1.)
    }
}

fn with_unknown_field() -> Inference {
    let mut message = BytesMut::from(&one(1.).encode_to_vec()[..]);
    // Field 100, a varint.
    message.put_slice(&[0xa0, 0x06, 0x01]);
    Inference::raw(framed(&message))
}

fn compressed() -> Inference {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&one(1.).encode_to_vec()).unwrap();
    Inference::raw(flagged(1, &gzip.finish().unwrap())).header("grpc-encoding", "gzip")
}

#[tokio::test]
async fn what_differs_only_in_its_rows_shares_a_call() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let plain = Inference::of(&one(1.));
    let id = ModelInferRequest {
        id: "another".to_owned(),
        ..one(1.)
    };
    let pairs = [
        ("equal", plain.clone(), plain.clone()),
        ("id", plain.clone(), Inference::of(&id)),
        (
            "several rows",
            plain.clone(),
            Inference::of(&rows("m", &[1., 2., 3.])),
        ),
        (
            "timeout",
            Inference::of(&with("timeout", Uint64Param(10_000_000))),
            Inference::of(&with("timeout", Uint64Param(20_000_000))),
        ),
        (
            "grpc-timeout",
            plain.clone().header("grpc-timeout", "10S"),
            plain.clone(),
        ),
        (
            "tracing",
            plain.clone().header(
                "traceparent",
                "00-11111111111111111111111111111111-1111111111111111-01",
            ),
            plain.clone().header(
                "traceparent",
                "00-22222222222222222222222222222222-2222222222222222-01",
            ),
        ),
        (
            "user-agent",
            plain.clone().header("user-agent", "a"),
            plain.clone().header("user-agent", "b"),
        ),
        ("compression", plain.clone(), compressed()),
        (
            "equal metadata",
            plain.clone().header("authorization", "one"),
            plain.clone().header("authorization", "one"),
        ),
        (
            "equal parameters",
            Inference::of(&with("custom", Int64Param(1))),
            Inference::of(&with("custom", Int64Param(1))),
        ),
    ];
    for (what, a, b) in pairs {
        let replies = together(&gateway, &served.model, &[a, b]).await;
        let (calls, rows) = (batches(&served.model), served.model.counters().rows);
        assert_eq!(calls, [(rows as usize - 1, 1)], "{what}");
        for reply in replies {
            let reply = reply.unwrap();
            assert_eq!(reply.grpc_status(), Some("0"), "{what}");
            assert_eq!(
                reply.headers["outrigger-batch-size"],
                (rows - 1).to_string()
            );
        }
    }
}

#[tokio::test]
async fn what_differs_in_anything_that_counts_never_shares_a_call() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let of = Inference::of;
    let plain = of(&one(1.));
    let data = 1_f32.to_le_bytes();
    let pairs = [
        (
            "sequence_id",
            of(&with("sequence_id", Uint64Param(7))),
            of(&with("sequence_id", Uint64Param(7))),
        ),
        (
            "sequence name",
            of(&with("sequence_id", StringParam("s".into()))),
            of(&with("sequence_id", StringParam("s".into()))),
        ),
        (
            "sequence_start",
            of(&with("sequence_start", BoolParam(true))),
            of(&with("sequence_start", BoolParam(true))),
        ),
        (
            "sequence_end",
            of(&with("sequence_end", BoolParam(true))),
            of(&with("sequence_end", BoolParam(true))),
        ),
        (
            "shared memory for an output",
            of(&asking(vec![output_with(
                "shared_memory_region",
                StringParam("r".into()),
            )])),
            of(&asking(vec![output_with(
                "shared_memory_region",
                StringParam("r".into()),
            )])),
        ),
        (
            "shared memory for an input",
            of(&input_with("shared_memory_region", StringParam("r".into()))),
            of(&input_with("shared_memory_region", StringParam("r".into()))),
        ),
        (
            "priority",
            of(&with("priority", Uint64Param(1))),
            of(&with("priority", Uint64Param(2))),
        ),
        (
            "a priority and none",
            of(&with("priority", Uint64Param(1))),
            plain.clone(),
        ),
        (
            "a parameter",
            of(&with("custom", Int64Param(1))),
            of(&with("custom", Int64Param(2))),
        ),
        (
            "a parameter and none",
            of(&with("custom", Int64Param(1))),
            plain.clone(),
        ),
        (
            "a parameter's type",
            of(&with("custom", Int64Param(1))),
            of(&with("custom", Uint64Param(1))),
        ),
        (
            "an input's parameter",
            of(&input_with("custom", Int64Param(1))),
            plain.clone(),
        ),
        (
            "a timeout and none",
            of(&with("timeout", Uint64Param(9_000_000))),
            plain.clone(),
        ),
        (
            "outputs",
            of(&asking(vec![output("output0")])),
            plain.clone(),
        ),
        (
            "classification",
            of(&asking(vec![output_with("classification", Int64Param(1))])),
            of(&asking(vec![output_with("classification", Int64Param(2))])),
        ),
        (
            "datatype",
            of(&tensor("m", "INT32", &[1, 1], data.to_vec())),
            plain.clone(),
        ),
        (
            "shape",
            of(&tensor("m", "FP32", &[1, 1, 1], data.to_vec())),
            plain.clone(),
        ),
        (
            "columns",
            of(&tensor("m", "FP32", &[1, 2], [data, data].concat())),
            plain.clone(),
        ),
        ("typed and raw", of(&typed()), plain.clone()),
        ("version", of(&version("1")), plain.clone()),
        ("unknown fields", with_unknown_field(), with_unknown_field()),
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
            "binary metadata",
            plain.clone().header("x-tenant-bin", "AAEC"),
            plain.clone().header("x-tenant-bin", "AAED"),
        ),
        (
            "a scalar",
            of(&tensor("m", "FP32", &[], data.to_vec())),
            of(&tensor("m", "FP32", &[], data.to_vec())),
        ),
        (
            "no rows",
            of(&tensor("m", "FP32", &[0, 1], Vec::new())),
            of(&tensor("m", "FP32", &[0, 1], Vec::new())),
        ),
        (
            "wrong length",
            of(&tensor("m", "FP32", &[1, 1], vec![0; 5])),
            of(&tensor("m", "FP32", &[1, 1], vec![0; 5])),
        ),
    ];
    for (what, a, b) in pairs {
        together(&gateway, &served.model, &[a.clone(), b.clone()]).await;
        let counters = served.model.counters();
        assert!(
            counters.largest_batch() <= 1,
            "{what}: {:?}",
            counters.batches
        );
        assert_eq!(counters.received + counters.refused, 3, "{what}");
        // Each is what the other would have been without it.
        for request in [a, b] {
            let mut replies = Vec::new();
            for address in [served.server.address(), gateway.address()] {
                let wire = outrigger_tests::wire::Wire::connect(address).await;
                let reply = request.send(&wire).await.unwrap();
                let body = reply
                    .body
                    .get(5..)
                    .map(|body| ModelInferResponse::decode(body).unwrap());
                let status = reply.grpc_status().map(str::to_owned);
                replies.push((status, reply.grpc_message(), body));
            }
            assert_eq!(replies[1], replies[0], "{what}");
        }
    }
}

#[tokio::test]
async fn models_that_take_no_batches_are_sent_none() {
    let container = Synthetic::new("m");
    for (what, model) in [
        (
            "max_batch_size: 0",
            Synthetic {
                batchable: false,
                ..container.clone()
            },
        ),
        (
            "metadata without a free dimension",
            Synthetic {
                batchable: false,
                config_unimplemented: true,
                inputs: vec![TensorSpec::new("input0", Datatype::Fp32, &[1, 1])],
                ..container.clone()
            },
        ),
        (
            "decoupled",
            Synthetic {
                decoupled: Some(2),
                ..container.clone()
            },
        ),
    ] {
        let decoupled = model.decoupled.is_some();
        // Metadata is no refusal: what is configured would hold against it.
        let configured = match model.config_unimplemented {
            true => "models: { m: { batch: {} } }".to_owned(),
            false => batched("m", ""),
        };
        let served = serve(model).await;
        let gateway = before(&served, &configured).await;
        if decoupled {
            let wire = outrigger_tests::wire::Wire::connect(gateway.address()).await;
            let reply = wire.call(INFER, &one(1.).encode_to_vec()).await.unwrap();
            assert_eq!(reply.grpc_status(), Some("12"), "its own answer: {what}");
            continue;
        }
        let plain = Inference::of(&one(1.));
        together(&gateway, &served.model, &[plain.clone(), plain]).await;
        assert_eq!(served.model.counters().max_in_flight, 3, "{what}");
        assert_eq!(batches(&served.model), [(1, 2)], "{what}");
    }
}

#[tokio::test]
async fn a_configured_bound_holds_where_metadata_does_not_speak_of_rows() {
    for shapes in [Shapes::Bare, Shapes::Absent] {
        let served = serve(Synthetic {
            config_unimplemented: true,
            shapes,
            ..Synthetic::new("m")
        })
        .await;
        let gateway = before(&served, &batched("m", "")).await;
        let plain = Inference::of(&one(1.));
        together(&gateway, &served.model, &[plain.clone(), plain]).await;
        assert_eq!(batches(&served.model), [(2, 1)], "{shapes:?}");
    }
}

#[tokio::test]
async fn a_stream_of_inferences_is_never_merged() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let streamed = Inference {
        path: "/inference.GRPCInferenceService/ModelStreamInfer",
        ..Inference::of(&one(1.))
    };
    let replies = together(&gateway, &served.model, &[streamed.clone(), streamed]).await;
    assert_eq!(batches(&served.model), [(1, 2)]);
    for reply in replies {
        assert_eq!(reply.unwrap().grpc_status(), Some("0"));
    }
}

#[tokio::test]
async fn headers_that_are_ignored_may_differ_within_a_call() {
    let served = serve(Synthetic::new("m")).await;
    let config = batched("m", "").replace("size: 16", "size: 16, ignore_headers: [x-tenant]");
    let gateway = before(&served, &config).await;
    let plain = Inference::of(&one(1.));
    let (a, b) = (
        plain.clone().header("x-tenant", "a"),
        plain.header("x-tenant", "b"),
    );
    together(&gateway, &served.model, &[a.clone(), b]).await;
    assert_eq!(batches(&served.model), [(2, 1)]);
    let other = a.clone().header("authorization", "x");
    together(&gateway, &served.model, &[a, other]).await;
    assert_eq!(batches(&served.model), [(1, 2)]);
}

#[tokio::test]
async fn a_batch_is_no_larger_than_its_bound_and_a_larger_request_goes_alone() {
    let served = serve(Synthetic::new("m")).await;
    let gateway = before(&served, &batched("m", "")).await;
    let requests: Vec<_> = (0..10)
        .map(|n| Inference::of(&rows("m", &[n as f32; 5])))
        .chain([Inference::of(&rows("m", &[99.; 40]))])
        .collect();
    let replies = together(&gateway, &served.model, &requests).await;
    assert_eq!(batches(&served.model), [(5, 1), (15, 3), (40, 1)]);
    for (n, reply) in replies.into_iter().enumerate().take(10) {
        let body = reply.unwrap().body;
        let response = ModelInferResponse::decode(&body[5..]).unwrap();
        assert_eq!(numbers(&response), [n as f32; 5]);
    }
}
