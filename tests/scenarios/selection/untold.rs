//! Where nothing is selected, the paths of feedback are the server's own; and where something is, all
//! others are.

use bytes::Bytes;
use http::Request;
use outrigger_tests::{
    feedback::{PATH, REPORT},
    gateway::Gateway,
    http1::Http1,
    origin::{Origin, mirror, mirror_http1},
    wire::{Wire, framed, grpc},
};

use super::Team;

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://model.test{path}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/json")
        .header("x-own", "kept")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn without_a_selection_both_paths_of_feedback_pass_through_untouched() {
    let origin = Origin::http2(mirror).await;
    for models in [
        "",
        "models: { m: { cache: {}, batch: {} } }",
        "models: { m: {} }",
    ] {
        let gateway = Gateway::before(&[origin.address()], "protocol: oip-grpc", models);
        let straight = Wire::connect(origin.address()).await;
        let proxied = Wire::connect(gateway.address()).await;
        let body = Bytes::from_static(b"{\"prediction_id\": 7, \"loss\": \"what?\"}");
        for (request, body) in [
            (post(PATH), body.clone()),
            (grpc(REPORT), framed(b"\xff\xff\xff")),
            (post(REPORT), body),
        ] {
            let body = [body];
            let wanted = straight
                .exchange(request.clone(), &body, None)
                .await
                .unwrap();
            let found = proxied.exchange(request, &body, None).await.unwrap();
            assert_eq!(found.body, wanted.body);
            assert_eq!(found.status, wanted.status);
            assert_eq!(found.trailers, wanted.trailers);
            assert_eq!(
                found.headers["seen-target"]
                    .to_str()
                    .unwrap()
                    .split("test")
                    .nth(1),
                wanted.headers["seen-target"]
                    .to_str()
                    .unwrap()
                    .split("test")
                    .nth(1)
            );
            for (name, value) in &wanted.headers {
                if name != "seen-target" {
                    assert_eq!(found.headers.get(name), Some(value), "{name}");
                }
            }
        }
    }
    let origin = Origin::http1(mirror_http1).await;
    let gateway = Gateway::before(&[origin.address()], "protocol: oip-rest", "");
    let request =
        format!("POST {PATH} HTTP/1.1\r\nhost: model.test\r\ncontent-length: 2\r\n\r\n[]");
    let mut straight = Http1::connect(origin.address()).await;
    let mut proxied = Http1::connect(gateway.address()).await;
    let wanted = straight.exchange(&request).await.unwrap();
    let found = proxied.exchange(&request).await.unwrap();
    assert_eq!(found.body, wanted.body);
    assert_eq!(found.headers, wanted.headers);
}

#[tokio::test]
async fn with_a_selection_all_other_paths_are_the_servers_own() {
    let team = Team::of_labels(&[1, 2]).await;
    let origin = Origin::http2(mirror).await;
    let config = team.config(&[], "selection: { policy: exp3 }", "");
    let config = config.replacen(
        "upstreams: {",
        &format!(
            "upstreams: {{ mirror: {{ protocol: oip-grpc, endpoints: [\"http://{}\"] }},",
            origin.address()
        ),
        1,
    );
    let config = config.replacen("upstream: a }", "upstream: mirror }", 1);
    let gateway = Gateway::start(&config);
    let wire = Wire::connect(gateway.addresses()[0]).await;
    for path in [
        "/outrigger/v1/feedback/",
        "/outrigger/v1/feedbacks",
        "/outrigger/v1",
        "/outrigger.v1.Feedback/Reports",
        "/outrigger.v1.Feedback",
    ] {
        let body = [Bytes::from_static(b"{}")];
        let reply = wire.exchange(post(path), &body, None).await.unwrap();
        assert!(reply.headers.contains_key("seen-x-own"), "{path} {reply:?}");
        assert_eq!(&reply.body[..], b"{}", "{path}");
    }
    // By another method nothing is told.
    let request = Request::get(format!("http://model.test{PATH}"))
        .version(http::Version::HTTP_2)
        .body(())
        .unwrap();
    let reply = wire.exchange(request, &[], None).await.unwrap();
    assert_eq!(reply.status, 405);
    assert_eq!(reply.headers["allow"], "POST");
}
