//! What was learned survives a reload; what goes by feedback that is on its way is said.

use outrigger_tests::{feedback::tell, wire::Wire};
use serde_json::json;

use super::{Team, ask, ask_until, id_of, observations, probability, standings, teach};

const EXP3: &str = "selection: { policy: exp3, seed: 5 }";

#[tokio::test]
async fn weights_survive_a_reload_that_changes_something_else() {
    let team = Team::of_labels(&[1, 2]).await;
    let mut gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..5 {
        teach(&wire, &ask_until(&wire, "b").await, 1.).await;
    }
    let outstanding = ask_until(&wire, "b").await;
    let learned = standings(&gateway);
    assert!(probability(&gateway, "b") < 0.3);
    for (what, arms, model, rest, kept) in [
        ("nothing", ["", ""], EXP3.to_owned(), "", true),
        (
            "a limit",
            ["", ""],
            EXP3.to_owned(),
            "limits: { drain: 7s }",
            true,
        ),
        (
            "a cache",
            ["", ""],
            format!("{EXP3}, cache: {{ bypass: never }}"),
            "",
            true,
        ),
        (
            "a batch",
            ["", ""],
            format!("{EXP3}, batch: {{}}"),
            "",
            true,
        ),
        (
            "an objective",
            ["", ""],
            format!("{EXP3}, latency_objective: 70ms"),
            "",
            true,
        ),
        (
            "another model",
            ["", ""],
            format!("{EXP3} }}, n: {{ cache: {{}}"),
            "",
            true,
        ),
        // Other probabilities follow from the same weights.
        (
            "the exploration",
            ["", ""],
            EXP3.replace("seed: 5", "seed: 5, exploration: 0.4"),
            "",
            false,
        ),
        (
            "a bound",
            ["", "min_probability: 0.3"],
            EXP3.to_owned(),
            "",
            false,
        ),
        ("back again", ["", ""], EXP3.to_owned(), "", true),
    ] {
        let config = team.config(&arms, &model, rest);
        gateway.reload(&config).await.unwrap();
        let now = standings(&gateway);
        for arm in ["a", "b"] {
            assert_eq!(now[arm][2..], learned[arm][2..], "{what}");
        }
        assert_eq!(now == learned, kept, "{what}: {now:?}");
        let wire = Wire::connect(gateway.address()).await;
        ask(&wire, &[1.]).await;
    }
    // Nor is what was answered before forgotten, or what was told taken for new.
    let wire = Wire::connect(gateway.address()).await;
    teach(&wire, &outstanding, 1.).await;
    assert_eq!(observations(&gateway, "b"), 6.);
    gateway
        .reload(&team.config(
            &[],
            &EXP3.replace("seed: 5", "seed: 5, exploration: 0.4"),
            "",
        ))
        .await
        .unwrap();
    let wire = Wire::connect(gateway.address()).await;
    let told = json!({"prediction_id": id_of(&outstanding), "loss": 1});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(
        (status.as_u16(), &answer["duplicates"]),
        (200, &json!(1)),
        "{answer}"
    );
}

#[tokio::test]
async fn answers_after_a_reload_are_not_taken_for_those_before_it() {
    let team = Team::of_labels(&[1, 2]).await;
    let mut gateway = team.before(&[], EXP3, "").await;
    let mut told = 0.;
    for exploration in [0.1, 0.2, 0.3] {
        let selection = EXP3.replace("seed: 5", &format!("seed: 5, exploration: {exploration}"));
        gateway
            .reload(&team.config(&[], &selection, ""))
            .await
            .unwrap();
        let wire = Wire::connect(gateway.address()).await;
        for _ in 0..10 {
            let reply = ask(&wire, &[1.]).await;
            teach(&wire, &reply, 0.5).await;
            told += 1.;
        }
        assert_eq!(
            observations(&gateway, "a") + observations(&gateway, "b"),
            told
        );
    }
}

#[tokio::test]
async fn an_arm_that_is_new_begins_with_nothing_and_one_that_is_gone_learns_nothing() {
    let mut team = Team::of_labels(&[1, 2, 3]).await;
    let third = team.served.pop().unwrap();
    let mut gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..5 {
        teach(&wire, &ask_until(&wire, "b").await, 1.).await;
    }
    let of_a = ask_until(&wire, "a").await;
    let of_b = ask_until(&wire, "b").await;
    let before = standings(&gateway);
    team.served.push(third);
    gateway.reload(&team.config(&[], EXP3, "")).await.unwrap();
    let now = standings(&gateway);
    assert_eq!(now["c"][2..], [json!(0.), json!(null)], "{now:?}");
    assert_eq!(now["b"][2..], before["b"][2..]);
    assert!(
        probability(&gateway, "c") > probability(&gateway, "b"),
        "{now:?}"
    );

    let gone = team.served.remove(1);
    gateway.reload(&team.config(&[], EXP3, "")).await.unwrap();
    let wire = Wire::connect(gateway.address()).await;
    let before = standings(&gateway);
    let told = json!({"prediction_id": id_of(&of_b), "loss": 1});
    let (status, answer) = tell(&wire, &told).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "arm", "{answer}");
    let reason = answer["rejected"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("not configured"), "{reason}");
    assert_eq!(standings(&gateway), before);
    teach(&wire, &of_a, 0.).await;
    drop(gone);
}

#[tokio::test]
async fn nothing_is_learned_while_it_is_frozen() {
    let team = Team::of_labels(&[1, 2]).await;
    let mut gateway = team.before(&[], EXP3, "").await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..3 {
        teach(&wire, &ask_until(&wire, "b").await, 1.).await;
    }
    let learned = standings(&gateway);
    let frozen = EXP3.replace("seed: 5", "seed: 5, freeze: true");
    gateway
        .reload(&team.config(&[], &frozen, ""))
        .await
        .unwrap();
    assert_eq!(gateway.state().models()["m"]["selection"]["frozen"], true);
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask_until(&wire, "b").await;
    let (status, answer) = tell(&wire, &json!({"prediction_id": id_of(&reply), "loss": 1})).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "frozen", "{answer}");
    let input = json!([{"name": "input0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]);
    let (status, answer) = tell(&wire, &json!({"model": "m", "inputs": input, "label": 1})).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "frozen", "{answer}");
    assert_eq!(standings(&gateway), learned);
    // What was answered meanwhile can be told when it thaws.
    gateway.reload(&team.config(&[], EXP3, "")).await.unwrap();
    let wire = Wire::connect(gateway.address()).await;
    teach(&wire, &reply, 1.).await;
    assert_eq!(observations(&gateway, "b"), 4.);
}
