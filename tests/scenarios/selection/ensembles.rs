//! Several arms answer together: by vote, or by their mean.

use outrigger_native::{Datatype, Fault, Faults, inference::ModelInferResponse};
use outrigger_tests::{
    feedback::tell,
    model::{numbers, tensor},
    patience::until,
    wire::{Reply, Wire},
};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Team, arm_of, ask, asked, echoes, header, id_of, loss, metric, observations, of_label,
    of_scores, of_text, probability,
    protocols::{Mixed, Way, same},
    question, says, send, standings,
};
use crate::gather::Inference;

const VOTE: &str = "selection: { ensemble: true }";

fn confidence(reply: &Reply) -> f64 {
    let told = header(reply, "outrigger-confidence");
    told.unwrap_or_else(|| panic!("{reply:?}")).parse().unwrap()
}

/// Reads labels.
fn labels(reply: &Reply) -> Vec<i64> {
    let message = ModelInferResponse::decode(&reply.body[5..]).unwrap();
    let data = &message.raw_output_contents[0];
    let labels = data.as_chunks().0.iter().copied();
    labels.map(i64::from_le_bytes).collect()
}

#[tokio::test]
async fn the_heavier_vote_wins_and_confidence_is_its_share() {
    let team = Team::of_labels(&[1, 2, 2]).await;
    for (weights, label, arm, sure) in [
        (["", "", ""], 2, "b", 2. / 3.),
        (["weight: 5", "weight: 2", "weight: 2"], 1, "a", 5. / 9.),
        (["weight: 5", "weight: 2", "weight: 4"], 2, "c", 6. / 11.),
    ] {
        let gateway = team.before(&weights, VOTE, "").await;
        let wire = Wire::connect(gateway.address()).await;
        let before = asked(&team);
        let reply = ask(&wire, &[1., 2.]).await;
        assert_eq!(labels(&reply), [label; 2], "{weights:?}");
        assert_eq!(arm_of(&reply), arm, "{weights:?}");
        assert!(
            (confidence(&reply) - sure).abs() < 0.001,
            "{weights:?} {reply:?}"
        );
        for (arm, calls) in asked(&team) {
            assert_eq!(calls - before[arm], 1, "all are asked: {arm}");
        }
    }
}

#[tokio::test]
async fn each_row_has_its_own_winner() {
    let team = Team::of(
        [
            says("a", of_label(1)),
            says("b", of_label(2)),
            echoes("c", Datatype::Int64),
            says("d", of_label(1)),
        ]
        .map(|model| outrigger_native::Synthetic {
            inputs: vec![outrigger_native::TensorSpec::new(
                "input0",
                Datatype::Int64,
                &[1],
            )],
            ..model
        }),
    )
    .await;
    // One against two: 0.3 and 0.05 of `a` and `d`, 0.3 of `b`, and what is asked itself has 0.35.
    let weights = ["weight: 30", "weight: 30", "weight: 35", "weight: 5"];
    let gateway = team.before(&weights, VOTE, "").await;
    let wire = Wire::connect(gateway.address()).await;
    for (rows, wanted, arm, sure) in [
        (&[1_i64][..], &[1_i64][..], "c", 0.7),
        (&[2], &[2], "c", 0.65),
        // 3 has as much as 1, and its arm is the heavier one.
        (&[3], &[3], "c", 0.35),
        (&[3, 2, 1, 2], &[3, 2, 1, 2], "c", 0.35),
    ] {
        let data: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        let shape = [rows.len() as i64, 1];
        let request = tensor("m", "INT64", &shape, data);
        let reply = send(&wire, &Inference::of(&request)).await;
        assert_eq!(labels(&reply), wanted);
        assert_eq!(arm_of(&reply), arm);
        assert!(
            (confidence(&reply) - sure).abs() < 0.001,
            "{rows:?} {reply:?}"
        );
    }
    // Where the echo is light, no arm agrees with all rows.
    let weights = ["weight: 30", "weight: 30", "weight: 25", "weight: 15"];
    let gateway = team.before(&weights, VOTE, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let data: Vec<u8> = [2_i64, 3, 2, 1]
        .iter()
        .flat_map(|row| row.to_le_bytes())
        .collect();
    let request = tensor("m", "INT64", &[4, 1], data);
    let reply = send(&wire, &Inference::of(&request)).await;
    assert_eq!(labels(&reply), [2, 1, 2, 1]);
    assert!(
        (confidence(&reply) - 0.45).abs() < 0.001,
        "the least of the rows: {reply:?}"
    );
    // The truth is told row by row, and each arm learns what it said.
    let told = json!({"prediction_id": id_of(&reply), "label": [2, 3, null, 1]});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 200, "{answer}");
    let found = ["a", "b", "c", "d"].map(|arm| loss(&gateway, arm).unwrap());
    let third = 1. / 3.;
    for (found, wanted) in found.iter().zip([2. * third, 2. * third, 0., 2. * third]) {
        assert!((found - wanted).abs() < 1e-9, "{found} {wanted}");
    }
}

#[tokio::test]
async fn scores_and_numbers_are_averaged() {
    let models = [
        ("a", vec![0.5, 0.25, 0.25]),
        ("b", vec![0.25, 0.5, 0.25]),
        ("c", vec![0., 1., 0.]),
    ];
    let team = Team::of(models.map(|(name, scores)| says(name, of_scores(&scores)))).await;
    let weights = ["weight: 2", "", ""];
    let gateway = team.before(&weights, VOTE, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask(&wire, &[1., 2.]).await;
    let message = ModelInferResponse::decode(&reply.body[5..]).unwrap();
    let mean = [0.3125, 0.5, 0.1875];
    assert_eq!(numbers(&message), [mean, mean].concat());
    assert_eq!(message.outputs[0].shape, [2, 3]);
    // The arms that say the class of the greatest mean score agree.
    assert!((confidence(&reply) - 0.5).abs() < 0.001, "{reply:?}");
    let told = json!({"prediction_id": id_of(&reply), "label": [1, 0]});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 200, "{answer}");
    let found = ["a", "b", "c"].map(|arm| loss(&gateway, arm));
    assert_eq!(found, [Some(0.5); 3]);

    let numbers_of = [("a", 1.), ("b", 2.), ("c", 6.)];
    let team = Team::of(numbers_of.map(|(name, number)| says(name, of_scores(&[number])))).await;
    let selection = "selection: { ensemble: true, loss: absolute, loss_scale: 10 }";
    let gateway = team.before(&weights, selection, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask(&wire, &[1.]).await;
    let message = ModelInferResponse::decode(&reply.body[5..]).unwrap();
    assert_eq!(numbers(&message), [2.5]);
    let told = json!({"prediction_id": id_of(&reply), "label": 3.0});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 200, "{answer}");
    let found = ["a", "b", "c"].map(|arm| loss(&gateway, arm).unwrap());
    for (found, wanted) in found.iter().zip([0.2, 0.1, 0.3]) {
        assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
    }
}

#[tokio::test]
async fn callers_of_all_protocols_are_told_the_same_by_arms_of_all_protocols() {
    let arms = [
        ("tfserving-rest", "weight: 3"),
        ("oip-rest", "weight: 2"),
        ("oip-grpc", "weight: 2"),
        ("tfserving-grpc", "weight: 1"),
    ];
    let text = |name: &str, text: &str| says(name, of_text(text));
    let label = |name: &str, label: i64| says(name, of_label(label));
    let scores = |name: &str, scores: &[f32]| says(name, of_scores(scores));
    let cases: [(Vec<_>, Vec<Value>, f64); 4] = [
        (
            vec![label("a", 1), label("b", 2), label("c", 2), label("d", 3)],
            vec![json!(2), json!(2)],
            0.5,
        ),
        (
            vec![
                text("a", "cat"),
                text("b", "dog"),
                text("c", "dog"),
                text("d", "cow"),
            ],
            vec![json!("dog"), json!("dog")],
            0.5,
        ),
        (
            vec![
                scores("a", &[0.5, 0.5, 0.]),
                scores("b", &[0., 0.5, 0.5]),
                scores("c", &[0., 1., 0.]),
                scores("d", &[1., 0., 0.]),
            ],
            [0.3125, 0.5625, 0.125]
                .repeat(2)
                .into_iter()
                .map(Value::from)
                .collect(),
            0.5,
        ),
        (
            vec![
                scores("a", &[1.]),
                scores("b", &[2.]),
                scores("c", &[3.]),
                scores("d", &[3.]),
            ],
            vec![json!(2.), json!(2.)],
            -1.,
        ),
    ];
    for (models, wanted, sure) in cases {
        for listener in ["oip-grpc", "tfserving-rest"] {
            let mixed = Mixed::of(models.clone(), &arms, VOTE, listener).await;
            let wire = Wire::connect(mixed.gateway.address()).await;
            let mut told = Vec::new();
            for way in Way::all() {
                let reply = way.ask(&wire, &[1., 2.]).await;
                let found = way.read(&reply);
                assert!(same(&found, &wanted), "{way:?}: {found:?}, not {wanted:?}");
                told.push((arm_of(&reply).to_owned(), confidence(&reply)));
                if sure >= 0. {
                    assert!(
                        (confidence(&reply) - sure).abs() < 0.001,
                        "{way:?} {reply:?}"
                    );
                }
            }
            assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
            for arm in ["a", "b", "c", "d"] {
                let counters = mixed.arm(arm).counters();
                assert_eq!(counters.calls, told.len() as u64, "{arm}");
            }
        }
    }
}

#[tokio::test]
async fn rows_of_arms_of_different_protocols_are_put_together() {
    let of_int64 = |model| outrigger_native::Synthetic {
        inputs: vec![outrigger_native::TensorSpec::new(
            "input0",
            Datatype::Int64,
            &[1],
        )],
        ..model
    };
    for protocols in [
        ["oip-grpc", "tfserving-rest", "oip-rest", "tfserving-grpc"],
        ["tfserving-rest", "oip-grpc", "tfserving-grpc", "oip-rest"],
        ["oip-rest", "tfserving-grpc", "oip-grpc", "tfserving-rest"],
    ] {
        let models = vec![
            of_int64(says("a", of_label(1))),
            of_int64(says("b", of_label(2))),
            of_int64(echoes("c", Datatype::Int64)),
            of_int64(says("d", of_label(1))),
        ];
        let weights = ["weight: 30", "weight: 30", "weight: 25", "weight: 15"];
        let arms: Vec<_> = protocols.into_iter().zip(weights).collect();
        let mixed = Mixed::of(models, &arms, VOTE, protocols[0]).await;
        let wire = Wire::connect(mixed.gateway.address()).await;
        let data: Vec<u8> = [2_i64, 3, 2, 1]
            .iter()
            .flat_map(|row| row.to_le_bytes())
            .collect();
        let request = tensor("m", "INT64", &[4, 1], data);
        let reply = send(&wire, &Inference::of(&request)).await;
        assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
        assert_eq!(labels(&reply), [2, 1, 2, 1], "{protocols:?}");
        let input =
            json!({"name": "input0", "datatype": "INT64", "shape": [4, 1], "data": [2, 3, 2, 1]});
        for (path, body, outputs) in [
            (
                "/v2/models/m/infer",
                json!({"inputs": [input]}),
                "/outputs/0/data",
            ),
            (
                "/v1/models/m:predict",
                json!({"instances": [[2], [3], [2], [1]]}),
                "/predictions",
            ),
        ] {
            let request = http::Request::post(format!("http://model.test{path}"))
                .version(http::Version::HTTP_2)
                .header("content-type", "application/json")
                .body(())
                .unwrap();
            let body = [body.to_string().into()];
            let reply = wire.exchange(request, &body, None).await.unwrap();
            assert_eq!(reply.status, 200, "{reply:?}");
            let answer: Value = serde_json::from_slice(&reply.body).unwrap();
            let found = answer.pointer(outputs).unwrap().to_string();
            let digits: String = found.chars().filter(char::is_ascii_digit).collect();
            assert_eq!(digits, "2121", "{protocols:?} {answer}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_too_few_agree_with_is_the_default_output() {
    let models = ["a", "b", "c"].into_iter().zip(1..);
    let models: Vec<_> = models
        .map(|(name, label)| says(name, of_label(label)))
        .collect();
    let least = "selection: { ensemble: true }, \
                 deadline: { default_output: { output0: [-7] }, min_confidence: 0.6 }";
    for (weights, default) in [
        (["weight: 5", "weight: 4", "weight: 3"], true),
        (["weight: 9", "weight: 1", "weight: 1"], false),
    ] {
        let arms: Vec<_> = ["oip-rest", "oip-grpc", "tfserving-grpc"]
            .into_iter()
            .zip(weights)
            .collect();
        let mixed = Mixed::of(models.clone(), &arms, least, "oip-grpc").await;
        let wire = Wire::connect(mixed.gateway.address()).await;
        for way in Way::all() {
            let reply = way.ask(&wire, &[1., 2.]).await;
            let wanted = if default { -7 } else { 1 };
            let found = way.read(&reply);
            assert!(
                same(&found, &[json!(wanted), json!(wanted)]),
                "{way:?} {found:?}"
            );
            let said = header(&reply, "outrigger-default");
            assert_eq!(said, default.then_some("low-confidence"), "{way:?}");
            // What the arms said is judged, not what was given instead.
            let told = json!({"prediction_id": id_of(&reply), "label": [2, 2]});
            let (status, answer) = tell(&wire, &told).await;
            assert_eq!(status, 200, "{answer}");
        }
        let labels = [("model", "m"), ("reason", "low-confidence")];
        let counted = metric(&mixed.gateway, "outrigger_default_answers_total", &labels);
        assert_eq!(counted, if default { 7. } else { 0. });
        assert_eq!(loss(&mixed.gateway, "b"), Some(0.));
        assert_eq!(loss(&mixed.gateway, "a"), Some(1.));
    }
}

#[tokio::test]
async fn an_arm_that_fails_is_missing_in_the_vote_and_nowhere_else() {
    let team = Team::of_labels(&[1, 2, 2]).await;
    let weights = ["weight: 2", "weight: 5", "weight: 3"];
    let gateway = team.before(&weights, VOTE, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let fail = |status: Status| Faults::always(Fault::Error(status));
    team.arm("b").set_faults(fail(Status::internal("broken")));
    let reply = ask(&wire, &[1.]).await;
    assert_eq!((labels(&reply), arm_of(&reply)), (vec![2], "c"));
    assert!((confidence(&reply) - 0.3).abs() < 0.001, "{reply:?}");
    assert_eq!(loss(&gateway, "b"), Some(1.));
    assert_eq!(observations(&gateway, "a"), 0.);

    // All of them: the first failure is the answer.
    for arm in ["a", "b", "c"] {
        team.arm(arm)
            .set_faults(fail(Status::failed_precondition("not for you")));
    }
    let reply = send(&wire, &question(&[1.])).await;
    assert_eq!(reply.grpc_status(), Some("9"), "{reply:?}");
    assert_eq!(reply.grpc_message(), "not for you");
}

#[tokio::test]
async fn a_slow_arm_is_missing_at_the_deadline() {
    let team = Team::of_labels(&[1, 2, 2]).await;
    let gateway = team
        .before(&["weight: 2", "weight: 5", "weight: 2"], VOTE, "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    team.arm("b").pause();
    let request = question(&[1.]).header("grpc-timeout", "300m");
    let reply = send(&wire, &request).await;
    assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
    assert_eq!((labels(&reply), arm_of(&reply)), (vec![1], "a"));
    assert!((confidence(&reply) - 2. / 9.).abs() < 0.001, "{reply:?}");
    for arm in ["a", "c"] {
        team.arm(arm).pause();
    }
    let reply = send(&wire, &request).await;
    assert_eq!(reply.grpc_status(), Some("4"), "{reply:?}");
    for arm in ["a", "b", "c"] {
        team.arm(arm).resume();
    }
    until("nobody is at work", || {
        ["a", "b", "c"]
            .iter()
            .all(|arm| team.arm(arm).counters().in_flight == 0)
    })
    .await;
}

#[tokio::test]
async fn the_votes_of_exp4_follow_what_is_told() {
    let team = Team::of_labels(&[1, 2, 2]).await;
    let gateway = team.before(&[], "selection: { policy: exp4 }", "").await;
    let wire = Wire::connect(gateway.address()).await;
    assert_eq!(labels(&ask(&wire, &[1.]).await), [2]);
    for _ in 0..20 {
        let reply = ask(&wire, &[1.]).await;
        let told = json!({"prediction_id": id_of(&reply), "label": 1});
        let (status, answer) = tell(&wire, &told).await;
        assert_eq!(status, 200, "{answer}");
    }
    let reply = ask(&wire, &[1.]).await;
    assert_eq!((labels(&reply), arm_of(&reply)), (vec![1], "a"));
    assert!(confidence(&reply) > 0.9, "{reply:?}");
    assert!(probability(&gateway, "a") > 0.9);
    for (arm, lost) in [("a", 0.), ("b", 1.), ("c", 1.)] {
        assert_eq!(
            (observations(&gateway, arm), loss(&gateway, arm)),
            (20., Some(lost))
        );
    }
    // A loss of the answer is that of those who agreed with it.
    let before = standings(&gateway);
    let told = json!({"prediction_id": id_of(&reply), "loss": 0.5});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(observations(&gateway, "a"), 21.);
    assert_eq!(standings(&gateway)["b"][2], before["b"][2]);
}
