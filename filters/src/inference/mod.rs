//! The vocabulary: what a model is asked and what it answers, in no protocol's form.
//!
//! A codec slices a [`Request`] out of a message, the filters read its fields, and a codec
//! writes it again for the server. Tensor contents are [`Payload`]s, ropes of [`bytes::Bytes`]
//! that share the bytes the network brought.

mod apart;
mod cached;
mod code;
mod datatype;
mod infer;
mod metadata;
mod parameter;
mod payload;
mod request;
mod response;
mod rows;
mod selected;
mod shape;
mod signature;
mod status;
mod tensor;
mod text;

pub(crate) use self::request::{QUEUE_TIMEOUT, queue_timeout};
pub use self::{
    apart::Apart,
    cached::{CacheControl, CacheReport, CacheResult},
    code::Code,
    datatype::Datatype,
    infer::{BoxInfer, Error, Infer},
    metadata::Metadata,
    parameter::{Parameter, Parameters},
    payload::Payload,
    request::{Head, Method, Request, RequestParts, RequestedOutput, Wire},
    response::{Report, Response, ResponseParts},
    rows::{
        BINARY_DATA_SIZE, Cells, Indivisible, NoRows, Uneven, concat, divide, join, join_cell,
        select, split, without_size,
    },
    selected::{DefaultReason, SelectionReport},
    shape::Shape,
    signature::{Signature, TensorSpec},
    status::Status,
    tensor::{Form, Tensor},
    text::Values,
};
