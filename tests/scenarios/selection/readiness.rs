//! A model of several arms is ready while one of them is that may answer.

use std::time::Duration;

use outrigger_native::inference::{ModelMetadataRequest, ModelReadyRequest};
use outrigger_tests::{gateway::Gateway, http1::get, model::connect, patience::within};

use super::{Team, of_label, protocols::Mixed, says};

/// Asks until a model is said to be ready, or not to be.
async fn is_said(gateway: &Gateway, ready: bool) {
    let mut client = connect(gateway.address()).await;
    let question = || ModelReadyRequest {
        name: "m".to_owned(),
        ..Default::default()
    };
    within("it is said", async {
        loop {
            let answer = client.model_ready(question()).await;
            // Where no server can be reached, that is said.
            if answer.is_ok_and(|answer| answer.into_inner().ready) == ready {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let page = get(gateway.address(), "/v2/models/m/ready").await;
    assert_eq!(page.status.is_success(), ready, "{page:?}");
    let page = get(gateway.address(), "/v1/models/m").await;
    let is_available = String::from_utf8_lossy(&page.body).contains("\"AVAILABLE\"");
    assert_eq!(is_available, ready, "{page:?}");
}

#[tokio::test]
async fn a_model_is_ready_while_one_of_its_arms_is() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], "", "").await;
    is_said(&gateway, true).await;
    team.arm("a").set_ready(false);
    is_said(&gateway, true).await;
    team.arm("b").set_ready(false);
    is_said(&gateway, false).await;
    team.arm("a").set_ready(true);
    is_said(&gateway, true).await;
}

#[tokio::test]
async fn a_shadow_makes_no_model_ready() {
    let team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&["", "shadow: true"], "", "").await;
    is_said(&gateway, true).await;
    team.arm("a").set_ready(false);
    is_said(&gateway, false).await;
    team.arm("a").set_ready(true);
    team.arm("b").set_ready(false);
    is_said(&gateway, true).await;
}

#[tokio::test]
async fn a_model_is_described_under_its_name_while_one_of_its_servers_is_there() {
    let mut team = Team::of_labels(&[1, 2]).await;
    let gateway = team.before(&[], "", "").await;
    for _ in 0..2 {
        let mut client = connect(gateway.address()).await;
        let request = ModelMetadataRequest {
            name: "m".to_owned(),
            ..Default::default()
        };
        let metadata = client.model_metadata(request).await.unwrap().into_inner();
        assert_eq!(metadata.name, "m");
        assert_eq!(metadata.inputs[0].name, "input0");
        assert_eq!(metadata.outputs[0].datatype, "INT64");
        let page = get(gateway.address(), "/v2/models/m").await;
        let page: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
        assert_eq!(page["name"], "m");
        assert_eq!(page["inputs"][0]["name"], "input0");
        let page = get(gateway.address(), "/v1/models/m/metadata").await;
        assert_eq!(page.status, 200, "{page:?}");
        if let Some(gone) = (team.served.len() == 2).then(|| team.served.remove(0)) {
            gone.server.stop().await;
        }
    }
}

#[tokio::test]
async fn arms_of_other_protocols_make_a_model_ready_too() {
    let models = vec![says("a", of_label(1)), says("b", of_label(2))];
    let arms = [("tfserving-rest", ""), ("oip-rest", "")];
    let mixed = Mixed::of(models, &arms, "", "oip-grpc").await;
    is_said(&mixed.gateway, true).await;
    mixed.arm("a").set_ready(false);
    is_said(&mixed.gateway, true).await;
    mixed.arm("b").set_ready(false);
    is_said(&mixed.gateway, false).await;
}
