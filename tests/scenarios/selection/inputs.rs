//! Feedback on inputs judges every arm by what it answers to them.

use outrigger_tests::{
    feedback::{Inputs, Item, Label, Labels, Outcome, ReportRequest, Subject, report, tell},
    model::rows,
    wire::Wire,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    Team, arm_of, ask, asked, loss, observations, of_label,
    protocols::{Mixed, Way},
    says, standings,
};

const EXP3: &str = "selection: { policy: exp3, seed: 1 }";

fn about(values: &[f32], label: Value) -> Value {
    let input =
        json!({"name": "input0", "datatype": "FP32", "shape": [values.len(), 1], "data": values});
    json!({"model": "m", "inputs": [input], "label": label})
}

fn message(values: &[f32], labels: &[i64]) -> ReportRequest {
    let rows_of = labels.iter().map(|label| Label::from(*label)).collect();
    ReportRequest {
        feedback: vec![Item {
            subject: Some(Subject::Inputs(Inputs {
                request: rows("m", values).encode_to_vec(),
                context: None,
            })),
            outcome: Some(Outcome::Labels(Labels { rows: rows_of })),
            row: None,
        }],
    }
}

#[tokio::test]
async fn every_arm_is_judged() {
    let team = Team::of_labels(&[1, 2, 3]).await;
    let gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let (status, answer) = tell(&wire, &about(&[1.], json!(2))).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["applied"], 1);
    let (status, answer) = tell(&wire, &about(&[1., 2.], json!([2, 3]))).await;
    assert_eq!(status, 200, "{answer}");
    let answer = report(&wire, &message(&[1., 2.], &[2, 2])).await.unwrap();
    assert_eq!(answer.applied, 1, "{answer:?}");
    for (arm, lost) in [("a", 3.), ("b", 0.5), ("c", 2.5)] {
        assert_eq!(observations(&gateway, arm), 3.);
        let found = loss(&gateway, arm).unwrap();
        assert!((found - lost / 3.).abs() < 1e-9, "{arm}: {found}");
        assert_eq!(answer.models["m"].arms[arm].observations, 3.);
    }
    assert_eq!(asked(&team).values().sum::<u64>(), 9);
}

#[tokio::test]
async fn what_the_caches_know_is_not_asked_again() {
    let models = || {
        vec![
            says("a", of_label(1)),
            says("b", of_label(2)),
            says("c", of_label(2)),
        ]
    };
    let arms = [("oip-grpc", ""), ("oip-rest", ""), ("tfserving-rest", "")];
    for batch in ["", ", batch: { controller: fixed, max_batch_size: 8 }"] {
        let model = format!("cache: {{ bypass: never, unit: row }}, {EXP3}{batch}");
        let mixed = Mixed::of(models(), &arms, &model, "oip-grpc").await;
        let wire = Wire::connect(mixed.gateway.address()).await;
        let count = || ["a", "b", "c"].map(|arm| mixed.arm(arm).counters().rows);
        let mut told = 0.;
        for (index, way) in Way::all().enumerate() {
            let value = index as f32 + 0.5;
            // Until all three know the row.
            let mut seen = std::collections::BTreeSet::new();
            while seen.len() < 3 {
                seen.insert(arm_of(&way.ask(&wire, &[value]).await).to_owned());
            }
            let before = count();
            let report = about(&[value], json!(2));
            let (status, answer) = tell(&wire, &report).await;
            assert_eq!(status, 200, "{way:?} {answer}");
            told += 1.;
            for (arm, lost) in [("a", 1.), ("b", 0.), ("c", 0.)] {
                assert_eq!(loss(&mixed.gateway, arm), Some(lost), "{way:?} {arm}");
                assert_eq!(observations(&mixed.gateway, arm), told, "{way:?} {arm}");
            }
            // Numbers that are written in text may be known under another writing.
            if way == Way::As(outrigger_tests::protocol::Protocol::OipGrpc) {
                assert_eq!(count(), before, "{way:?}{batch}");
            }
        }
        // What feedback asked for is known to callers.
        let (status, answer) = tell(&wire, &about(&[40.5], json!(2))).await;
        assert_eq!(status, 200, "{answer}");
        let before = count();
        for _ in 0..20 {
            ask(&wire, &[40.5]).await;
        }
        assert_eq!(count(), before, "{batch}");
    }
}

#[tokio::test]
async fn arms_of_every_protocol_are_judged() {
    let arms = ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"].map(|it| (it, ""));
    let models = ["a", "b", "c", "d"].into_iter().zip(1..);
    let models: Vec<_> = models
        .map(|(name, label)| says(name, of_label(label)))
        .collect();
    for listener in ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"] {
        let mixed = Mixed::of(models.clone(), &arms, EXP3, listener).await;
        let wire = Wire::connect(mixed.gateway.address()).await;
        let (status, answer) = tell(&wire, &about(&[1., 2.], json!([3, 1]))).await;
        assert_eq!(status, 200, "{answer}");
        let found = ["a", "b", "c", "d"].map(|arm| observations(&mixed.gateway, arm));
        assert_eq!(found, [1.; 4], "{listener} {answer}");
        let answer = report(&wire, &message(&[1., 2.], &[3, 1])).await.unwrap();
        assert_eq!(answer.applied, 1, "{answer:?}");
        for (arm, lost) in [("a", 0.5), ("b", 1.), ("c", 0.5), ("d", 1.)] {
            assert_eq!(observations(&mixed.gateway, arm), 2., "{arm}");
            assert_eq!(loss(&mixed.gateway, arm), Some(lost), "{arm}");
            assert_eq!(mixed.arm(arm).counters().calls, 2, "{arm}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_rejected_and_changes_nothing() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let before = standings(&gateway);
    let mut unknown = about(&[1.], json!(1));
    unknown["model"] = "n".into();
    for (told, status, code) in [
        (unknown, 422, "model"),
        (about(&[1.], json!([1, 1])), 422, "rows"),
        (about(&[1.], json!("one")), 422, "label"),
    ] {
        let (found, answer) = tell(&wire, &told).await;
        assert_eq!(found, status, "{told} {answer}");
        assert_eq!(answer["rejected"][0]["code"], code, "{told} {answer}");
        assert_eq!(standings(&gateway), before, "{told}");
    }
    // The servers take no such input: nobody answers.
    let mut strange = about(&[1.], json!(1));
    strange["inputs"][0]["name"] = "another".into();
    let (found, answer) = tell(&wire, &strange).await;
    assert!(found.is_client_error() || found == 503, "{found} {answer}");
    assert_eq!(standings(&gateway), before);
}
