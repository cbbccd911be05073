//! A shadow gets copies; nothing that it does reaches a caller.

use outrigger_native::{Fault, Faults};
use outrigger_tests::{gateway::Gateway, patience::until, wire::Wire};
use serde_json::Value;
use tonic::Status;

use super::{
    Team, arm_of, ask, asked, metric, observations, of_label, of_scores, question, says, send,
    standings, teach,
};

fn shadow(gateway: &Gateway, arm: &str) -> Value {
    gateway.state().models()["m"]["arms"][arm]["shadow"].clone()
}

fn results(gateway: &Gateway, arm: &str, result: &str) -> f64 {
    let labels = [("model", "m"), ("arm", arm), ("result", result)];
    metric(gateway, "outrigger_select_shadow_rows_total", &labels)
        + metric(gateway, "outrigger_select_shadow_total", &labels)
}

#[tokio::test]
async fn a_shadow_never_answers_and_is_compared() {
    let team = Team::of([
        says("a", of_label(1)),
        says("b", of_label(1)),
        says("c", of_label(2)),
    ])
    .await;
    let arms = ["", "shadow: true", "shadow: 0.5"];
    let gateway = team
        .before(&arms, "selection: { policy: exp3, seed: 8 }", "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..400 {
        let reply = ask(&wire, &[1., 2.]).await;
        assert_eq!(arm_of(&reply), "a");
    }
    until("the copies are compared", || {
        shadow(&gateway, "b")["rows"] == 800 && {
            let seen = shadow(&gateway, "c");
            seen["rows"].as_u64().unwrap() == 2 * seen["copies"].as_u64().unwrap()
        }
    })
    .await;
    let (same, other) = (shadow(&gateway, "b"), shadow(&gateway, "c"));
    assert_eq!(same["copies"], 400);
    assert_eq!(
        (same["agreement"].as_f64(), other["agreement"].as_f64()),
        (Some(1.), Some(0.))
    );
    // A half, give or take what one in ten million of them is off.
    let copies = other["copies"].as_f64().unwrap();
    assert!((copies - 200.).abs() < 5.4 * 10., "{other}");
    assert_eq!(asked(&team)["c"] as f64, copies);
    assert_eq!(results(&gateway, "b", "agree"), 800.);
    assert_eq!(results(&gateway, "c", "differ"), 2. * copies);
    assert!(standings(&gateway).keys().eq(["a"]), "they are not chosen");
}

#[tokio::test]
async fn numbers_are_told_by_how_much_they_differ() {
    let team = Team::of([
        says("a", of_scores(&[0.5, 0.25, 0.25])),
        says("b", of_scores(&[0.5, 0.125, 0.375])),
    ])
    .await;
    let gateway = team.before(&["", "shadow: true"], "", "").await;
    let wire = Wire::connect(gateway.address()).await;
    ask(&wire, &[1.]).await;
    until("it is compared", || shadow(&gateway, "b")["rows"] == 1).await;
    let seen = shadow(&gateway, "b");
    assert_eq!(seen["max_difference"], 0.125, "{seen}");
    assert_eq!(seen["agreement"].as_f64(), Some(1.), "{seen}");
}

#[tokio::test]
async fn a_shadow_that_fails_or_hangs_is_nobodys_business() {
    let team = Team::of_labels(&[1, 2, 3, 4]).await;
    let arms = ["", "", "shadow: true", "shadow: true"];
    let gateway = team
        .before(&arms, "selection: { policy: exp3, seed: 8 }", "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    team.arm("c")
        .set_faults(Faults::always(Fault::Error(Status::internal("broken"))));
    team.arm("d").pause();
    for _ in 0..300 {
        let reply = ask(&wire, &[1.]).await;
        assert!(["a", "b"].contains(&arm_of(&reply)));
    }
    until("the failures are seen", || {
        shadow(&gateway, "c")["failed"] == 300
    })
    .await;
    // What waits for one that hangs is bounded.
    let hung = shadow(&gateway, "d");
    assert_eq!(
        (&hung["copies"], &hung["skipped"]),
        (&64.into(), &236.into()),
        "{hung}"
    );
    assert_eq!(results(&gateway, "c", "failed"), 300.);
    assert_eq!(results(&gateway, "d", "skipped"), 236.);
    assert_eq!(
        observations(&gateway, "a") + observations(&gateway, "b"),
        0.
    );
    team.arm("d").resume();
    until("what hung is compared", || {
        shadow(&gateway, "d")["rows"] == 64
    })
    .await;
}

#[tokio::test]
async fn a_shadow_is_compared_with_the_answer_of_an_ensemble() {
    let team = Team::of_labels(&[1, 1, 2, 2]).await;
    let arms = ["", "", "", "shadow: true"];
    let gateway = team
        .before(&arms, "selection: { ensemble: true }", "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask(&wire, &[1.]).await;
    assert_eq!(arm_of(&reply), "a");
    until("it is compared", || shadow(&gateway, "d")["rows"] == 1).await;
    assert_eq!(shadow(&gateway, "d")["agreement"].as_f64(), Some(0.));
}

#[tokio::test]
async fn one_arm_and_a_shadow_need_no_selection() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&["", "shadow: true"], "", "").await;
    let wire = Wire::connect(gateway.address()).await;
    let reply = send(&wire, &question(&[1.])).await;
    assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
    teach(&wire, &reply, 0.5).await;
    until("it got its copy", || shadow(&gateway, "b")["rows"] == 1).await;
}
