use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use outrigger_filters::inference::Form;
use serde_json::{Value, json};

use super::*;
use crate::{
    body::{Body, Piece},
    codec::grpc::{FrameReader, frame},
    config::Config,
    server,
    stack::{Route, Table},
    telemetry::Metrics,
    upstream::Connector,
};

/// Counts what it is told; the id says what becomes of an item.
#[derive(Debug, Default)]
struct Learner(Mutex<Vec<String>>);

impl Applies for Learner {
    fn form(&self, _: &str) -> Form {
        Form::Flat
    }

    async fn apply(&self, item: Item) -> Result<Applied, Rejected> {
        let Subject::Prediction(id) = item.subject else {
            return Err(Rejected::new(Cause::Unavailable, "all arms are down"));
        };
        let (model, context) = id.split_once('/').unwrap_or((&id, ""));
        let context = (!context.is_empty()).then(|| context.into());
        match model {
            "old" => return Err(outrigger_filters::select::Refused::Expired.into()),
            "full" => return Err(Rejected::new(Cause::Full, "too much waits")),
            _ => {}
        }
        let mut known = self.0.lock().unwrap();
        let duplicate = known.contains(&id.to_string());
        known.push(id.to_string());
        let model = model.into();
        Ok(Applied {
            model,
            context,
            duplicate,
        })
    }

    fn standings(&self, _: &str, context: Option<&str>) -> Standings {
        let standing = Standing {
            weight: 1.,
            probability: 1.,
            observations: self.0.lock().unwrap().len() as f64,
            loss: None,
        };
        vec![(context.unwrap_or("arm").into(), standing)]
    }
}

fn route(limit: &str) -> Arc<Route> {
    let config = Config::read(format!(
        "{{listeners: [{{address: '127.0.0.1:0', upstream: u}}], {limit}
          upstreams: {{u: {{protocol: oip-grpc, endpoints: ['http://127.0.0.1:9']}}}}}}",
    ));
    let table = Table::build(config.unwrap(), None, &Metrics::new(), &Connector::tcp());
    table.routes()[0].clone()
}

async fn ask(learner: &Learner, request: Request<Body>) -> Response<Body> {
    assert!(is_feedback(&request));
    match answer(learner, &route(""), request).await {
        server::Outcome::Answer(answer) => answer,
        server::Outcome::Reset(reason) => panic!("reset: {reason}"),
    }
}

async fn post(learner: &Learner, body: &str) -> (StatusCode, Value) {
    let request = Request::post(PATH).body(Body::from(body.to_owned()));
    let mut answer = ask(learner, request.unwrap()).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let body = answer.body_mut().data().await.unwrap().unwrap();
    (
        answer.status(),
        serde_json::from_slice(&body.to_bytes()).expect("it is JSON"),
    )
}

/// Returns the status, its words and the message.
async fn call(learner: &Learner, message: Vec<u8>) -> (String, String, Bytes) {
    let request = Request::post(REPORT)
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(Body::full(frame(message.into()), None));
    let mut answer = ask(learner, request.unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut verdict = answer.headers().clone();
    let mut frames = FrameReader::new(1 << 20);
    while let Some(piece) = std::future::poll_fn(|cx| answer.body_mut().poll_piece(cx)).await {
        match piece.unwrap() {
            Piece::Data(data) => frames.push(data.to_bytes()),
            Piece::Trailers(trailers) => verdict.extend(trailers),
        }
    }
    let message = frames.next_frame().unwrap().map(|frame| frame.message);
    let text = |name| match verdict.get(name) {
        None => String::new(),
        Some(value) => value.to_str().unwrap().to_owned(),
    };
    (
        text("grpc-status"),
        text("grpc-message"),
        message.unwrap_or_default(),
    )
}

/// A `ReportRequest` of losses by ids.
fn losses(ids: &[&str]) -> Vec<u8> {
    let mut message = Vec::new();
    for id in ids {
        let id = id.as_bytes();
        let mut item = vec![10, id.len() as u8];
        item.extend_from_slice(id);
        item.push(25);
        item.extend_from_slice(&0.5_f64.to_le_bytes());
        message.extend_from_slice(&[10, item.len() as u8]);
        message.extend_from_slice(&item);
    }
    message
}

#[tokio::test]
async fn what_is_applied_is_told_with_how_the_arms_stand() {
    let learner = Learner::default();
    let (status, told) = post(&learner, r#"{"prediction_id": "m", "loss": 1}"#).await;
    assert_eq!(status, StatusCode::OK);
    let standing = json!({"weight": 1, "probability": 1, "observations": 1, "loss": null});
    let wanted = json!({"applied": 1, "duplicates": 0, "rejected": [], "model": "m",
        "arms": {"arm": standing}});
    assert_eq!(told, wanted);
    let (status, told) = post(&learner, r#"{"prediction_id": "m", "loss": 1}"#).await;
    assert_eq!((status, &told["duplicates"]), (StatusCode::OK, &json!(1)));
    assert_eq!(told["applied"], 0);
}

#[tokio::test]
async fn what_changes_nothing_is_no_success() {
    let learner = Learner::default();
    let (status, told) = post(&learner, r#"{"prediction_id": "old", "loss": 1}"#).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let rejected =
        json!({"index": 0, "code": "expired", "reason": "the prediction id has expired"});
    assert_eq!(told["rejected"], json!([rejected]));
    let list = |ids: &[&str]| {
        let items = ids.iter().map(|id| json!({"prediction_id": id, "loss": 0}));
        json!({"feedback": items.collect::<Vec<_>>()}).to_string()
    };
    let (status, told) = post(&learner, &list(&["old", "m", "full"])).await;
    assert_eq!((status, &told["applied"]), (StatusCode::OK, &json!(1)));
    assert_eq!(told["rejected"][1]["index"], 2);
    let (status, told) = post(&learner, &list(&["full", "old"])).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(told["rejected"].as_array().map(Vec::len), Some(2));
    let inputs = r#"{"model": "m", "label": 1,
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}"#;
    let (status, _) = post(&learner, inputs).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_malformed_report_changes_nothing() {
    let learner = Learner::default();
    let list = r#"{"feedback": [{"prediction_id": "m", "loss": 1}, {"prediction_id": "m"}]}"#;
    let (status, told) = post(&learner, list).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let wanted = json!({"error": "feedback[1].loss: it, or label, is expected"});
    assert_eq!(told, wanted);
    let (status, words, _) = call(&learner, b"\x0a\x00".to_vec()).await;
    assert_eq!(status, "3");
    assert_eq!(words, "feedback[0].prediction_id: it is missing");
    assert!(learner.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn arms_are_told_by_model_and_in_the_one_context() {
    let learner = Learner::default();
    let list = |ids: &[&str]| {
        let items = ids.iter().map(|id| json!({"prediction_id": id, "loss": 0}));
        json!({"feedback": items.collect::<Vec<_>>()}).to_string()
    };
    let (_, told) = post(&learner, &list(&["m/ann", "m/ann"])).await;
    assert!(told["arms"]["ann"].is_object());
    let (_, told) = post(&learner, &list(&["m/ann", "m/bob"])).await;
    assert!(told["arms"]["arm"].is_object());
    let (_, told) = post(&learner, &list(&["m/ann", "n"])).await;
    assert!(told["models"]["m"]["ann"].is_object() && told["models"]["n"]["arm"].is_object());
    assert!(told.get("arms").is_none());
}

#[tokio::test]
async fn grpc_says_the_same() {
    let learner = Learner::default();
    let (status, _, message) = call(&learner, losses(&["m", "old", "m"])).await;
    assert_eq!(status, "0");
    let told = Bytes::from_static(b"\x08\x01\x10\x01\x1a");
    assert_eq!(message.slice(..5), told);
    let (status, words, message) = call(&learner, losses(&["old", "old"])).await;
    assert_eq!((status.as_str(), message.len()), ("9", 0));
    assert_eq!(
        words,
        "none of the 2 items was applied; feedback[0]: the prediction id has expired; \
         feedback[1]: the prediction id has expired"
    );
    let (status, words, _) = call(&learner, losses(&["full"])).await;
    assert_eq!((&*status, &*words), ("8", "too much waits"));
}

#[tokio::test]
async fn a_report_may_be_compressed() {
    use std::io::Write as _;
    let compressed = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    let learner = Learner::default();
    let body = compressed(br#"{"prediction_id": "m", "loss": 1}"#);
    let request = Request::post(PATH).header("content-encoding", "gzip");
    let request = request.body(Body::full(Bytes::from(body), None));
    assert_eq!(ask(&learner, request.unwrap()).await.status(), 200);
    let mut framed = frame(compressed(&losses(&["n"])).into())
        .to_bytes()
        .to_vec();
    framed[0] = 1;
    let request = Request::post(REPORT)
        .header("content-type", "application/grpc+proto")
        .header("grpc-encoding", "gzip")
        .body(Body::full(Bytes::from(framed), None));
    ask(&learner, request.unwrap()).await;
    assert_eq!(*learner.0.lock().unwrap(), ["m", "n"]);
    let request = Request::post(PATH).header("content-encoding", "br");
    let request = request.body(Body::from("{}".to_owned()));
    assert_eq!(ask(&learner, request.unwrap()).await.status(), 400);
}

#[tokio::test]
async fn a_report_over_the_bound_is_refused() {
    let learner = Learner::default();
    let route = route("limits: {max_message: 1KiB},");
    let body = Body::from("x".repeat(1025));
    let request = Request::post(PATH).body(body).unwrap();
    let server::Outcome::Answer(answer) = super::answer(&learner, &route, request).await else {
        panic!("no answer");
    };
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn feedback_is_posted_and_nothing_else() {
    let request = Request::get(PATH).body(Body::empty()).unwrap();
    let answer = ask(&Learner::default(), request).await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["allow"], "POST");
    for (path, content_type) in [
        (REPORT, "application/json"),
        ("/outrigger/v1/feedback/", "application/json"),
        ("/v2/models/m/infer", "application/grpc"),
    ] {
        let request = Request::post(path).header("content-type", content_type);
        assert!(!is_feedback(&request.body(()).unwrap()), "{path}");
    }
}
