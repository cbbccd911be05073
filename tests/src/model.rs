//! Model servers, and requests of the Open Inference Protocol in few words.

use std::net::SocketAddr;

use bytes::Bytes;
use outrigger_native::{
    Builder, Container, Handle, Server,
    inference::{
        InferParameter, ModelInferRequest, ModelInferResponse,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};
use tonic::transport::{Channel, Endpoint};

/// The generated client.
pub type Client = GrpcInferenceServiceClient<Channel>;

/// A container with one model, and the reins of the model.
#[derive(Debug)]
pub struct Served {
    /// The container.
    pub server: Server,
    /// The model's reins.
    pub model: Handle,
}

/// Starts a container with a model, on a thread of its own.
///
/// # Panics
///
/// When there is no free port.
pub async fn serve(model: impl Into<Container>) -> Served {
    let server = start(Server::builder().model(model)).await;
    let model = server.handles().next().expect("it was given one");
    Served { server, model }
}

/// Starts a container on a thread of its own.
///
/// # Panics
///
/// When there is no free port.
pub async fn start(builder: Builder) -> Server {
    builder
        .threads(1)
        .bind("127.0.0.1:0")
        .await
        .expect("a free port")
}

/// Connects the generated client.
///
/// # Panics
///
/// When nobody listens.
pub async fn connect(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.tcp_nodelay(true).connect().await;
    GrpcInferenceServiceClient::new(channel.expect("it listens"))
        .max_decoding_message_size(256 << 20)
        .max_encoding_message_size(256 << 20)
}

/// Makes a request of one FP32 input `input0`, of one column, with these rows.
pub fn rows(model: &str, values: &[f32]) -> ModelInferRequest {
    let shape = [i64::try_from(values.len()).expect("few rows"), 1];
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tensor(model, "FP32", &shape, data)
}

/// Makes a request of one raw input `input0`.
pub fn tensor(
    model: &str,
    datatype: &str,
    shape: &[i64],
    data: impl Into<Bytes>,
) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor {
            name: "input0".to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

/// Asks for an output by name.
pub fn output(name: &str) -> InferRequestedOutputTensor {
    InferRequestedOutputTensor {
        name: name.to_owned(),
        ..Default::default()
    }
}

/// Makes a parameter.
pub fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

/// Returns the first raw output as numbers.
pub fn numbers(response: &ModelInferResponse) -> Vec<f32> {
    let data = response.raw_output_contents.first();
    data.map_or_else(Vec::new, |data| {
        data.as_chunks()
            .0
            .iter()
            .copied()
            .map(f32::from_le_bytes)
            .collect()
    })
}

/// The path of the inference call.
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
