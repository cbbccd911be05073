//! What TensorFlow Serving's two protocols cost per call: `cargo bench -p outrigger --bench codec_tfs`.
//!
//! Times are of one operation; the lines below them count its allocations and their bytes.

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use outrigger::codec::{
    tfs_grpc,
    tfs_rest::{self, Layout, Reply},
};
use outrigger_filters::inference::{
    Datatype, Form, Method, Parameters, Payload, RequestParts, ResponseParts, Shape, Signature,
    Tensor, TensorSpec,
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// The longest message, as the configuration has it by default.
const MAX_MESSAGE: usize = 64 << 20;

/// Bytes of FP32: 768 of them, and an image of 224 by 224 by 3.
const TENSORS: [usize; 2] = [3072, 602_112];

fn tensor(len: usize) -> Tensor {
    // Numbers as images have after they are normalised.
    let values: Vec<u8> = (0..len / 4)
        .flat_map(|index| ((index * 37 % 256) as f32 / 255.0 - 0.485).to_le_bytes())
        .collect();
    Tensor {
        name: "input_1".into(),
        datatype: Datatype::Fp32,
        shape: match len {
            602_112 => Shape::new([1, 224, 224, 3]),
            _ => Shape::new([1, i64::try_from(len / 4).expect("it is small")]),
        },
        parameters: Parameters::default(),
        data: Bytes::from(values).into(),
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

fn request(len: usize) -> RequestParts {
    let mut parts = RequestParts {
        inputs: vec![tensor(len)],
        ..RequestParts::default()
    };
    parts.head.model = "digits".into();
    parts.head.version = "3".into();
    parts
}

fn response(len: usize) -> ResponseParts {
    ResponseParts {
        model: "digits".into(),
        version: "3".into(),
        outputs: vec![tensor(len)],
        ..ResponseParts::default()
    }
}

fn signature() -> Signature {
    let specs = vec![TensorSpec {
        name: "input_1".into(),
        datatype: Datatype::Fp32,
        shape: None,
    }];
    Signature {
        inputs: specs.clone(),
        outputs: specs,
    }
}

/// Takes the five bytes off.
fn message(payload: Payload) -> Bytes {
    payload.to_bytes().slice(5..)
}

fn predict(len: usize) -> Bytes {
    message(tfs_grpc::encode_request(&request(len)).expect("it can be written"))
}

/// A request whose inputs stand in `float_val`, which an answer's outputs do.
fn predict_typed(len: usize) -> Bytes {
    let response = response(len);
    let answer = tfs_grpc::encode_response(Method::Infer, &response, "", Form::Typed)
        .expect("it can be written");
    message(answer)
}

fn body(len: usize) -> Bytes {
    let body = tfs_rest::encode_request(&request(len), Some(&signature()));
    body.expect("it can be written").to_bytes()
}

#[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
fn grpc_decode_a_request(bencher: Bencher<'_, '_>, len: usize) {
    let message = predict(len);
    bencher.bench(|| {
        tfs_grpc::decode_request(Method::Infer, black_box(&message), MAX_MESSAGE)
            .expect("it is well formed")
    });
}

#[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
fn grpc_decode_a_typed_response(bencher: Bencher<'_, '_>, len: usize) {
    let message = predict_typed(len);
    bencher.bench(|| {
        tfs_grpc::decode_response(Method::Infer, black_box(&message), MAX_MESSAGE)
            .expect("it is well formed")
    });
}

#[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
fn grpc_encode_a_request(bencher: Bencher<'_, '_>, len: usize) {
    let request = request(len);
    bencher.bench(|| tfs_grpc::encode_request(black_box(&request)).expect("it can be written"));
}

#[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
fn grpc_encode_a_typed_response(bencher: Bencher<'_, '_>, len: usize) {
    let response = response(len);
    bencher.bench(|| {
        tfs_grpc::encode_response(Method::Infer, black_box(&response), "", Form::Typed)
            .expect("it can be written")
    });
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn grpc_find_the_model(bencher: Bencher<'_, '_>) {
    let message = predict(3072);
    bencher.bench(|| tfs_grpc::model_name(black_box(&message), message.len()));
}

#[divan::bench(args = TENSORS, sample_count = 100)]
fn rest_parse_a_request(bencher: Bencher<'_, '_>, len: usize) {
    let body = body(len);
    let signature = signature();
    bencher.bench(|| {
        tfs_rest::decode_request(
            Method::Infer,
            black_box(&body),
            |_| Some(&signature),
            Form::Raw,
        )
        .expect("it is well formed")
    });
}

#[divan::bench(args = TENSORS, sample_count = 100)]
fn rest_slice_a_request(bencher: Bencher<'_, '_>, len: usize) {
    let body = body(len);
    let signature = signature();
    bencher.bench(|| {
        tfs_rest::decode_request(
            Method::Infer,
            black_box(&body),
            |_| Some(&signature),
            Form::Rows,
        )
        .expect("it is well formed")
    });
}

/// What the others are to be compared with.
#[divan::bench(args = TENSORS, sample_count = 100)]
fn rest_serde_json(bencher: Bencher<'_, '_>, len: usize) {
    let body = body(len);
    bencher.bench(|| {
        serde_json::from_slice::<serde_json::Value>(black_box(&body)).expect("it is well formed")
    });
}

#[divan::bench(args = TENSORS, sample_count = 100)]
fn rest_write_a_response(bencher: Bencher<'_, '_>, len: usize) {
    let response = response(len);
    let signature = signature();
    let reply = Reply {
        method: Method::Infer,
        layout: Layout::Rows,
    };
    bencher.bench(|| {
        tfs_rest::encode_response(black_box(&response), &reply, Some(&signature))
            .expect("it can be written")
    });
}

#[divan::bench(args = TENSORS, sample_count = 100)]
fn rest_pass_a_request_on(bencher: Bencher<'_, '_>, len: usize) {
    let body = body(len);
    let signature = signature();
    bencher.bench(|| {
        let (request, _) = tfs_rest::decode_request(
            Method::Infer,
            black_box(&body),
            |_| Some(&signature),
            Form::Rows,
        )
        .expect("it is well formed");
        tfs_rest::encode_request(&request, Some(&signature)).expect("it can be written")
    });
}
