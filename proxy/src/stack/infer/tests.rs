mod cached;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use outrigger_filters::inference::{
    Code, Datatype, Form, Head, Parameters, Payload, RequestParts, ResponseParts, Shape, Tensor,
};
use tokio::time::Instant;

use crate::{body::Body, codec::oip_grpc, stack::describe::tests::Proxy, upstream::servers::*};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

macro_rules! metadata {
    ($version:literal, $dtype:literal) => {
        concat!(
            r#"{"model_spec": {"name": "m", "version": ""#,
            $version,
            r#""}, "metadata": {"signature_def": {"signature_def": {"serving_default": {
                "method_name": "tensorflow/serving/predict",
                "inputs": {"x": {"name": "x:0", "dtype": ""#,
            $dtype,
            r#"", "tensor_shape": {"dim": [{"size": "-1"}]}}},
                "outputs": {"y": {"name": "y:0", "dtype": ""#,
            $dtype,
            r#"", "tensor_shape": {"dim": [{"size": "-1"}]}}}}}}}}"#,
        )
        .as_bytes()
    };
}

macro_rules! statuses {
    () => {
        br#"{"model_version_status": [
            {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK"}},
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK"}}]}"#
    };
}

/// A model whose second version takes other numbers than its first.
const TWO_VERSIONS: Pages = &[
    ("/v1/models/m/metadata", metadata!("2", "DT_FLOAT")),
    ("/v1/models/m", statuses!()),
    (
        "/v1/models/m/versions/1/metadata",
        metadata!("1", "DT_INT64"),
    ),
    ("/v1/models/m/versions/1", statuses!()),
    ("/v1/models/m:predict", br#"{"predictions": [1]}"#),
    (
        "/v1/models/m/versions/1:predict",
        br#"{"predictions": [1]}"#,
    ),
];

/// A server that infers, and says of the model only that it is ready.
const SPARSE: Pages = &[
    ("/v2/models/m/ready", b""),
    (
        "/v2/models/m/infer",
        br#"{"model_name": "m", "outputs": [
            {"name": "y", "datatype": "INT64", "shape": [1], "data": [1]}]}"#,
    ),
];

fn request(version: &str) -> Bytes {
    let parts = RequestParts {
        head: Head {
            model: "m".into(),
            version: version.into(),
            ..Head::default()
        },
        inputs: vec![Tensor {
            name: "x".into(),
            datatype: Datatype::Int64,
            shape: Shape::new([1]),
            form: Form::Raw,
            data: Bytes::from_static(&[7, 0, 0, 0, 0, 0, 0, 0]).into(),
            parameters: Parameters::default(),
            unknown: Payload::new(),
        }],
        ..RequestParts::default()
    };
    let framed = oip_grpc::encode_request(&parts).unwrap().to_bytes();
    framed.slice(5..)
}

fn proxy(server: &str, pages: Option<Pages>, more: &str) -> Proxy {
    Proxy::with(("oip-grpc", Some(&[])), (server, pages), "m", "m", more)
}

async fn infer(proxy: &Proxy, version: &str) -> Result<ResponseParts, (Code, String)> {
    let answer = proxy.ask(INFER, request(version)).await?;
    Ok(oip_grpc::decode_response(&answer).unwrap())
}

async fn predict(proxy: &Proxy) -> u16 {
    predict_within(proxy, "1m").await
}

async fn predict_within(proxy: &Proxy, timeout: &str) -> u16 {
    let body = Bytes::from_static(br#"{"instances": [1]}"#);
    let request = Request::post("/v1/models/m:predict")
        .header(header::HOST, "proxy")
        .header("outrigger-timeout", timeout)
        .header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::full(body, None)).unwrap();
    proxy.handle(request).await.0.as_u16()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_as_the_version_gives_it_that_was_asked() {
    let proxy = proxy("tfserving-rest", Some(TWO_VERSIONS), "");
    for (version, datatype) in [
        ("1", Datatype::Int64),
        ("", Datatype::Fp32),
        ("1", Datatype::Int64),
    ] {
        let answer = infer(&proxy, version).await.unwrap();
        assert_eq!(answer.outputs[0].datatype, datatype, "{version}");
        assert_eq!(answer.outputs[0].name, "y");
    }
    let asked = proxy.other.asked();
    infer(&proxy, "1").await.unwrap();
    assert_eq!(proxy.other.asked(), asked + 1, "what is known is not asked");
    let (code, words) = infer(&proxy, "3").await.unwrap_err();
    assert_eq!((code, &*words), (Code::NotFound, "nothing here"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_up_late_is_described_before_it_is_asked() {
    let proxy = proxy("tfserving-rest", Some(&[]), "");
    let (code, _) = infer(&proxy, "").await.unwrap_err();
    assert_eq!(code, Code::NotFound);
    proxy.other.set(Some(TWO_VERSIONS));
    let mut answer = infer(&proxy, "").await;
    while answer.is_err() {
        tokio::time::advance(Duration::from_millis(10)).await;
        answer = infer(&proxy, "").await;
    }
    let answer = answer.unwrap();
    assert_eq!(answer.outputs[0].datatype, Datatype::Fp32);
    assert_eq!(answer.outputs[0].name, "y");
}

#[tokio::test(start_paused = true)]
async fn another_version_is_batched_when_its_server_says_so() {
    let proxy = proxy("tfserving-rest", Some(TWO_VERSIONS), ", batch: {}");
    let batched = async |version: &str| {
        let request = Request::post(format!("http://proxy{INFER}"))
            .version(http::Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc");
        let body = Body::full(crate::codec::grpc::frame(self::request(version)), None);
        let (_, headers, ..) = proxy.handle(request.body(body).unwrap()).await;
        headers.contains_key("outrigger-batch-size")
    };
    infer(&proxy, "").await.unwrap();
    assert!(batched("").await);
    assert!(batched("1").await);
}

#[tokio::test(start_paused = true)]
async fn who_names_tensors_itself_needs_no_description() {
    for pages in [SPARSE, &SPARSE[1..]] {
        let proxy = proxy("oip-rest", Some(pages), "");
        let answer = infer(&proxy, "").await.unwrap();
        assert_eq!(answer.outputs[0].name, "y");
        let asked = proxy.other.asked();
        infer(&proxy, "").await.unwrap();
        assert_eq!(proxy.other.asked(), asked + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_keeps_who_needs_its_word_for_two_seconds_and_only_once() {
    let proxy = proxy("oip-grpc", None, "");
    let began = Instant::now();
    let (one, two) = tokio::join!(predict(&proxy), predict(&proxy));
    assert_eq!((one, two), (503, 503));
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    assert_eq!(predict(&proxy).await, 503);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_needs_a_silent_servers_word_waits_for_it_no_longer_than_its_deadline() {
    let proxy = proxy("oip-grpc", None, "");
    let began = Instant::now();
    assert_eq!(predict_within(&proxy, "50ms").await, 504);
    assert!(began.elapsed() <= Duration::from_millis(50));
}
