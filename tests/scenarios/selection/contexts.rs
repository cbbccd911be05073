//! Callers who are told apart by a header learn apart.

use std::collections::BTreeMap;

use outrigger_tests::{
    feedback::tell,
    gateway::Gateway,
    wire::{Reply, Wire},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Team, arm_of, header, id_of, observations, of_label, question, says, send};

fn selection(policy: &str, more: &str) -> String {
    format!("selection: {{ policy: {policy}, seed: 6, context: {{ header: x-user{more} }} }}")
}

async fn ask_as(wire: &Wire, user: &str, values: &[f32]) -> Reply {
    let mut request = question(values);
    if !user.is_empty() {
        request = request.header("x-user", user);
    }
    let reply = send(wire, &request).await;
    assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
    reply
}

/// Teaches a user which arm is good, and returns how the arms stand for that one.
async fn teach_as(wire: &Wire, user: &str, good: &str, times: usize) -> Value {
    let mut arms = Value::Null;
    for _ in 0..times {
        let reply = ask_as(wire, user, &[1.]).await;
        let loss = if arm_of(&reply) == good { 0. } else { 1. };
        let told = json!({"prediction_id": id_of(&reply), "loss": loss});
        let (status, mut answer) = tell(wire, &told).await;
        assert_eq!(status, 200, "{answer}");
        arms = answer["arms"].take();
    }
    arms
}

/// Returns how often an arm answers a user, of 100 times.
async fn share(wire: &Wire, user: &str, arm: &str) -> usize {
    let mut share = 0;
    for _ in 0..100 {
        share += usize::from(arm_of(&ask_as(wire, user, &[1.]).await) == arm);
    }
    share
}

fn in_memory(gateway: &Gateway) -> u64 {
    let models = gateway.state().models();
    models["m"]["selection"]["context"]["in_memory"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn two_users_learn_apart_and_a_new_one_begins_with_what_all_have_learned() {
    for policy in ["exp3", "thompson", "epsilon-greedy"] {
        let team = Team::of_labels(&[1, 2]).await;
        let gateway = team.before(&[], &selection(policy, ""), "").await;
        let wire = Wire::connect(gateway.address()).await;
        let ada = teach_as(&wire, "ada", "a", 60).await;
        let bob = teach_as(&wire, "bob", "b", 150).await;
        let probability = |arms: &Value, arm: &str| arms[arm]["probability"].as_f64().unwrap();
        assert!(probability(&ada, "a") > 0.8, "{policy} {ada}");
        assert!(probability(&bob, "b") > 0.8, "{policy} {bob}");
        // What one is told changes nothing for the other.
        assert!(share(&wire, "ada", "a").await > 60, "{policy}");
        assert!(share(&wire, "bob", "b").await > 60, "{policy}");
        assert_eq!(in_memory(&gateway), 2);
        // All callers together have heard more of what bob said, and last.
        let all = observations(&gateway, "a") + observations(&gateway, "b");
        assert_eq!(all, 210., "{policy}");
        let overall = super::probability(&gateway, "b");
        assert!(overall > 0.6, "{policy} {overall}");
        assert!(share(&wire, "eve", "b").await > 40, "{policy}");
        assert!(share(&wire, "", "b").await > 40, "{policy}");
    }
}

#[tokio::test]
async fn a_caller_without_the_header_teaches_all_and_no_context() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], &selection("exp3", ""), "").await;
    let wire = Wire::connect(gateway.address()).await;
    teach_as(&wire, "", "a", 20).await;
    assert_eq!(in_memory(&gateway), 0);
    assert_eq!(
        observations(&gateway, "a") + observations(&gateway, "b"),
        20.
    );
    // By inputs, the context is named.
    let input = json!([{"name": "input0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]);
    let told = json!({"model": "m", "inputs": input, "context": "ada", "label": 2});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(in_memory(&gateway), 1);
}

#[tokio::test]
async fn a_context_is_what_its_own_id_says_wherever_feedback_comes_from() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], &selection("exp3", ""), "").await;
    let wire = Wire::connect(gateway.address()).await;
    let long = "u".repeat(3000);
    for user in ["ada", "bob", "\u{fc}mit", &long] {
        let mut request = question(&[1.]);
        request.head.push(("x-user", user.to_owned()));
        let reply = match user.is_ascii() {
            true => send(&wire, &request).await,
            // Not every header is text.
            false => continue,
        };
        let id = id_of(&reply);
        assert!(id.len() < 400, "{}", id.len());
        let (status, answer) = tell(&wire, &json!({"prediction_id": id, "loss": 1})).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            answer["arms"][arm_of(&reply)]["observations"],
            1,
            "{user} {answer}"
        );
    }
    assert_eq!(in_memory(&gateway), 3);
}

#[tokio::test]
async fn there_are_never_more_contexts_than_may_be() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team
        .before(&[], &selection("exp3", ", max_contexts: 64"), "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    for user in 0..300 {
        teach_as(&wire, &format!("user {user}"), "a", 1).await;
    }
    let held = in_memory(&gateway);
    assert!((32..=64).contains(&held), "{held}");
    assert_eq!(
        observations(&gateway, "a") + observations(&gateway, "b"),
        300.
    );
}

#[tokio::test]
async fn callers_who_are_told_apart_share_batches_and_stored_answers_where_the_header_is_ignored() {
    let team = Team::of([says("a", of_label(1))]).await;
    for (ignored, hits) in [(", ignore_headers: [x-user]", true), ("", false)] {
        let model = format!(
            "{}, cache: {{ bypass: never }}, batch: {{ controller: fixed, max_batch_size: 16{ignored} }}",
            selection("exp3", "")
        );
        let gateway = team.before(&[], &model, "").await;
        let wire = Wire::connect(gateway.address()).await;
        let first = ask_as(&wire, "ada", &[1.]).await;
        let second = ask_as(&wire, "bob", &[1.]).await;
        assert_eq!(header(&first, "outrigger-cache"), Some("miss"));
        let wanted = if hits { "hit" } else { "miss" };
        assert_eq!(header(&second, "outrigger-cache"), Some(wanted));
        // Whose each is is known all the same.
        for reply in [&first, &second] {
            let told = json!({"prediction_id": id_of(reply), "loss": 0.5});
            let (status, answer) = tell(&wire, &told).await;
            assert_eq!(status, 200, "{answer}");
        }
        assert_eq!(in_memory(&gateway), 2);

        let arm = team.arm("a");
        arm.reset_counters();
        arm.pause();
        let mut calls = JoinSet::new();
        for user in 0..9 {
            let wire = wire.clone();
            calls.spawn(
                async move { ask_as(&wire, &format!("{user}"), &[10. + user as f32]).await },
            );
        }
        let waiting = || {
            let models = gateway.state().models();
            let queued = models["m"]["arms"]["a"]["endpoints"][0]["queue_rows"]
                .as_u64()
                .unwrap();
            queued + arm.counters().received
        };
        outrigger_tests::patience::until("they wait", || waiting() == 9).await;
        arm.resume();
        calls.join_all().await;
        let batches: BTreeMap<usize, u64> = (arm.counters().batches.iter())
            .map(|(rows, batches)| (*rows, batches.calls))
            .collect();
        assert_eq!(arm.counters().rows, 9);
        let merged = batches.keys().any(|rows| *rows > 1);
        assert_eq!(merged, hits, "{batches:?}");
    }
}
