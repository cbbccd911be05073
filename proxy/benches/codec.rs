//! What the codec costs per call: `cargo bench -p outrigger --bench codec`.
//!
//! Times are of one operation; the lines below them count its allocations and their bytes.

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use outrigger::codec::{
    grpc::FrameReader,
    oip_grpc::{decode_request, decode_response, encode_request, encode_response, model_name},
};
use outrigger_filters::inference::{
    Datatype, Form, Parameters, Payload, RequestParts, ResponseParts, Shape, Tensor,
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const TENSORS: [usize; 3] = [3072, 65_536, 602_112];
const CALLERS: usize = 8;

fn tensor(rows: usize, row: usize, data: Payload) -> Tensor {
    let columns = i64::try_from(row / 4).expect("it is small");
    Tensor {
        name: "input__0".into(),
        datatype: Datatype::Fp32,
        shape: Shape::new([i64::try_from(rows).expect("it is small"), columns]),
        parameters: Parameters::default(),
        data,
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

fn request(row: usize, data: Payload) -> RequestParts {
    let mut parts = RequestParts {
        inputs: vec![tensor(data.len() / row, row, data)],
        ..RequestParts::default()
    };
    parts.head.model = "digits".into();
    parts.head.id = "0123456789abcdef".into();
    parts
}

/// Takes the five bytes off.
fn message(payload: &Payload) -> Bytes {
    payload.to_bytes().slice(5..)
}

/// A message of one row as it comes from the network: its buffer has other holders.
fn call(row: usize) -> Bytes {
    let request = request(row, Bytes::from(vec![7; row]).into());
    message(&encode_request(&request).expect("it can be written"))
}

#[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
fn decode_a_request(bencher: Bencher<'_, '_>, row: usize) {
    let call = call(row);
    bencher.bench(|| decode_request(black_box(&call)).expect("it is well formed"));
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn find_the_model(bencher: Bencher<'_, '_>) {
    let call = call(3072);
    bencher.bench(|| model_name(black_box(&call), 3200));
}

#[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
fn read_a_frame(bencher: Bencher<'_, '_>, row: usize) {
    let chunk = request(row, Bytes::from(vec![7; row]).into());
    let chunk = encode_request(&chunk)
        .expect("it can be written")
        .to_bytes();
    bencher.with_inputs(|| chunk.clone()).bench_values(|chunk| {
        let mut reader = FrameReader::new(64 << 20);
        reader.push(chunk);
        reader.next_frame()
    });
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn merge_8_requests(bencher: Bencher<'_, '_>) {
    let calls = [const { 3072 }; CALLERS].map(call);
    bencher.with_inputs(|| calls.clone()).bench_values(|calls| {
        let mut data = Payload::with_capacity(CALLERS);
        for call in calls {
            let request = decode_request(&call).expect("it is well formed");
            data.append(&request.inputs[0].data);
        }
        encode_request(&request(3072, data))
    });
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn encode_a_merge_of_8(bencher: Bencher<'_, '_>) {
    let data = (0..CALLERS).map(|_| Bytes::from(vec![7; 3072])).collect();
    let request = request(3072, data);
    bencher.bench(|| encode_request(black_box(&request)));
}

#[divan::bench(args = [16, 64, 128, 256, 512], sample_count = 2000, sample_size = 16)]
fn encode_a_merge_of_64_small_rows(bencher: Bencher<'_, '_>, row: usize) {
    let data = (0..64).map(|_| Bytes::from(vec![7; row])).collect();
    let request = request(row, data);
    bencher.bench(|| encode_request(black_box(&request)));
}

#[divan::bench(sample_count = 2000, sample_size = 16)]
fn split_an_answer_to_8(bencher: Bencher<'_, '_>) {
    let row = 4096;
    let parts = ResponseParts {
        model: "digits".into(),
        version: "1".into(),
        outputs: vec![tensor(
            CALLERS,
            row,
            Bytes::from(vec![7; CALLERS * row]).into(),
        )],
        ..ResponseParts::default()
    };
    let answer = message(&encode_response(&parts, Form::Raw).expect("it can be written"));
    bencher
        .with_inputs(|| answer.clone())
        .bench_values(|answer| {
            let whole = decode_response(&answer).expect("it is well formed");
            let mut data = whole.outputs[0].data.clone();
            for _ in 0..CALLERS {
                let part = data.split_to(row).expect("there are as many rows");
                let part = ResponseParts {
                    model: whole.model.clone(),
                    version: whole.version.clone(),
                    id: "0123456789abcdef".into(),
                    outputs: vec![tensor(1, row, part)],
                    ..ResponseParts::default()
                };
                black_box(encode_response(&part, Form::Raw).expect("it can be written"));
            }
        });
}
