use bytes::Bytes;
use outrigger_filters::inference::{
    BINARY_DATA_SIZE, Datatype, Form, Parameter, Parameters, Payload, RequestParts,
    RequestedOutput, ResponseParts, Shape, Tensor,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::codec::json::{self as core, Strings, convert};

// What is read and written, as small drivers.

fn read(message: &str, wanted: Form) -> Result<(RequestParts, Reply), Malformed> {
    decode_request(&Bytes::copy_from_slice(message.as_bytes()), None, wanted)
}

fn with_tail(message: &str, tail: &[u8]) -> (Bytes, Option<usize>) {
    let body = [message.as_bytes(), tail].concat();
    (body.into(), Some(message.len()))
}

fn json_of(body: &Body) -> Value {
    let payload = body.payload.to_bytes();
    let len = body.json_len.unwrap_or(payload.len());
    serde_json::from_slice(&payload[..len]).expect("it is JSON")
}

fn tail_of(body: &Body) -> Bytes {
    let payload = body.payload.to_bytes();
    payload.slice(body.json_len.unwrap_or(payload.len())..)
}

fn text_of(tensor: &Tensor) -> String {
    String::from_utf8(tensor.data.to_bytes().to_vec()).expect("JSON is UTF-8")
}

fn tensor(datatype: Datatype, dimensions: &[i64], data: impl Into<Bytes>, form: Form) -> Tensor {
    Tensor {
        name: "x".into(),
        datatype,
        shape: Shape::new(dimensions.iter().copied()),
        parameters: Parameters::default(),
        data: Payload::from(data.into()),
        form,
        unknown: Payload::new(),
    }
}

fn fp32(numbers: &[f32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

fn answer(outputs: Vec<Tensor>) -> ResponseParts {
    ResponseParts {
        model: "digits".into(),
        outputs,
        ..ResponseParts::default()
    }
}

fn input(members: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x",{members}}}]}}"#)
}

const ROWS: &str = r#""shape":[2,2],"datatype":"FP32","data":[[1.50,2],[ -3e1, NaN]]"#;
const FLAT: &str = r#""data":[1.50,2, -3e1, NaN],"datatype":"FP32","shape":[2,2]"#;

#[test]
fn contents_become_what_is_wanted_however_they_are_nested() {
    for message in [input(ROWS), input(FLAT)] {
        let (request, _) = read(&message, Form::Raw).unwrap();
        assert_eq!(request.inputs[0].form, Form::Raw);
        let wanted = fp32(&[1.5, 2.0, -30.0, f32::NAN]);
        assert_eq!(request.inputs[0].data.to_bytes(), wanted);

        let (request, _) = read(&message, Form::Flat).unwrap();
        assert_eq!(request.inputs[0].form, Form::Flat);
        assert_eq!(
            text_of(&request.inputs[0]).replace(' ', ""),
            "1.50,2,-3e1,NaN"
        );

        let (request, _) = read(&message, Form::Rows).unwrap();
        assert_eq!(request.inputs[0].form, Form::Rows);
        let text = text_of(&request.inputs[0]).replace(' ', "");
        assert_eq!(text, "[1.50,2],[-3e1,NaN]");
        assert!(request.rows_agree());
    }
}

#[test]
fn all_of_a_request_is_read() {
    let message = r#" {"id": "a7", "model_name": "digits", "parameters": {"priority": 3,
        "binary_data_output": true, "temperature": 0.5, "tag": "\u00e4", "on": false,
        "big": 18446744073709551615, "nothing": null},
        "inputs": [
            {"name": "x", "shape": [1], "datatype": "INT64", "parameters": {"a": 1}, "data": [7],
             "new": {"b": [1, 2]}, "newer": 1},
            {"name": "y", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}],
        "outputs": [
            {"name": "z", "parameters": {"binary_data": false, "classification": 2}},
            {"name": "a", "parameters": {"binary_data": true}}],
        "more": "here"} "#;
    let (request, reply) = read(message, Form::Raw).unwrap();
    assert_eq!(request.head.id, "a7");
    assert_eq!(request.head.priority, 3);
    assert_eq!(request.head.model, "");
    let wanted: Parameters = [
        ("priority", Parameter::Int64(3)),
        ("temperature", Parameter::Double(0.5)),
        ("tag", Parameter::String("ä".into())),
        ("on", Parameter::Bool(false)),
        ("big", Parameter::Uint64(u64::MAX)),
        ("nothing", Parameter::Unset),
    ]
    .into_iter()
    .map(|(name, value)| (name.into(), value))
    .collect();
    assert_eq!(request.parameters, wanted);
    assert_eq!(request.inputs[0].data.to_bytes(), 7_i64.to_le_bytes()[..]);
    let unknown = r#""new": {"b": [1, 2]},"newer": 1"#;
    assert_eq!(request.inputs[0].unknown.to_bytes(), unknown);
    assert_eq!(
        request.inputs[1].data.to_bytes(),
        &b"\x01\0\0\0a\x01\0\0\0b"[..]
    );
    assert_eq!(request.unknown.to_bytes(), r#""more": "here""#);
    assert_eq!(request.outputs[0].name, "z");
    assert_eq!(request.outputs[0].parameters.len(), 1);
    assert!(request.outputs[1].parameters.is_empty());
    assert!(!reply.is_binary("z"));
    assert!(reply.is_binary("a"));
    assert!(reply.is_binary("another"));
}

#[test]
fn a_request_without_more_than_inputs_is_read() {
    let message = r#"{"id":null,"parameters":null,"outputs":null,"inputs":[{"name":"x",
        "shape":[],"datatype":"FP64","parameters":null,"data":[1]}]}"#;
    let (request, reply) = read(message, Form::Raw).unwrap();
    assert_eq!(request.head.id, "");
    assert!(request.outputs.is_empty());
    assert_eq!(request.inputs[0].data.to_bytes(), 1_f64.to_le_bytes()[..]);
    assert_eq!(reply, Reply::json());
    assert!(request.inputs[0].parameters.is_empty());
}

#[test]
fn binary_inputs_are_slices_and_stand_beside_json_ones() {
    let message = r#"{"inputs":[
        {"name":"a","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8,"k":1}},
        {"name":"b","shape":[1,1],"datatype":"INT8","data":[[5]]},
        {"name":"c","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":9}},
        {"name":"d","shape":[0],"datatype":"FP32","parameters":{"binary_data_size":0}}]}"#;
    let (body, json_len) = with_tail(message, b"\0\0\x80\x3f\0\0\0\x40\x01\0\0\0z\0\0\0\0");
    let (request, _) = decode_request(&body, json_len, Form::Flat).unwrap();
    let [a, b, c, d] = &request.inputs[..] else {
        panic!("there are four")
    };
    let piece = a.data.pieces().next().unwrap();
    assert_eq!(piece.as_ptr(), body[message.len()..].as_ptr());
    assert_eq!(a.form, Form::Raw);
    assert!(a.parameters.get(BINARY_DATA_SIZE).is_none());
    assert_eq!(a.parameters.len(), 1);
    assert_eq!((b.form, text_of(b)), (Form::Flat, "5".to_owned()));
    assert_eq!(c.data.to_bytes(), &b"\x01\0\0\0z\0\0\0\0"[..]);
    assert_eq!((d.form, d.data.len()), (Form::Raw, 0));

    let again = encode_request(&request);
    assert_eq!(tail_of(&again), body[message.len()..]);
    let json = json_of(&again);
    assert_eq!(json["parameters"], json!({"binary_data_output": true}));
    assert_eq!(
        json["inputs"][0]["parameters"],
        json!({"k": 1, "binary_data_size": 8})
    );
    assert_eq!(json["inputs"][1]["data"], json!([5]));
}

#[test]
fn inputs_in_shared_memory_are_absent_and_keep_their_parameters() {
    let message = input(
        r#""shape":[2],"datatype":"FP32",
        "parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}"#,
    );
    let (request, _) = read(&message, Form::Raw).unwrap();
    assert_eq!(request.inputs[0].form, Form::Absent);
    let json = json_of(&encode_request(&request));
    assert_eq!(json, serde_json::from_str::<Value>(&message).unwrap());
}

#[test]
fn what_is_wrong_is_named() {
    let one = |members: &str| input(members);
    for (message, told) in [
        (
            "",
            "the message does not begin with as much JSON as its header says",
        ),
        ("[]", "an object is expected at byte 0"),
        ("{}", "inputs: it is missing"),
        (r#"{"inputs":[]} x"#, "the end is expected at byte 14"),
        (r#"{"inputs":[],"inputs":[]}"#, "inputs: it is there twice"),
        (
            r#"{"id":7,"inputs":[]}"#,
            "id: a string is expected at byte 6",
        ),
        (
            r#"{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}"#,
            "inputs[0].name: it is missing",
        ),
        (
            &one(r#""datatype":"FP32","data":[1]"#),
            "inputs[0].shape: it is missing",
        ),
        (
            &one(r#""shape":[1],"data":[1]"#),
            "inputs[0].datatype: it is missing",
        ),
        (
            &one(r#""shape":[1],"datatype":"FP8","data":[1]"#),
            "inputs[0].datatype: it is not the name of a datatype",
        ),
        (
            &one(r#""shape":[1.5],"datatype":"FP32","data":[1]"#),
            "inputs[0].shape: it is not a list of dimensions that a tensor can have",
        ),
        (
            &one(r#""shape":[-1],"datatype":"FP32","data":[1]"#),
            "inputs[0].shape: it is not a list of dimensions that a tensor can have",
        ),
        (
            &one(r#""shape":[2],"datatype":"FP32","data":[1]"#),
            "inputs[0].data: its contents are not as long as its shape says",
        ),
        (
            &one(r#""shape":[2],"datatype":"FP32","data":[1,"2"]"#),
            "inputs[0].data: element 1 is not one of FP32",
        ),
        (
            &one(r#""shape":[2],"datatype":"INT8","data":[1,300]"#),
            "inputs[0].data: element 1 is not one of INT8",
        ),
        (
            &one(r#""shape":[1],"datatype":"FP32""#),
            "inputs[0]: it has its contents in more than one way, or in none",
        ),
        (
            &one(r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#),
            "inputs[0]: it has its contents in more than one way, or in none",
        ),
        (
            &one(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}"#),
            "inputs[0].parameters.binary_data_size: its contents are not as long as its shape says",
        ),
        (
            &one(r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"a":[]}"#),
            "inputs[0].parameters.a: it is not a value that such a parameter can have",
        ),
        (
            &one(r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"a":1,"a":2}"#),
            "inputs[0].parameters.a: it is there twice",
        ),
        (
            r#"{"outputs":[{"parameters":{}}],"inputs":[]}"#,
            "outputs[0].name: it is missing",
        ),
    ] {
        let malformed = read(message, Form::Raw).expect_err(message);
        assert_eq!(malformed.to_string(), told, "{message}");
    }
    let mixed = one(r#""shape":[3],"datatype":"INT32","data":[1,2,3.5]"#);
    assert_eq!(
        read(&mixed, Form::Flat).unwrap_err().to_string(),
        "inputs[0].data: element 2 is not one of INT32"
    );
    // Positions are those of the message, even where contents are read later.
    let late = one(r#""shape":[2],"data":[1,x],"datatype":"FP32""#);
    let at = late.rfind('x').expect("it is there");
    assert_eq!(
        read(&late, Form::Raw).unwrap_err().to_string(),
        format!("inputs[0].data: a number is expected at byte {at}")
    );
    let (body, json_len) = with_tail(&input(ROWS), b"more");
    let malformed = decode_request(&body, json_len, Form::Raw).unwrap_err();
    assert_eq!(malformed.to_string(), "bytes follow the last binary tensor");
    for json_len in [0, body.len() + 1] {
        let malformed = decode_request(&body, Some(json_len), Form::Raw).unwrap_err();
        assert_eq!(malformed.fault(), Fault::NoJson);
    }
}

#[test]
fn a_request_is_asked_of_the_server_as_it_can_answer_best() {
    let mut request = RequestParts {
        inputs: vec![tensor(Datatype::Fp32, &[1, 1], fp32(&[1.0]), Form::Raw)],
        outputs: vec![
            RequestedOutput {
                name: "y".into(),
                parameters: Parameters::default(),
                unknown: Payload::from(Bytes::from_static(b"\"a\":1")),
            },
            RequestedOutput {
                name: "z".into(),
                parameters: [("shared_memory_region".into(), Parameter::String("r".into()))]
                    .into_iter()
                    .collect(),
                unknown: Payload::new(),
            },
        ],
        ..RequestParts::default()
    };
    request.head.id = "\"7\"".into();
    let body = encode_request(&request);
    assert_eq!(
        json_of(&body),
        json!({
            "id": "\"7\"",
            "parameters": {"binary_data_output": true},
            "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32",
                "parameters": {"binary_data_size": 4}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": true}, "a": 1},
                {"name": "z", "parameters": {"shared_memory_region": "r"}}],
        })
    );
    request.inputs[0] = tensor(Datatype::Fp32, &[1, 1], &b"[1.0]"[..], Form::Rows);
    let body = encode_request(&request);
    assert_eq!(body.json_len, None);
    let json = json_of(&body);
    assert_eq!(json["inputs"][0]["data"], json!([[1.0]]));
    assert_eq!(json["outputs"][0], json!({"name": "y", "a": 1}));
    assert!(json.get("parameters").is_none());
}

#[test]
fn answers_stay_text_as_they_came() {
    let message = r#"{"model_name":"digits","model_version":"2","id":"7","parameters":{"a":1},
        "outputs":[
        {"name":"x","datatype":"FP32","shape":[2,2],"data":[[1.0,2],[3,4]]},
        {"name":"y","datatype":"FP32","shape":[2,2],"data":[1.0,2,3,4]},
        {"name":"z","datatype":"INT32","shape":[2],"data":[1,2]},
        {"name":"m","datatype":"INT32","shape":[2]},
        {"name":"b","datatype":"INT32","shape":[1],"parameters":{"binary_data_size":4}}],
        "timing":7}"#;
    let (body, json_len) = with_tail(message, b"\x09\0\0\0");
    let response = decode_response(&body, json_len).unwrap();
    assert_eq!(response.model, "digits");
    assert_eq!(response.version, "2");
    assert_eq!(response.id, "7");
    assert_eq!(response.unknown.to_bytes(), "\"timing\":7");
    let forms: Vec<Form> = response.outputs.iter().map(|output| output.form).collect();
    let wanted = [Form::Rows, Form::Flat, Form::Flat, Form::Absent, Form::Raw];
    assert_eq!(forms, wanted);
    assert_eq!(text_of(&response.outputs[0]), "[1.0,2],[3,4]");

    let body = encode_response(&response, &Reply::json()).unwrap();
    assert_eq!(body.json_len, None);
    assert_eq!(
        json_of(&body),
        json!({"id":"7","model_name":"digits","model_version":"2","parameters":{"a":1},"outputs":[
            {"name":"x","datatype":"FP32","shape":[2,2],"data":[1.0,2,3,4]},
            {"name":"y","datatype":"FP32","shape":[2,2],"data":[1.0,2,3,4]},
            {"name":"z","datatype":"INT32","shape":[2],"data":[1,2]},
            {"name":"m","datatype":"INT32","shape":[2]},
            {"name":"b","datatype":"INT32","shape":[1],"data":[9]}],"timing":7})
    );
}

#[test]
fn each_output_is_written_as_the_caller_asked_for_it() {
    let message = r#"{"id":"7","parameters":{"binary_data_output":true},"inputs":[],
        "outputs":[{"name":"y"}]}"#;
    let (_, reply) = read(message, Form::Raw).unwrap();
    let mut y = tensor(Datatype::Fp32, &[1, 2], fp32(&[0.1, 2.0]), Form::Raw);
    y.name = "y".into();
    let mut x = tensor(Datatype::Fp32, &[2], &b"0.1,2"[..], Form::Flat);
    x.parameters.insert("k".into(), Parameter::Bool(true));
    let body = encode_response(&answer(vec![x, y]), &reply).unwrap();
    assert_eq!(
        json_of(&body),
        json!({"id":"7","model_name":"digits","outputs":[
            {"name":"x","datatype":"FP32","shape":[2],"parameters":{"k":true,"binary_data_size":8}},
            {"name":"y","datatype":"FP32","shape":[1,2],"data":[0.1,2.0]}]})
    );
    assert_eq!(tail_of(&body), fp32(&[0.1, 2.0]));
}

#[test]
fn halves_are_written_as_numbers_that_read_back() {
    let data = [0x3555_u16, 0x7bff].map(u16::to_le_bytes).concat();
    let output = tensor(Datatype::Fp16, &[2], data.clone(), Form::Raw);
    let body = encode_response(&answer(vec![output]), &Reply::json()).unwrap();
    let response = decode_response(&body.payload.to_bytes(), None).unwrap();
    let again = convert(&response.outputs[0], Form::Raw, Strings::Plain).unwrap();
    assert_eq!(again.to_bytes(), data);
}

#[test]
fn bytes_that_are_no_text_cannot_be_written_as_json() {
    let output = tensor(Datatype::Bytes, &[1], &b"\x01\0\0\0\xff"[..], Form::Raw);
    let malformed = encode_response(&answer(vec![output]), &Reply::json()).unwrap_err();
    assert_eq!(
        malformed.to_string(),
        "outputs[0].data: element 0 is not UTF-8"
    );
    assert_eq!(malformed.field(), "outputs[0].data");
    let cause = Fault::Json(core::Malformed::NotText { index: 0 });
    assert_eq!(malformed.fault(), cause);
}

trait RowsAgree {
    fn rows_agree(&self) -> bool;
}

impl RowsAgree for RequestParts {
    /// Tells whether the rows can be counted, and joined with others.
    fn rows_agree(&self) -> bool {
        outrigger_filters::inference::Request::from(self.clone())
            .rows()
            .is_ok()
    }
}

// Properties.

fn tensors() -> impl Strategy<Value = Tensor> {
    let datatypes = prop::sample::select(&Datatype::ALL[..]);
    let names = "[a-z\"\\\\ä]{1,6}";
    let parameters = vec(("[a-z]{1,3}", parameters()), 0..3);
    (
        names,
        datatypes,
        vec(0_i64..4, 0..4),
        parameters,
        any::<u64>(),
    )
        .prop_map(|(name, datatype, dimensions, parameters, seed)| {
            let shape = Shape::new(dimensions);
            let elements = shape.elements().expect("it is small");
            let mut data = Vec::new();
            for index in 0..elements as u64 {
                let bits = seed.wrapping_mul(index.wrapping_add(0x9e37_79b9_7f4a_7c15));
                match datatype {
                    Datatype::Bool => data.push((bits >> 33) as u8 & 1),
                    Datatype::Bytes => {
                        let text = format!("{bits:x}\n\"ä");
                        data.extend((text.len() as u32).to_le_bytes());
                        data.extend(text.as_bytes());
                    }
                    // Numbers that are none have a payload, which JSON does not carry.
                    Datatype::Fp16 => data.extend((bits as u16 & 0xfbff).to_le_bytes()),
                    Datatype::Bf16 => data.extend((bits as u16 & 0xbfff).to_le_bytes()),
                    Datatype::Fp32 => data.extend((bits as u32 & 0xbfff_ffff).to_le_bytes()),
                    Datatype::Fp64 => {
                        data.extend((bits & 0xbfff_ffff_ffff_ffff).to_le_bytes());
                    }
                    _ => data.extend(&bits.to_le_bytes()[..datatype.size().unwrap_or(0)]),
                }
            }
            Tensor {
                name: name.into(),
                datatype,
                shape,
                parameters: parameters
                    .into_iter()
                    .map(|(name, value)| (name.into(), value))
                    .collect(),
                data: Bytes::from(data).into(),
                form: Form::Raw,
                unknown: Payload::new(),
            }
        })
}

fn parameters() -> impl Strategy<Value = Parameter> {
    prop_oneof![
        any::<bool>().prop_map(Parameter::Bool),
        any::<i64>().prop_map(Parameter::Int64),
        (1 + i64::MAX as u64..).prop_map(Parameter::Uint64),
        any::<String>().prop_map(|text| Parameter::String(text.into())),
        prop::num::f64::NORMAL.prop_map(Parameter::Double),
        Just(Parameter::Unset),
    ]
}

fn as_text(tensor: &Tensor, form: Form) -> Tensor {
    Tensor {
        data: convert(tensor, form, Strings::Plain).expect("it can be text"),
        form,
        ..tensor.clone()
    }
}

proptest! {
    #[test]
    fn a_request_that_is_written_is_read(
        inputs in vec(tensors(), 0..4),
        texts in vec(prop::sample::select(&[Form::Raw, Form::Flat, Form::Rows][..]), 4),
        wanted in prop::sample::select(&[Form::Raw, Form::Flat, Form::Rows][..]),
        id: String,
        pairs in vec(("[a-z]{1,3}", parameters()), 0..3),
    ) {
        let mut request = RequestParts::default();
        request.head.id = id.into();
        request.parameters =
            pairs.into_iter().map(|(name, value)| (name.into(), value)).collect();
        request.inputs =
            inputs.iter().zip(&texts).map(|(input, form)| as_text(input, *form)).collect();
        let body = encode_request(&request);
        let bytes = body.payload.to_bytes();
        let (read, _) = decode_request(&bytes, body.json_len, wanted).unwrap();
        prop_assert_eq!(&read.head.id, &request.head.id);
        prop_assert_eq!(&read.parameters, &request.parameters);
        for (read, input) in read.inputs.iter().zip(&inputs) {
            let raw = as_text(read, Form::Raw);
            prop_assert_eq!(&raw, input);
        }
        prop_assert_eq!(read.inputs.len(), inputs.len());
        let again = encode_request(&read);
        let (twice, _) =
            decode_request(&again.payload.to_bytes(), again.json_len, wanted).unwrap();
        prop_assert_eq!(twice.inputs, read.inputs);
    }

    #[test]
    fn an_answer_that_is_written_is_read(
        outputs in vec(tensors(), 0..4),
        form in prop::sample::select(&[Form::Raw, Form::Flat, Form::Rows][..]),
        binary: bool,
    ) {
        let texts = outputs.iter().map(|output| as_text(output, form)).collect();
        let reply = Reply { binary, ..Reply::default() };
        let body = encode_response(&answer(texts), &reply).unwrap();
        prop_assert_eq!(body.json_len.is_some(), binary && !outputs.is_empty());
        let read = decode_response(&body.payload.to_bytes(), body.json_len).unwrap();
        for (read, output) in read.outputs.iter().zip(&outputs) {
            prop_assert_eq!(&as_text(read, Form::Raw), output);
        }
        prop_assert_eq!(read.outputs.len(), outputs.len());
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        bytes in vec(any::<u8>(), 0..64),
        json_len in prop::option::of(0_usize..70),
    ) {
        let body = Bytes::from(bytes);
        let _ = decode_request(&body, json_len, Form::Rows);
        let _ = decode_response(&body, json_len);
    }
}
