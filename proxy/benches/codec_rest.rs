//! What JSON costs: `cargo bench -p outrigger --bench codec_rest`.
//!
//! Times are of one operation; the lines below them count its allocations and their bytes. The
//! yardstick is a tree of `serde_json::Value`.

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use outrigger::codec::{
    json::{Reader, Strings, write_flat},
    oip_rest::{Body, Reply, decode_request, decode_response, encode_request, encode_response},
};
use outrigger_filters::inference::{
    Datatype, Form, Parameters, Payload, RequestParts, ResponseParts, Shape, Tensor,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// How clients write an FP32.
#[derive(Clone, Copy, Debug)]
enum Digits {
    /// Just enough: `0.1234567`.
    Short,
    /// As the FP64 that Python makes of it: `0.12345670163631439`.
    Python,
    /// Three places, with spaces: `0.123, `.
    Few,
}

const DIGITS: [Digits; 3] = [Digits::Short, Digits::Python, Digits::Few];

/// The numbers of an embedding, of a picture.
fn numbers(count: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(7);
    (0..count)
        .map(|_| random.random_range(-1.0..1.0_f32))
        .collect()
}

fn text(count: usize, digits: Digits) -> Bytes {
    let texts: Vec<String> = numbers(count)
        .into_iter()
        .map(|number| match digits {
            Digits::Short => number.to_string(),
            Digits::Python => f64::from(number).to_string(),
            Digits::Few => format!("{number:.3}"),
        })
        .collect();
    let comma = match digits {
        Digits::Short => ",",
        Digits::Python | Digits::Few => ", ",
    };
    format!("[{}]", texts.join(comma)).into()
}

#[divan::bench_group(sample_count = 1000, sample_size = 4)]
mod row_of_768 {
    use super::*;

    #[divan::bench(args = DIGITS)]
    fn as_a_tree(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| serde_json::from_slice::<serde_json::Value>(black_box(&text)));
    }

    #[divan::bench(args = DIGITS)]
    fn as_fp32(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| Reader::new(black_box(&text)).parse(Datatype::Fp32, Strings::Plain));
    }

    #[divan::bench(args = DIGITS)]
    fn passed_on(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| Reader::new(black_box(&text)).scan());
    }

    #[divan::bench(args = DIGITS)]
    fn stepped_over(bencher: Bencher<'_, '_>, digits: Digits) {
        let text = text(768, digits);
        bencher.bench(|| Reader::new(black_box(&text)).value());
    }

    #[divan::bench]
    fn written(bencher: Bencher<'_, '_>) {
        let data: Vec<u8> = numbers(768)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        bencher.bench(|| {
            let mut out = Vec::new();
            write_flat(Datatype::Fp32, black_box(&data), Strings::Plain, &mut out).map(|()| out)
        });
    }

    #[divan::bench]
    fn written_from_a_tree(bencher: Bencher<'_, '_>) {
        let tree = serde_json::Value::from(numbers(768));
        bencher.bench(|| serde_json::to_vec(black_box(&tree)));
    }
}

/// Bytes of an embedding of 768 floats, and of a picture of 224 by 224.
const TENSORS: [usize; 2] = [3072, 602_112];

fn tensor(len: usize) -> Tensor {
    let data: Vec<u8> = numbers(len / 4)
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    Tensor {
        name: "input__0".into(),
        datatype: Datatype::Fp32,
        shape: Shape::new([1, i64::try_from(len / 4).expect("it is small")]),
        parameters: Parameters::default(),
        data: Bytes::from(data).into(),
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

fn request(len: usize) -> RequestParts {
    let mut request = RequestParts {
        inputs: vec![tensor(len)],
        ..RequestParts::default()
    };
    request.head.id = "0123456789abcdef".into();
    request
}

fn response(len: usize) -> ResponseParts {
    ResponseParts {
        model: "digits".into(),
        version: "1".into(),
        outputs: vec![tensor(len)],
        ..ResponseParts::default()
    }
}

/// The request as a client writes it without binary tensors.
fn json(len: usize) -> Bytes {
    let text = text(len / 4, Digits::Short);
    let mut body = format!(
        r#"{{"id":"0123456789abcdef","inputs":[{{"name":"input__0","shape":[1,{}],"datatype":"FP32","data":"#,
        len / 4
    )
    .into_bytes();
    body.extend_from_slice(&text);
    body.extend_from_slice(b"}]}");
    body.into()
}

/// The answer to such a request.
fn answer(len: usize) -> Bytes {
    let body = encode_response(&response(len), &Reply::json()).expect("it can be written");
    body.payload.to_bytes()
}

fn binary(body: Body) -> (Bytes, Option<usize>) {
    (body.payload.to_bytes(), body.json_len)
}

#[divan::bench_group(sample_count = 200, sample_size = 2)]
mod oip_rest {
    use super::*;

    #[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
    fn decode_a_binary_request(bencher: Bencher<'_, '_>, len: usize) {
        let (body, json_len) = binary(encode_request(&request(len)));
        bencher.bench(|| decode_request(black_box(&body), json_len, Form::Raw));
    }

    #[divan::bench(args = TENSORS)]
    fn decode_a_json_request_to_bytes(bencher: Bencher<'_, '_>, len: usize) {
        let body = json(len);
        bencher.bench(|| decode_request(black_box(&body), None, Form::Raw));
    }

    #[divan::bench(args = TENSORS)]
    fn decode_a_json_request_to_text(bencher: Bencher<'_, '_>, len: usize) {
        let body = json(len);
        bencher.bench(|| decode_request(black_box(&body), None, Form::Flat));
    }

    #[divan::bench(args = TENSORS)]
    fn decode_a_json_request_to_a_tree(bencher: Bencher<'_, '_>, len: usize) {
        let body = json(len);
        bencher.bench(|| serde_json::from_slice::<serde_json::Value>(black_box(&body)));
    }

    #[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
    fn encode_a_binary_request(bencher: Bencher<'_, '_>, len: usize) {
        let request = request(len);
        bencher.bench(|| encode_request(black_box(&request)));
    }

    #[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
    fn encode_a_text_request(bencher: Bencher<'_, '_>, len: usize) {
        let (request, _) = decode_request(&json(len), None, Form::Flat).expect("it is well formed");
        bencher.bench(|| encode_request(black_box(&request)));
    }

    #[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
    fn decode_a_binary_answer(bencher: Bencher<'_, '_>, len: usize) {
        let reply = decode_request(
            &Bytes::from_static(br#"{"parameters":{"binary_data_output":true},"inputs":[]}"#),
            None,
            Form::Raw,
        );
        let (_, reply) = reply.expect("it is well formed");
        let body = encode_response(&response(len), &reply).expect("it can be written");
        let (body, json_len) = binary(body);
        bencher.bench(|| decode_response(black_box(&body), json_len));
    }

    #[divan::bench(args = TENSORS)]
    fn decode_a_json_answer(bencher: Bencher<'_, '_>, len: usize) {
        let body = answer(len);
        bencher.bench(|| decode_response(black_box(&body), None));
    }

    #[divan::bench(args = TENSORS)]
    fn encode_bytes_as_a_json_answer(bencher: Bencher<'_, '_>, len: usize) {
        let response = response(len);
        bencher.bench(|| encode_response(black_box(&response), &Reply::json()));
    }

    #[divan::bench(args = TENSORS, sample_count = 2000, sample_size = 16)]
    fn encode_text_as_a_json_answer(bencher: Bencher<'_, '_>, len: usize) {
        let response = decode_response(&answer(len), None).expect("it is well formed");
        bencher.bench(|| encode_response(black_box(&response), &Reply::json()));
    }

    #[divan::bench(args = TENSORS)]
    fn encode_a_tree(bencher: Bencher<'_, '_>, len: usize) {
        let tree: serde_json::Value =
            serde_json::from_slice(&answer(len)).expect("it is well formed");
        bencher.bench(|| serde_json::to_vec(black_box(&tree)));
    }
}
