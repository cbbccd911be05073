use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{
    Code, Datatype, Form, Method, Parameters, Payload, RequestParts, ResponseParts, Shape,
    Signature, Tensor, TensorSpec,
};
use proptest::{collection::vec, prelude::*};

use super::{control::*, *};
use crate::codec::tfs_grpc::{
    CONTEXT, EXAMPLES, RESULTS,
    control::{ModelMetadata, NamedSignature, PREDICT, State, VersionStatus},
};

// What is read and written, as small drivers.

fn signature(inputs: &[(&str, Datatype)]) -> Signature {
    let specs = |tensors: &[(&str, Datatype)]| {
        let spec = |(name, datatype): &(&str, Datatype)| TensorSpec {
            name: (*name).to_owned().into(),
            datatype: *datatype,
            shape: Some(Shape::new([-1])),
        };
        tensors.iter().map(spec).collect()
    };
    Signature {
        inputs: specs(inputs),
        outputs: specs(inputs),
    }
}

fn read(
    body: &str,
    signature: Option<&Signature>,
    wanted: Form,
) -> Result<(RequestParts, Reply), Malformed> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    decode_request(Method::Infer, &body, |_| signature, wanted)
}

fn write(request: &RequestParts) -> String {
    let body = encode_request(request, None).unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn answer(response: &ResponseParts, layout: Layout) -> Result<String, Malformed> {
    let reply = Reply {
        method: Method::Infer,
        layout,
    };
    let body = encode_response(response, &reply, None)?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: impl Into<Bytes>) -> Tensor {
    Tensor {
        name: name.to_owned().into(),
        datatype,
        shape: Shape::new(shape.iter().copied()),
        parameters: Parameters::default(),
        data: data.into().into(),
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

fn fp32(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn int64(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// The words of an error and the field of which it speaks.
fn fault(body: &str, signature: Option<&Signature>) -> (String, String) {
    let malformed = read(body, signature, Form::Raw).expect_err("it is not understood");
    (malformed.field().to_owned(), malformed.to_string())
}

#[test]
fn rows_of_one_tensor_have_the_signatures_name_and_datatype() {
    let known = signature(&[("x", Datatype::Fp32)]);
    let body = r#" {"instances": [[1, 2.5], [NaN, -Infinity]] } "#;
    let (request, reply) = read(body, Some(&known), Form::Raw).unwrap();
    assert_eq!(reply, Reply::default());
    let values = fp32(&[1.0, 2.5, f32::NAN, f32::NEG_INFINITY]);
    assert_eq!(
        request.inputs,
        [tensor("x", Datatype::Fp32, &[2, 2], values)]
    );
    assert_eq!(
        encode_request(&request, Some(&known)).unwrap().to_bytes(),
        r#"{"instances":[[1.0,2.5],[NaN,-Infinity]]}"#
    );
    // A server of which nothing is known may look for the name.
    assert_eq!(
        write(&request),
        r#"{"instances":[{"x":[1.0,2.5]},{"x":[NaN,-Infinity]}]}"#
    );
}

#[test]
fn rows_that_are_passed_on_are_slices_of_the_body() {
    let rows = vec!["1e-7"; 100].join(", ");
    let body = Bytes::from(format!(r#"{{"instances": [[{rows}], [{rows}]]}}"#));
    for known in [None, Some(&signature(&[("x", Datatype::Fp32)]))] {
        let (request, _) = decode_request(Method::Infer, &body, |_| known, Form::Rows).unwrap();
        let input = &request.inputs[0];
        assert_eq!(input.form, Form::Rows);
        assert_eq!(input.shape.dimensions(), [2, 100]);
        assert_eq!(input.data.to_bytes(), format!("[{rows}], [{rows}]"));
        let shared = |payload: &Payload| {
            let mut pieces = payload.pieces();
            pieces.any(|piece| body.as_ptr_range().contains(&piece.as_ptr()))
        };
        assert!(shared(&input.data));
        assert!(shared(&encode_request(&request, known).unwrap()));
    }
}

#[test]
fn flat_text_is_what_stands_between_the_brackets() {
    let (request, _) = read(r#"{"instances": [[1.50, 2], [3, 4]]}"#, None, Form::Flat).unwrap();
    assert_eq!(request.inputs[0].data.to_bytes(), "1.50, 2, 3, 4");
    assert_eq!(request.inputs[0].form, Form::Flat);
    assert_eq!(write(&request), r#"{"instances":[[1.50, 2],[ 3, 4]]}"#);
}

#[test]
fn without_a_signature_elements_say_their_datatype() {
    for (body, datatype, shape) in [
        ("[1, -2]", Datatype::Int64, &[2][..]),
        ("[[1, 2.0]]", Datatype::Fp64, &[1, 2]),
        ("[true]", Datatype::Bool, &[1]),
        (r#"["a", "b"]"#, Datatype::Bytes, &[2]),
        (r#"[{"b64": "YQ=="}, "b"]"#, Datatype::Bytes, &[2]),
        (r#"[[{"b64": "YQ=="}]]"#, Datatype::Bytes, &[1, 1]),
    ] {
        let body = format!(r#"{{"instances": {body}}}"#);
        for wanted in [Form::Raw, Form::Flat, Form::Rows] {
            let (request, _) = read(&body, None, wanted).unwrap();
            let input = &request.inputs[0];
            assert_eq!(input.name, "", "{body}");
            assert_eq!(input.datatype, datatype, "{body}");
            assert_eq!(input.shape.dimensions(), shape, "{body}");
            assert_eq!(input.form, wanted);
        }
    }
}

#[test]
fn named_rows_become_a_tensor_each() {
    let body = r#"{"signature_name": "s", "instances": [
        {"b": "x", "a": [1, 2]}, {"a": [3, 4], "b": {"b64": "/w=="}}
    ]}"#;
    let known = signature(&[("a", Datatype::Fp32), ("b", Datatype::Bytes)]);
    let (request, reply) = read(body, Some(&known), Form::Raw).unwrap();
    assert_eq!(request.head.signature, "s");
    let texts = [&[1, 0, 0, 0, b'x'][..], &[1, 0, 0, 0, 0xff]].concat();
    assert_eq!(
        request.inputs,
        [
            tensor("a", Datatype::Fp32, &[2, 2], fp32(&[1., 2., 3., 4.])),
            tensor("b", Datatype::Bytes, &[2], texts),
        ]
    );
    assert_eq!(
        write(&request),
        r#"{"signature_name":"s","instances":[{"a":[1.0,2.0],"b":"x"},{"a":[3.0,4.0],"b":{"b64":"/w=="}}]}"#
    );
    assert_eq!(reply.layout, Layout::Rows);

    let (text, _) = read(body, None, Form::Rows).unwrap();
    assert_eq!(text.inputs[0].datatype, Datatype::Int64);
    assert_eq!(text.inputs[0].data.to_bytes(), "[1, 2],[3, 4]");
    assert_eq!(text.inputs[1].data.to_bytes(), r#""x",{"b64": "/w=="}"#);
}

#[test]
fn columns_may_be_scalars_and_differ_in_rows() {
    let known = signature(&[("a", Datatype::Fp32), ("b", Datatype::Int64)]);
    let body = r#"{"inputs": {"b": 7, "a": [[1], [2]]}}"#;
    for wanted in [Form::Raw, Form::Rows, Form::Flat] {
        let (request, reply) = read(body, Some(&known), wanted).unwrap();
        assert_eq!(reply.layout, Layout::Columns);
        assert_eq!(request.inputs[0].shape.dimensions(), [2, 1]);
        assert_eq!(request.inputs[1].shape.dimensions(), [0; 0]);
        if wanted == Form::Raw {
            assert_eq!(request.inputs[0].data.to_bytes(), fp32(&[1., 2.]));
            assert_eq!(request.inputs[1].data.to_bytes(), int64(&[7]));
            assert_eq!(write(&request), r#"{"inputs":{"a":[[1.0],[2.0]],"b":7}}"#);
        }
    }
    let (one, _) = read(r#"{"inputs": 5}"#, None, Form::Rows).unwrap();
    assert_eq!(write(&one), r#"{"inputs":5}"#);
    let (b64, _) = read(r#"{"inputs": {"b64": "YQ=="}}"#, None, Form::Raw).unwrap();
    assert_eq!(b64.inputs[0].data.to_bytes(), [1, 0, 0, 0, b'a'][..]);
}

#[test]
fn a_signature_may_be_named_behind_the_rows() {
    let floats = signature(&[("x", Datatype::Fp32)]);
    let integers = signature(&[("y", Datatype::Int64)]);
    let body = Bytes::from_static(br#"{"instances": [1], "signature_name": "other"}"#);
    let lookup = |name: &str| Some(if name.is_empty() { &floats } else { &integers });
    let (request, _) = decode_request(Method::Infer, &body, lookup, Form::Raw).unwrap();
    assert_eq!(
        request.inputs,
        [tensor("y", Datatype::Int64, &[1], int64(&[1]))]
    );
    // What the first signature does not take, the second one may.
    let body = Bytes::from_static(br#"{"instances": [9007199254740993], "signature_name": "o"}"#);
    let booleans = signature(&[("x", Datatype::Bool)]);
    let lookup = |name: &str| {
        Some(if name.is_empty() {
            &booleans
        } else {
            &integers
        })
    };
    let (request, _) = decode_request(Method::Infer, &body, lookup, Form::Raw).unwrap();
    assert_eq!(
        request.inputs[0].data.to_bytes(),
        int64(&[9_007_199_254_740_993])
    );
}

#[test]
fn a_signature_is_named_once() {
    for name in ["a", "serving_default"] {
        let body = format!(r#"{{"signature_name":"{name}","signature_name":"b","instances":[1]}}"#);
        let (field, words) = fault(&body, None);
        assert_eq!(field, "signature_name");
        assert_eq!(words, "signature_name is there twice");
    }
}

#[test]
fn rows_are_written_where_the_answer_can_have_rows() {
    let body = r#"{"instances": [[1], [2]]}"#;
    let shaped = |shapes: &[Option<&[i64]>]| {
        let mut known = signature(&[("x", Datatype::Int64)]);
        let output = known.outputs.remove(0);
        known.outputs.extend(shapes.iter().map(|shape| TensorSpec {
            shape: shape.map(|shape| Shape::new(shape.iter().copied())),
            ..output.clone()
        }));
        known
    };
    let open = Some(&[-1, 3][..]);
    for (known, member) in [
        (None, "instances"),
        (Some(shaped(&[open])), "instances"),
        (Some(shaped(&[open, Some(&[-1])])), "instances"),
        (Some(shaped(&[open, Some(&[])])), "inputs"),
        (Some(shaped(&[open, Some(&[3])])), "inputs"),
        (Some(shaped(&[None])), "inputs"),
        (Some(shaped(&[])), "inputs"),
    ] {
        let (request, _) = read(body, known.as_ref(), Form::Rows).unwrap();
        let written = encode_request(&request, known.as_ref()).unwrap().to_bytes();
        assert_eq!(written, format!(r#"{{"{member}":[[1], [2]]}}"#));
    }
}

#[test]
fn numbers_of_an_answer_keep_one_datatype_where_nothing_is_known() {
    for body in [
        r#"{"predictions": [1, 2]}"#,
        r#"{"predictions": [1, 2.5]}"#,
        r#"{"predictions": [{"y": 1}, {"y": 2}]}"#,
        r#"{"outputs": {"y": 1}}"#,
    ] {
        let body = Bytes::from_static(body.as_bytes());
        let read = decode_response(Method::Infer, &body, None).unwrap();
        assert_eq!(read.outputs[0].datatype, Datatype::Fp64);
    }
}

#[test]
fn rows_of_many_tensors_may_have_them_in_another_order() {
    let names: Vec<_> = (0..1000).map(|name| format!("\"{name}\":1")).collect();
    let forth = names.join(",");
    let back: Vec<_> = names.into_iter().rev().collect();
    let rows = format!(",{{{}}}", back.join(",")).repeat(100);
    let body = format!(r#"{{"instances":[{{{forth}}}{rows}]}}"#);
    let (request, _) = read(&body, None, Form::Rows).unwrap();
    assert_eq!(request.inputs.len(), 1000);
    assert!(
        request
            .inputs
            .iter()
            .all(|input| input.shape.rows() == Some(101))
    );
}

#[test]
fn members_that_are_not_known_are_kept() {
    let body = r#"{"id": {"a": [1]}, "instances": [1], "parameters": null}"#;
    let (request, _) = read(body, None, Form::Rows).unwrap();
    assert_eq!(
        write(&request),
        r#"{"instances":[1],"id":{"a": [1]},"parameters":null}"#
    );
}

#[test]
fn the_server_would_say_the_same() {
    let float = signature(&[("x", Datatype::Fp32)]);
    let int = signature(&[("x", Datatype::Int32)]);
    let text = signature(&[("x", Datatype::Bytes)]);
    let two = signature(&[("a", Datatype::Fp32), ("b", Datatype::Fp32)]);
    for (body, known, field, words) in [
        ("", None, "", "JSON Parse error: The document is empty"),
        ("[1]", None, "", "JSON Value: [1] Is not object"),
        (
            r#"{"instances": [1"#,
            None,
            "",
            "JSON Parse error: Missing a comma or ] after an array element. at offset: 16",
        ),
        (
            r#"{"x": 1}"#,
            None,
            "instances",
            "Missing 'inputs' or 'instances' key",
        ),
        (
            r#"{"instances": [1], "inputs": [1]}"#,
            None,
            "inputs",
            "JSON Value: {\"instances\": [1], \"inputs\": [1]} Not formatted correctly expecting \
             only one of 'inputs' or 'instances' keys to exist ",
        ),
        (
            r#"{"instances": []}"#,
            Some(&float),
            "instances",
            "JSON Value: [] No values in 'instances' array",
        ),
        (
            r#"{"instances": [1, 2, 2.5]}"#,
            Some(&int),
            "instances[2]",
            "Failed to process element: 2 of 'instances' list. Error: INVALID_ARGUMENT: JSON \
             Value: 2.5 Type: Number is not of expected type: int32",
        ),
        (
            r#"{"instances": [[1], ["a"]]}"#,
            Some(&float),
            "instances[1]",
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON \
             Value: \"a\" Type: String is not of expected type: float",
        ),
        (
            r#"{"instances": [[1], [1, 2]]}"#,
            Some(&float),
            "instances[1]",
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: \
             Expecting tensor size: 1 but got: 2",
        ),
        (
            r#"{"instances": [[1, 2], [[1, 2]]]}"#,
            Some(&float),
            "instances[1]",
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: \
             Expecting shape [2] but got: [1,2]",
        ),
        (
            r#"{"instances": [[[1], [1, 2]]]}"#,
            Some(&float),
            "instances[0]",
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: \
             Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        (
            r#"{"instances": [{"b64": "?"}]}"#,
            Some(&text),
            "instances[0]",
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: \
             Unable to base64 decode",
        ),
        (
            r#"{"instances": [1, {"a": 1}]}"#,
            Some(&float),
            "instances[1]",
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            r#"{"instances": [{"x": 1}, 1]}"#,
            Some(&float),
            "instances[1]",
            "Expecting object but got list at item 1 of input list",
        ),
        (
            r#"{"instances": [1]}"#,
            Some(&two),
            "instances",
            "instances is a plain list, but expecting list of objects as multiple input tensors \
             required as per tensorinfo_map",
        ),
        (
            r#"{"instances": [{"a": 1}]}"#,
            Some(&two),
            "instances[0]",
            "Failed to process element: 0 of 'instances' list. JSON object: {\"a\": 1} keys must \
             be equal to: a,b",
        ),
        (
            r#"{"instances": [{"a": 1, "c": 1}]}"#,
            Some(&two),
            "instances[0].c",
            "Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: \
             JSON object: does not have named input: c",
        ),
        (
            r#"{"instances": [{"a": 1, "b": 1}, {"a": true, "b": 1}]}"#,
            Some(&two),
            "instances[1].a",
            "Failed to process element: 1 key: a of 'instances' list. Error: INVALID_ARGUMENT: \
             JSON Value: true Type: True is not of expected type: float",
        ),
        (
            r#"{"inputs": {"a": 1}}"#,
            Some(&two),
            "inputs.b",
            "Missing named input: b in 'inputs' object.",
        ),
        (
            r#"{"signature_name": 1, "instances": [1]}"#,
            None,
            "signature_name",
            "JSON Value: {\"signature_name\": 1, \"instances\": [1]} not formatted correctly. \
             'signature_name' key must be a string value.",
        ),
    ] {
        assert_eq!(
            fault(body, known),
            (field.to_owned(), words.to_owned()),
            "{body}"
        );
    }
}

#[test]
fn what_is_irregular_is_left_to_the_server() {
    for body in [
        r#"{"instances": [[1], 2]}"#,
        r#"{"instances": [1, "a"]}"#,
        r#"{"instances": [null]}"#,
        r#"{"instances": [{"a": 1}, {"b": 1}]}"#,
        r#"{"instances": [{"a": {"b": 1}}]}"#,
        r#"{"instances": [{"a": 1, "a": 2}]}"#,
        r#"{"instances": [[], []]}"#,
        r#"{"instances": [[], 1]}"#,
        r#"{"instances": [[[], []], [1, 2]]}"#,
        r#"{"instances": [1]} x"#,
        r#"{"instances": 1}"#,
    ] {
        for wanted in [Form::Raw, Form::Rows] {
            assert!(read(body, None, wanted).is_err(), "{body}");
        }
    }
}

#[test]
fn examples_are_serialized() {
    let body = Bytes::from_static(
        br#"{"context": {"n": 1}, "examples": [{"s": ["a", {"b64": "/w=="}]}, {"f": 0.5, "e": []}]}"#,
    );
    let (request, reply) = decode_request(Method::Classify, &body, |_| None, Form::Rows).unwrap();
    assert_eq!(reply.method, Method::Classify);
    assert_eq!(request.inputs[0].name, EXAMPLES);
    assert_eq!(request.inputs[0].shape.dimensions(), [2]);
    assert!(request.parameters.get(CONTEXT).is_some());
    let first = [
        0x0a, 15, 0x0a, 13, 0x0a, 1, b's', 0x12, 8, 0x0a, 6, 0x0a, 1, b'a', 0x0a, 1, 0xff,
    ];
    let data = request.inputs[0].data.to_bytes();
    assert_eq!(data[..4], [17, 0, 0, 0]);
    assert_eq!(data[4..21], first);
    assert_eq!(
        write(&request),
        r#"{"context":{"n":[1]},"examples":[{"s":["a",{"b64":"/w=="}]},{"f":[0.5],"e":[]}]}"#
    );
    let again = Bytes::from(write(&request));
    let (again, _) = decode_request(Method::Classify, &again, |_| None, Form::Raw).unwrap();
    assert_eq!(again.inputs, request.inputs);
    assert_eq!(again.parameters, request.parameters);
}

#[test]
fn examples_that_are_none_are_refused_in_the_servers_words() {
    for (body, words) in [
        (
            "{}",
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            r#"{"examples": 1}"#,
            "JSON Value: 1 Expecting 'examples' value to be an list/array",
        ),
        (
            r#"{"examples": []}"#,
            "JSON Value: [] 'examples' value is an empty array",
        ),
        (
            r#"{"examples": [1]}"#,
            "Example must be JSON object but got JSON Number",
        ),
        (
            r#"{"examples": [{"names": null}]}"#,
            "Feature: names has element with unexpected JSON type: Null",
        ),
        (
            r#"{"examples": [{"names": [1, "a"]}]}"#,
            "Unexpected element type in feature: names expecting type: int64",
        ),
        (
            r#"{"examples": [{"n": 18446744073709551615}]}"#,
            "Feature: n has uint64_t element. Only int64_t is supported.",
        ),
    ] {
        let body = Bytes::from_static(body.as_bytes());
        let refused = decode_request(Method::Regress, &body, |_| None, Form::Raw).unwrap_err();
        assert_eq!(refused.to_string(), words);
    }
}

#[test]
fn results_are_pairs_or_numbers() {
    for (method, body) in [
        (
            Method::Classify,
            r#"{"results":[[["cat",0.25],["dog",-0.0]],[],[["",0.0]]]}"#,
        ),
        (Method::Regress, r#"{"results":[0.1,0.0,NaN,1e20]}"#),
    ] {
        let read = decode_response(method, &Bytes::from_static(body.as_bytes()), None).unwrap();
        assert_eq!(read.outputs[0].name, RESULTS);
        let reply = Reply {
            method,
            layout: Layout::Rows,
        };
        let written = encode_response(&read, &reply, None).unwrap().to_bytes();
        let again = decode_response(method, &written, None).unwrap();
        assert_eq!(again.outputs, read.outputs);
        assert_eq!(
            String::from_utf8_lossy(&written).replace("1e20", "1e+20"),
            body.replace("1e20", "1e+20")
        );
    }
}

#[test]
fn answers_keep_their_text() {
    let body = r#"{
        "predictions": [[1.0, 2.50], [3.0, 4.0]], "model": "m"
    }"#;
    let body = Bytes::from_static(body.as_bytes());
    let known = signature(&[("y", Datatype::Fp32)]);
    let read = decode_response(Method::Infer, &body, Some(&known)).unwrap();
    assert_eq!(read.outputs[0].name, "y");
    assert_eq!(read.outputs[0].datatype, Datatype::Fp32);
    let answer = |layout| {
        let reply = Reply {
            method: Method::Infer,
            layout,
        };
        encode_response(&read, &reply, Some(&known))
            .unwrap()
            .to_bytes()
    };
    assert_eq!(
        answer(Layout::Rows),
        r#"{"predictions":[[1.0, 2.50], [3.0, 4.0]],"model":"m"}"#
    );
    assert_eq!(
        answer(Layout::Columns),
        r#"{"outputs":[[1.0, 2.50], [3.0, 4.0]],"model":"m"}"#
    );
}

#[test]
fn objects_with_one_value_stay_objects_where_nothing_is_known() {
    let rows = r#"[{"y":1},{"y":2}]"#;
    let (request, _) = read(&format!(r#"{{"instances":{rows}}}"#), None, Form::Rows).unwrap();
    assert_eq!(write(&request), format!(r#"{{"instances":{rows}}}"#));
    let body = format!(r#"{{"predictions":{rows}}}"#);
    let read = decode_response(Method::Infer, &Bytes::from(body.clone()), None).unwrap();
    assert_eq!(answer(&read, Layout::Rows).unwrap(), body);
}

#[test]
fn several_outputs_stand_in_objects() {
    let texts = [&[1, 0, 0, 0, b'a'][..], &[1, 0, 0, 0, 0xff]].concat();
    let mut response = ResponseParts {
        outputs: vec![
            tensor("raw_bytes", Datatype::Bytes, &[2], texts.clone()),
            tensor("text", Datatype::Bytes, &[2], texts),
            tensor("y", Datatype::Fp32, &[2, 1], fp32(&[1.0, 0.1])),
        ],
        ..ResponseParts::default()
    };
    assert_eq!(
        answer(&response, Layout::Rows).unwrap(),
        concat!(
            r#"{"predictions":[{"raw_bytes":{"b64":"YQ=="},"text":"a","y":[1.0]},"#,
            r#"{"raw_bytes":{"b64":"/w=="},"text":{"b64":"/w=="},"y":[0.1]}]}"#
        )
    );
    assert_eq!(
        answer(&response, Layout::Columns).unwrap(),
        concat!(
            r#"{"outputs":{"raw_bytes":[{"b64":"YQ=="},{"b64":"/w=="}],"#,
            r#""text":["a",{"b64":"/w=="}],"y":[[1.0],[0.1]]}}"#
        )
    );
    response
        .outputs
        .push(tensor("z", Datatype::Fp32, &[1], fp32(&[1.0])));
    assert_eq!(
        answer(&response, Layout::Rows).unwrap_err().to_string(),
        "Tensor name: z has inconsistent batch size: 1 expecting: 2"
    );
    response.outputs = vec![tensor("z", Datatype::Fp32, &[], fp32(&[1.0]))];
    assert_eq!(
        answer(&response, Layout::Rows).unwrap_err().to_string(),
        "Tensor name: z has no shape information "
    );
    response.outputs.clear();
    assert_eq!(
        answer(&response, Layout::Rows).unwrap_err().to_string(),
        "Cannot convert empty tensor map to JSON"
    );
}

// Questions about models.

#[test]
fn metadata_come_back() {
    let spec = |shape: Option<&[i64]>| TensorSpec {
        name: "x".into(),
        datatype: Datatype::Fp32,
        shape: shape.map(|shape| Shape::new(shape.iter().copied())),
    };
    let metadata = ModelMetadata {
        model: "m".into(),
        version: Some(3),
        signatures: vec![NamedSignature {
            name: "serving_default".into(),
            method: PREDICT.into(),
            signature: Signature {
                inputs: vec![spec(Some(&[-1, 4]))],
                outputs: vec![spec(None)],
            },
        }],
    };
    assert_eq!(read_metadata(&write_metadata(&metadata)).unwrap(), metadata);
}

#[test]
fn metadata_of_a_server_are_read() {
    let body = r#"{
"model_spec":{"name": "half_plus_two", "signature_name": "", "version": "123"},
"metadata": {"signature_def": {"signature_def": {
  "serving_default": {
   "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [
      {"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": false},
     "name": "x:0"}},
   "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [], "unknown_rank": true}}},
   "method_name": "tensorflow/serving/predict", "defaults": {}
  },
  "__saved_model_init_op": {
   "inputs": {}, "outputs": {"i": {"dtype": "DT_INVALID"}}, "method_name": ""
  }
}}}}"#;
    let metadata = read_metadata(body.as_bytes()).unwrap();
    assert_eq!(metadata.model, "half_plus_two");
    assert_eq!(metadata.version, Some(123));
    assert_eq!(metadata.signatures.len(), 1);
    let signature = &metadata.signature("").unwrap().signature;
    let shape = signature.input("x").unwrap().shape.as_ref().unwrap();
    assert_eq!(shape.dimensions(), [-1, 1]);
    assert_eq!(signature.output("y").unwrap().shape, None);
}

#[test]
fn statuses_come_back_and_say_who_is_ready() {
    let mut all = vec![VersionStatus {
        version: 7,
        state: State::Loading,
        error_code: Code::DeadlineExceeded,
        error_message: "late".into(),
    }];
    assert_eq!(read_status(&write_status(&all)).unwrap(), all);
    assert!(!ready(&write_status(&all)));
    all[0].state = State::Available;
    assert!(ready(&write_status(&all)));
    assert!(ready(br#"{"name": "m", "ready": true}"#));
    assert!(!ready(br#"{"name": "m", "ready": false}"#));
    assert!(!ready(b"{"));
}

// What may come.

fn texts(count: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(vec(any::<u8>(), 0..6), count).prop_map(|texts| {
        texts
            .iter()
            .flat_map(|text| {
                let len = text.len() as u32;
                len.to_le_bytes().into_iter().chain(text.iter().copied())
            })
            .collect()
    })
}

/// A tensor of some rows, of which no number is none: a payload has no text.
fn any_tensor(name: ByteString, rows: i64) -> impl Strategy<Value = Tensor> {
    let datatype = proptest::sample::select(&Datatype::ALL[..]);
    (datatype, vec(1_i64..4, 0..3)).prop_flat_map(move |(datatype, row)| {
        let shape: Vec<_> = [rows].into_iter().chain(row).collect();
        let elements = usize::try_from(shape.iter().product::<i64>()).expect("it is small");
        let data = match datatype.size() {
            Some(size) => vec(any::<u8>(), elements * size).boxed(),
            None => texts(elements).boxed(),
        };
        let name = name.clone();
        data.prop_map(move |mut data| {
            match datatype {
                Datatype::Bool => data.iter_mut().for_each(|byte| *byte &= 1),
                Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
                    let size = datatype.size().unwrap_or(1);
                    let last = data.iter_mut().skip(size - 1).step_by(size);
                    last.for_each(|byte| *byte &= 0xbb);
                }
                _ => {}
            }
            tensor(&name, datatype, &shape, data)
        })
    })
}

fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let names = proptest::collection::btree_set("[a-zé\"]{1,5}", 1..4);
    (names, 1_i64..4).prop_flat_map(|(names, rows)| {
        names
            .into_iter()
            .map(|name| any_tensor(name.into(), rows))
            .collect::<Vec<_>>()
    })
}

fn signature_of(tensors: &[Tensor]) -> Signature {
    let spec = |tensor: &Tensor| TensorSpec {
        name: tensor.name.clone(),
        datatype: tensor.datatype,
        shape: None,
    };
    let specs: Vec<_> = tensors.iter().map(spec).collect();
    Signature {
        inputs: specs.clone(),
        outputs: specs,
    }
}

proptest! {
    #[test]
    fn a_request_is_what_was_written(inputs in tensors(), rows: bool) {
        let mut known = signature_of(&inputs);
        let shape = rows.then(|| Shape::new([-1]));
        known.outputs.iter_mut().for_each(|output| output.shape.clone_from(&shape));
        let request = RequestParts { inputs, ..RequestParts::default() };
        let body = encode_request(&request, Some(&known)).unwrap().to_bytes();
        let (read, _) = decode_request(Method::Infer, &body, |_| Some(&known), Form::Raw).unwrap();
        prop_assert_eq!(&read.inputs, &request.inputs);
        // And through text.
        for wanted in [Form::Rows, Form::Flat] {
            let (text, _) = decode_request(Method::Infer, &body, |_| Some(&known), wanted).unwrap();
            let again = encode_request(&text, Some(&known)).unwrap().to_bytes();
            let (again, _) = decode_request(Method::Infer, &again, |_| Some(&known), Form::Raw).unwrap();
            prop_assert_eq!(&again.inputs, &request.inputs);
        }
    }

    #[test]
    fn a_response_is_what_was_written(
        outputs in tensors(),
        layout in prop_oneof![Just(Layout::Rows), Just(Layout::Columns)],
    ) {
        let known = signature_of(&outputs);
        let response = ResponseParts { outputs, ..ResponseParts::default() };
        let reply = Reply { method: Method::Infer, layout };
        let body = encode_response(&response, &reply, Some(&known)).unwrap().to_bytes();
        let read = decode_response(Method::Infer, &body, Some(&known)).unwrap();
        prop_assert_eq!(read.outputs.len(), response.outputs.len());
        for (read, said) in read.outputs.iter().zip(&response.outputs) {
            let data = crate::codec::json::convert(read, Form::Raw, crate::codec::json::Strings::Either);
            prop_assert_eq!(&data.unwrap(), &said.data);
            prop_assert_eq!(&read.shape, &said.shape);
            prop_assert_eq!(&read.name, &said.name);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}\",:0-9a-z. -]{0,40}", bytes in vec(any::<u8>(), 0..60)) {
        let known = signature(&[("a", Datatype::Fp32)]);
        for body in [
            text.clone(),
            format!("{{\"instances\":[{text}]}}"),
            format!("{{\"instances\":[{{\"a\":{text}}}]}}"),
            format!("{{\"inputs\":{text}}}"),
            format!("{{\"examples\":[{{\"a\":{text}}}]}}"),
        ] {
            let body = Bytes::from(body);
            for method in [Method::Infer, Method::Classify] {
                for wanted in [Form::Raw, Form::Rows, Form::Flat] {
                    let _ = decode_request(method, &body, |_| Some(&known), wanted);
                    let _ = decode_request(method, &body, |_| None, wanted);
                }
            }
        }
        let bytes = Bytes::from(bytes);
        let _ = decode_request(Method::Infer, &bytes, |_| None, Form::Raw);
        let _ = decode_response(Method::Classify, &bytes, None);
    }
}
