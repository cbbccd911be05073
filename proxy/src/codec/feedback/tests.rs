use bytes::Bytes;
use outrigger_filters::{inference::Form, select};
use prost::Message as _;

use super::{witness, *};
use crate::config::Protocol;

fn json(text: &str) -> Result<Vec<Item>, String> {
    let body = Bytes::copy_from_slice(text.as_bytes());
    match decode_json(&body, |_| Form::Raw) {
        Ok(report) => Ok(report.items),
        Err(malformed) => Err(malformed.to_string()),
    }
}

fn one(text: &str) -> Item {
    let mut items = json(text).expect("it is a report");
    assert_eq!(items.len(), 1);
    items.remove(0)
}

fn message(item: witness::Item) -> Result<Item, String> {
    let request = witness::ReportRequest {
        feedback: vec![item],
    };
    match decode_message(&request.encode_to_vec().into()) {
        Ok(mut report) => Ok(report.items.remove(0)),
        Err(malformed) => Err(malformed.to_string()),
    }
}

fn by_id(outcome: witness::Outcome, row: Option<u32>) -> witness::Item {
    witness::Item {
        subject: Some(witness::Subject::PredictionId("abc".into())),
        outcome: Some(outcome),
        row,
    }
}

fn is_of(item: &Item, id: &str) -> bool {
    matches!(&item.subject, Subject::Prediction(said) if *said == id)
}

#[test]
fn a_loss_is_read_of_the_whole_of_a_row_or_row_by_row() {
    let item = one(r#"{"prediction_id": "abc", "loss": 0.25}"#);
    assert!(is_of(&item, "abc"));
    assert_eq!(item.outcome, Outcome::Loss(Told::Whole(0.25)));
    assert_eq!(item.row, None);
    let item = one(r#"{"row": 3, "loss": 1, "label": null, "prediction_id": "abc"}"#);
    assert_eq!(item.outcome, Outcome::Loss(Told::Whole(1.)));
    assert_eq!(item.row, Some(3));
    let item = one(r#"{"prediction_id": "abc", "loss": [0, null, 1e-1]}"#);
    let rows = vec![Some(0.), None, Some(0.1)];
    assert_eq!(item.outcome, Outcome::Loss(Told::Rows(rows)));
}

#[test]
fn a_label_is_what_stands_there() {
    for (text, truth) in [
        ("7", Truth::Integer(7)),
        ("18446744073709551615", Truth::Integer(u64::MAX.into())),
        ("7.0", Truth::Number(7.)),
        ("-1e3", Truth::Number(-1e3)),
        ("\"7\"", Truth::String("7".into())),
        ("\"gr\\u00f6\\u00dfe\"", Truth::String("größe".into())),
        ("true", Truth::Bool(true)),
    ] {
        let item = one(&format!(r#"{{"prediction_id": "abc", "label": {text}}}"#));
        assert_eq!(item.outcome, Outcome::Label(Told::Whole(truth.clone())));
        let item = one(&format!(
            r#"{{"prediction_id": "abc", "label": [null, {text}]}}"#
        ));
        let rows = Told::Rows(vec![None, Some(truth)]);
        assert_eq!(item.outcome, Outcome::Label(rows));
    }
}

#[test]
fn a_list_is_read_in_its_order() {
    let items = json(
        r#" {"feedback": [{"prediction_id": "a", "loss": 0}, {"prediction_id": "b", "label": "x"},
        {"prediction_id": "a", "loss": 0}]} "#,
    );
    let items = items.expect("it is a report");
    assert!(items.len() == 3 && is_of(&items[0], "a") && is_of(&items[1], "b"));
}

#[test]
fn inputs_are_read_in_the_form_that_their_model_wants() {
    let text = Bytes::from_static(
        br#"{"context": "ann", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32",
        "data": [1, 2.5]}], "model": "digits", "label": 3}"#,
    );
    for (form, bytes) in [
        (Form::Flat, &b"1, 2.5"[..]),
        (Form::Raw, &[0, 0, 128, 63, 0, 0, 32, 64]),
    ] {
        let wanted = |model: &str| {
            assert_eq!(model, "digits");
            form
        };
        let report = decode_json(&text, wanted).expect("it is a report");
        let Subject::Inputs { request, protocol } = &report.items[0].subject else {
            panic!("it has inputs");
        };
        assert_eq!(*protocol, Protocol::OipRest);
        assert_eq!(request.head.model, "digits");
        assert_eq!(request.head.context.as_deref(), Some("ann"));
        assert_eq!(&*request.inputs[0].data.to_bytes(), bytes);
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let id = r#""prediction_id": "a""#;
    let inputs = r#"[{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]"#;
    let long = "x".repeat(257);
    for (text, told) in [
        ("".to_owned(), "an object is expected at byte 0"),
        ("[]".to_owned(), "an object is expected at byte 0"),
        ("{}".to_owned(), "prediction_id: it is missing"),
        (format!("{{{id}}}"), "loss: it, or label, is expected"),
        (
            format!(r#"{{{id}, "loss": null}}"#),
            "loss: it, or label, is expected",
        ),
        (
            format!(r#"{{{id}, "loss": "0.3"}}"#),
            "loss: a number from 0 to 1 is expected",
        ),
        (
            format!(r#"{{{id}, "loss": 1.01}}"#),
            "loss: a number from 0 to 1 is expected",
        ),
        (
            format!(r#"{{{id}, "loss": -0.1}}"#),
            "loss: a number from 0 to 1 is expected",
        ),
        (
            format!(r#"{{{id}, "loss": NaN}}"#),
            "loss: a number from 0 to 1 is expected",
        ),
        (
            format!(r#"{{{id}, "loss": [0, [1]]}}"#),
            "loss: a number from 0 to 1 is expected",
        ),
        (
            format!(r#"{{{id}, "loss": true}}"#),
            "loss: a number from 0 to 1 is expected",
        ),
        (format!(r#"{{{id}, "loss": []}}"#), "loss: it says nothing"),
        (
            format!(r#"{{{id}, "label": [null]}}"#),
            "label: it says nothing",
        ),
        (
            format!(r#"{{{id}, "label": {{}}}}"#),
            "label: a number, a text or a truth value is expected",
        ),
        (
            format!(r#"{{{id}, "label": 1e999}}"#),
            "label: a number, a text or a truth value is expected",
        ),
        (
            format!(r#"{{{id}, "loss": 1, "label": 1}}"#),
            "label: it does not go together with loss",
        ),
        (
            format!(r#"{{{id}, "loss": 1, "loss": 1}}"#),
            "loss: it is there twice",
        ),
        (
            format!(r#"{{{id}, "reward": 1}}"#),
            "reward: it is not known",
        ),
        (
            format!(r#"{{{id}, "reward": null}}"#),
            "reward: it is not known",
        ),
        (
            format!(r#"{{{id}, "loss": 1, "model": "m"}}"#),
            "model: it does not go together with prediction_id",
        ),
        (
            format!(r#"{{{id}, "loss": 1, "context": "m"}}"#),
            "context: it does not go together with prediction_id",
        ),
        (
            format!(r#"{{{id}, "label": 1, "inputs": {inputs}}}"#),
            "inputs: it does not go together with prediction_id",
        ),
        (
            r#"{"prediction_id": 7, "loss": 1}"#.to_owned(),
            "prediction_id: a text is expected",
        ),
        (
            format!(r#"{{{id}, "loss": 1, "row": -1}}"#),
            "row: the number of a row, from 0, is expected",
        ),
        (
            format!(r#"{{{id}, "loss": 1, "row": 1.0}}"#),
            "row: the number of a row, from 0, is expected",
        ),
        (
            format!(r#"{{{id}, "loss": [1], "row": 0}}"#),
            "row: it does not go together with a list",
        ),
        (
            r#"{"model": "m", "label": 1}"#.to_owned(),
            "inputs: it is missing",
        ),
        (
            format!(r#"{{"inputs": {inputs}, "label": 1}}"#),
            "model: it is missing",
        ),
        (
            format!(r#"{{"model": "m", "inputs": {inputs}, "loss": 1}}"#),
            "loss: it does not go together with inputs",
        ),
        (
            r#"{"model": "m", "inputs": [], "label": 1}"#.to_owned(),
            "inputs: it says nothing",
        ),
        (
            r#"{"model": "m", "inputs": [{"name": "x"}], "label": 1}"#.to_owned(),
            "inputs[0].datatype: it is missing",
        ),
        (
            format!(r#"{{"model": "m", "inputs": {inputs}, "label": 1, "context": "{long}"}}"#),
            "context: a text of at most 256 bytes is expected",
        ),
        (
            r#"{"feedback": []}"#.to_owned(),
            "feedback: it says nothing",
        ),
        (
            r#"{"feedback": {}}"#.to_owned(),
            "feedback: a list is expected",
        ),
        (
            r#"{"feedback": [1]}"#.to_owned(),
            "feedback[0]: an object is expected",
        ),
        (
            format!(r#"{{"feedback": [{{{id}, "loss": 0}}, {{{id}, "loss": 2}}]}}"#),
            "feedback[1].loss: a number from 0 to 1 is expected",
        ),
        (
            format!(r#"{{"feedback": [{{{id}, "loss": 0}}], "row": 1}}"#),
            "row: it does not go together with feedback",
        ),
        (
            format!(r#"{{{id}, "loss": 1}} 1"#),
            "the end is expected at byte 34",
        ),
    ] {
        match json(&text) {
            Err(refused) => assert_eq!(refused, told, "{text}"),
            Ok(items) => panic!("{text} is read as {items:?}"),
        }
    }
}

#[test]
fn a_message_says_the_same_as_json() {
    use witness::{Label, Labels, Loss, Losses, Outcome as Said, Truth as Kind};
    let label = |kind| Label { kind: Some(kind) };
    let rows = vec![Loss { value: Some(0.) }, Loss { value: None }];
    let labels = vec![Label { kind: None }, label(Kind::Text("a".into()))];
    for (said, row, text) in [
        (Said::Loss(0.), None, r#""loss": 0"#),
        (Said::Loss(0.5), Some(0), r#""loss": 0.5, "row": 0"#),
        (Said::Losses(Losses { rows }), None, r#""loss": [0, null]"#),
        (
            Said::Label(label(Kind::Integer(-3))),
            None,
            r#""label": -3"#,
        ),
        (Said::Label(label(Kind::Integer(0))), None, r#""label": 0"#),
        (
            Said::Label(label(Kind::Number(0.5))),
            None,
            r#""label": 0.5"#,
        ),
        (
            Said::Label(label(Kind::Bool(false))),
            None,
            r#""label": false"#,
        ),
        (
            Said::Labels(Labels { rows: labels }),
            None,
            r#""label": [null, "a"]"#,
        ),
    ] {
        let read = message(by_id(said, row)).expect("it is a report");
        let wanted = one(&format!(r#"{{"prediction_id": "abc", {text}}}"#));
        assert!(is_of(&read, "abc"));
        assert_eq!((read.outcome, read.row), (wanted.outcome, wanted.row));
    }
}

#[test]
fn a_message_with_inputs_holds_a_request() {
    let request = crate::codec::oip_grpc::encode_request(
        &crate::codec::oip_rest::decode_request(
            &Bytes::from_static(
                br#"{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}"#,
            ),
            None,
            Form::Raw,
        )
        .expect("it is a request")
        .0,
    );
    let framed = request.expect("it can be written").to_bytes();
    let unnamed = framed.slice(crate::codec::grpc::PREFIX..).to_vec();
    let label = witness::Label {
        kind: Some(witness::Truth::Integer(3)),
    };
    let of = |request: Vec<u8>| witness::Item {
        subject: Some(witness::Subject::Inputs(witness::Inputs {
            request,
            context: Some("ann".into()),
        })),
        outcome: Some(witness::Outcome::Label(label.clone())),
        row: None,
    };
    let missing = message(of(unnamed.clone())).expect_err("no model is named");
    assert_eq!(
        missing,
        "feedback[0].inputs.request.model_name: it is missing"
    );
    let named = [b"\x0a\x06digits", &unnamed[..]].concat();
    let item = message(of(named)).expect("it is a report");
    let Subject::Inputs { request, protocol } = &item.subject else {
        panic!("it has inputs");
    };
    assert_eq!(*protocol, Protocol::OipGrpc);
    assert_eq!(request.head.model, "digits");
    assert_eq!(request.head.context.as_deref(), Some("ann"));
}

#[test]
fn what_is_wrong_in_a_message_is_told_with_its_place() {
    use witness::Outcome as Said;
    let broken = |bytes: &[u8]| {
        let read = decode_message(&Bytes::copy_from_slice(bytes));
        read.expect_err("it is broken").to_string()
    };
    assert_eq!(broken(b""), "feedback: it says nothing");
    assert_eq!(broken(b"\x12\x00"), "field 2: it is not known");
    assert_eq!(
        broken(b"\x08\x00"),
        "feedback: another wire type is expected"
    );
    assert_eq!(broken(b"\x0a\x02"), "the bytes end within a field");
    let item = |bytes: &[u8]| {
        let mut message = vec![10, u8::try_from(bytes.len()).expect("it is short")];
        message.extend_from_slice(bytes);
        broken(&message)
    };
    assert_eq!(item(b"\x40\x00"), "feedback[0].field 8: it is not known");
    assert_eq!(
        item(b"\x18\x00"),
        "feedback[0].loss: another wire type is expected"
    );
    assert_eq!(
        item(b"\x0a\x01a\x0a\x01b"),
        "feedback[0].prediction_id: it is there twice"
    );
    assert_eq!(item(b""), "feedback[0].prediction_id: it is missing");
    for (said, row, told) in [
        (
            Said::Loss(f64::NAN),
            None,
            "loss: a number from 0 to 1 is expected",
        ),
        (
            Said::Loss(2.),
            None,
            "loss: a number from 0 to 1 is expected",
        ),
        (
            Said::Losses(Default::default()),
            None,
            "loss: it says nothing",
        ),
        (
            Said::Label(Default::default()),
            None,
            "label: it says nothing",
        ),
        (
            Said::Losses(witness::Losses {
                rows: vec![witness::Loss { value: Some(1.) }],
            }),
            Some(0),
            "row: it does not go together with a list",
        ),
    ] {
        let refused = message(by_id(said, row)).expect_err("it is refused");
        assert_eq!(refused, format!("feedback[0].{told}"));
    }
}

#[test]
fn a_report_without_end_is_refused() {
    let rows = "0,".repeat((1 << 20) + 1);
    let text = format!(r#"{{"prediction_id": "a", "loss": [{rows}0]}}"#);
    let refused = json(&text).expect_err("it is too long");
    assert_eq!(refused, "loss: it has more than the 1048576 that are read");
    let items = r#"{"prediction_id": "a", "loss": 0},"#.repeat(16_385);
    let text = format!(r#"{{"feedback": [{items} 0]}}"#);
    let refused = json(&text).expect_err("it is too long");
    assert_eq!(
        refused,
        "feedback: it has more than the 16384 that are read"
    );
}

#[test]
fn one_thing_that_is_told_is_one_row_to_learn_from() {
    let (subject, feedback) = one(r#"{"prediction_id": "abc", "label": 7, "row": 2}"#).into_parts();
    assert!(matches!(subject, Subject::Prediction(id) if id == "abc"));
    let label = select::Outcome::Label(vec![Some(Truth::Integer(7))]);
    assert_eq!((feedback.outcome, feedback.row), (label, Some(2)));
    let (_, feedback) = one(r#"{"prediction_id": "abc", "loss": [0, null]}"#).into_parts();
    let losses = select::Outcome::Loss(vec![Some(0.), None]);
    assert_eq!((feedback.outcome, feedback.row), (losses, None));
}

fn reply() -> Reply {
    let standing = Standing {
        weight: 0.75,
        probability: 0.7,
        observations: 12.,
        loss: Some(0.125),
    };
    let other = Standing {
        loss: None,
        observations: 0.,
        ..standing
    };
    Reply {
        applied: 2,
        duplicates: 1,
        rejected: vec![Rejection {
            index: 3,
            code: "expired",
            reason: "it is \"old\"".into(),
        }],
        models: vec![(
            "digits".into(),
            vec![("svm".into(), standing), ("new".into(), other)],
        )],
    }
}

#[test]
fn a_reply_is_written_in_json() {
    let text = encode_json(&reply());
    assert_eq!(
        std::str::from_utf8(&text),
        Ok(concat!(
            r#"{"applied":2,"duplicates":1,"rejected":[{"index":3,"code":"expired","#,
            r#""reason":"it is \"old\""}],"model":"digits","arms":{"#,
            r#""svm":{"weight":0.75,"probability":0.7,"observations":12,"loss":0.125},"#,
            r#""new":{"weight":0.75,"probability":0.7,"observations":0,"loss":null}}}"#
        ))
    );
    let mut several = reply();
    several.models.push(("other".into(), Vec::new()));
    let text = encode_json(&several);
    let value: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    assert_eq!(value["models"]["digits"]["svm"]["observations"], 12);
    assert_eq!(value["models"]["other"], serde_json::json!({}));
    let text = encode_json(&Reply::default());
    let value: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    assert_eq!(value["arms"], serde_json::json!({}));
}

#[test]
fn a_reply_is_written_as_a_message() {
    let read = witness::ReportResponse::decode(encode_message(&reply())).expect("it is read");
    let standing = witness::Arm {
        weight: 0.75,
        probability: 0.7,
        observations: 12.,
        loss: Some(0.125),
    };
    let other = witness::Arm {
        loss: None,
        observations: 0.,
        ..standing
    };
    let arms = [("svm".to_owned(), standing), ("new".to_owned(), other)].into();
    let wanted = witness::ReportResponse {
        applied: 2,
        duplicates: 1,
        rejected: vec![witness::Rejection {
            index: 3,
            code: "expired".into(),
            reason: "it is \"old\"".into(),
        }],
        models: [("digits".to_owned(), witness::Model { arms })].into(),
    };
    assert_eq!(read, wanted);
}

#[test]
fn the_published_definition_is_what_is_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let set = protox::compile(["outrigger/v1/feedback.proto"], [folder]).expect("it compiles");
    let file = &set.file[0];
    let method = &file.service[0].method[0];
    let path = format!(
        "/{}.{}/{}",
        file.package(),
        file.service[0].name(),
        method.name()
    );
    assert_eq!(path, crate::feedback::REPORT);
    let item = file.message_type.iter().find(|kind| kind.name() == "Item");
    let fields = item.expect("there is one").field.iter();
    let fields: Vec<_> = fields.map(|field| (field.number(), field.name())).collect();
    let read: Vec<_> = proto::FIELDS
        .map(|(number, name)| (number as i32, name))
        .into();
    assert_eq!(fields, read);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _ = decode_json(&bytes, |_| Form::Rows);
        let _ = decode_message(&bytes);
    }
}
