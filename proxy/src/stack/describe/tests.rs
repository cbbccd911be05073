use std::{collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use outrigger_filters::{
    inference::{Code, Datatype},
    overload::Room,
};
use serde_json::{Value, json};

use crate::{
    body::{Body, Piece},
    codec::{
        grpc,
        oip_grpc::control::{ModelMetadata, ModelRequest, ServerMetadata, ready},
        oip_rest,
        tfs_grpc::control::{
            self as tfs, CLASSIFY, PREDICT, Question, SIGNATURE_DEF, State, VersionStatus,
        },
        tfs_rest,
    },
    config::{self, Config, Protocol},
    server::{Handler as _, Outcome},
    stack::{Arm, Model, Route, Router},
    telemetry::Metrics,
    upstream::{Connector, Upstream, servers::*},
};

/// A listener in front of a server of one protocol, with a model at a server of another one.
pub(in crate::stack) struct Proxy {
    router: Router,
    own: Servers,
    pub(in crate::stack) other: Servers,
}

impl Proxy {
    /// Builds it; the model is `name` to callers and `served` to its server.
    fn new(own: (&str, Pages), other: (&str, Pages), name: &str, served: &str) -> Self {
        Self::with(
            (own.0, Some(own.1)),
            (other.0, Some(other.1)),
            name,
            served,
            "",
        )
    }

    /// Builds it with further settings of the model.
    pub(in crate::stack) fn with(
        own: (&str, Option<Pages>),
        other: (&str, Option<Pages>),
        name: &str,
        served: &str,
        more: &str,
    ) -> Self {
        let config = format!(
            "{{listeners: [{{address: '127.0.0.1:0', upstream: own}}],
               upstreams: {{own: {{protocol: oip-grpc, endpoints: ['http://own:1']}},
                            other: {{protocol: oip-grpc, endpoints: ['http://other:1']}}}},
               models: {{{name}: {{arms: {{a: {{upstream: other, model: {served}}}}}{more}}}}}}}"
        );
        let config = Config::read(&config).unwrap();
        let protocols = HashMap::from([("own", own.0), ("other", other.0)]);
        let own = Servers::new(own.0, own.1);
        let other = Servers::new(other.0, other.1);
        let servers = HashMap::from([("own", own.clone()), ("other", other.clone())]);
        let connector = Connector::new(move |authority| {
            let host = authority.host();
            std::future::ready(Ok(servers[host].open(host)))
        });
        let upstream = |name: &str| {
            let protocol: Protocol = protocols[name].parse().unwrap();
            let upstream = config::Upstream {
                protocol,
                http: protocol.http(),
                ..config.upstreams[name].clone()
            };
            Arc::new(Upstream::new(name, &upstream, &connector))
        };
        let metrics = Metrics::new();
        let model = &config.models[name];
        let built = Arm::build(
            model,
            &model.arms[0],
            &upstream("other"),
            &config.limits,
            &Room::whole(1000, 1 << 20),
            &metrics,
            None,
        );
        let of_one = Model::new(model, vec![Arc::new(built)], None, &metrics).unwrap();
        let route = Route {
            upstream: upstream("own"),
            models: HashMap::from([(name.into(), Arc::new(of_one))]),
            max_message: config.limits.max_message,
            gathered: Arc::default(),
            max_gathered: config.limits.max_gathered,
            grpc: Arc::new(metrics.requests("", "grpc")),
            http: Arc::new(metrics.requests("", "http")),
            stacks: Arc::default(),
        };
        Self {
            router: Router::new(Arc::new(route)),
            own,
            other,
        }
    }

    /// Puts the digits behind a server of a protocol, in front of which nothing else stands.
    fn digits(own: &str, other: &str) -> Self {
        let pages = match other {
            "oip-grpc" => TRITON_GRPC,
            _ => TRITON_REST,
        };
        Self::new((own, &[]), (other, pages), "digits_svm", "digits_svm")
    }

    /// Puts a model of TensorFlow behind a server.
    fn half(own: &str, other: &str) -> Self {
        let pages = match other {
            "tfserving-grpc" => TENSORFLOW_GRPC,
            _ => TENSORFLOW_REST,
        };
        Self::new((own, &[]), (other, pages), "half_plus_two", "half_plus_two")
    }

    pub(in crate::stack) async fn handle(
        &self,
        request: Request<Body>,
    ) -> (StatusCode, HeaderMap, Bytes, HeaderMap) {
        let Outcome::Answer(answer) = self.router.handle(request).await else {
            panic!("the stream was reset");
        };
        let (head, mut body) = answer.into_parts();
        let (mut data, mut trailers) = (BytesMut::new(), HeaderMap::new());
        while let Some(piece) = std::future::poll_fn(|cx| body.poll_piece(cx)).await {
            match piece.unwrap() {
                Piece::Data(more) => data.extend_from_slice(&more.to_bytes()),
                Piece::Trailers(last) => trailers = last,
            }
        }
        (head.status, head.headers, data.freeze(), trailers)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = Request::get(path).header(header::HOST, "proxy");
        let (status, _, body, _) = self.handle(request.body(Body::empty()).unwrap()).await;
        let body = serde_json::from_slice(&body).unwrap_or_default();
        (status.as_u16(), body)
    }

    pub(in crate::stack) async fn ask(
        &self,
        path: &str,
        message: Bytes,
    ) -> Result<Bytes, (Code, String)> {
        let body = Body::full(grpc::frame(message), None);
        let request = Request::post(format!("http://proxy{path}"))
            .version(http::Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        let (status, headers, mut body, trailers) = self.handle(request.body(body).unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        grpc::verdict(&headers, &trailers)
            .map_err(|status| (status.code(), status.message().to_owned()))?;
        assert_eq!(body[..5], grpc::prefix(body.len() - 5));
        Ok(body.split_off(5))
    }
}

fn oip(name: &str) -> Bytes {
    let request = ModelRequest {
        name: name.into(),
        version: "".into(),
    };
    request.write()
}

fn question(name: &str) -> Question {
    Question {
        model: name.into(),
        fields: vec![SIGNATURE_DEF.into()],
        ..Question::default()
    }
}

const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
const READY: &str = "/inference.GRPCInferenceService/ServerReady";
const SERVER: &str = "/inference.GRPCInferenceService/ServerMetadata";
const MODEL_READY: &str = "/inference.GRPCInferenceService/ModelReady";
const MODEL_METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
const MODEL_CONFIG: &str = "/inference.GRPCInferenceService/ModelConfig";
const METADATA: &str = "/tensorflow.serving.PredictionService/GetModelMetadata";
const STATUS: &str = "/tensorflow.serving.ModelService/GetModelStatus";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

#[tokio::test(start_paused = true)]
async fn a_rest_client_learns_of_a_grpc_server_what_that_says_over_rest() {
    let proxy = Proxy::digits("oip-grpc", "oip-grpc");
    let recorded = include_bytes!("../../codec/oip_rest/recorded/triton.digits_svm.metadata.json");
    let recorded: Value = serde_json::from_slice(recorded).unwrap();
    assert_eq!(proxy.get("/v2/models/digits_svm").await, (200, recorded));
    let ready = json!({ "name": "digits_svm", "ready": true });
    assert_eq!(proxy.get("/v2/models/digits_svm/ready").await, (200, ready));
    assert_eq!(proxy.get("/v2/models/digits_svm/config").await.0, 501);
    assert_eq!(proxy.get("/v2/models/digits_svm/stats").await.0, 501);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_client_learns_of_a_rest_server_what_that_says_over_grpc() {
    let proxy = Proxy::digits("oip-rest", "oip-rest");
    let recorded = include_bytes!("../../codec/oip_grpc/recorded/triton.digits_svm.metadata.bin");
    let answer = proxy.ask(MODEL_METADATA, oip("digits_svm")).await.unwrap();
    let recorded = Bytes::from_static(recorded);
    assert_eq!(ModelMetadata::read(&answer), ModelMetadata::read(&recorded));
    let answer = proxy.ask(MODEL_READY, oip("digits_svm")).await.unwrap();
    assert!(ready(&answer));
    let (code, words) = proxy
        .ask(MODEL_CONFIG, oip("digits_svm"))
        .await
        .unwrap_err();
    assert_eq!(code, Code::Unimplemented);
    assert_eq!(
        words,
        "model digits_svm is served by oip-rest, which does not say this"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_of_tensorflow_serving_finds_a_model_of_triton_available() {
    for other in ["oip-grpc", "oip-rest"] {
        let proxy = Proxy::digits("tfserving-grpc", other);
        let answer = proxy.ask(STATUS, question("digits_svm").write()).await;
        let [status] = VersionStatus::read_all(&answer.unwrap())
            .unwrap()
            .try_into()
            .unwrap();
        assert_eq!((status.version, status.state), (1, State::Available));

        let answer = proxy.ask(METADATA, question("digits_svm").write()).await;
        let metadata = tfs::ModelMetadata::read(&answer.unwrap()).unwrap();
        assert_eq!(&*metadata.model, "digits_svm");
        assert_eq!(metadata.version, Some(1));
        let named = metadata.signature("").unwrap();
        assert_eq!(named.method, PREDICT);
        let label = named.signature.output("label").unwrap();
        assert_eq!(label.datatype, Datatype::Int64);
        assert_eq!(label.shape.as_ref().unwrap().dimensions(), [-1, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn rest_clients_of_tensorflow_serving_and_kserve_ask_the_same_path() {
    let proxy = Proxy::digits("oip-grpc", "oip-grpc");
    let available = json!({
        "model_version_status": [{
            "version": "1",
            "state": "AVAILABLE",
            "status": { "error_code": "OK", "error_message": "" },
        }],
        "name": "digits_svm",
        "ready": true,
    });
    let (status, page) = proxy.get("/v1/models/digits_svm").await;
    assert_eq!((status, page), (200, available));
    let (status, page) = proxy.get("/v1/models/digits_svm/metadata").await;
    assert_eq!(status, 200);
    let metadata = tfs_rest::control::read_metadata(page.to_string().as_bytes()).unwrap();
    assert_eq!(metadata.signatures.len(), 1);
    assert!(metadata.signature("").is_some());
    let models = json!({ "models": ["digits_svm"] });
    assert_eq!(proxy.get("/v1/models").await, (200, models));
}

#[tokio::test(start_paused = true)]
async fn clients_of_the_open_protocol_see_the_default_signature_of_a_model_of_tensorflow() {
    for other in ["tfserving-grpc", "tfserving-rest"] {
        let proxy = Proxy::half("oip-rest", other);
        let (status, page) = proxy.get("/v2/models/half_plus_two").await;
        let expected = json!({
            "name": "half_plus_two",
            "versions": ["2", "1"],
            "platform": "",
            "inputs": [{ "name": "x", "datatype": "FP32", "shape": [-1, 1] }],
            "outputs": [{ "name": "y", "datatype": "FP32", "shape": [-1, 1] }],
        });
        // The listener's upstream speaks the caller's protocol, and does not know the model.
        assert_eq!((status, page), (200, expected));
        assert_eq!(proxy.own.asked(), 0);
        let answer = proxy.ask(MODEL_METADATA, oip("half_plus_two")).await;
        let grpc = ModelMetadata::read(&answer.unwrap()).unwrap();
        let (_, page) = proxy.get("/v2/models/half_plus_two").await;
        let rest = oip_rest::control::read_metadata(page.to_string().as_bytes()).unwrap();
        assert_eq!(grpc, rest);
        assert_eq!(proxy.get("/v2/models/half_plus_two/ready").await.0, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn tensorflow_serving_over_one_transport_is_all_there_over_the_other() {
    let grpc = Proxy::half("tfserving-rest", "tfserving-rest");
    let answer = grpc.ask(METADATA, question("half_plus_two").write()).await;
    let answer = tfs::ModelMetadata::read(&answer.unwrap()).unwrap();
    let recorded = TENSORFLOW_GRPC[0].1;
    let recorded = tfs::ModelMetadata::read(&Bytes::from_static(recorded)).unwrap();
    assert_eq!(answer, recorded);
    let classify = answer.signature("classify_both").unwrap();
    assert_eq!(classify.method, CLASSIFY);

    let rest = Proxy::half("tfserving-grpc", "tfserving-grpc");
    let (status, page) = rest.get("/v1/models/half_plus_two/metadata").await;
    assert_eq!(status, 200);
    let page = tfs_rest::control::read_metadata(page.to_string().as_bytes()).unwrap();
    assert_eq!(page, recorded);
    let (_, page) = rest.get("/v1/models/half_plus_two").await;
    assert_eq!(page["model_version_status"][1]["version"], "1");
}

#[tokio::test(start_paused = true)]
async fn what_a_models_server_can_say_itself_goes_to_it_as_it_is() {
    let proxy = Proxy::digits("tfserving-grpc", "oip-grpc");
    let answer = proxy.ask(MODEL_METADATA, oip("digits_svm")).await.unwrap();
    assert_eq!(&*answer, TRITON_GRPC[1].1);
    let answer = proxy.ask(MODEL_CONFIG, oip("digits_svm")).await.unwrap();
    assert_eq!(&*answer, TRITON_GRPC[0].1);
    assert_eq!(proxy.own.asked(), 0);
    assert_eq!(proxy.other.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_model_is_described_by_the_name_that_its_callers_know() {
    let other = ("oip-rest", TRITON_REST);
    let proxy = Proxy::new(("oip-rest", &[]), other, "digits", "digits_svm");
    let (status, page) = proxy.get("/v2/models/digits").await;
    assert_eq!((status, &page["name"]), (200, &json!("digits")));
    let ready = json!({ "name": "digits", "ready": true });
    assert_eq!(proxy.get("/v2/models/digits/ready").await, (200, ready));
    // Its internals speak of the other name.
    assert_eq!(proxy.get("/v2/models/digits/config").await.0, 404);
    assert_eq!(proxy.own.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_named_is_its_listeners_business() {
    let proxy = Proxy::digits("oip-rest", "oip-grpc");
    let (status, page) = proxy.get("/v2/models/nobody").await;
    assert_eq!((status, &page["error"]), (404, &json!("nothing here")));
    assert_eq!(proxy.own.asked(), 1);
    assert_eq!(proxy.other.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_cannot_be_read_is_its_listeners_business() {
    let proxy = Proxy::digits("oip-grpc", "oip-rest");
    for message in [&b"\xff"[..], b"", &vec![0x0a; 1 << 17]] {
        let message = Bytes::copy_from_slice(message);
        let refused = proxy.ask(MODEL_READY, message).await.unwrap_err();
        // As the server says that does not know the call.
        assert_eq!(refused, (Code::Unimplemented, String::new()));
    }
    assert_eq!(proxy.own.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_upstream_speaks_otherwise_answers_for_itself() {
    let proxy = Proxy::digits("tfserving-grpc", "oip-rest");
    assert_eq!(
        proxy.get("/v2/health/live").await,
        (200, json!({ "live": true }))
    );
    assert_eq!(
        proxy.get("/v2/health/ready").await,
        (200, json!({ "ready": true }))
    );
    let (status, page) = proxy.get("/v2").await;
    assert_eq!((status, &page["name"]), (200, &json!("outrigger")));
    assert_eq!(page["extensions"], json!(["binary_tensor_data"]));
    assert!(ready(&proxy.ask(LIVE, Bytes::new()).await.unwrap()));
    assert!(ready(&proxy.ask(READY, Bytes::new()).await.unwrap()));
    let server = proxy.ask(SERVER, Bytes::new()).await.unwrap();
    assert_eq!(ServerMetadata::read(&server).unwrap().name, "outrigger");
    assert_eq!(proxy.own.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_upstream_speaks_the_callers_protocol_leaves_it_to_it() {
    const OWN: Pages = &[("/v2", br#"{"name": "mine"}"#)];
    let own = ("oip-rest", OWN);
    let other = ("oip-grpc", TRITON_GRPC);
    let proxy = Proxy::new(own, other, "digits_svm", "digits_svm");
    assert_eq!(proxy.get("/v2").await, (200, json!({ "name": "mine" })));
    assert_eq!(proxy.get("/v2/health/ready").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_listener_without_models_answers_nothing_itself() {
    let own = Servers::new("oip-grpc", Some(&[]));
    let config = Config::read(
        "{listeners: [{address: '127.0.0.1:0', upstream: own}],
          upstreams: {own: {protocol: oip-grpc, endpoints: ['http://own:1']}}}",
    );
    let server = own.clone();
    let connector =
        Connector::new(move |authority| std::future::ready(Ok(server.open(authority.host()))));
    let metrics = Metrics::new();
    let table = crate::stack::Table::build(config.unwrap(), None, &metrics, &connector);
    let router = Router::new(table.routes()[0].clone());
    let proxy = Proxy {
        router,
        other: own.clone(),
        own,
    };
    proxy.get("/v2/health/live").await;
    assert_eq!(proxy.own.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn health_is_told_where_no_upstream_can() {
    let proxy = Proxy::digits("oip-rest", "oip-rest");
    let serving = proxy.ask(HEALTH, Bytes::new()).await.unwrap();
    assert_eq!(&*serving, [8, 1]);
    let service = oip("tensorflow.serving.PredictionService");
    assert_eq!(&*proxy.ask(HEALTH, service).await.unwrap(), [8, 1]);
    let (code, _) = proxy.ask(HEALTH, oip("nobody.Service")).await.unwrap_err();
    assert_eq!(code, Code::NotFound);
    proxy.other.set(None);
    assert_eq!(&*proxy.ask(HEALTH, Bytes::new()).await.unwrap(), [8, 2]);

    let grpc = Proxy::digits("tfserving-grpc", "oip-rest");
    let (code, _) = grpc.ask(HEALTH, Bytes::new()).await.unwrap_err();
    assert_eq!(code, Code::Unimplemented);
    assert_eq!(grpc.own.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_gone_is_not_ready_and_told_in_its_servers_words() {
    let proxy = Proxy::digits("oip-grpc", "oip-rest");
    proxy.other.set(Some(&[]));
    let not = json!({ "ready": false });
    let answer = proxy.ask(MODEL_READY, oip("digits_svm")).await.unwrap();
    assert!(!ready(&answer));
    let refused = proxy.ask(MODEL_METADATA, oip("digits_svm")).await;
    assert_eq!(
        refused.unwrap_err(),
        (Code::NotFound, "nothing here".to_owned())
    );
    assert_eq!(
        proxy.get("/v1/models/digits_svm").await,
        (404, json!({ "error": "nothing here" }))
    );
    proxy.other.set(None);
    let (status, page) = Proxy::get(&proxy, "/v1/models/digits_svm/metadata").await;
    assert_eq!(status, 503);
    assert_eq!(
        page["error"],
        "the model's server did not answer in time what the model takes"
    );
    let proxy = Proxy::digits("tfserving-grpc", "oip-rest");
    proxy.other.set(None);
    assert_eq!(proxy.get("/v2/health/ready").await, (400, not));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_known_and_not_ready_is_loading() {
    let proxy = Proxy::new(
        ("oip-grpc", &[]),
        (
            "oip-rest",
            &[(
                "/v2/models/m",
                br#"{"name": "m", "versions": ["v1", "7", "11"]}"#,
            )],
        ),
        "m",
        "m",
    );
    let (status, page) = proxy.get("/v1/models/m").await;
    assert_eq!((status, &page["ready"]), (200, &json!(false)));
    let versions = page["model_version_status"].as_array().unwrap();
    let versions: Vec<_> = versions
        .iter()
        .map(|status| (&status["version"], &status["state"]))
        .map(|(version, state)| (version.as_str().unwrap(), state.as_str().unwrap()))
        .collect();
    assert_eq!(versions, [("11", "LOADING"), ("7", "LOADING")]);
}

#[tokio::test(start_paused = true)]
async fn another_version_is_asked_for_by_itself() {
    let proxy = Proxy::new(
        ("oip-grpc", &[]),
        (
            "oip-rest",
            &[
                ("/v2/models/m/versions/7", br#"{"versions": ["7"]}"#),
                ("/v2/models/m/versions/7/ready", b""),
            ],
        ),
        "m",
        "m",
    );
    let (status, page) = proxy.get("/v1/models/m/versions/7").await;
    assert_eq!((status, &page["ready"]), (200, &json!(true)));
    assert_eq!(proxy.get("/v1/models/m").await.0, 404);
    assert_eq!(proxy.get("/v1/models/m/versions/8").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn what_the_models_server_cannot_be_asked_is_refused_by_name() {
    let proxy = Proxy::digits("tfserving-rest", "oip-grpc");
    let words = "model_spec.version_label: model digits_svm is served by oip-grpc, \
                 which knows no labels";
    let labelled = Question {
        label: "stable".into(),
        ..question("digits_svm")
    };
    let refused = proxy.ask(STATUS, labelled.write()).await.unwrap_err();
    assert_eq!(refused, (Code::InvalidArgument, words.to_owned()));
    for (fields, words) in [
        (vec![], "metadata_field names nothing"),
        (vec!["x".into()], "metadata_field x is not supported"),
    ] {
        let asked = Question {
            fields,
            ..question("digits_svm")
        };
        let refused = proxy.ask(METADATA, asked.write()).await.unwrap_err();
        assert_eq!(refused, (Code::InvalidArgument, words.to_owned()));
    }
    assert_eq!(proxy.other.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_model_without_a_default_signature_names_those_it_has() {
    let metadata = tfs::ModelMetadata {
        signatures: vec![tfs::NamedSignature {
            name: "other".into(),
            ..tfs::NamedSignature::default()
        }],
        ..tfs::ModelMetadata::default()
    };
    let page: &'static [u8] = Box::leak(metadata.write().to_vec().into_boxed_slice());
    let pages: Pages = Box::leak(Box::new([(METADATA, page)]));
    let proxy = Proxy::new(("oip-grpc", &[]), ("tfserving-grpc", pages), "m", "m");
    let (status, page) = proxy.get("/v2/models/m").await;
    assert_eq!(status, 400);
    assert_eq!(
        page["error"],
        "model m has no default signature, and this protocol names none; it has: other"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_describes_nothing_is_told_so() {
    let other = ("tfserving-rest", KSERVE_V1);
    let proxy = Proxy::new(("tfserving-rest", &[]), other, "digits", "digits");
    let answer = proxy.ask(MODEL_METADATA, oip("digits")).await.unwrap();
    assert_eq!(ModelMetadata::read(&answer).unwrap().signature, None);
    // It may say more over REST in another protocol than its own.
    assert_eq!(proxy.get("/v2/models/digits").await.0, 404);
    assert_eq!(proxy.get("/v2/models/digits/ready").await.0, 200);
}
