//! The cache from a caller's side.

use http::HeaderMap;
use outrigger_filters::{cache::Flush, inference::Method};

use super::*;
use crate::{
    codec::{grpc, tfs_grpc},
    config::Config,
    server::{Handler as _, Outcome},
    stack::{Router, Table},
    telemetry::Metrics,
    upstream::Connector,
};

const PREDICT: &str = "/tensorflow.serving.PredictionService/Predict";
const STATUS: &str = "/tensorflow.serving.ModelService/GetModelStatus";
/// Version 1 is available.
const AVAILABLE: &[u8] = b"\x0a\x04\x08\x01\x10\x1e";
const PROTOCOLS: [&str; 4] = ["oip-grpc", "oip-rest", "tfserving-grpc", "tfserving-rest"];

/// A proxy of one listener whose configuration can be changed.
struct Cached {
    table: Table,
    router: Router,
    protocol: &'static str,
    metrics: Metrics,
    connector: Connector,
}

impl Cached {
    /// Puts the model `m` behind a server of a protocol, which gives one row as its answer to
    /// whatever it is asked.
    fn new(protocol: &'static str, model: &str) -> Self {
        let servers = Servers::new(protocol, Some(pages(protocol)));
        let connector =
            Connector::new(move |authority| std::future::ready(Ok(servers.open(authority.host()))));
        let metrics = Metrics::new();
        let table = Table::build(config(protocol, model), None, &metrics, &connector);
        Self {
            router: Router::new(table.routes()[0].clone()),
            table,
            protocol,
            metrics,
            connector,
        }
    }

    fn reload(&mut self, model: &str) {
        let config = config(self.protocol, model);
        let table = Table::build(config, Some(&self.table), &self.metrics, &self.connector);
        table.take_over(Some(&self.table));
        self.router.publish(table.routes()[0].clone());
        self.table = table;
    }

    /// Waits until the server was asked what the model takes.
    async fn learned(&self) {
        let model = self.table.arms().next().unwrap();
        while !model.is_learned() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn flush(&self) -> Option<usize> {
        self.table.arms().next().unwrap().flush(Flush::Asked)
    }

    fn rows(&self) -> usize {
        let cache = self.table.arms().next().unwrap().cache();
        cache.unwrap().rows
    }

    /// Asks for rows over gRPC, and returns the answer's headers and its message or refusal.
    async fn ask(&self, rows: &[i64], headers: &[(&str, &str)]) -> (HeaderMap, Answer) {
        let message = oip_grpc::encode_request(&parts(rows)).unwrap();
        let (_, headers, body, trailers) = self.call("oip-grpc", message, headers).await;
        let answer = match grpc::verdict(&headers, &trailers) {
            Ok(()) => Ok(body.slice(5..)),
            Err(status) => Err((status.code(), status.message().to_owned())),
        };
        (headers, answer)
    }

    /// Asks for rows, and returns what the header says of the cache.
    async fn result(&self, rows: &[i64], headers: &[(&str, &str)]) -> String {
        let (headers, answer) = self.ask(rows, headers).await;
        answer.unwrap();
        said(&headers, "outrigger-cache")
    }

    async fn call(
        &self,
        caller: &str,
        message: Payload,
        headers: &[(&str, &str)],
    ) -> (u16, HeaderMap, Bytes, HeaderMap) {
        let path = match caller {
            "oip-grpc" => INFER,
            "oip-rest" => "/v2/models/m/infer",
            "tfserving-grpc" => PREDICT,
            _ => "/v1/models/m:predict",
        };
        let is_grpc = caller.ends_with("grpc");
        let mut request = Request::post(format!("http://proxy{path}"));
        if is_grpc {
            request = request.version(http::Version::HTTP_2);
        }
        let content_type = if is_grpc {
            "application/grpc"
        } else {
            "application/json"
        };
        request = request.header(header::CONTENT_TYPE, content_type);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::full(message, None)).unwrap();
        let Outcome::Answer(answer) = self.router.handle(request).await else {
            panic!("the stream was reset");
        };
        let (head, mut body) = answer.into_parts();
        let (mut data, mut trailers) = (Payload::new(), HeaderMap::new());
        while let Some(piece) = std::future::poll_fn(|cx| body.poll_piece(cx)).await {
            match piece.unwrap() {
                crate::body::Piece::Data(more) => data.append(&more),
                crate::body::Piece::Trailers(last) => trailers = last,
            }
        }
        (
            head.status.as_u16(),
            head.headers,
            data.to_bytes(),
            trailers,
        )
    }
}

/// A row over REST, with the id that all have here.
const REST: &[u8] = br#"{"id": "17", "inputs": [
    {"name": "x", "datatype": "INT64", "shape": [1], "data": [7]}]}"#;

type Answer = Result<Bytes, (Code, String)>;

fn config(protocol: &str, model: &str) -> Config {
    let text = format!(
        "{{listeners: [{{address: '127.0.0.1:0', upstream: u}}],
           upstreams: {{u: {{protocol: {protocol}, endpoints: ['http://server:1']}}}},
           models: {{m: {{{model}}}}}}}"
    );
    Config::read(text).unwrap()
}

fn tensor(name: &str, rows: &[i64]) -> Tensor {
    let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
    Tensor {
        name: name.to_owned().into(),
        datatype: Datatype::Int64,
        shape: Shape::new([i64::try_from(rows.len()).unwrap()]),
        form: Form::Raw,
        data: Bytes::from(bytes).into(),
        parameters: Parameters::default(),
        unknown: Payload::new(),
    }
}

fn parts(rows: &[i64]) -> RequestParts {
    RequestParts {
        head: Head {
            model: "m".into(),
            id: "17".into(),
            ..Head::default()
        },
        inputs: vec![tensor("x", rows)],
        ..RequestParts::default()
    }
}

/// One row as the answer to everything.
fn pages(protocol: &str) -> Pages {
    let answer = ResponseParts {
        model: "m".into(),
        version: "1".into(),
        id: "a stranger's".into(),
        outputs: vec![tensor("y", &[1])],
        ..ResponseParts::default()
    };
    let (path, message) = match protocol {
        "oip-grpc" => (
            INFER,
            oip_grpc::encode_response(&answer, Form::Raw).unwrap(),
        ),
        "tfserving-grpc" => {
            let message = tfs_grpc::encode_response(Method::Infer, &answer, "", Form::Typed);
            (PREDICT, message.unwrap())
        }
        "oip-rest" => return SPARSE,
        _ => return TWO_VERSIONS,
    };
    let message = message.to_bytes().slice(5..).to_vec();
    Box::leak(Box::new([(path, &*message.leak()), (STATUS, AVAILABLE)]))
}

fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap()
}

fn said(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).map(|value| value.to_str().unwrap());
    value.unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_hit_is_told_in_every_protocol_as_the_model_told_it() {
    for server in PROTOCOLS {
        for caller in PROTOCOLS {
            // Theirs has no names, which these servers do not tell but in their own protocol.
            if caller == "tfserving-rest" && server != caller {
                continue;
            }
            let cached = Cached::new(server, "cache: {unit: row}");
            if server.ends_with("rest") {
                cached.learned().await;
            }
            let message = match caller {
                "oip-grpc" => oip_grpc::encode_request(&parts(&[7])).unwrap(),
                "tfserving-grpc" => tfs_grpc::encode_request(&parts(&[7])).unwrap(),
                "oip-rest" => Bytes::from_static(REST).into(),
                _ => Bytes::from_static(br#"{"instances": [7]}"#).into(),
            };
            let (status, headers, body, _) = cached.call(caller, message.clone(), &[]).await;
            assert_eq!(status, 200, "{caller} {server} {body:?}");
            assert_eq!(
                said(&headers, "outrigger-cache"),
                "miss",
                "{caller} {server}"
            );
            assert_eq!(said(&headers, "age"), "");
            tokio::time::advance(Duration::from_secs(3)).await;
            let (status, headers, again, trailers) = cached.call(caller, message, &[]).await;
            assert_eq!(status, 200);
            assert_eq!(
                said(&headers, "outrigger-cache"),
                "hit",
                "{caller} {server}"
            );
            assert_eq!(said(&headers, "age"), "3");
            assert!(said(&headers, "server-timing").starts_with("total;dur="));
            assert_eq!(
                trailers.contains_key("grpc-status"),
                caller.ends_with("grpc")
            );
            match caller {
                "oip-grpc" => {
                    let read = |body: &Bytes| oip_grpc::decode_response(&body.slice(5..)).unwrap();
                    let (first, again) = (read(&body), read(&again));
                    assert_eq!(again.id, "17", "{server}");
                    assert_eq!(again.outputs, first.outputs, "{server}");
                }
                "oip-rest" => {
                    let (first, again) = (json(&body), json(&again));
                    assert_eq!(again["id"], "17", "{server}");
                    assert_eq!(again["outputs"], first["outputs"], "{server}");
                }
                "tfserving-rest" => assert_eq!(json(&again), json(&body)),
                _ => assert_eq!(again, body, "{caller} {server}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_what_the_cache_did_for_it() {
    // The bound says that the model takes rows, about which this server says nothing.
    let cached = Cached::new("oip-rest", "cache: {}, batch: {max_batch_size: 8}");
    cached.learned().await;
    assert_eq!(cached.result(&[7], &[]).await, "miss");
    let (headers, answer) = cached.ask(&[7, 8], &[("outrigger-explain", "1")]).await;
    let answer = oip_grpc::decode_response(&answer.unwrap()).unwrap();
    assert_eq!(answer.outputs, [tensor("y", &[1, 1])]);
    assert_eq!(said(&headers, "outrigger-cache"), "partial");
    assert_eq!(said(&headers, "age"), "0");
    assert_eq!(said(&headers, "outrigger-batch-size"), "1");
    let explained = said(&headers, "outrigger-explain");
    let cache = "cache;result=partial;hits=1;joined=0;sent=1;reason=absent;\
                 note=\"they were not stored\", batch;reason=";
    assert!(explained.starts_with(cache), "{explained}");
    let (headers, _) = cached.ask(&[8, 7, 7], &[("outrigger-explain", "1")]).await;
    assert_eq!(
        said(&headers, "outrigger-explain"),
        "cache;result=hit;hits=3;joined=0;sent=0;note=\"the model was asked nothing\""
    );
    assert_eq!(said(&headers, "outrigger-batch-size"), "");
}

#[tokio::test(start_paused = true)]
async fn a_caller_decides_whether_it_is_answered_from_the_cache() {
    let cached = Cached::new("oip-grpc", "cache: {unit: row}");
    let no_store = [("cache-control", "no-store")];
    assert_eq!(cached.result(&[7], &no_store).await, "bypass");
    assert_eq!(cached.rows(), 0);
    let no_cache = [("Cache-Control", "No-Cache")];
    assert_eq!(cached.result(&[7], &no_cache).await, "miss");
    assert_eq!(
        cached.result(&[7], &[]).await,
        "hit",
        "it is no part of the key"
    );
    assert_eq!(cached.result(&[7], &[("pragma", "no-cache")]).await, "miss");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(
        cached.result(&[7], &[("cache-control", "max-age=5")]).await,
        "hit"
    );
    assert_eq!(
        cached.result(&[7], &[("cache-control", "max-age=2")]).await,
        "miss"
    );
    let only = [
        ("cache-control", "only-if-cached"),
        ("outrigger-explain", "1"),
    ];
    assert_eq!(cached.result(&[7], &only).await, "hit");
    let (headers, refused) = cached.ask(&[9], &only).await;
    let words = "cache-control: only-if-cached, and the answer is not in the cache";
    assert_eq!(refused, Err((Code::Unavailable, words.to_owned())));
    let explained = format!("refused;reason=not_cached;note=\"{words}\"");
    assert_eq!(said(&headers, "outrigger-explain"), explained);
    // What is stored is stored for callers of all protocols.
    for expected in [200, 504] {
        let rest = Bytes::from_static(REST);
        let (status, ..) = cached.call("oip-rest", rest.into(), &only).await;
        assert_eq!(status, expected);
        cached.flush();
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_is_looked_up_before_answers_to_it_are_kept() {
    let cached = Cached::new("tfserving-grpc", "cache: {unit: request}");
    cached.learned().await;
    let result = async |more: &[(&str, &str)]| {
        let mut parts = parts(&[7]);
        parts.head.label = "best".into();
        let message = tfs_grpc::encode_request(&parts).unwrap();
        let headers = [&[("outrigger-explain", "1")], more].concat();
        let (status, headers, ..) = cached.call("tfserving-grpc", message, &headers).await;
        assert_eq!(status, 200);
        let explained = said(&headers, "outrigger-explain");
        let reason = explained.split_once(";reason=").map(|(_, reason)| reason);
        let reason = reason.unwrap_or_default().to_owned();
        (said(&headers, "outrigger-cache"), reason)
    };
    let bypass = |reason: &str| ("bypass".to_owned(), reason.to_owned());
    let words = "label;note=\"the label has not been looked up yet\"";
    assert_eq!(result(&[]).await, bypass(words));
    let no_store = [("cache-control", "no-store")];
    let words = "no_store;note=\"nothing of it shall be stored\"";
    assert_eq!(result(&no_store).await, bypass(words));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(result(&[]).await.0, "miss");
    assert_eq!(result(&[]).await.0, "hit");
    assert_eq!(result(&no_store).await, bypass(words));
}

#[tokio::test(start_paused = true)]
async fn callers_with_other_headers_share_no_answer() {
    let cached = Cached::new("oip-grpc", "cache: {unit: row}");
    let of = |tenant: &'static str| [("x-tenant", tenant), ("x-request-id", tenant)];
    assert_eq!(cached.result(&[7], &of("a")).await, "miss");
    assert_eq!(cached.result(&[7], &of("b")).await, "miss");
    assert_eq!(cached.result(&[7], &of("b")).await, "hit");
    assert_eq!(cached.result(&[7], &[("x-tenant", "a")]).await, "hit");
}

#[tokio::test(start_paused = true)]
async fn a_header_that_the_cache_ignores_keeps_nobody_apart() {
    let ignoring = "cache: {unit: row, ignore_headers: [X-User]}";
    let cached = Cached::new("oip-grpc", ignoring);
    let of = |user: &'static str, tenant: &'static str| [("x-user", user), ("x-tenant", tenant)];
    assert_eq!(cached.result(&[7], &of("a", "1")).await, "miss");
    assert_eq!(cached.result(&[7], &of("b", "1")).await, "hit");
    assert_eq!(cached.result(&[7], &of("b", "2")).await, "miss");
}

#[tokio::test(start_paused = true)]
async fn stored_answers_survive_a_reload_that_leaves_them_right() {
    let mut cached = Cached::new("oip-grpc", "cache: {unit: row}");
    assert_eq!(cached.result(&[7], &[]).await, "miss");
    for model in [
        "cache: {unit: row}, latency_objective: 30ms",
        "cache: {unit: row}, batch: {}",
        "cache: {unit: row}, batch: {max_batch_size: 8}",
    ] {
        cached.reload(model);
        assert_eq!(cached.result(&[7], &[]).await, "hit", "{model}");
    }
    for model in [
        "cache: {unit: row}, batch: {ignore_headers: [x-tenant]}",
        "cache: {unit: row, ttl: 1m}, batch: {ignore_headers: [x-tenant]}",
        "cache: {unit: row, ttl: 1m, ignore_headers: [x-user]}, batch: {ignore_headers: [x-tenant]}",
        "cache: {unit: row, ttl: 1m}, arms: {m: {upstream: u, model: other}}",
    ] {
        cached.reload(model);
        assert_eq!(cached.result(&[7], &[]).await, "miss", "{model}");
        assert_eq!(cached.result(&[7], &[]).await, "hit", "{model}");
    }
    cached.reload("latency_objective: 30ms");
    assert_eq!(cached.result(&[7], &[]).await, "");
    assert_eq!(cached.flush(), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_last_is_asked_again_after_a_flush() {
    let mut cached = Cached::new("oip-grpc", "cache: {unit: row, warm: 2}");
    cached.result(&[7, 8, 9], &[]).await;
    assert_eq!(cached.rows(), 0, "the answer had one row to three");
    cached.result(&[7], &[]).await;
    // Rows are told by their values: a request of one row is never kept otherwise.
    let stored = cached.rows();
    assert_eq!(stored, 1);
    for model in ["", ", latency_objective: 30ms"] {
        cached.reload(&format!("cache: {{unit: row, warm: 2}}{model}"));
        assert_eq!(cached.flush(), Some(1));
        assert_eq!(cached.rows(), 0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cached.rows(), 1);
        assert_eq!(cached.result(&[7], &[]).await, "hit");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_with_a_cache_is_ready_once_its_server_was_asked() {
    let cached = Cached::new("oip-rest", "cache: {}");
    assert!(!cached.table.arms().next().unwrap().is_learned());
    let result = async || {
        let message = Bytes::from_static(REST).into();
        let (_, headers, ..) = cached.call("oip-rest", message, &[]).await;
        said(&headers, "outrigger-cache")
    };
    assert_eq!(result().await, "bypass", "nothing is known yet");
    cached.learned().await;
    // This server does not say whether rows are independent: requests are kept as they are.
    assert_eq!(result().await, "miss");
    assert_eq!(result().await, "hit");
}
