//! Arms that are batched, and whose answers are kept, say what each would say alone.

use std::collections::{BTreeMap, HashSet};

use outrigger_native::Datatype;
use outrigger_tests::{
    feedback::tell,
    wire::{Reply, Wire},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Team, arm_of, ask, asked, echoes, header, id_of, loss, observations, of_scores,
    protocols::{Mixed, Way, same},
    says,
};

const FILTERS: &str = "cache: { bypass: never, unit: row }, \
                       batch: { controller: fixed, max_batch_size: 16 }";

#[tokio::test]
async fn whatever_is_mixed_each_answer_is_the_one_of_its_arm_alone() {
    let models = vec![
        echoes("a", Datatype::Fp32),
        says("b", of_scores(&[0.5])),
        says("c", of_scores(&[0.25])),
    ];
    let arms = [("oip-grpc", ""), ("oip-rest", ""), ("tfserving-grpc", "")];
    let model = format!("selection: {{ policy: exp3, seed: 3, exploration: 1.0 }}, {FILTERS}");
    let mixed = Mixed::of(models, &arms, &model, "oip-grpc").await;
    let mut random = StdRng::seed_from_u64(12);
    let mut callers = JoinSet::new();
    let ways: Vec<_> = Way::all().collect();
    for caller in 0..32 {
        let questions: Vec<(Way, Vec<f32>)> = (0..25)
            .map(|_| {
                let rows = random.random_range(1..=5);
                let rows = (0..rows).map(|_| f32::from(random.random_range(0..40_u8)) / 4.);
                let rows = rows.collect();
                (ways[random.random_range(0..ways.len())], rows)
            })
            .collect();
        let wire = Wire::connect(mixed.gateway.address()).await;
        callers.spawn(async move {
            let mut replies = Vec::new();
            for (way, rows) in questions {
                let reply = way.ask(&wire, &rows).await;
                let wanted: Vec<Value> = match arm_of(&reply) {
                    "a" => rows.iter().map(|row| json!(row)).collect(),
                    "b" => vec![json!(0.5); rows.len()],
                    _ => vec![json!(0.25); rows.len()],
                };
                let found = way.read(&reply);
                assert!(
                    same(&found, &wanted),
                    "{caller} {way:?} {found:?} {wanted:?}"
                );
                replies.push(reply);
            }
            replies
        });
    }
    let replies: Vec<Reply> = callers.join_all().await.into_iter().flatten().collect();
    let ids: HashSet<_> = replies.iter().map(id_of).collect();
    assert_eq!(ids.len(), 800, "each answer has an id of its own");
    let mut words: BTreeMap<_, usize> = BTreeMap::new();
    for reply in &replies {
        *words
            .entry(header(reply, "outrigger-cache").unwrap())
            .or_default() += 1;
    }
    assert!(words["hit"] > 200, "{words:?}");
    // Each can be told of, of whichever kind it was.
    let wire = Wire::connect(mixed.gateway.address()).await;
    let items: Vec<_> = ids
        .iter()
        .map(|id| json!({"prediction_id": id, "loss": 0.5}))
        .collect();
    let (status, answer) = tell(&wire, &json!({"feedback": items})).await;
    assert_eq!(
        (status.as_u16(), &answer["applied"]),
        (200, &json!(800)),
        "{answer}"
    );
}

#[tokio::test]
async fn a_hit_teaches_as_much_as_a_miss() {
    let team = Team::of_labels(&[1, 2]).await;
    let model = format!("selection: {{ policy: exp3, seed: 3 }}, {FILTERS}");
    let gateway = team.before(&[], &model, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let mut told: BTreeMap<String, f64> = BTreeMap::new();
    let mut hits = 0;
    for _ in 0..40 {
        let reply = ask(&wire, &[1., 2.]).await;
        hits += usize::from(header(&reply, "outrigger-cache") == Some("hit"));
        let report = json!({"prediction_id": id_of(&reply), "label": [1, 1]});
        let (status, answer) = tell(&wire, &report).await;
        assert_eq!(
            (status.as_u16(), &answer["applied"]),
            (200, &json!(1)),
            "{answer}"
        );
        *told.entry(arm_of(&reply).to_owned()).or_default() += 1.;
    }
    assert!(hits >= 38, "{hits}");
    assert!(asked(&team).values().all(|calls| *calls <= 1));
    for (arm, count) in told {
        assert_eq!(observations(&gateway, &arm), count, "{arm}");
        let lost = if arm == "a" { 0. } else { 1. };
        assert_eq!(loss(&gateway, &arm), Some(lost));
    }
}

#[tokio::test]
async fn an_ensemble_of_stored_answers_is_as_good_as_one_of_fresh_ones() {
    let team = Team::of_labels(&[1, 2, 2]).await;
    let model = format!("selection: {{ ensemble: true }}, {FILTERS}");
    let gateway = team.before(&[], &model, "").await;
    let wire = Wire::connect(gateway.address()).await;
    let first = ask(&wire, &[1., 2.]).await;
    let second = ask(&wire, &[1., 2.]).await;
    assert_eq!(first.body, second.body);
    assert_eq!(
        header(&second, "outrigger-confidence"),
        header(&first, "outrigger-confidence")
    );
    assert!(asked(&team).values().all(|calls| *calls == 1));
    assert_ne!(id_of(&first), id_of(&second));
    for reply in [&first, &second] {
        let told = json!({"prediction_id": id_of(reply), "label": [2, 2]});
        let (status, answer) = tell(&wire, &told).await;
        assert_eq!(
            (status.as_u16(), &answer["applied"]),
            (200, &json!(1)),
            "{answer}"
        );
    }
    assert_eq!(
        (loss(&gateway, "a"), loss(&gateway, "b")),
        (Some(1.), Some(0.))
    );
}
