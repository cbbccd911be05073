//! Feedback is credited to the arm that served, once, wherever it lands.

use std::{
    collections::HashSet,
    io::Write as _,
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use outrigger_filters::select::{Chosen, Keys, Token};
use outrigger_tests::{
    feedback::{Outcome, ReportRequest, report, tell},
    gateway::Gateway,
    http1::Http1,
    wire::Wire,
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{
    Team, arm_of, ask, ask_until, id_of, loss, metric, observations, probability, standings, teach,
};

const EXP3: &str = "selection: { policy: exp3, seed: 1 }";

fn key(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn signed_by(key: &NamedTempFile) -> String {
    format!("feedback: {{ key: {:?} }}", key.path())
}

/// An id that a proxy with this key would have given to an answer of this arm, so long ago.
fn made_up(key: &str, model: &str, arm: &str, age: Duration) -> String {
    let token = Token {
        model: Token::digest(model),
        context: None::<ByteString>,
        ensemble: false,
        arms: [Chosen::new(Token::digest(arm), 0.5)].into_iter().collect(),
        rows: 1,
        at: SystemTime::now() - age,
        nonce: 77,
        cut: false,
    };
    token.seal(&Keys::new(key.as_bytes(), None).unwrap())
}

#[tokio::test]
async fn a_loss_moves_requests_away_from_the_arm_that_served() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..20 {
        let reply = ask_until(&wire, "b").await;
        let before = probability(&gateway, "b");
        let answer = teach(&wire, &reply, 1.).await;
        assert_eq!(answer["duplicates"], 0);
        assert_eq!(answer["rejected"], json!([]));
        assert_eq!(answer["model"], "m");
        // The reply says how the arms stand now.
        for (name, told) in standings(&gateway) {
            let arm = &answer["arms"][&name];
            let numbers = ["weight", "probability", "observations", "loss"];
            for (number, told) in numbers.iter().zip(told) {
                // The reader of numbers rounds the last bit.
                let apart = number_of(&arm[number]).zip(number_of(&told));
                let is_same = apart.map_or(arm[number] == told, |(a, b)| (a - b).abs() < 1e-12);
                assert!(is_same, "{name} {number}: {answer} {told}");
            }
        }
        let after = probability(&gateway, "b");
        assert!(after < before || after < 0.01, "{before} {after}");
        if after < 0.01 {
            break;
        }
    }
    assert!(probability(&gateway, "b") < 0.1);
    assert_eq!(
        (observations(&gateway, "a"), loss(&gateway, "a")),
        (0., None)
    );
    assert_eq!(loss(&gateway, "b"), Some(1.));
    let mut answers = 0;
    for _ in 0..100 {
        answers += usize::from(arm_of(&ask(&wire, &[1.]).await) == "a");
    }
    assert!(answers > 80, "{answers} of 100");
}

/// A number, whole or not.
fn number_of(value: &Value) -> Option<f64> {
    value.as_f64()
}

#[tokio::test]
async fn a_label_is_compared_with_what_the_arm_said() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    for (arm, label, lost) in [("a", 1, 0.), ("b", 1, 1.)] {
        let reply = ask_until(&wire, arm).await;
        let told = json!({"prediction_id": id_of(&reply), "label": label});
        let (status, answer) = tell(&wire, &told).await;
        assert_eq!(
            (status.as_u16(), &answer["applied"]),
            (200, &json!(1)),
            "{answer}"
        );
        assert_eq!(loss(&gateway, arm), Some(lost));
    }
    // What is of another kind is never taken for wrong, or right.
    let reply = ask(&wire, &[1.]).await;
    let before = standings(&gateway);
    let told = json!({"prediction_id": id_of(&reply), "label": "1"});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "label", "{answer}");
    assert_eq!(standings(&gateway), before);
}

#[tokio::test]
async fn rows_are_told_one_by_one_or_all_together() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let mut sum = 0.;
    let mut count = 0.;
    for (told, mean) in [
        (json!({"loss": 0.25}), 0.25),
        (json!({"loss": [0.5, null, 1.0]}), 0.75),
        (json!({"loss": 0.125, "row": 1}), 0.125),
        (json!({"label": [1, 1, 2]}), 1. / 3.),
        (json!({"label": [null, null, 1]}), 0.),
        (json!({"label": 2, "row": 2}), 1.),
    ] {
        let reply = loop {
            let reply = ask(&wire, &[1., 2., 3.]).await;
            if arm_of(&reply) == "a" {
                break reply;
            }
        };
        let mut told = told;
        told["prediction_id"] = id_of(&reply).into();
        let (status, answer) = tell(&wire, &told).await;
        assert_eq!(status, 200, "{told} {answer}");
        sum += mean;
        count += 1.;
        let found = loss(&gateway, "a").unwrap();
        assert!((found - sum / count).abs() < 1e-9, "{told}: {found}");
        assert_eq!(observations(&gateway, "a"), count);
    }
    // Several rows are several facts, of one answer.
    let reply = ask(&wire, &[1., 2.]).await;
    for (row, applied) in [(0, 1), (1, 1), (0, 0), (1, 0)] {
        let told = json!({"prediction_id": id_of(&reply), "loss": 0.5, "row": row});
        let (_, answer) = tell(&wire, &told).await;
        assert_eq!(answer["applied"], applied, "{answer}");
    }
}

#[tokio::test]
async fn what_is_told_twice_counts_once_whichever_way_it_comes() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], EXP3, "").await;
    let first = Wire::connect(gateway.addresses()[0]).await;
    let second = Wire::connect(gateway.addresses()[1]).await;
    let reply = ask(&first, &[1.]).await;
    let (arm, id) = (arm_of(&reply), id_of(&reply));
    let answer = teach(&first, &reply, 0.5).await;
    assert_eq!(number_of(&answer["arms"][arm]["observations"]), Some(1.));
    let once = standings(&gateway);

    // On the same listener and another one, over HTTP/2, HTTP/1.1 and gRPC, by another outcome.
    for wire in [&first, &second] {
        for told in [
            json!({"loss": 0.5}),
            json!({"loss": 1.}),
            json!({"label": 1}),
            json!({"loss": 0.5, "row": 0}),
        ] {
            let mut told = told;
            told["prediction_id"] = id.into();
            let (status, answer) = tell(wire, &told).await;
            let counts = (&answer["applied"], &answer["duplicates"]);
            assert_eq!(
                (status.as_u16(), counts),
                (200, (&json!(0), &json!(1))),
                "{told} {answer}"
            );
        }
        let request = ReportRequest::of_prediction(id, Outcome::Loss(0.5));
        let answer = report(wire, &request).await.unwrap();
        assert_eq!((answer.applied, answer.duplicates), (0, 1), "{answer:?}");
        assert_eq!(answer.models["m"].arms[arm].observations, 1.);
    }
    let body = json!({"prediction_id": id, "loss": 0.5}).to_string();
    let mut http1 = Http1::connect(gateway.address()).await;
    let answer = http1
        .exchange(format!(
            "POST /outrigger/v1/feedback HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer["duplicates"], 1, "{answer}");
    assert_eq!(standings(&gateway), once);

    // Over gRPC first, and twice in one report.
    let reply = ask(&second, &[1.]).await;
    let mut request = ReportRequest::of_prediction(id_of(&reply), Outcome::Loss(0.5));
    request.feedback.push(request.feedback[0].clone());
    let answer = report(&first, &request).await.unwrap();
    assert_eq!((answer.applied, answer.duplicates), (1, 1), "{answer:?}");
    let duplicate = [("model", "m"), ("result", "duplicate")];
    assert_eq!(
        metric(&gateway, "outrigger_feedback_total", &duplicate),
        12.
    );
    let applied = [("model", "m"), ("result", "applied")];
    assert_eq!(metric(&gateway, "outrigger_feedback_total", &applied), 2.);
}

#[tokio::test]
async fn another_process_with_the_same_key_takes_it_and_so_does_one_that_is_started_anew() {
    let team = Team::of_labels(&[1, 2]).await;
    let shared = key("a key that all replicas have");
    let gateway = team.before(&[], EXP3, &signed_by(&shared)).await;
    let wire = Wire::connect(gateway.address()).await;
    let mut replies = Vec::new();
    for _ in 0..3 {
        replies.push(ask_until(&wire, "b").await);
    }
    let replica = team.before(&[], EXP3, &signed_by(&shared)).await;
    let other = Wire::connect(replica.address()).await;
    let answer = teach(&other, &replies[0], 1.).await;
    assert_eq!(number_of(&answer["arms"]["b"]["observations"]), Some(1.));
    assert_eq!(observations(&gateway, "b"), 0.);
    drop((wire, gateway, other, replica));

    let again = team.before(&[], EXP3, &signed_by(&shared)).await;
    let wire = Wire::connect(again.address()).await;
    teach(&wire, &replies[1], 1.).await;
    assert_eq!(
        (observations(&again, "b"), loss(&again, "b")),
        (1., Some(1.))
    );
    assert!(probability(&again, "b") < 0.5);

    // The key is replaced: what the old one signed is taken for as long as it is named.
    drop((wire, again));
    let new = key("another key, by which the first one is replaced");
    let both = format!(
        "feedback: {{ key: {:?}, previous_key: {:?} }}",
        new.path(),
        shared.path()
    );
    for (rest, status) in [(both, 200), (signed_by(&new), 422)] {
        let rotated = team.before(&[], EXP3, &rest).await;
        let wire = Wire::connect(rotated.address()).await;
        let told = json!({"prediction_id": id_of(&replies[2]), "loss": 1.});
        let (found, answer) = tell(&wire, &told).await;
        assert_eq!(found, status, "{answer}");
    }
}

#[tokio::test]
async fn ids_of_replicas_with_the_same_seed_differ() {
    let team = Team::of_labels(&[1, 2]).await;
    let shared = key("a key that all replicas have");
    let mut ids = HashSet::new();
    let mut replies = Vec::new();
    let mut gateways = Vec::new();
    for _ in 0..3 {
        let gateway = team.before(&[], EXP3, &signed_by(&shared)).await;
        let wire = Wire::connect(gateway.address()).await;
        for _ in 0..10 {
            let reply = ask(&wire, &[1.]).await;
            assert!(ids.insert(id_of(&reply).to_owned()), "{reply:?}");
            replies.push(reply);
        }
        gateways.push(gateway);
    }
    // Told to one of them, all of it counts: none is taken for another one.
    let wire = Wire::connect(gateways[0].address()).await;
    for reply in &replies {
        teach(&wire, reply, 0.5).await;
    }
}

#[tokio::test]
async fn an_id_that_is_not_ours_is_refused_and_changes_nothing() {
    let ours = "a key that all replicas have";
    let file = key(ours);
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], EXP3, &signed_by(&file)).await;
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask(&wire, &[1.]).await;
    let id = id_of(&reply);
    let hour = Duration::from_secs(3600);
    let mut changed = id.to_owned().into_bytes();
    changed[20] = if changed[20] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    let before = standings(&gateway);
    for (id, code) in [
        (changed, "foreign"),
        (
            made_up("the key of somebody else", "m", "a", Duration::ZERO),
            "foreign",
        ),
        (made_up(ours, "m", "a", 25 * hour), "expired"),
        (made_up(ours, "n", "a", hour), "model"),
        (made_up(ours, "m", "e", hour), "arm"),
        (id[..id.len() - 2].to_owned(), "foreign"),
        ("hello".to_owned(), "malformed"),
        (String::new(), "malformed"),
        ("A".repeat(10_000), "malformed"),
        (format!("{id}\u{e9}"), "malformed"),
    ] {
        let told = json!({"prediction_id": id, "loss": 0.5});
        let (status, answer) = tell(&wire, &told).await;
        assert_eq!(status, 422, "{code}: {answer}");
        assert_eq!(answer["rejected"][0]["code"], code, "{id}: {answer}");
        assert_eq!(answer["applied"], 0);
        let reason = answer["rejected"][0]["reason"].as_str().unwrap();
        assert!(!reason.is_empty());
        let request = ReportRequest::of_prediction(&id, Outcome::Loss(0.5));
        let (status, words) = report(&wire, &request).await.unwrap_err();
        assert_eq!((&*status, &*words), ("9", reason), "FAILED_PRECONDITION");
        assert_eq!(standings(&gateway), before, "{code}");
    }
    // The same, but signed and in time.
    let told = json!({"prediction_id": made_up(ours, "m", "a", 23 * hour), "loss": 0.5});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 200, "{answer}");
    // One that is good is not spoiled by its neighbours.
    let told = json!({"feedback": [
        {"prediction_id": "hello", "loss": 0.5},
        {"prediction_id": id, "loss": 0.5},
        {"prediction_id": made_up(ours, "m", "a", 25 * hour), "loss": 0.5},
    ]});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(
        (status.as_u16(), &answer["applied"]),
        (200, &json!(1)),
        "{answer}"
    );
    let rejected = answer["rejected"].as_array().unwrap();
    let rejected: Vec<_> = rejected
        .iter()
        .map(|one| (&one["index"], &one["code"]))
        .collect();
    assert_eq!(
        rejected,
        [
            (&json!(0), &json!("malformed")),
            (&json!(2), &json!("expired"))
        ]
    );
}

#[tokio::test]
async fn without_a_key_only_the_process_that_answered_takes_it() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateways: [Gateway; 2] = [
        team.before(&[], EXP3, "").await,
        team.before(&[], EXP3, "").await,
    ];
    let wire = Wire::connect(gateways[0].address()).await;
    let other = Wire::connect(gateways[1].address()).await;
    let reply = ask(&wire, &[1.]).await;
    let told = json!({"prediction_id": id_of(&reply), "loss": 0.5});
    let (status, answer) = tell(&other, &told).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "foreign");
    teach(&wire, &reply, 0.5).await;
}
