//! A client, and requests in few words.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its part"
)]

use bytes::Bytes;
use outrigger_native::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use outrigger_native::inference::model_infer_request::{
    InferInputTensor, InferRequestedOutputTensor,
};
use outrigger_native::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use outrigger_native::{Container, Datatype, Server};
use tonic::transport::{Channel, Endpoint};

pub type Client = GrpcInferenceServiceClient<Channel>;

/// A server with this model, and a client of it.
pub async fn serve(model: impl Into<Container>) -> (Server, Client) {
    let server = Server::builder()
        .model(model)
        .bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let client = connect(&server).await;
    (server, client)
}

pub async fn connect(server: &Server) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address()));
    let channel = endpoint.expect("an address is a host").connect().await;
    GrpcInferenceServiceClient::new(channel.expect("it listens"))
        .max_decoding_message_size(256 << 20)
}

pub fn typed(
    name: &str,
    datatype: &str,
    shape: &[i64],
    contents: InferTensorContents,
) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        contents: Some(contents),
        ..Default::default()
    }
}

/// A request of one input in its raw form.
pub fn raw(
    model: &str,
    name: &str,
    datatype: Datatype,
    shape: &[i64],
    data: impl Into<Bytes>,
) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.name().to_owned(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

/// A request for `input0` of one column, whose rows are these.
pub fn rows(model: &str, values: &[f32]) -> ModelInferRequest {
    let data: Bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    raw(
        model,
        "input0",
        Datatype::Fp32,
        &[values.len() as i64, 1],
        data,
    )
}

pub fn wanting(mut request: ModelInferRequest, outputs: &[&str]) -> ModelInferRequest {
    request.outputs = outputs
        .iter()
        .map(|name| InferRequestedOutputTensor {
            name: (*name).to_owned(),
            ..Default::default()
        })
        .collect();
    request
}

/// The first raw output as numbers.
pub fn numbers(response: &ModelInferResponse) -> Vec<f32> {
    response.raw_output_contents[0]
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(f32::from_le_bytes)
        .collect()
}
