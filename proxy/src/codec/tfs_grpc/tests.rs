use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::{
    batch::Batchable,
    inference::{
        Code, Datatype, Form, Method, Parameters, Payload, RequestParts, RequestedOutput,
        ResponseParts, Shape, Signature, Tensor, TensorSpec,
    },
};
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::{
    control::{ModelMetadata, NamedSignature, Question, State, VersionStatus},
    witness::*,
    *,
};
use crate::codec::{grpc, oip_grpc::Peek};

// What is read and written, as small drivers.

const MAX_MESSAGE: usize = 64 << 20;

fn read(request: &PredictRequest) -> Result<RequestParts, Malformed> {
    decode_request(Method::Infer, &request.encode_to_vec().into(), MAX_MESSAGE)
}

fn read_tensor(tensor: &TensorProto) -> Result<Tensor, Malformed> {
    read_bytes(tensor.encode_to_vec())
}

/// Reads the one input of a request whose bytes are these.
fn read_bytes(tensor: Vec<u8>) -> Result<Tensor, Malformed> {
    let mut entry = vec![0x0a, 1, b'x', 0x12];
    prost::encode_length_delimiter(tensor.len(), &mut entry).expect("a vector grows");
    entry.extend(tensor);
    let mut request = vec![0x12];
    prost::encode_length_delimiter(entry.len(), &mut request).expect("a vector grows");
    request.extend(entry);
    let mut parts = decode_request(Method::Infer, &request.into(), MAX_MESSAGE)?;
    Ok(parts.inputs.remove(0))
}

/// Takes the five bytes off, which must be right.
fn unframed(payload: &Payload) -> Bytes {
    let framed = payload.to_bytes();
    assert_eq!(framed[..5], grpc::prefix(framed.len() - 5));
    framed.slice(5..)
}

fn shape(dimensions: &[i64]) -> Option<TensorShapeProto> {
    let dim = |size: &i64| Dim {
        size: *size,
        name: String::new(),
    };
    Some(TensorShapeProto {
        dim: dimensions.iter().map(dim).collect(),
        unknown_rank: false,
    })
}

fn floats(dimensions: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        dtype: 1,
        tensor_shape: shape(dimensions),
        float_val: values.to_vec(),
        ..TensorProto::default()
    }
}

fn faults(tensor: &TensorProto) -> (String, Fault) {
    let malformed = read_tensor(tensor).expect_err("it is not understood");
    (malformed.field().to_owned(), malformed.fault())
}

// The vocabulary as the witness says it, field by field.

fn elements(data: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = data;
    let mut elements = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (element, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
        elements.push(element.to_vec());
        rest = behind;
    }
    elements
}

fn witness_tensor(tensor: &Tensor, wanted: Form) -> TensorProto {
    fn all<const N: usize, T>(data: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.chunks_exact(N)
            .map(|element| read(element.try_into().expect("chunks are exact")))
            .collect()
    }
    let data = tensor.data.to_bytes();
    let mut proto = TensorProto {
        dtype: datatype::number(tensor.datatype) as i32,
        tensor_shape: shape(tensor.shape.dimensions()),
        ..TensorProto::default()
    };
    match tensor.datatype {
        Datatype::Bytes => proto.string_val = elements(&data),
        _ if wanted == Form::Raw => proto.tensor_content = data.to_vec(),
        Datatype::Bool => proto.bool_val = all(&data, |[byte]| byte != 0),
        Datatype::Uint8 => proto.int_val = all(&data, |[byte]| byte.into()),
        Datatype::Uint16 => proto.int_val = all(&data, |x| u16::from_le_bytes(x).into()),
        Datatype::Fp16 | Datatype::Bf16 => {
            proto.half_val = all(&data, |x| u16::from_le_bytes(x).into());
        }
        Datatype::Uint32 => proto.uint32_val = all(&data, u32::from_le_bytes),
        Datatype::Uint64 => proto.uint64_val = all(&data, u64::from_le_bytes),
        Datatype::Int8 => proto.int_val = all(&data, |x| i8::from_le_bytes(x).into()),
        Datatype::Int16 => proto.int_val = all(&data, |x| i16::from_le_bytes(x).into()),
        Datatype::Int32 => proto.int_val = all(&data, i32::from_le_bytes),
        Datatype::Int64 => proto.int64_val = all(&data, i64::from_le_bytes),
        Datatype::Fp32 => proto.float_val = all(&data, f32::from_le_bytes),
        Datatype::Fp64 => proto.double_val = all(&data, f64::from_le_bytes),
    }
    proto
}

fn unpacked(tensor: &TensorProto) -> UnpackedTensor {
    let tensor = tensor.clone();
    UnpackedTensor {
        dtype: tensor.dtype,
        tensor_shape: tensor.tensor_shape,
        float_val: tensor.float_val,
        double_val: tensor.double_val,
        int_val: tensor.int_val,
        string_val: tensor.string_val,
        int64_val: tensor.int64_val,
        bool_val: tensor.bool_val,
        half_val: tensor.half_val,
        uint32_val: tensor.uint32_val,
        uint64_val: tensor.uint64_val,
    }
}

fn witness_map(tensors: &[Tensor], wanted: Form) -> BTreeMap<String, TensorProto> {
    tensors
        .iter()
        .map(|tensor| (tensor.name.to_string(), witness_tensor(tensor, wanted)))
        .collect()
}

fn witness_spec(request: &RequestParts) -> ModelSpec {
    let version = request.head.version.parse().ok().map(|value| {
        let version = Int64Value { value };
        VersionChoice::Version(version)
    });
    let label = (!request.head.label.is_empty())
        .then(|| VersionChoice::Label(request.head.label.to_string()));
    ModelSpec {
        name: request.head.model.to_string(),
        version_choice: label.or(version),
        signature_name: request.head.signature.to_string(),
    }
}

fn same_requests(a: &RequestParts, b: &RequestParts) -> bool {
    a.head.model == b.head.model
        && a.head.version == b.head.version
        && a.head.label == b.head.label
        && a.head.signature == b.head.signature
        && a.head.method == b.head.method
        && a.parameters == b.parameters
        && a.outputs == b.outputs
        && same_tensors(&a.inputs, &b.inputs)
        && a.unknown == b.unknown
}

/// The same but for the form in which they stood.
fn same_tensors(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            *a == Tensor {
                form: a.form,
                ..b.clone()
            }
        })
}

// What may come.

fn text() -> impl Strategy<Value = ByteString> {
    "[a-z_é]{0,12}".prop_map(ByteString::from)
}

/// Fields of numbers that the protocol does not have.
fn unknown() -> impl Strategy<Value = Payload> {
    vec(vec(any::<u8>(), 0..9), 0..3).prop_map(|fields| {
        let field = |value: &Vec<u8>| [&[0xa2, 0x06, value.len() as u8][..], value].concat();
        Bytes::from(fields.iter().flat_map(field).collect::<Vec<_>>()).into()
    })
}

fn texts(count: usize) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let long = vec(any::<u8>(), 250..300);
    vec(prop_oneof![5 => vec(any::<u8>(), 0..6), 1 => long], count)
}

fn framed(elements: &[Vec<u8>]) -> Vec<u8> {
    elements
        .iter()
        .flat_map(|element| {
            let len = element.len() as u32;
            len.to_le_bytes().into_iter().chain(element.iter().copied())
        })
        .collect()
}

/// A rope of these bytes, cut anywhere.
fn rope(data: Vec<u8>) -> impl Strategy<Value = Payload> {
    let len = data.len();
    vec(0..=len, 0..3).prop_map(move |mut cuts| {
        cuts.sort_unstable();
        cuts.push(len);
        let data = Bytes::from(data.clone());
        let mut from = 0;
        cuts.into_iter()
            .map(|to| data.slice(std::mem::replace(&mut from, to)..to))
            .collect()
    })
}

fn tensor(name: impl Strategy<Value = ByteString>) -> impl Strategy<Value = Tensor> {
    let datatype = proptest::sample::select(&Datatype::ALL[..]);
    let contents = (datatype, vec(0_i64..5, 0..4)).prop_flat_map(|(datatype, shape)| {
        let elements = usize::try_from(shape.iter().product::<i64>()).expect("it is small");
        let data = match datatype.size() {
            Some(size) => vec(any::<u8>(), elements * size).boxed(),
            None => texts(elements).prop_map(|texts| framed(&texts)).boxed(),
        };
        let data = data.prop_flat_map(move |mut data| {
            // Typed, a truth value is 0 or 1, and NaNs are not equal to themselves.
            match datatype {
                Datatype::Bool => data.iter_mut().for_each(|byte| *byte &= 1),
                Datatype::Fp32 | Datatype::Fp64 => {
                    data.iter_mut().for_each(|byte| *byte &= 0x3f);
                }
                _ => {}
            }
            rope(data)
        });
        (Just(datatype), Just(shape), data)
    });
    let form = prop_oneof![Just(Form::Raw), Just(Form::Typed)];
    (name, contents, form, unknown()).prop_map(|(name, (datatype, shape, data), form, unknown)| {
        Tensor {
            name,
            datatype,
            shape: Shape::new(shape),
            parameters: Parameters::default(),
            data,
            form,
            unknown,
        }
    })
}

/// Tensors in the order of their names, which differ.
fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    vec(tensor(text()), 0..4).prop_map(|mut tensors| {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors.dedup_by(|a, b| a.name == b.name);
        tensors
    })
}

fn predict() -> impl Strategy<Value = RequestParts> {
    let version = prop_oneof![
        Just((ByteString::new(), ByteString::new())),
        any::<i64>().prop_map(|version| (version.to_string().into(), ByteString::new())),
        "[a-z]{1,9}".prop_map(|label| (ByteString::new(), label.into())),
    ];
    let outputs = proptest::collection::btree_set("[a-z]{0,5}", 0..3);
    ((text(), version, text()), tensors(), outputs, unknown()).prop_map(
        |((model, (version, label), signature), inputs, outputs, unknown)| {
            let mut request = RequestParts {
                inputs,
                outputs: outputs
                    .into_iter()
                    .map(|name| RequestedOutput {
                        name: name.into(),
                        parameters: Parameters::default(),
                        unknown: Payload::new(),
                    })
                    .collect(),
                unknown,
                ..RequestParts::default()
            };
            request.head.model = model;
            request.head.version = version;
            request.head.label = label;
            request.head.signature = signature;
            request
        },
    )
}

fn listed(name: &'static str, texts: &[Vec<u8>]) -> Tensor {
    Tensor {
        name: name.into(),
        datatype: Datatype::Bytes,
        shape: Shape::new([texts.len() as i64]),
        parameters: Parameters::default(),
        data: Bytes::from(framed(texts)).into(),
        form: Form::Typed,
        unknown: Payload::new(),
    }
}

fn examples() -> impl Strategy<Value = RequestParts> {
    let method = prop_oneof![Just(Method::Classify), Just(Method::Regress)];
    let context = proptest::option::of(vec(any::<u8>(), 0..9));
    let examples = (0_usize..5).prop_flat_map(texts);
    (method, text(), context, examples, unknown()).prop_map(
        |(method, model, context, examples, unknown)| {
            let mut request = RequestParts {
                inputs: vec![listed(EXAMPLES, &examples)],
                unknown,
                ..RequestParts::default()
            };
            if let Some(context) = context {
                let context = BASE64_STANDARD.encode(context).into();
                let context = outrigger_filters::inference::Parameter::String(context);
                request.parameters.insert(CONTEXT.into(), context);
            }
            request.head.model = model;
            request.head.method = method;
            request
        },
    )
}

proptest! {
    #[test]
    fn a_request_is_what_was_written(request in prop_oneof![predict(), examples()]) {
        let written = unframed(&encode_request(&request).unwrap());
        let read = decode_request(request.head.method, &written, MAX_MESSAGE).unwrap();
        prop_assert!(same_requests(&read, &request), "{read:?}\n{request:?}");
        prop_assert_eq!(unframed(&encode_request(&read).unwrap()), written);
    }

    #[test]
    fn a_response_is_what_was_written(
        (model, version) in (text(), any::<i64>()),
        outputs in tensors(),
        unknown in unknown(),
        wanted in prop_oneof![Just(Form::Raw), Just(Form::Typed)],
    ) {
        let response = ResponseParts {
            model,
            version: version.to_string().into(),
            outputs,
            unknown,
            ..ResponseParts::default()
        };
        let written = encode_response(Method::Infer, &response, "", wanted).unwrap();
        let written = unframed(&written);
        let read = decode_response(Method::Infer, &written, MAX_MESSAGE).unwrap();
        prop_assert_eq!(&read.model, &response.model);
        prop_assert_eq!(&read.version, &response.version);
        prop_assert_eq!(&read.unknown, &response.unknown);
        prop_assert!(same_tensors(&read.outputs, &response.outputs));

        let witness = PredictResponse::decode(written).unwrap();
        let spec = witness.model_spec.unwrap();
        prop_assert_eq!(spec.signature_name, "serving_default");
        prop_assert_eq!(witness.outputs, witness_map(&response.outputs, wanted));
    }

    #[test]
    fn results_are_what_was_written(
        method in prop_oneof![Just(Method::Classify), Just(Method::Regress)],
        results in (0_usize..5).prop_flat_map(texts),
        signature in text(),
    ) {
        let response = ResponseParts {
            model: "m".into(),
            version: "3".into(),
            outputs: vec![listed(RESULTS, &results)],
            ..ResponseParts::default()
        };
        let written = encode_response(method, &response, &signature, Form::Typed).unwrap();
        let written = unframed(&written);
        let read = decode_response(method, &written, MAX_MESSAGE).unwrap();
        prop_assert_eq!(&read.outputs, &response.outputs);
        prop_assert_eq!(&*read.version, "3");
        let witness = ResultsResponse::decode(written).unwrap();
        prop_assert_eq!(witness.result.unwrap().examples, results);
    }

    #[test]
    fn the_witness_reads_what_is_written(request in predict()) {
        let written = unframed(&encode_request(&request).unwrap());
        let witness = PredictRequest::decode(written).unwrap();
        prop_assert_eq!(witness.model_spec, Some(witness_spec(&request)));
        prop_assert_eq!(witness.inputs, witness_map(&request.inputs, Form::Raw));
        let names: Vec<_> = request.outputs.iter().map(|output| &*output.name).collect();
        prop_assert_eq!(witness.output_filter, names);
    }

    #[test]
    fn the_witness_reads_examples(request in examples()) {
        let written = unframed(&encode_request(&request).unwrap());
        let witness = ExamplesRequest::decode(written).unwrap();
        prop_assert_eq!(witness.model_spec, Some(witness_spec(&request)));
        let examples = elements(&request.inputs[0].data.to_bytes());
        let kind = match super::examples::context(&request.parameters).unwrap() {
            None => InputKind::ExampleList(ExampleList { examples }),
            context => {
                InputKind::ExampleListWithContext(ExampleListWithContext { examples, context })
            }
        };
        prop_assert_eq!(witness.input.unwrap().kind, Some(kind));
    }

    #[test]
    fn what_the_witness_writes_is_read(
        request in predict(),
        wanted in prop_oneof![Just(Form::Raw), Just(Form::Typed)],
    ) {
        let mut request = request;
        request.unknown = Payload::new();
        request.inputs.iter_mut().for_each(|input| input.unknown = Payload::new());
        let witness = PredictRequest {
            model_spec: Some(witness_spec(&request)),
            inputs: witness_map(&request.inputs, wanted),
            output_filter: request.outputs.iter().rev().map(|output| output.name.to_string()).collect(),
            client_id: None,
        };
        let read = read(&witness).unwrap();
        prop_assert!(same_requests(&read, &request), "{read:?}\n{request:?}");
    }

    #[test]
    fn lists_may_be_packed_or_not(tensor in tensor(Just(ByteString::from("x")))) {
        let packed = witness_tensor(&tensor, Form::Typed);
        let read = read_bytes(unpacked(&packed).encode_to_vec()).unwrap();
        prop_assert_eq!(&read.data, &tensor.data);
        prop_assert_eq!(&read_tensor(&packed).unwrap().data, &tensor.data);
    }

    #[test]
    fn a_short_list_equals_its_expansion(
        tensor in tensor(Just(ByteString::from("x"))),
        kept in 0_usize..9,
        times in 0_usize..9,
    ) {
        let rank_1 = |count: usize| Tensor {
            shape: Shape::new([count as i64]),
            ..tensor.clone()
        };
        let there = tensor.shape.elements().unwrap();
        let mut short = witness_tensor(&rank_1(there), Form::Typed);
        let mut long = short.clone();
        let elements = kept.min(there) + times;
        fn cut<T: Clone + Default>(short: &mut Vec<T>, long: &mut Vec<T>, kept: usize, all: usize) {
            if long.is_empty() && all == 0 {
                return;
            }
            short.truncate(kept);
            let last = short.last().cloned().unwrap_or_default();
            *long = short.clone();
            long.resize(all, last);
        }
        match tensor.datatype {
            Datatype::Fp32 => cut(&mut short.float_val, &mut long.float_val, kept, elements),
            Datatype::Fp64 => cut(&mut short.double_val, &mut long.double_val, kept, elements),
            Datatype::Bytes => cut(&mut short.string_val, &mut long.string_val, kept, elements),
            Datatype::Int64 => cut(&mut short.int64_val, &mut long.int64_val, kept, elements),
            Datatype::Bool => cut(&mut short.bool_val, &mut long.bool_val, kept, elements),
            Datatype::Fp16 | Datatype::Bf16 => cut(&mut short.half_val, &mut long.half_val, kept, elements),
            Datatype::Uint32 => cut(&mut short.uint32_val, &mut long.uint32_val, kept, elements),
            Datatype::Uint64 => cut(&mut short.uint64_val, &mut long.uint64_val, kept, elements),
            _ => cut(&mut short.int_val, &mut long.int_val, kept, elements),
        }
        short.tensor_shape = shape(&[elements as i64]);
        long.tensor_shape = shape(&[elements as i64]);
        prop_assert_eq!(read_tensor(&short).unwrap().data, read_tensor(&long).unwrap().data);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        for method in [Method::Infer, Method::Classify, Method::Regress] {
            let _ = decode_request(method, &bytes, MAX_MESSAGE);
            let _ = decode_response(method, &bytes, MAX_MESSAGE);
        }
        let _ = ModelMetadata::read(&bytes);
        let _ = VersionStatus::read_all(&bytes);
        let _ = Question::read(&bytes);
    }

    #[test]
    fn a_name_is_found_as_soon_as_it_has_come(request in prop_oneof![predict(), examples()]) {
        let written = unframed(&encode_request(&request).unwrap());
        let mut found = false;
        for len in 0..=written.len() {
            match model_name(&written[..len], written.len()) {
                Peek::Found(name) => {
                    found = true;
                    prop_assert_eq!(&written[name], request.head.model.as_bytes());
                }
                Peek::Incomplete => prop_assert!(len < written.len() && !found),
                Peek::Absent => prop_assert!(len == written.len() && request.head.model.is_empty()),
                Peek::Malformed => prop_assert!(false),
            }
        }
    }
}

#[test]
fn contents_and_packed_floats_are_shared() {
    let raw = TensorProto {
        dtype: 3,
        tensor_shape: shape(&[2, 200]),
        tensor_content: vec![7; 1600],
        ..TensorProto::default()
    };
    for tensor in [raw, floats(&[400], &[1.5; 400])] {
        let message = Bytes::from(
            PredictRequest {
                inputs: [("x".to_owned(), tensor)].into(),
                ..PredictRequest::default()
            }
            .encode_to_vec(),
        );
        let request = decode_request(Method::Infer, &message, MAX_MESSAGE).unwrap();
        let shared = |payload: &Payload| {
            let mut pieces = payload.pieces();
            pieces.any(|piece| message.as_ptr_range().contains(&piece.as_ptr()))
        };
        assert!(shared(&request.inputs[0].data));
        assert!(shared(&encode_request(&request).unwrap()));
        let answer = ResponseParts {
            outputs: request.inputs,
            ..ResponseParts::default()
        };
        assert!(shared(
            &encode_response(Method::Infer, &answer, "", Form::Raw).unwrap()
        ));
    }
}

#[test]
fn the_form_of_an_answer_is_the_servers() {
    for wanted in [Form::Raw, Form::Typed] {
        let answer = ResponseParts {
            outputs: vec![Tensor {
                datatype: Datatype::Int8,
                data: Bytes::from_static(&[1]).into(),
                ..listed("y", &[vec![]])
            }],
            ..ResponseParts::default()
        };
        let written = encode_response(Method::Infer, &answer, "", wanted).unwrap();
        let read = decode_response(Method::Infer, &unframed(&written), MAX_MESSAGE).unwrap();
        assert_eq!(form(&read), wanted);
    }
}

#[test]
fn long_texts_are_shared() {
    let tensor = TensorProto {
        dtype: 7,
        tensor_shape: shape(&[2]),
        string_val: vec![vec![1; 3], vec![2; 300]],
        ..TensorProto::default()
    };
    let read = read_tensor(&tensor).unwrap();
    assert_eq!(read.data.pieces().len(), 2);
    assert_eq!(read.data.len(), 311);
}

#[test]
fn texts_may_stand_in_the_content() {
    let mut tensor = TensorProto {
        dtype: 7,
        tensor_shape: shape(&[3]),
        tensor_content: [&[1, 0, 2][..], b"abc"].concat(),
        ..TensorProto::default()
    };
    let read = read_tensor(&tensor).unwrap();
    assert_eq!(
        elements(&read.data.to_bytes()),
        [&b"a"[..], b"", b"bc"].map(<[u8]>::to_vec)
    );
    tensor.tensor_content.pop();
    assert_eq!(
        faults(&tensor),
        ("inputs[x].tensor_content".into(), Fault::Length)
    );
}

#[test]
fn an_empty_list_is_all_zeros() {
    let read = read_tensor(&floats(&[2, 3], &[])).unwrap();
    assert_eq!(read.data.to_bytes(), [0; 24][..]);
    let texts = TensorProto {
        dtype: 7,
        tensor_shape: shape(&[3]),
        ..TensorProto::default()
    };
    assert_eq!(read_tensor(&texts).unwrap().data.to_bytes(), [0; 12][..]);
}

#[test]
fn an_expansion_shares_what_it_repeats() {
    let read = read_tensor(&floats(&[1 << 20], &[1.0, 2.0])).unwrap();
    let data = read.data.to_bytes();
    assert_eq!(data.len(), 4 << 20);
    assert_eq!(data[..4], 1_f32.to_le_bytes());
    assert!(
        data[4..]
            .chunks(4)
            .all(|chunk| chunk == 2_f32.to_le_bytes())
    );
    assert!(read.data.pieces().len() < 80);
    let (field, fault) = faults(&floats(&[1 << 40], &[1.0]));
    assert_eq!((&*field, fault), ("inputs[x].float_val", Fault::TooLong));
}

#[test]
fn an_expansion_is_no_longer_than_a_message_may_be() {
    let tensor = TensorProto {
        dtype: 6,
        tensor_shape: shape(&[1 << 20]),
        int_val: vec![1],
        ..TensorProto::default()
    };
    let named = [("x".to_owned(), tensor)];
    let request = PredictRequest {
        inputs: named.clone().into(),
        ..PredictRequest::default()
    };
    let request = request.encode_to_vec().into();
    assert!(decode_request(Method::Infer, &request, 1 << 20).is_ok());
    let refused = decode_request(Method::Infer, &request, (1 << 20) - 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "inputs[x].int_val would be longer than limits.max_message allows"
    );
    let response = PredictResponse {
        outputs: named.into(),
        ..PredictResponse::default()
    };
    let response = response.encode_to_vec().into();
    assert!(decode_response(Method::Infer, &response, 1 << 20).is_ok());
    assert!(decode_response(Method::Infer, &response, (1 << 20) - 1).is_err());
}

#[test]
fn what_is_not_understood_is_named() {
    let good = floats(&[2], &[1.0, 2.0]);
    let named = TensorProto {
        tensor_shape: Some(TensorShapeProto {
            dim: vec![Dim {
                size: 2,
                name: "rows".into(),
            }],
            unknown_rank: false,
        }),
        ..good.clone()
    };
    let unranked = TensorProto {
        tensor_shape: Some(TensorShapeProto {
            dim: vec![],
            unknown_rank: true,
        }),
        ..good.clone()
    };
    let complex = TensorProto {
        dtype: 8,
        ..good.clone()
    };
    let elsewhere = TensorProto {
        dtype: 9,
        ..good.clone()
    };
    let twice = TensorProto {
        tensor_content: vec![0; 8],
        ..good
    };
    let byte = TensorProto {
        dtype: 4,
        tensor_shape: shape(&[1]),
        int_val: vec![256],
        ..TensorProto::default()
    };
    for (tensor, field, fault) in [
        (named, "inputs[x].tensor_shape", Fault::Shape),
        (unranked, "inputs[x].tensor_shape", Fault::Shape),
        (floats(&[-1], &[]), "inputs[x].tensor_shape", Fault::Shape),
        (
            floats(&[1], &[1.0, 2.0]),
            "inputs[x].float_val",
            Fault::Length,
        ),
        (complex, "inputs[x].dtype", Fault::Datatype),
        (elsewhere, "inputs[x].float_val", Fault::Misplaced),
        (twice, "inputs[x].tensor_content", Fault::Misplaced),
        (byte, "inputs[x].int_val", Fault::Range),
    ] {
        assert_eq!(faults(&tensor), (field.to_owned(), fault));
    }
    let malformed = read_tensor(&floats(&[-1], &[])).unwrap_err();
    assert_eq!(
        malformed.to_string(),
        "inputs[x].tensor_shape is not a shape of plain dimensions"
    );
}

#[test]
fn an_output_asked_for_twice_is_the_servers_to_refuse() {
    let request = PredictRequest {
        output_filter: vec!["a".into(), "b".into(), "a".into()],
        ..PredictRequest::default()
    };
    let malformed = read(&request).unwrap_err();
    assert_eq!(malformed.field(), "output_filter");
}

#[test]
fn options_of_a_stream_are_kept() {
    let request = PredictRequest {
        client_id: Some(b"me".to_vec()),
        ..PredictRequest::default()
    };
    let read = read(&request).unwrap();
    assert_eq!(read.unknown.to_bytes(), [0x32, 2, b'm', b'e'][..]);
}

#[test]
fn of_two_inputs_under_one_name_the_last_counts() {
    let one = |value| PredictRequest {
        inputs: [("x".to_owned(), floats(&[1], &[value]))].into(),
        ..PredictRequest::default()
    };
    let mut message = one(1.0).encode_to_vec();
    message.extend(one(2.0).encode_to_vec());
    let read = decode_request(Method::Infer, &message.into(), MAX_MESSAGE).unwrap();
    assert_eq!(read.inputs.len(), 1);
    assert_eq!(read.inputs[0].data.to_bytes(), 2_f32.to_le_bytes()[..]);
}

#[test]
fn the_default_signature_has_no_name() {
    let mut request = PredictRequest {
        model_spec: Some(ModelSpec {
            name: "m".into(),
            signature_name: "serving_default".into(),
            version_choice: None,
        }),
        ..PredictRequest::default()
    };
    assert_eq!(read(&request).unwrap().head.signature, "");
    request.model_spec.as_mut().unwrap().signature_name = "other".into();
    assert_eq!(read(&request).unwrap().head.signature, "other");
}

#[test]
fn a_version_must_be_a_number() {
    let mut request = RequestParts::default();
    request.head.version = "v2".into();
    let malformed = encode_request(&request).unwrap_err();
    assert_eq!(malformed.to_string(), "model_spec.version is not a number");
}

// Questions about models.

fn metadata() -> ModelMetadata {
    let spec = |name: &str, datatype, shape: Option<&[i64]>| TensorSpec {
        name: name.to_owned().into(),
        datatype,
        shape: shape.map(|shape| Shape::new(shape.iter().copied())),
    };
    ModelMetadata {
        model: "m".into(),
        version: Some(3),
        signatures: vec![
            NamedSignature {
                name: "open".into(),
                method: control::PREDICT.into(),
                signature: Signature {
                    inputs: vec![spec("x", Datatype::Fp32, Some(&[-1, 0, 4]))],
                    outputs: vec![spec("y", Datatype::Bytes, Some(&[-1]))],
                },
            },
            NamedSignature {
                name: "serving_default".into(),
                method: control::CLASSIFY.into(),
                signature: Signature {
                    inputs: vec![spec("x", Datatype::Fp32, None)],
                    outputs: vec![spec("y", Datatype::Int64, Some(&[]))],
                },
            },
        ],
    }
}

#[test]
fn metadata_come_back() {
    let metadata = metadata();
    assert_eq!(ModelMetadata::read(&metadata.write()).unwrap(), metadata);
    assert_eq!(metadata.signature("").unwrap().name, "serving_default");
    assert_eq!(
        metadata.signature("open").unwrap().batchable(),
        Batchable::Yes {
            max_batch_size: None
        }
    );
    assert_eq!(
        metadata.signature("").unwrap().batchable(),
        Batchable::Unknown
    );
}

#[test]
fn the_witness_reads_metadata_and_is_read() {
    let message = metadata().write();
    let mut witness = GetModelMetadataResponse::decode(message).unwrap();
    let any = witness.metadata.get_mut("signature_def").unwrap();
    assert_eq!(
        any.type_url,
        "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    );
    let mut map = SignatureDefMap::decode(&*any.value).unwrap();
    let open = map.signature_def.get("open").unwrap().clone();
    assert_eq!(open.method_name, "tensorflow/serving/predict");
    assert_eq!(open.inputs["x"].dtype, 1);
    assert_eq!(open.inputs["x"].tensor_shape, shape(&[-1, 0, 4]));

    // A signature of which a datatype is not understood is left out.
    let mut init = open;
    init.outputs.insert("init".into(), TensorInfo::default());
    map.signature_def
        .insert("__saved_model_init_op".into(), init);
    any.value = map.encode_to_vec();
    let read = ModelMetadata::read(&witness.encode_to_vec().into()).unwrap();
    assert_eq!(read, metadata());
}

#[test]
fn statuses_and_questions_come_back() {
    let statuses: Vec<_> = State::ALL
        .into_iter()
        .zip(-1..)
        .map(|(state, version)| VersionStatus {
            version,
            state,
            error_code: match state {
                State::End => Code::Internal,
                _ => Code::Ok,
            },
            error_message: state.name().into(),
        })
        .collect();
    let message = VersionStatus::write_all(&statuses);
    assert_eq!(VersionStatus::read_all(&message).unwrap(), statuses);
    for (version, label) in [(None, ""), (Some(0), ""), (Some(7), ""), (None, "stable")] {
        let question = Question {
            model: "m".into(),
            version,
            label: label.into(),
            fields: vec![control::SIGNATURE_DEF.into()],
        };
        let message = question.write();
        assert_eq!(Question::read(&message).unwrap(), question);
        let Peek::Found(name) = model_name(&message, message.len()) else {
            panic!("the name is there");
        };
        assert_eq!(message[name], b"m"[..]);
    }
}
