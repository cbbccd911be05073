use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{
    Datatype, Form, Parameter, Parameters, Payload, RequestParts, RequestedOutput, ResponseParts,
    Shape, Tensor,
};
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::{
    witness::{
        InferParameter, InferRequestedOutputTensor, InferTensor, InferTensorContents,
        ModelInferRequest, ModelInferResponse, ParameterChoice, UnpackedTensor,
    },
    *,
};
use crate::codec::grpc;

// What is read and written, as small drivers.

fn read(message: &ModelInferRequest) -> Result<RequestParts, Malformed> {
    decode_request(&message.encode_to_vec().into())
}

fn written(request: &RequestParts) -> Bytes {
    unframed(&encode_request(request).expect("no tensor is text"))
}

fn answered(response: &ResponseParts, wanted: Form) -> Bytes {
    unframed(&encode_response(response, wanted).expect("no tensor is text"))
}

/// Takes the five bytes off, which must be right.
fn unframed(payload: &Payload) -> Bytes {
    let framed = payload.to_bytes();
    assert_eq!(framed[..5], grpc::prefix(framed.len() - 5));
    framed.slice(5..)
}

fn tensor(datatype: Datatype, shape: &[i64], data: impl Into<Bytes>, form: Form) -> Tensor {
    Tensor {
        name: "x".into(),
        datatype,
        shape: Shape::new(shape.iter().copied()),
        parameters: Parameters::default(),
        data: Payload::from(data.into()),
        form,
        unknown: Payload::new(),
    }
}

// The vocabulary as the witness says it, field by field.

fn witness_parameters(parameters: &Parameters) -> BTreeMap<String, InferParameter> {
    let choice = |value: &Parameter| match value {
        Parameter::Bool(value) => Some(ParameterChoice::Bool(*value)),
        Parameter::Int64(value) => Some(ParameterChoice::Int64(*value)),
        Parameter::String(value) => Some(ParameterChoice::String(value.to_string())),
        Parameter::Double(value) => Some(ParameterChoice::Double(*value)),
        Parameter::Uint64(value) => Some(ParameterChoice::Uint64(*value)),
        Parameter::Unset => None,
    };
    parameters
        .iter()
        .map(|(name, value)| {
            let parameter_choice = choice(value);
            (name.to_string(), InferParameter { parameter_choice })
        })
        .collect()
}

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

fn witness_contents(datatype: Datatype, data: &[u8]) -> InferTensorContents {
    fn all<const N: usize, T>(data: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.chunks_exact(N)
            .map(|element| read(element.try_into().expect("chunks are exact")))
            .collect()
    }
    let mut contents = InferTensorContents::default();
    match datatype {
        Datatype::Bool => contents.bool_contents = all(data, |[byte]| byte != 0),
        Datatype::Uint8 => contents.uint_contents = all(data, |[byte]| byte.into()),
        Datatype::Uint16 => contents.uint_contents = all(data, |x| u16::from_le_bytes(x).into()),
        Datatype::Uint32 => contents.uint_contents = all(data, u32::from_le_bytes),
        Datatype::Uint64 => contents.uint64_contents = all(data, u64::from_le_bytes),
        Datatype::Int8 => contents.int_contents = all(data, |x| i8::from_le_bytes(x).into()),
        Datatype::Int16 => contents.int_contents = all(data, |x| i16::from_le_bytes(x).into()),
        Datatype::Int32 => contents.int_contents = all(data, i32::from_le_bytes),
        Datatype::Int64 => contents.int64_contents = all(data, i64::from_le_bytes),
        Datatype::Fp32 => contents.fp32_contents = all(data, f32::from_le_bytes),
        Datatype::Fp64 => contents.fp64_contents = all(data, f64::from_le_bytes),
        Datatype::Bytes => contents.bytes_contents = elements(data),
        Datatype::Fp16 | Datatype::Bf16 => unreachable!("they have no typed form"),
    }
    contents
}

fn witness_tensor(tensor: &Tensor) -> InferTensor {
    let data = tensor.data.to_bytes();
    InferTensor {
        name: tensor.name.to_string(),
        datatype: tensor.datatype.to_string(),
        shape: tensor.shape.dimensions().to_vec(),
        parameters: witness_parameters(&tensor.parameters),
        contents: (tensor.form == Form::Typed && !data.is_empty())
            .then(|| witness_contents(tensor.datatype, &data)),
    }
}

fn witness_raw(tensors: &[Tensor]) -> Vec<Vec<u8>> {
    tensors
        .iter()
        .filter(|tensor| tensor.form == Form::Raw)
        .map(|tensor| tensor.data.to_bytes().to_vec())
        .collect()
}

fn witness_request(request: &RequestParts) -> ModelInferRequest {
    ModelInferRequest {
        model_name: request.head.model.to_string(),
        model_version: request.head.version.to_string(),
        id: request.head.id.to_string(),
        parameters: witness_parameters(&request.parameters),
        inputs: request.inputs.iter().map(witness_tensor).collect(),
        outputs: request
            .outputs
            .iter()
            .map(|output| InferRequestedOutputTensor {
                name: output.name.to_string(),
                parameters: witness_parameters(&output.parameters),
            })
            .collect(),
        raw_input_contents: witness_raw(&request.inputs),
    }
}

fn witness_response(response: &ResponseParts) -> ModelInferResponse {
    ModelInferResponse {
        model_name: response.model.to_string(),
        model_version: response.version.to_string(),
        id: response.id.to_string(),
        parameters: witness_parameters(&response.parameters),
        outputs: response.outputs.iter().map(witness_tensor).collect(),
        raw_output_contents: witness_raw(&response.outputs),
    }
}

// Parts that do not say `PartialEq` are compared here; the witness says maps in another order.

fn same_parameters(a: &Parameters, b: &Parameters) -> bool {
    a.len() == b.len() && a.iter().all(|(name, value)| b.get(name) == Some(value))
}

fn same_tensors(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            same_parameters(&a.parameters, &b.parameters)
                && Tensor {
                    parameters: Parameters::default(),
                    ..a.clone()
                } == Tensor {
                    parameters: Parameters::default(),
                    ..b.clone()
                }
        })
}

fn same_requests(a: &RequestParts, b: &RequestParts) -> bool {
    let outputs = a.outputs.iter().zip(&b.outputs).all(|(a, b)| {
        a.name == b.name && same_parameters(&a.parameters, &b.parameters) && a.unknown == b.unknown
    });
    outputs
        && a.outputs.len() == b.outputs.len()
        && a.head.model == b.head.model
        && a.head.version == b.head.version
        && a.head.id == b.head.id
        && same_parameters(&a.parameters, &b.parameters)
        && same_tensors(&a.inputs, &b.inputs)
        && a.unknown == b.unknown
}

fn same_responses(a: &ResponseParts, b: &ResponseParts) -> bool {
    a.model == b.model
        && a.version == b.version
        && a.id == b.id
        && same_parameters(&a.parameters, &b.parameters)
        && same_tensors(&a.outputs, &b.outputs)
        && a.unknown == b.unknown
}

// What may come.

fn text() -> impl Strategy<Value = ByteString> {
    "[a-z_é]{0,12}".prop_map(ByteString::from)
}

fn parameter() -> impl Strategy<Value = Parameter> {
    prop_oneof![
        any::<bool>().prop_map(Parameter::Bool),
        any::<i64>().prop_map(Parameter::Int64),
        text().prop_map(Parameter::String),
        (-1e9..1e9).prop_map(Parameter::Double),
        any::<u64>().prop_map(Parameter::Uint64),
        Just(Parameter::Unset),
    ]
}

fn parameters() -> impl Strategy<Value = Parameters> {
    vec((text(), parameter()), 0..3).prop_map(|pairs| pairs.into_iter().collect())
}

/// Fields of numbers that the protocol does not have, of all wire types.
fn unknown() -> impl Strategy<Value = Payload> {
    let field = prop_oneof![
        any::<u8>().prop_map(|value| vec![0xa0, 0x06, value & 0x7f]),
        any::<[u8; 8]>().prop_map(|value| [&[0xa1, 0x06][..], &value].concat()),
        vec(any::<u8>(), 0..9).prop_map(|value| {
            let len = value.len() as u8;
            [&[0xa2, 0x06, len][..], &value].concat()
        }),
        any::<u8>().prop_map(|value| vec![0xa3, 0x06, 0x08, value & 0x7f, 0xa4, 0x06]),
        any::<[u8; 4]>().prop_map(|value| [&[0xa5, 0x06][..], &value].concat()),
    ];
    vec(field, 0..3).prop_map(|fields| Bytes::from(fields.concat()).into())
}

fn datatype() -> impl Strategy<Value = Datatype> {
    proptest::sample::select(&Datatype::ALL[..])
}

fn any_tensor(form: Form, unknown: BoxedStrategy<Payload>) -> impl Strategy<Value = Tensor> {
    let contents = (datatype(), vec(0_i64..5, 0..4)).prop_flat_map(move |(datatype, shape)| {
        // FP16 and BF16 have no typed form.
        let datatype = match (form, datatype) {
            (Form::Typed, Datatype::Fp16) => Datatype::Fp32,
            (Form::Typed, Datatype::Bf16) => Datatype::Fp64,
            (_, datatype) => datatype,
        };
        let elements = usize::try_from(shape.iter().product::<i64>()).expect("it is small");
        let data = match datatype.size() {
            _ if form == Form::Absent => Just(Vec::new()).boxed(),
            Some(size) => vec(any::<u8>(), elements * size).boxed(),
            None => vec(vec(any::<u8>(), 0..6), elements)
                .prop_map(|elements| {
                    let framed = elements.iter().flat_map(|element| {
                        let len = element.len() as u32;
                        len.to_le_bytes().into_iter().chain(element.iter().copied())
                    });
                    framed.collect()
                })
                .boxed(),
        };
        (Just(datatype), Just(shape), data)
    });
    (text(), contents, parameters(), unknown).prop_map(
        move |(name, (datatype, shape, mut data), mut parameters, unknown)| {
            // Typed, a truth value is 0 or 1, and NaNs are not equal to themselves.
            if form == Form::Typed {
                match datatype {
                    Datatype::Bool => data.iter_mut().for_each(|byte| *byte &= 1),
                    Datatype::Fp32 | Datatype::Fp64 => {
                        data.iter_mut().for_each(|byte| *byte &= 0x3f);
                    }
                    _ => {}
                }
            }
            if form == Form::Absent {
                let region = Parameter::String("region".into());
                parameters.insert("shared_memory_region".into(), region);
            }
            Tensor {
                name,
                datatype,
                shape: Shape::new(shape),
                parameters,
                data: Bytes::from(data).into(),
                form,
                unknown,
            }
        },
    )
}

fn tensors(unknown: BoxedStrategy<Payload>) -> impl Strategy<Value = Vec<Tensor>> {
    any::<bool>().prop_flat_map(move |typed| {
        let form = if typed { Form::Typed } else { Form::Raw };
        let tensor = prop_oneof![
            5 => any_tensor(form, unknown.clone()),
            1 => any_tensor(Form::Absent, unknown.clone()),
        ];
        vec(tensor, 0..4)
    })
}

fn request(unknown: BoxedStrategy<Payload>) -> impl Strategy<Value = RequestParts> {
    let output = (text(), parameters(), unknown.clone()).prop_map(|(name, parameters, unknown)| {
        RequestedOutput {
            name,
            parameters,
            unknown,
        }
    });
    (
        (text(), text(), text()),
        tensors(unknown.clone()),
        vec(output, 0..3),
        parameters(),
        unknown,
    )
        .prop_map(
            |((model, version, id), inputs, outputs, parameters, unknown)| {
                let mut request = RequestParts {
                    inputs,
                    outputs,
                    parameters,
                    unknown,
                    ..RequestParts::default()
                };
                request.head.model = model;
                request.head.version = version;
                request.head.id = id;
                request
            },
        )
}

fn response(unknown: BoxedStrategy<Payload>) -> impl Strategy<Value = ResponseParts> {
    (
        (text(), text(), text()),
        tensors(unknown.clone()),
        parameters(),
        unknown,
    )
        .prop_map(
            |((model, version, id), outputs, parameters, unknown)| ResponseParts {
                model,
                version,
                id,
                parameters,
                outputs,
                unknown,
            },
        )
}

fn nothing() -> BoxedStrategy<Payload> {
    Just(Payload::new()).boxed()
}

proptest! {
    #[test]
    fn a_written_request_is_read_as_the_same(request in request(unknown().boxed())) {
        let written = written(&request);
        let read = decode_request(&written).expect("what is written is read");
        prop_assert!(same_requests(&read, &request), "{read:?}");
    }

    #[test]
    fn a_written_response_is_read_as_the_same(response in response(unknown().boxed())) {
        let form = tensor::form(&response.outputs);
        let written = answered(&response, form);
        let read = decode_response(&written).expect("what is written is read");
        prop_assert!(same_responses(&read, &response), "{read:?}");
    }

    #[test]
    fn the_witness_reads_a_request_that_we_write(request in request(unknown().boxed())) {
        let written = written(&request);
        let read = ModelInferRequest::decode(written).expect("prost reads it");
        prop_assert_eq!(read, witness_request(&request));
    }

    #[test]
    fn the_witness_reads_a_response_that_we_write(response in response(unknown().boxed())) {
        let form = tensor::form(&response.outputs);
        let written = answered(&response, form);
        let read = ModelInferResponse::decode(written).expect("prost reads it");
        prop_assert_eq!(read, witness_response(&response));
    }

    #[test]
    fn we_read_a_request_that_the_witness_writes(request in request(nothing())) {
        let read = read(&witness_request(&request)).expect("we read it");
        prop_assert!(same_requests(&read, &request), "{read:?}");
    }

    #[test]
    fn we_read_a_response_that_the_witness_writes(response in response(nothing())) {
        let message = witness_response(&response).encode_to_vec();
        let read = decode_response(&message.into()).expect("we read it");
        prop_assert!(same_responses(&read, &response), "{read:?}");
    }

    #[test]
    fn unpacked_lists_are_read_like_packed_ones(tensor in any_tensor(Form::Typed, nothing())) {
        let packed = witness_tensor(&tensor);
        let contents = packed.contents.clone().map(|contents| witness::UnpackedContents {
            bool_contents: contents.bool_contents,
            int_contents: contents.int_contents,
            int64_contents: contents.int64_contents,
            uint_contents: contents.uint_contents,
            uint64_contents: contents.uint64_contents,
            fp32_contents: contents.fp32_contents,
            fp64_contents: contents.fp64_contents,
            bytes_contents: contents.bytes_contents,
        });
        let unpacked = UnpackedTensor {
            name: packed.name,
            datatype: packed.datatype,
            shape: packed.shape,
            parameters: packed.parameters,
            contents,
        };
        let mut message = vec![];
        prost::encoding::message::encode(5, &unpacked, &mut message);
        let read = decode_request(&message.into()).expect("we read it");
        prop_assert!(same_tensors(&read.inputs, &[tensor]), "{read:?}");
    }

    #[test]
    fn a_raw_caller_is_answered_raw(response in response(nothing())) {
        let message = witness_response(&response).encode_to_vec();
        let read = decode_response(&message.into()).expect("we read it");
        let written = answered(&read, Form::Raw);
        let again = decode_response(&written).expect("what is written is read");
        for (output, sent) in again.outputs.iter().zip(&response.outputs) {
            prop_assert!(output.form != Form::Typed || output.data.is_empty());
            prop_assert_eq!(&output.data, &sent.data);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(message: Vec<u8>) {
        model_name(&message, message.len() + 1);
        let message = Bytes::from(message);
        let _ = decode_request(&message);
        let _ = decode_response(&message);
    }

    #[test]
    fn the_beginning_of_a_message_is_read_without_panic(
        request in request(unknown().boxed()),
        cut: proptest::sample::Index,
        byte: u8,
        place: proptest::sample::Index,
    ) {
        let whole = written(&request);
        let _ = decode_request(&whole.slice(..cut.index(whole.len() + 1)));
        let mut damaged = whole.to_vec();
        if let Some(place) = (!damaged.is_empty()).then(|| place.index(damaged.len())) {
            damaged[place] = byte;
        }
        // What is read of it must be what the witness reads.
        if let Ok(read) = decode_request(&damaged.clone().into()) {
            let seen = ModelInferRequest::decode(&*damaged).expect("prost reads what we read");
            prop_assert_eq!(&seen.model_name, &*read.head.model);
            prop_assert_eq!(seen.inputs.len(), read.inputs.len());
            prop_assert_eq!(seen.parameters.len(), read.parameters.len());
            let again = written(&read);
            let again = decode_request(&again).expect("what is written is read");
            // A parameter that is not a number is not equal to itself.
            let nan = format!("{read:?}").contains("NaN");
            prop_assert!(nan || same_requests(&again, &read));
        }
    }

    #[test]
    fn the_models_name_is_found_as_soon_as_it_is_there(
        request in request(unknown().boxed()),
        first in unknown(),
    ) {
        let mut message = first.to_bytes().to_vec();
        message.extend_from_slice(&written(&request));
        let name = ModelInferRequest::decode(&*message).expect("prost reads it").model_name;
        let mut found = false;
        for end in 0..=message.len() {
            match model_name(&message[..end], message.len()) {
                Peek::Found(range) => {
                    found = true;
                    prop_assert_eq!(&message[range], name.as_bytes());
                }
                Peek::Incomplete => prop_assert!(!found && end < message.len()),
                Peek::Absent => prop_assert!(end == message.len() && name.is_empty()),
                Peek::Malformed => prop_assert!(false, "the message is well formed"),
            }
        }
        prop_assert_eq!(found, !name.is_empty());
    }
}

#[test]
fn contents_and_names_are_slices_of_the_message() {
    let message = Bytes::from(
        ModelInferRequest {
            model_name: "digits".into(),
            inputs: vec![InferTensor {
                name: "x".into(),
                datatype: "FP32".into(),
                shape: vec![1, 768],
                ..InferTensor::default()
            }],
            raw_input_contents: vec![vec![7; 3072]],
            ..ModelInferRequest::default()
        }
        .encode_to_vec(),
    );
    let read = decode_request(&message).expect("it is well formed");
    let within = |slice: &[u8]| message.as_ptr_range().contains(&slice.as_ptr());
    let [input] = &*read.inputs else {
        panic!("there is one input")
    };
    assert!(within(read.head.model.as_bytes()) && within(input.name.as_bytes()));
    assert!(input.data.pieces().all(|piece| within(piece)));

    let written = encode_request(&read).expect("no tensor is text");
    let shared: usize = written
        .pieces()
        .filter(|piece| within(piece))
        .map(Bytes::len)
        .sum();
    assert_eq!(shared, 3072);
}

#[test]
fn packed_floats_are_slices_of_the_message() {
    let sent = tensor(Datatype::Fp64, &[2, 64], vec![1; 1024], Form::Typed);
    let message = Bytes::from(
        ModelInferRequest {
            inputs: vec![witness_tensor(&sent)],
            ..ModelInferRequest::default()
        }
        .encode_to_vec(),
    );
    let read = decode_request(&message).expect("it is well formed");
    assert_eq!(read.inputs, [sent]);
    let data = read.inputs[0].data.to_bytes();
    assert!(message.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn an_answer_in_another_form_than_wanted_does_not_fit() {
    let sent = tensor(Datatype::Int32, &[1], vec![1, 0, 0, 0], Form::Typed);
    let message = ModelInferResponse {
        outputs: vec![witness_tensor(&sent)],
        ..ModelInferResponse::default()
    };
    let read = decode_response(&message.encode_to_vec().into()).expect("it is well formed");
    assert!(fits(&read, Form::Typed) && fits(&read, Form::Absent));
    assert!(!fits(&read, Form::Raw));
    let raw = ModelInferResponse::decode(answered(&read, Form::Raw)).expect("prost reads it");
    assert_eq!(raw.raw_output_contents, [[1, 0, 0, 0]]);
    assert_eq!(raw.outputs[0].contents, None);
    let raw = decode_response(&raw.encode_to_vec().into()).expect("it is well formed");
    assert!(fits(&raw, Form::Raw) && fits(&raw, Form::Typed));
}

#[test]
fn a_tensor_that_is_still_text_is_not_written() {
    for form in [Form::Flat, Form::Rows] {
        let text = tensor(Datatype::Int32, &[1], "1", form);
        let request = RequestParts {
            inputs: vec![text.clone()],
            ..RequestParts::default()
        };
        assert_eq!(
            encode_request(&request).map_err(|error| error.to_string()),
            Err("inputs[0] is still text, which has no place in a message".into())
        );
        let response = ResponseParts {
            outputs: vec![text],
            ..ResponseParts::default()
        };
        assert_eq!(
            encode_response(&response, Form::Raw).map_err(|error| error.cause()),
            Err(Cause::Form)
        );
    }
}

#[test]
fn half_floats_are_written_raw_even_if_they_are_said_to_be_typed() {
    let half = tensor(Datatype::Fp16, &[1], vec![1, 2], Form::Typed);
    let request = RequestParts {
        inputs: vec![half, tensor(Datatype::Uint8, &[1], vec![3], Form::Typed)],
        ..RequestParts::default()
    };
    let written = ModelInferRequest::decode(written(&request));
    let written = written.expect("prost reads it");
    assert_eq!(written.raw_input_contents, [vec![1, 2], vec![3]]);
    assert!(written.inputs.iter().all(|input| input.contents.is_none()));
}

#[test]
fn an_input_in_shared_memory_has_no_raw_contents() {
    let mut absent = tensor(Datatype::Fp32, &[1, 1000], vec![], Form::Absent);
    let region = Parameter::String("region".into());
    absent
        .parameters
        .insert("shared_memory_region".into(), region);
    let request = RequestParts {
        inputs: vec![absent, tensor(Datatype::Uint8, &[2], vec![3, 4], Form::Raw)],
        ..RequestParts::default()
    };
    let read = read(&witness_request(&request)).expect("it is well formed");
    assert_eq!(read.inputs, request.inputs);
    assert_eq!(form(&read), Form::Raw);
}

#[test]
fn the_head_says_whose_call_it_is_and_how_urgent() {
    let priority = InferParameter {
        parameter_choice: Some(ParameterChoice::Uint64(3)),
    };
    let message = ModelInferRequest {
        model_name: "m".into(),
        model_version: "2".into(),
        id: "i".into(),
        parameters: [("priority".into(), priority)].into(),
        ..ModelInferRequest::default()
    };
    let head = read(&message).expect("it is well formed").head;
    assert_eq!((&*head.model, &*head.version, &*head.id), ("m", "2", "i"));
    assert_eq!(head.priority, 3);
    assert_eq!(head.deadline, None);
}

/// One input of one element, to be spoilt.
fn one(datatype: &str, contents: Option<InferTensorContents>) -> ModelInferRequest {
    ModelInferRequest {
        inputs: vec![InferTensor {
            datatype: datatype.into(),
            shape: vec![1],
            contents,
            ..InferTensor::default()
        }],
        ..ModelInferRequest::default()
    }
}

fn ints(values: &[i32]) -> Option<InferTensorContents> {
    Some(InferTensorContents {
        int_contents: values.to_vec(),
        ..InferTensorContents::default()
    })
}

/// MLServer answers so.
#[test]
fn empty_typed_contents_beside_raw_ones_say_nothing() {
    let message = ModelInferRequest {
        raw_input_contents: vec![vec![1, 0, 0, 0]],
        ..one("INT32", ints(&[]))
    };
    let parts = read(&message).expect("it is understood");
    assert_eq!(parts.inputs[0].form, Form::Raw);
    assert_eq!(parts.inputs[0].data.to_bytes(), [1, 0, 0, 0][..]);
}

#[test]
fn what_is_not_understood_says_why() {
    let raw = |datatype: &str, contents: &[&[u8]]| ModelInferRequest {
        raw_input_contents: contents.iter().map(|bytes| bytes.to_vec()).collect(),
        ..one(datatype, None)
    };
    let mut negative = raw("UINT8", &[b"a"]);
    negative.inputs[0].shape = vec![-1];
    let mut huge = raw("FP64", &[b"a"]);
    huge.inputs[0].shape = vec![i64::MAX, 2];
    let mut deep = raw("UINT8", &[b"a"]);
    deep.inputs[0].shape = vec![1; 65];
    let both = ModelInferRequest {
        raw_input_contents: vec![vec![0; 4]],
        ..one("INT32", ints(&[1]))
    };
    for (message, cause) in [
        (raw("FP8", &[b"a"]), Cause::Datatype),
        (raw("", &[b"a"]), Cause::Datatype),
        (raw("fp32", &[b"aaaa"]), Cause::Datatype),
        (raw("FP32", &[]), Cause::RawCount),
        (raw("FP32", &[b"aaaa", b"aaaa"]), Cause::RawCount),
        (raw("FP32", &[b"aaa"]), Cause::Length),
        (raw("BYTES", &[b"\x02\0\0\0a"]), Cause::Length),
        (raw("BYTES", &[b"\x01\0\0\0a\0\0\0\0"]), Cause::Length),
        (raw("BYTES", &[b"\xff\xff\xff\xff"]), Cause::Length),
        (negative, Cause::Shape),
        (huge, Cause::Length),
        (deep, Cause::Rank),
        (both, Cause::Misplaced),
        (one("FP16", ints(&[1])), Cause::Misplaced),
        (one("INT64", ints(&[1])), Cause::Misplaced),
        (one("INT32", ints(&[1, 2])), Cause::Length),
        (one("INT32", ints(&[])), Cause::RawCount),
        (one("INT8", ints(&[128])), Cause::Range),
        (one("INT16", ints(&[-32769])), Cause::Range),
    ] {
        assert_eq!(
            read(&message).expect_err("it is spoilt").cause(),
            cause,
            "{message:?}"
        );
    }
}

#[test]
fn the_words_name_the_part_that_is_spoilt() {
    let mut second = one("FP32", None);
    second.inputs.push(second.inputs[0].clone());
    second.inputs[1].datatype = "FP8".into();
    second.raw_input_contents = vec![vec![0; 4]; 2];
    assert_eq!(
        read(&second).expect_err("it is spoilt").to_string(),
        "inputs[1].datatype is not known"
    );
    let response = decode_response(&Bytes::from_static(b"\x2a\x02\x08\x01"));
    assert_eq!(
        response.expect_err("it is spoilt").to_string(),
        "outputs[0] has field 1 in another type than the protocol's"
    );
    let request = decode_request(&Bytes::from_static(b"\x0a\x05"));
    assert_eq!(
        request.expect_err("it is spoilt").to_string(),
        "the message is not protobuf"
    );
}

#[test]
fn unknown_fields_without_a_place_are_not_understood() {
    for (message, cause) in [
        // A parameter's entry, a parameter's value, typed contents.
        (&b"\x22\x02\x78\x01"[..], Cause::Unknown(15)),
        (b"\x22\x04\x12\x02\x78\x01", Cause::Unknown(15)),
        (b"\x2a\x0a\x12\x04BOOL\x2a\x02\x78\x01", Cause::Unknown(15)),
        // Known fields of other types.
        (b"\x08\x01", Cause::Type(1)),
        (b"\x38\x01", Cause::Type(7)),
        (b"\x2a\x02\x08\x01", Cause::Type(1)),
        (b"\x0a\x01\xff", Cause::Text),
    ] {
        let read = decode_request(&Bytes::from_static(message));
        assert_eq!(
            read.expect_err("it is not understood").cause(),
            cause,
            "{message:?}"
        );
    }
}

#[test]
fn contents_twice_are_not_understood() {
    let twice = b"\x2a\x0e\x12\x05INT32\x2a\x03\x12\x01\x01\x2a\x00";
    let read = decode_request(&Bytes::from_static(twice));
    assert_eq!(
        read.expect_err("it is not understood").cause(),
        Cause::Repeated
    );
}

#[test]
fn small_parts_cannot_take_much_memory() {
    let inputs = b"\x2a\x0b\x12\x04FP32\x1a\x03\x00\x00\x00".repeat(20_000);
    let unknown = b"\x78\x01\x0a\x00".repeat(20_000);
    let parameters: Vec<u8> = (0..=256_u32)
        .flat_map(|index| {
            let name = format!("{index:03}");
            [&[0x22, 5, 0x0a, 3][..], name.as_bytes()].concat()
        })
        .collect();
    for message in [inputs, unknown, parameters] {
        let cause = decode_request(&message.into())
            .expect_err("it is too much")
            .cause();
        assert_eq!(cause, Cause::TooMany);
    }
}

#[test]
fn typed_contents_cannot_take_much_more_memory_than_their_message() {
    let zeros = |count: usize| {
        let contents = InferTensorContents {
            int64_contents: vec![0; count],
            ..InferTensorContents::default()
        };
        let mut input = one("INT64", Some(contents)).inputs.remove(0);
        input.shape = vec![i64::try_from(count).unwrap()];
        input
    };
    let of = |inputs| ModelInferRequest {
        inputs,
        ..ModelInferRequest::default()
    };
    // Of one byte each, elements of eight: 64 MiB in all tensors together, or a little more.
    let half = 4 << 20;
    let fits = read(&of(vec![zeros(half), zeros(half)])).expect("it is understood");
    assert_eq!(
        fits.inputs
            .iter()
            .map(|input| input.data.len())
            .sum::<usize>(),
        64 << 20
    );
    for inputs in [
        vec![zeros(2 * half + 1)],
        vec![zeros(half), zeros(half + 1)],
    ] {
        let cause = read(&of(inputs)).expect_err("it is too much").cause();
        assert_eq!(cause, Cause::TooLong);
    }
}

#[test]
fn groups_within_groups_end() {
    let nested = |depth: usize| [b"\x7b".repeat(depth), b"\x7c".repeat(depth)].concat();
    let read = decode_request(&nested(32).into()).expect("it is deep enough");
    assert_eq!(read.unknown.len(), 64);
    for spoilt in [nested(33), b"\x7b\x74".to_vec(), b"\x7c".to_vec()] {
        let cause = decode_request(&spoilt.into())
            .expect_err("it is spoilt")
            .cause();
        assert_eq!(cause, Cause::Wire(crate::codec::Wire::Group));
    }
}

#[test]
fn the_last_of_several_values_counts() {
    let read =
        decode_request(&Bytes::from_static(b"\x0a\x01a\x0a\x01b")).expect("it is well formed");
    assert_eq!(read.head.model, "b");
    // A value in two parts is merged, as generated code does.
    let entry = b"\x22\x09\x0a\x01p\x12\x02\x10\x05\x12\x00";
    let read = decode_request(&Bytes::from_static(entry)).expect("it is well formed");
    assert_eq!(read.parameters.get("p"), Some(&Parameter::Int64(5)));
}

#[test]
fn a_name_that_cannot_be_read_is_malformed() {
    for (prefix, len, peek) in [
        (&b""[..], 0, Peek::Absent),
        (b"", 1, Peek::Incomplete),
        (b"\x0a", 9, Peek::Incomplete),
        (b"\x0a\x02a", 3, Peek::Malformed),
        (b"\x0a\x02a", 4, Peek::Incomplete),
        (b"\x0a\x02ab", 4, Peek::Found(2..4)),
        (b"\x0a\x02ab\xff\xff", 99, Peek::Found(2..4)),
        (b"\x0a\x01\xff", 3, Peek::Malformed),
        (b"\x08\x01", 2, Peek::Malformed),
        (b"\x00", 9, Peek::Malformed),
        (b"\x1a\x00", 2, Peek::Absent),
    ] {
        assert_eq!(model_name(prefix, len), peek, "{prefix:?} of {len}");
    }
}
