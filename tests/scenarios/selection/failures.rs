//! An arm that fails is left out, and comes back; what a caller does wrong is no fault of an arm.

use std::net::SocketAddr;

use outrigger_native::{Fault, Faults, Server, inference::ModelInferRequest};
use outrigger_tests::{
    feedback::tell,
    gateway::Gateway,
    model::{rows, tensor},
    origin::Origin,
    patience::{until, within},
    wire::Wire,
};
use serde_json::json;
use tonic::Status;

use super::{
    Team, arm_of, ask, ask_until, id_of, is_up, loss, metric, observations, of_label, probability,
    question, says, send, standings,
};
use crate::gather::Inference;

const EVENLY: &str = "selection: { seed: 2 }";

/// An address where nobody listens at the moment.
async fn nowhere() -> SocketAddr {
    let origin = Origin::http2(|_| async {}).await;
    let address = origin.address();
    origin.stop().await;
    address
}

/// A proxy whose arm `a` is served, and whose arm `b` is to be found at an address.
fn beside(team: &Team, address: SocketAddr, model: &str) -> Gateway {
    let served = team.served[0].server.address();
    Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", upstream: a }}]\n\
         admin: {{ address: \"127.0.0.1:0\" }}\n\
         upstreams: {{ a: {{ protocol: oip-grpc, endpoints: [\"http://{served}\"] }}, \
         b: {{ protocol: oip-grpc, endpoints: [\"http://{address}\"] }} }}\n\
         models: {{ m: {{ arms: {{ a: {{ upstream: a, model: a }}, b: {{ upstream: b, model: b }} }}, {model} }} }}\n"
    ))
}

#[tokio::test]
async fn callers_notice_nothing_of_an_arm_that_is_down_and_it_comes_back() {
    let team = Team::of_labels(&[1]).await;
    let address = nowhere().await;
    for policy in ["fixed", "exp3"] {
        let selection = format!("selection: {{ policy: {policy}, seed: 2 }}");
        let gateway = beside(&team, address, &selection);
        let wire = Wire::connect(gateway.address()).await;
        for _ in 0..200 {
            assert_eq!(arm_of(&ask(&wire, &[1.]).await), "a");
        }
        assert!(!is_up(&gateway, "b") && is_up(&gateway, "a"));
        assert_eq!(probability(&gateway, "b"), 0., "while it is down");
        assert!(
            super::number(&standings(&gateway)["b"][0]) > 0.,
            "its weight stays"
        );
        let models = gateway.state().models();
        assert_eq!(models["m"]["arms"]["b"]["up"], false);
        // Being away is a loss, but not for each caller.
        let losses = observations(&gateway, "b");
        assert!((1. ..20.).contains(&losses), "{losses}");
        assert_eq!(loss(&gateway, "b"), Some(1.));

        let back = within("the address is free", async {
            loop {
                let builder = Server::builder().model(says("b", of_label(2)));
                if let Ok(server) = builder.threads(1).bind(address).await {
                    return server;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        ask_until(&wire, "b").await;
        until("it is up", || is_up(&gateway, "b")).await;
        back.stop().await;
    }
}

#[tokio::test]
async fn an_arm_whose_server_does_not_have_its_model_is_as_good_as_down() {
    let team = Team::of_labels(&[1]).await;
    // The server of `a` has no `b`.
    let gateway = beside(&team, team.served[0].server.address(), EVENLY);
    let wire = Wire::connect(gateway.address()).await;
    for _ in 0..50 {
        assert_eq!(arm_of(&ask(&wire, &[1.]).await), "a");
    }
    assert!(!is_up(&gateway, "b"));
}

#[tokio::test]
async fn an_arm_that_answers_errors_loses_and_is_left_out_until_it_answers_again() {
    let team = Team::of_labels(&[1, 2]).await;
    for (failure, counted) in [
        ("", 3.),
        (", failure_loss: 0.5", 3.),
        (", failure_loss: ignore", 0.),
    ] {
        let selection =
            format!("selection: {{ policy: exp3, seed: 2, exploration: 0.5{failure} }}");
        let gateway = team.before(&[], &selection, "").await;
        let wire = Wire::connect(gateway.address()).await;
        team.arm("b")
            .set_faults(Faults::always(Fault::Error(Status::internal("broken"))));
        team.arm("b").reset_counters();
        let mut failed = 0;
        for _ in 0..100 {
            let reply = send(&wire, &question(&[1.])).await;
            match reply.grpc_status() {
                Some("0") => assert_eq!(arm_of(&reply), "a"),
                // It had been sent: nobody but the caller may send it again.
                Some("13") => failed += 1,
                _ => panic!("{reply:?}"),
            }
            if !is_up(&gateway, "b") {
                break;
            }
        }
        assert_eq!(failed, 3, "after so many in a row it is left out");
        assert_eq!(team.arm("b").counters().calls, 3);
        let failures = [("model", "m"), ("arm", "b")];
        assert_eq!(
            metric(&gateway, "outrigger_select_failures_total", &failures),
            3.
        );
        assert_eq!(observations(&gateway, "b"), counted, "{failure}");
        let wanted = match failure {
            "" => Some(1.),
            ", failure_loss: 0.5" => Some(0.5),
            _ => None,
        };
        assert_eq!(loss(&gateway, "b"), wanted);
        assert_eq!(observations(&gateway, "a"), 0.);
        team.arm("b").set_faults(Faults::none());
        ask_until(&wire, "b").await;
        assert!(is_up(&gateway, "b"));
    }
}

#[tokio::test]
async fn what_a_caller_does_wrong_teaches_nothing_and_puts_no_arm_out() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team
        .before(&[], "selection: { policy: exp3, seed: 2 }", "")
        .await;
    let wire = Wire::connect(gateway.address()).await;
    let before = standings(&gateway);
    let wrong: [(ModelInferRequest, &str); 3] = [
        (tensor("m", "INT32", &[1, 1], vec![0; 4]), "3"),
        (tensor("m", "FP32", &[1, 2], vec![0; 8]), "3"),
        // A version that nobody has.
        (
            ModelInferRequest {
                model_version: "99".to_owned(),
                ..rows("m", &[1.])
            },
            "5",
        ),
    ];
    for (request, status) in wrong {
        for _ in 0..20 {
            let reply = send(&wire, &Inference::of(&request)).await;
            assert_eq!(reply.grpc_status(), Some(status), "{reply:?}");
        }
    }
    for code in [
        Status::invalid_argument("x"),
        Status::failed_precondition("x"),
        Status::unimplemented("x"),
        Status::permission_denied("x"),
    ] {
        for arm in ["a", "b"] {
            team.arm(arm)
                .set_faults(Faults::always(Fault::Error(code.clone())));
        }
        for _ in 0..10 {
            let reply = send(&wire, &question(&[1.])).await;
            assert_ne!(reply.grpc_status(), Some("0"), "{reply:?}");
        }
    }
    assert_eq!(standings(&gateway), before);
    assert!(is_up(&gateway, "a") && is_up(&gateway, "b"));
}

#[tokio::test]
async fn where_all_arms_fail_the_caller_is_told_how_and_they_are_tried_on() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], EVENLY, "").await;
    let wire = Wire::connect(gateway.address()).await;
    for arm in ["a", "b"] {
        team.arm(arm)
            .set_faults(Faults::always(Fault::Error(Status::internal("broken"))));
    }
    for _ in 0..20 {
        let reply = send(&wire, &question(&[1.])).await;
        assert_eq!(
            (reply.grpc_status(), &*reply.grpc_message()),
            (Some("13"), "broken")
        );
    }
    // With none that is up, each may be back: nobody waits for a second to be over.
    for arm in ["a", "b"] {
        team.arm(arm).set_faults(Faults::none());
    }
    ask(&wire, &[1.]).await;
}

#[tokio::test]
async fn a_caller_that_leaves_teaches_nothing() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team
        .before(&[], "selection: { policy: exp3, seed: 2 }", "")
        .await;
    let before = standings(&gateway);
    for arm in ["a", "b"] {
        team.arm(arm).pause();
    }
    let received = || {
        ["a", "b"]
            .map(|arm| team.arm(arm).counters().received)
            .iter()
            .sum::<u64>()
    };
    for number in 1..=10 {
        let wire = Wire::connect(gateway.address()).await;
        let call = tokio::spawn(async move { question(&[1.]).send(&wire).await });
        until("it is at an arm", || received() == number).await;
        call.abort();
        let _ = call.await;
    }
    until("they have left", || {
        let left = [("code", "CANCELLED")];
        metric(&gateway, "outrigger_requests_total", &left) == 10.
    })
    .await;
    assert_eq!(standings(&gateway), before);
    for arm in ["a", "b"] {
        team.arm(arm).resume();
    }
    let wire = Wire::connect(gateway.address()).await;
    let reply = ask(&wire, &[1.]).await;
    let (status, answer) = tell(&wire, &json!({"prediction_id": id_of(&reply), "loss": 0})).await;
    assert_eq!(status, 200, "{answer}");
}
