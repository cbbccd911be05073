use super::{answer, floats, integers, numbers_of, strings, text};
use crate::{
    inference::{
        Datatype, Form, Request, RequestParts, RequestedOutput, Response, Shape, Signature,
        TensorSpec,
    },
    select::{Defaults, Like, Value},
};

fn defaults(outputs: &[(&str, &[Value])]) -> Defaults {
    let outputs = outputs.iter();
    Defaults::new(outputs.map(|(name, values)| ((*name).into(), values.to_vec())))
}

fn spec(name: &str, datatype: Datatype, shape: Option<&[i64]>) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.map(|shape| Shape::new(shape.iter().copied())),
    }
}

fn request(outputs: &[&str]) -> Request {
    let mut parts = RequestParts::default();
    parts.head.model = "m".into();
    parts.head.id = "7".into();
    let asked = outputs.iter().map(|name| RequestedOutput {
        name: (*name).into(),
        parameters: Default::default(),
        unknown: Default::default(),
    });
    parts.outputs = asked.collect();
    Request::from(parts)
}

fn three() -> Defaults {
    defaults(&[
        ("label", &[0_i64.into()]),
        ("scores", &[0.5.into(), 0_i64.into()]),
        ("name", &["none".into()]),
    ])
}

#[test]
fn each_row_of_a_default_answer_has_the_types_and_shapes_of_the_model() {
    let signature = Signature {
        inputs: Vec::new(),
        outputs: vec![
            spec("label", Datatype::Int32, Some(&[-1, 1])),
            spec("scores", Datatype::Fp16, Some(&[-1, -1])),
            spec("name", Datatype::Bytes, None),
        ],
    };
    let response = three()
        .response(&request(&[]), 2, Like::Signature(&signature))
        .unwrap();
    assert_eq!((&*response.model, &*response.id), ("m", "7"));
    let shapes: Vec<_> = response
        .outputs
        .iter()
        .map(|output| output.shape.dimensions())
        .collect();
    assert_eq!(shapes, [&[2, 1][..], &[2, 2], &[2]]);
    assert_eq!(response.outputs[0].datatype, Datatype::Int32);
    assert_eq!(numbers_of(&response, 0), [0., 0.]);
    assert_eq!(numbers_of(&response, 1), [0.5, 0., 0.5, 0.]);
    assert_eq!(
        response.outputs[2].data,
        strings("", &[2], &["none", "none"]).data
    );
    assert!(
        response
            .outputs
            .iter()
            .all(|output| output.cells().is_some())
    );
}

#[test]
fn a_default_answer_is_like_another_one_or_as_its_values_say() {
    let like = answer(vec![
        floats("scores", &[5, 1, 2], &[0.; 10]),
        integers("label", &[5], &[0; 5]),
    ]);
    let only = defaults(&[("scores", &[1_i64.into(), 0_i64.into()])]);
    let response = only
        .response(&request(&[]), 1, Like::Response(&like))
        .unwrap();
    assert_eq!(response.outputs[0].datatype, Datatype::Fp32);
    assert_eq!(response.outputs[0].shape.dimensions(), [1, 1, 2]);
    let response = three()
        .response(&request(&["scores"]), 3, Like::Values)
        .unwrap();
    assert_eq!(response.outputs.len(), 1);
    assert_eq!(response.outputs[0].shape.dimensions(), [3, 2]);
    assert_eq!(response.outputs[0].datatype, Datatype::Fp64);
    let response = three().response(&request(&[]), 3, Like::Values).unwrap();
    let datatypes: Vec<_> = response
        .outputs
        .iter()
        .map(|output| output.datatype)
        .collect();
    assert_eq!(
        datatypes,
        [Datatype::Int64, Datatype::Fp64, Datatype::Bytes]
    );
}

#[test]
fn what_is_wrong_with_a_default_is_said() {
    let signature = Signature {
        inputs: Vec::new(),
        outputs: vec![
            spec("bits", Datatype::Uint8, Some(&[-1, 2])),
            spec("open", Datatype::Fp32, Some(&[-1, -1, -1])),
            spec("odd", Datatype::Fp32, Some(&[-1, -1, 2])),
            spec("flat", Datatype::Fp32, Some(&[])),
        ],
    };
    let fault = |name: &str, values: &[Value]| {
        let defaults = defaults(&[(name, values)]);
        defaults
            .check(Like::Signature(&signature))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(fault("x", &[]), r#"the model has no output "x""#);
    assert_eq!(
        fault("bits", &[1_i64.into()]),
        r#"a row of output "bits" has 2 elements, and its default 1"#
    );
    assert_eq!(
        fault("bits", &[1_i64.into(), 256_i64.into()]),
        r#"256 is no UINT8, which output "bits" is of"#
    );
    assert_eq!(
        fault("bits", &[1_i64.into(), "a".into()]),
        r#""a" is no UINT8, which output "bits" is of"#
    );
    for name in ["open", "flat"] {
        let said = format!("how a row of output {name:?} is shaped is not known");
        assert_eq!(fault(name, &[1_i64.into()]), said);
    }
    assert_eq!(
        fault("odd", &[1_i64, 2, 3].map(Value::from)),
        r#"a row of output "odd" has 2 elements, and its default 3"#
    );
    let mixed = defaults(&[("x", &[1_i64.into(), true.into()])]);
    assert!(mixed.check(Like::Values).is_err());
    let refused = three().response(&request(&["label", "other"]), 1, Like::Values);
    assert_eq!(
        refused.unwrap_err().to_string(),
        r#"output "other" was asked for and has no default"#
    );
    assert!(
        three()
            .response(&request(&[]), usize::MAX, Like::Values)
            .is_err()
    );
}

fn mixed() -> Response {
    answer(vec![
        integers("label", &[3], &[7, 8, 9]),
        text(
            "scores",
            Datatype::Fp32,
            &[3, 2],
            Form::Rows,
            "[1,2],[3,4],[5,6]",
        ),
        strings("name", &[3, 1], &["a", "bcd", ""]),
        floats("more", &[3], &[1., 2., 3.]),
    ])
}

#[test]
fn defaults_replace_the_rows_that_are_marked_and_no_others() {
    let mut response = mixed();
    three()
        .replace(&mut response, &[false, true, false])
        .unwrap();
    assert!(response.wire().is_none());
    assert_eq!(numbers_of(&response, 0), [7., 0., 9.]);
    assert_eq!(numbers_of(&response, 1), [1., 2., 0.5, 0., 5., 6.]);
    assert_eq!(response.outputs[1].form, Form::Raw);
    assert_eq!(
        response.outputs[2].data,
        strings("", &[3], &["a", "none", ""]).data
    );
    assert_eq!(numbers_of(&response, 3), [1., 2., 3.]);
}

#[test]
fn an_answer_that_needs_no_defaults_or_cannot_have_them_stays_as_it_is() {
    let mut response = mixed();
    three().replace(&mut response, &[false; 3]).unwrap();
    assert!(three().replace(&mut response, &[true; 2]).is_err());
    let wrong = defaults(&[("label", &[1_i64.into()]), ("scores", &[1_i64.into()])]);
    assert!(wrong.replace(&mut response, &[true; 3]).is_err());
    let unknown = defaults(&[("x", &[1_i64.into()])]);
    assert!(unknown.replace(&mut response, &[true; 3]).is_err());
    assert!(response.wire().is_some());
    // The caller asked for some of the outputs.
    let some = defaults(&[("x", &[1_i64.into()]), ("label", &[1_i64.into()])]);
    some.replace(&mut response, &[true; 3]).unwrap();
    assert_eq!(numbers_of(&response, 0), [1., 1., 1.]);
}

#[test]
fn each_default_that_the_model_could_not_give_is_a_fault_that_names_its_output() {
    let output = |name, datatype, shape| spec(name, datatype, Some(shape));
    let signature = |outputs| Signature {
        inputs: Vec::new(),
        outputs,
    };
    let faults = |outputs| -> Vec<String> {
        let faults = three().faults(&signature(outputs));
        faults.iter().map(ToString::to_string).collect()
    };
    let right = vec![
        output("label", Datatype::Int64, &[-1, 1]),
        output("scores", Datatype::Fp32, &[-1, 2]),
        output("name", Datatype::Bytes, &[-1, 1]),
    ];
    assert!(faults(right).is_empty());
    let wrong = vec![
        output("label", Datatype::Bytes, &[-1, 1]),
        output("scores", Datatype::Fp32, &[-1, 3]),
        output("names", Datatype::Bytes, &[-1, 1]),
    ];
    assert_eq!(
        faults(wrong),
        [
            "0 is no BYTES, which output \"label\" is of",
            "a row of output \"scores\" has 3 elements, and its default 2",
            "the model has no output \"name\"",
        ]
    );
    let first = three().faults(&signature(Vec::new())).swap_remove(0);
    assert_eq!(&**first.output(), "label");
}
