//! What the gRPC codec costs per call: `cargo bench -p outrigger --bench codec`.
//!
//! Times are of one operation; the lines below them count its allocations and their bytes. The
//! yardsticks are prost, with the message types that the tests read as witness, and a view by hand
//! that knows nothing but what a sane client sends.

#[path = "codec/view.rs"]
mod view;
#[allow(dead_code, reason = "the tests' file, of which a part is measured")]
#[path = "../src/codec/oip_grpc/witness.rs"]
mod witness;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use outrigger::codec::{
    grpc::FrameReader,
    oip_grpc::{decode_request, decode_response, encode_request, encode_response, model_name},
};
use outrigger_filters::inference::{
    Datatype, Form, Parameters, Payload, RequestParts, ResponseParts, Shape, Tensor,
};
use prost::Message;

use self::witness::{ModelInferRequest, ModelInferResponse};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// One row of 768 FP32, an embedding, and one of 224x224x3, a picture.
const SHAPE_3KB: &[i64] = &[1, 768];
const SHAPE_600KB: &[i64] = &[1, 224, 224, 3];
const FORMS: [Form; 2] = [Form::Raw, Form::Typed];
const CALLERS: usize = 8;

/// A tensor of FP32.
fn tensor(shape: &[i64], data: Payload, form: Form) -> Tensor {
    Tensor {
        name: "input__0".into(),
        datatype: Datatype::Fp32,
        shape: Shape::new(shape.iter().copied()),
        parameters: Parameters::default(),
        data,
        form,
        unknown: Payload::new(),
    }
}

fn filled(shape: &[i64], form: Form) -> Tensor {
    let len = 4 * shape.iter().product::<i64>();
    let data = vec![7; usize::try_from(len).expect("it is small")];
    tensor(shape, Bytes::from(data).into(), form)
}

fn request(input: Tensor) -> RequestParts {
    let mut parts = RequestParts {
        inputs: vec![input],
        ..RequestParts::default()
    };
    parts.head.model = "digits".into();
    parts.head.id = "0123456789abcdef".into();
    parts
}

fn response(output: Tensor) -> ResponseParts {
    ResponseParts {
        model: "digits".into(),
        version: "1".into(),
        id: "0123456789abcdef".into(),
        outputs: vec![output],
        ..ResponseParts::default()
    }
}

fn write(request: &RequestParts) -> Payload {
    encode_request(request).expect("no tensor is text")
}

fn answer(response: &ResponseParts) -> Payload {
    encode_response(response, response.outputs[0].form).expect("no tensor is text")
}

/// Takes the five bytes off. As it comes from the network, the message's buffer has other holders.
fn message(payload: &Payload) -> Bytes {
    payload.to_bytes().slice(5..)
}

macro_rules! per_size {
    ($($decode:ident $encode:ident $shape:ident $samples:literal)*) => {$(
        #[divan::bench_group(sample_count = $samples, sample_size = 16)]
        mod $decode {
            use super::*;

            #[divan::bench(args = FORMS)]
            fn request(bencher: Bencher<'_, '_>, form: Form) {
                let message = message(&write(&super::request(filled($shape, form))));
                bencher.bench(|| decode_request(black_box(&message)).expect("it is well formed"));
            }

            #[divan::bench(args = FORMS)]
            fn request_by_prost(bencher: Bencher<'_, '_>, form: Form) {
                let message = message(&write(&super::request(filled($shape, form))));
                bencher.bench(|| ModelInferRequest::decode(&**black_box(&message)));
            }

            #[divan::bench]
            fn request_by_hand(bencher: Bencher<'_, '_>) {
                let message = message(&write(&super::request(filled($shape, Form::Raw))));
                bencher.bench(|| view::View::of(black_box(&message)).expect("it is well formed"));
            }

            #[divan::bench(args = FORMS)]
            fn response(bencher: Bencher<'_, '_>, form: Form) {
                let message = message(&answer(&super::response(filled($shape, form))));
                bencher.bench(|| decode_response(black_box(&message)).expect("it is well formed"));
            }

            #[divan::bench(args = FORMS)]
            fn response_by_prost(bencher: Bencher<'_, '_>, form: Form) {
                let message = message(&answer(&super::response(filled($shape, form))));
                bencher.bench(|| ModelInferResponse::decode(&**black_box(&message)));
            }
        }

        #[divan::bench_group(sample_count = $samples, sample_size = 16)]
        mod $encode {
            use super::*;

            #[divan::bench(args = FORMS)]
            fn request(bencher: Bencher<'_, '_>, form: Form) {
                let request = super::request(filled($shape, form));
                bencher.bench(|| write(black_box(&request)));
            }

            #[divan::bench(args = FORMS)]
            fn request_by_prost(bencher: Bencher<'_, '_>, form: Form) {
                let message = message(&write(&super::request(filled($shape, form))));
                let request = ModelInferRequest::decode(message).expect("it is well formed");
                bencher.bench(|| black_box(&request).encode_to_vec());
            }

            #[divan::bench(args = FORMS)]
            fn response(bencher: Bencher<'_, '_>, form: Form) {
                let response = super::response(filled($shape, form));
                bencher.bench(|| answer(black_box(&response)));
            }

            #[divan::bench(args = FORMS)]
            fn response_by_prost(bencher: Bencher<'_, '_>, form: Form) {
                let message = message(&answer(&super::response(filled($shape, form))));
                let response = ModelInferResponse::decode(message).expect("it is well formed");
                bencher.bench(|| black_box(&response).encode_to_vec());
            }
        }
    )*};
}

per_size! {
    decode_3kb encode_3kb SHAPE_3KB 2000
    decode_600kb encode_600kb SHAPE_600KB 100
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn find_the_model(bencher: Bencher<'_, '_>) {
    let message = message(&write(&request(filled(SHAPE_3KB, Form::Raw))));
    bencher.bench(|| model_name(black_box(&message), message.len()));
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn read_a_frame(bencher: Bencher<'_, '_>) {
    let chunk = write(&request(filled(SHAPE_3KB, Form::Raw))).to_bytes();
    bencher.with_inputs(|| chunk.clone()).bench_values(|chunk| {
        let mut reader = FrameReader::new(64 << 20);
        reader.push(chunk);
        reader.next_frame()
    });
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn merge_8_requests(bencher: Bencher<'_, '_>) {
    let message = message(&write(&request(filled(SHAPE_3KB, Form::Raw))));
    bencher.bench(|| {
        let mut data = Payload::with_capacity(CALLERS);
        for _ in 0..CALLERS {
            let request = decode_request(black_box(&message)).expect("it is well formed");
            data.append(&request.inputs[0].data);
        }
        write(&request(tensor(&[8, 768], data, Form::Raw)))
    });
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn encode_a_merge_of_8(bencher: Bencher<'_, '_>) {
    let data = (0..CALLERS).map(|_| Bytes::from(vec![7; 3072])).collect();
    let request = request(tensor(&[8, 768], data, Form::Raw));
    bencher.bench(|| write(black_box(&request)));
}

#[divan::bench(args = [16, 64, 128, 256, 512], sample_count = 2000, sample_size = 16)]
fn encode_a_merge_of_64_small_rows(bencher: Bencher<'_, '_>, row: usize) {
    let data = (0..64).map(|_| Bytes::from(vec![7; row])).collect();
    let columns = i64::try_from(row / 4).expect("it is small");
    let request = request(tensor(&[64, columns], data, Form::Raw));
    bencher.bench(|| write(black_box(&request)));
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn split_an_answer_to_8(bencher: Bencher<'_, '_>) {
    let message = message(&answer(&response(filled(&[8, 1024], Form::Raw))));
    bencher.bench(|| {
        let whole = decode_response(black_box(&message)).expect("it is well formed");
        let mut data = whole.outputs[0].data.clone();
        for _ in 0..CALLERS {
            let row = data.split_to(4096).expect("there are as many rows");
            let part = ResponseParts {
                model: whole.model.clone(),
                version: whole.version.clone(),
                id: "0123456789abcdef".into(),
                outputs: vec![tensor(&[1, 1024], row, Form::Raw)],
                ..ResponseParts::default()
            };
            black_box(answer(&part));
        }
    });
}
