//! The protocol's messages as prost's derive reads and writes them: an independent witness.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelSpec {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(oneof = "VersionChoice", tags = "2, 4")]
    pub(super) version_choice: Option<VersionChoice>,
    #[prost(string, tag = "3")]
    pub(super) signature_name: String,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum VersionChoice {
    #[prost(message, tag = "2")]
    Version(Int64Value),
    #[prost(string, tag = "4")]
    Label(String),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Int64Value {
    #[prost(int64, tag = "1")]
    pub(super) value: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PredictRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) model_spec: Option<ModelSpec>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) inputs: BTreeMap<String, TensorProto>,
    #[prost(string, repeated, tag = "3")]
    pub(super) output_filter: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "6")]
    pub(super) client_id: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PredictResponse {
    #[prost(message, optional, tag = "2")]
    pub(super) model_spec: Option<ModelSpec>,
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) outputs: BTreeMap<String, TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int32, tag = "1")]
    pub(super) dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) tensor_shape: Option<TensorShapeProto>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    pub(super) float_val: Vec<f32>,
    #[prost(double, repeated, tag = "6")]
    pub(super) double_val: Vec<f64>,
    #[prost(int32, repeated, tag = "7")]
    pub(super) int_val: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub(super) string_val: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "10")]
    pub(super) int64_val: Vec<i64>,
    #[prost(bool, repeated, tag = "11")]
    pub(super) bool_val: Vec<bool>,
    #[prost(int32, repeated, tag = "13")]
    pub(super) half_val: Vec<i32>,
    #[prost(uint32, repeated, tag = "16")]
    pub(super) uint32_val: Vec<u32>,
    #[prost(uint64, repeated, tag = "17")]
    pub(super) uint64_val: Vec<u64>,
}

/// [`TensorProto`] with its lists unpacked, as old writers do.
#[derive(Clone, PartialEq, Message)]
pub(super) struct UnpackedTensor {
    #[prost(int32, tag = "1")]
    pub(super) dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) tensor_shape: Option<TensorShapeProto>,
    #[prost(float, repeated, packed = "false", tag = "5")]
    pub(super) float_val: Vec<f32>,
    #[prost(double, repeated, packed = "false", tag = "6")]
    pub(super) double_val: Vec<f64>,
    #[prost(int32, repeated, packed = "false", tag = "7")]
    pub(super) int_val: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub(super) string_val: Vec<Vec<u8>>,
    #[prost(int64, repeated, packed = "false", tag = "10")]
    pub(super) int64_val: Vec<i64>,
    #[prost(bool, repeated, packed = "false", tag = "11")]
    pub(super) bool_val: Vec<bool>,
    #[prost(int32, repeated, packed = "false", tag = "13")]
    pub(super) half_val: Vec<i32>,
    #[prost(uint32, repeated, packed = "false", tag = "16")]
    pub(super) uint32_val: Vec<u32>,
    #[prost(uint64, repeated, packed = "false", tag = "17")]
    pub(super) uint64_val: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    #[prost(message, repeated, tag = "2")]
    pub(super) dim: Vec<Dim>,
    #[prost(bool, tag = "3")]
    pub(super) unknown_rank: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dim {
    #[prost(int64, tag = "1")]
    pub(super) size: i64,
    #[prost(string, tag = "2")]
    pub(super) name: String,
}

/// `ClassificationRequest` and `RegressionRequest`, with examples as their bytes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExamplesRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) model_spec: Option<ModelSpec>,
    #[prost(message, optional, tag = "2")]
    pub(super) input: Option<Input>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Input {
    #[prost(oneof = "InputKind", tags = "1, 2")]
    pub(super) kind: Option<InputKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum InputKind {
    #[prost(message, tag = "1")]
    ExampleList(ExampleList),
    #[prost(message, tag = "2")]
    ExampleListWithContext(ExampleListWithContext),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExampleList {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) examples: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExampleListWithContext {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) examples: Vec<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) context: Option<Vec<u8>>,
}

/// `ClassificationResponse` and `RegressionResponse`, with each result as its bytes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ResultsResponse {
    #[prost(message, optional, tag = "2")]
    pub(super) model_spec: Option<ModelSpec>,
    #[prost(message, optional, tag = "1")]
    pub(super) result: Option<ExampleList>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetModelMetadataResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) model_spec: Option<ModelSpec>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) metadata: BTreeMap<String, Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignatureDefMap {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) signature_def: BTreeMap<String, SignatureDef>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignatureDef {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) inputs: BTreeMap<String, TensorInfo>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) outputs: BTreeMap<String, TensorInfo>,
    #[prost(string, tag = "3")]
    pub(super) method_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int32, tag = "2")]
    pub(super) dtype: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) tensor_shape: Option<TensorShapeProto>,
}
