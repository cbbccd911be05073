//! A report that is not as it should be is refused with the field that is wrong, and changes nothing.

use outrigger_tests::{
    feedback::{
        Inputs, Item, Label, Losses, Outcome, ReportRequest, RowLoss, Subject, post, report, tell,
    },
    wire::Wire,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{Team, ask, id_of, standings};

#[tokio::test]
async fn a_malformed_report_names_the_field_and_changes_nothing() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team
        .before(&[], "selection: { policy: exp3, seed: 1 }", "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask(&wire, &[1., 2.]).await;
    let id = id_of(&reply);
    let before = standings(&gateway);
    let input = json!([{"name": "input0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]);
    let faults: &[(Value, &str)] = &[
        (json!({"prediction_id": id, "loss": 0.5, "lose": 1}), "lose"),
        (json!({"prediction_id": id, "loss": "0.5"}), "loss"),
        (json!({"prediction_id": id, "loss": 1.5}), "loss"),
        (json!({"prediction_id": id, "loss": -0.1}), "loss"),
        (json!({"prediction_id": id, "loss": true}), "loss"),
        (json!({"prediction_id": id, "loss": [0.5, "1"]}), "loss"),
        (json!({"prediction_id": id, "loss": [null, null]}), "loss"),
        (json!({"prediction_id": id, "loss": []}), "loss"),
        (json!({"prediction_id": id}), "loss"),
        (
            json!({"prediction_id": id, "loss": 0.5, "label": 1}),
            "label",
        ),
        (json!({"prediction_id": id, "label": {"class": 1}}), "label"),
        (json!({"prediction_id": id, "label": [[1]]}), "label"),
        (json!({"prediction_id": id, "loss": 0.5, "row": -1}), "row"),
        (json!({"prediction_id": id, "loss": 0.5, "row": 0.5}), "row"),
        (
            json!({"prediction_id": id, "loss": [0.5, 0.5], "row": 0}),
            "row",
        ),
        (json!({"prediction_id": 7, "loss": 0.5}), "prediction_id"),
        (json!({"loss": 0.5}), "prediction_id"),
        (
            json!({"prediction_id": id, "model": "m", "loss": 0.5}),
            "model",
        ),
        (
            json!({"prediction_id": id, "context": "u", "loss": 0.5}),
            "context",
        ),
        (
            json!({"prediction_id": id, "inputs": input, "label": 1}),
            "inputs",
        ),
        (json!({"model": "m", "label": 1}), "inputs"),
        (json!({"inputs": input, "label": 1}), "model"),
        (json!({"model": "m", "inputs": [], "label": 1}), "inputs"),
        (json!({"model": "m", "inputs": input, "loss": 0.5}), "loss"),
        (
            json!({"model": "m", "inputs": input, "label": 1, "context": "u".repeat(300)}),
            "context",
        ),
        (
            json!({"model": "m", "inputs": [{"name": "input0"}], "label": 1}),
            "inputs[0].datatype",
        ),
        (json!({"feedback": []}), "feedback"),
        (json!({"feedback": {}}), "feedback"),
        (
            json!({"feedback": [{"prediction_id": id, "loss": 0.5}], "row": 1}),
            "row",
        ),
        (
            json!({"feedback": [{"prediction_id": id, "loss": 0.5}, {"prediction_id": id, "loss": 2}]}),
            "feedback[1].loss",
        ),
        (
            json!({"feedback": [{"prediction_id": id, "loss": 0.5}, 7]}),
            "feedback[1]",
        ),
        (json!({}), "prediction_id"),
    ];
    for (told, field) in faults {
        let (status, answer) = tell(&wire, told).await;
        assert_eq!(status, 400, "{told}: {answer}");
        let words = answer["error"].as_str().unwrap();
        let names = words.split(": ").next().unwrap();
        assert_eq!(names, *field, "{told}: {words}");
        assert_eq!(standings(&gateway), before, "{told}");
    }
    let twice = format!(r#"{{"prediction_id": "{id}", "loss": 0.5, "loss": 0.1}}"#);
    for body in [
        "",
        "[]",
        "null",
        "{",
        "\u{0}",
        "{\"prediction_id\": 1e999}",
        &twice,
        &"[".repeat(100_000),
    ] {
        let reply = post(&wire, body.to_owned()).await;
        assert_eq!(reply.status, 400, "{reply:?}");
        assert_eq!(standings(&gateway), before);
    }
    // Two rows were asked.
    for told in [
        json!({"label": 1}),
        json!({"label": [1]}),
        json!({"loss": [0.5, 0.5, 0.5]}),
        json!({"loss": 0.5, "row": 2}),
    ] {
        let mut told = told;
        told["prediction_id"] = id.into();
        let (status, answer) = tell(&wire, &told).await;
        assert_eq!(status, 422, "{told}: {answer}");
        assert_eq!(answer["rejected"][0]["code"], "rows", "{told}: {answer}");
        assert_eq!(standings(&gateway), before);
    }
    // And what is right is applied, after all that.
    let (status, answer) = tell(&wire, &json!({"prediction_id": id, "loss": [0.5, 0.5]})).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_malformed_message_names_the_field_and_changes_nothing() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team
        .before(&[], "selection: { policy: exp3, seed: 1 }", "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask(&wire, &[1.]).await;
    let id = id_of(&reply);
    let before = standings(&gateway);
    let of = |outcome| ReportRequest::of_prediction(id, outcome);
    let with = |change: &dyn Fn(&mut Item)| {
        let mut request = of(Outcome::Loss(0.5));
        change(&mut request.feedback[0]);
        request
    };
    let question = Inputs {
        request: b"\xff\xff".to_vec(),
        context: None,
    };
    for (request, field) in [
        (ReportRequest::default(), "feedback"),
        (of(Outcome::Loss(1.5)), "feedback[0].loss"),
        (of(Outcome::Loss(f64::NAN)), "feedback[0].loss"),
        (of(Outcome::Losses(Losses::default())), "feedback[0].loss"),
        (
            of(Outcome::Losses(Losses {
                rows: vec![RowLoss { value: Some(7.) }],
            })),
            "feedback[0].losses",
        ),
        (of(Outcome::Label(Label::default())), "feedback[0].label"),
        (with(&|item| item.outcome = None), "feedback[0]"),
        (with(&|item| item.subject = None), "feedback[0]"),
        (
            with(&|item| item.subject = Some(Subject::Inputs(question.clone()))),
            "feedback[0].inputs",
        ),
    ] {
        let (status, words) = report(&wire, &request).await.unwrap_err();
        assert_eq!(status, "3", "{request:?}: {words}");
        assert!(words.starts_with(field), "{request:?}: {words}");
        assert_eq!(standings(&gateway), before, "{request:?}");
    }
    // A field that is not known: number 9, a varint.
    let mut message = of(Outcome::Loss(0.5)).encode_to_vec();
    message.extend([0x48, 0x01]);
    let path = outrigger_tests::feedback::REPORT;
    let reply = wire.call(path, &message).await.unwrap();
    assert_eq!(reply.grpc_status(), Some("3"), "{reply:?}");
    assert_eq!(standings(&gateway), before);
}
