use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use outrigger_filters::{
    batch::{Batchable, Capability, Unbatchable},
    inference::{Code, Datatype, Status},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime::Handle,
    time::Instant,
};

use super::{ready::PATIENCE, *};
use crate::{
    codec::grpc,
    config::Config,
    io::BoxStream,
    upstream::{Connector, Upstream},
};

/// What a server knows: paths and the answers to them. It does not know of any other path.
type Pages = &'static [(&'static str, &'static [u8])];

/// Servers behind names: each has pages, and is silent where it has none.
#[derive(Clone, Debug)]
struct Servers {
    pages: Arc<Mutex<Option<Pages>>>,
    asked: Arc<AtomicUsize>,
    grpc: bool,
}

impl Servers {
    fn new(protocol: &str, pages: Option<Pages>) -> (Self, Arc<Upstream>) {
        Self::at(protocol, pages, &["http://server:1"])
    }

    fn at(protocol: &str, pages: Option<Pages>, endpoints: &[&str]) -> (Self, Arc<Upstream>) {
        let servers = Self {
            pages: Arc::new(Mutex::new(pages)),
            asked: Arc::default(),
            grpc: protocol.ends_with("grpc"),
        };
        let config = format!(
            "{{listeners: [{{address: '127.0.0.1:0', upstream: u}}],
               upstreams: {{u: {{protocol: {protocol}, endpoints: {endpoints:?}}}}}}}"
        );
        let config = Config::read(&config).unwrap();
        let of_connector = servers.clone();
        let connector = Connector::new(move |authority| {
            let server = of_connector.clone();
            async move {
                let (near, far) = tokio::io::duplex(1 << 16);
                let silent = authority.host() == "silent";
                match server.grpc {
                    true => drop(tokio::spawn(server.serve_grpc(far, silent))),
                    false => drop(tokio::spawn(server.serve_rest(far, silent))),
                }
                Ok(Box::new(near) as BoxStream)
            }
        });
        let upstream = Arc::new(Upstream::new("u", &config.upstreams["u"], &connector));
        (servers, upstream)
    }

    fn set(&self, pages: Option<Pages>) {
        *self.pages.lock() = pages;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Returns the answer to a path, or nothing where the path is not known.
    fn page(&self, path: &str) -> Option<&'static [u8]> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let pages = (*self.pages.lock()).unwrap_or_default();
        pages.iter().find(|page| page.0 == path).map(|page| page.1)
    }

    fn is_silent(&self) -> bool {
        self.pages.lock().is_none()
    }

    async fn serve_grpc(self, pipe: DuplexStream, silent: bool) {
        let mut connection = h2::server::handshake(pipe).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            if silent || self.is_silent() {
                held.push(respond);
                continue;
            }
            let mut trailers = HeaderMap::new();
            let answer = self.page(request.uri().path());
            let status = if answer.is_some() { "0" } else { "12" };
            trailers.insert("grpc-status", HeaderValue::from_static(status));
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            if let Some(message) = answer {
                let framed = grpc::frame(Bytes::from_static(message)).to_bytes();
                stream.send_data(framed, false).unwrap();
            }
            stream.send_trailers(trailers).unwrap();
        }
    }

    async fn serve_rest(self, mut pipe: DuplexStream, silent: bool) {
        let mut read = Vec::new();
        while pipe.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
            if !read.ends_with(b"\r\n\r\n") || silent || self.is_silent() {
                continue;
            }
            let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let (status, body) = match self.page(path) {
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", &br#"{"error": "nothing here"}"#[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            pipe.write_all(head.as_bytes()).await.unwrap();
            pipe.write_all(body).await.unwrap();
        }
    }
}

const DIGITS: Served<'static> = Served {
    model: "digits_svm",
    version: "",
};

const YES: Batchable = Batchable::Yes {
    max_batch_size: None,
};

fn learned(upstream: &Arc<Upstream>) -> Learned {
    Learned::new(
        Handle::current(),
        upstream.clone(),
        "digits_svm".parse().unwrap(),
        None,
        Capability::new(Batchable::Unasked),
    )
}

macro_rules! recorded {
    ($file:literal) => {
        include_bytes!(concat!("../../codec/", $file))
    };
}

const TRITON_GRPC: Pages = &[
    (
        "/inference.GRPCInferenceService/ModelConfig",
        recorded!("oip_grpc/recorded/triton.digits_svm.config.bin"),
    ),
    (
        "/inference.GRPCInferenceService/ModelMetadata",
        recorded!("oip_grpc/recorded/triton.digits_svm.metadata.bin"),
    ),
    (
        "/inference.GRPCInferenceService/ModelReady",
        recorded!("oip_grpc/recorded/triton.ready.bin"),
    ),
];

const MLSERVER_GRPC: Pages = &[
    (
        "/inference.GRPCInferenceService/ModelMetadata",
        recorded!("oip_grpc/recorded/mlserver.digits.metadata.bin"),
    ),
    (
        "/inference.GRPCInferenceService/ModelReady",
        recorded!("oip_grpc/recorded/mlserver.ready.bin"),
    ),
];

const TRITON_REST: Pages = &[
    (
        "/v2/models/digits_svm/config",
        recorded!("oip_rest/recorded/triton.digits_svm.config.json"),
    ),
    (
        "/v2/models/digits_svm",
        recorded!("oip_rest/recorded/triton.digits_svm.metadata.json"),
    ),
    ("/v2", recorded!("oip_rest/recorded/triton.server.json")),
    ("/v2/models/digits_svm/ready", b""),
    ("/v2/health/ready", b""),
];

const MLSERVER_REST: Pages = &[
    (
        "/v2/models/digits_svm/versions/v1",
        recorded!("oip_rest/recorded/mlserver.digits.metadata.json"),
    ),
    ("/v2", recorded!("oip_rest/recorded/mlserver.server.json")),
    ("/v2/models/digits_svm/versions/v1/ready", b""),
];

#[tokio::test(start_paused = true)]
async fn triton_describes_a_model_over_both_protocols_alike() {
    let (_, grpc) = Servers::new("oip-grpc", Some(TRITON_GRPC));
    let (_, rest) = Servers::new("oip-rest", Some(TRITON_REST));
    let grpc = describe(&grpc, DIGITS).await.unwrap();
    let rest = describe(&rest, DIGITS).await.unwrap();
    let limit = Batchable::Yes {
        max_batch_size: Some(128),
    };
    assert_eq!(grpc.batchable, limit);
    assert_eq!(grpc.versions, ["1"]);
    let signature = grpc.signature("").unwrap();
    assert_eq!(signature.input("x").unwrap().datatype, Datatype::Fp32);
    assert_eq!(signature.output("label").unwrap().datatype, Datatype::Int64);
    assert!(rest.binary);
    assert_eq!(
        Description {
            binary: false,
            ..rest
        },
        grpc
    );
}

#[tokio::test(start_paused = true)]
async fn mlserver_describes_a_model_without_a_configuration() {
    let (_, grpc) = Servers::new("oip-grpc", Some(MLSERVER_GRPC));
    let (_, rest) = Servers::new("oip-rest", Some(MLSERVER_REST));
    let grpc = describe(&grpc, DIGITS).await.unwrap();
    let served = Served {
        version: "v1",
        ..DIGITS
    };
    let rest = describe(&rest, served).await.unwrap();
    assert_eq!(grpc.batchable, YES);
    assert!(grpc.signature("").unwrap().input("predict").is_some());
    assert_eq!(rest, grpc);
    assert!(!rest.binary);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_there_is_told_in_the_servers_words() {
    let (_, rest) = Servers::new("oip-rest", Some(MLSERVER_REST));
    let error = describe(&rest, DIGITS).await.unwrap_err();
    let status = error.downcast_ref::<Status>().unwrap();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "nothing here");
}

#[tokio::test(start_paused = true)]
async fn readiness_is_asked_of_the_model_in_each_protocol() {
    let nobody = Served {
        model: "nobody",
        version: "",
    };
    let (_, rest) = Servers::new("oip-rest", Some(TRITON_REST));
    assert!(is_ready(&rest, Some(DIGITS)).await);
    assert!(!is_ready(&rest, Some(nobody)).await);
    assert!(is_ready(&rest, None).await);
    let (_, grpc) = Servers::new("oip-grpc", Some(TRITON_GRPC));
    assert!(is_ready(&grpc, Some(DIGITS)).await);
    // It has no such call, but it answers.
    assert!(is_ready(&grpc, None).await);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_before_somebody_waits() {
    let (servers, upstream) = Servers::new("oip-rest", Some(TRITON_REST));
    let learned = learned(&upstream);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(learned.description(), None);
    assert_eq!(servers.asked(), 0);
    let began = Instant::now();
    let description = learned.wait().await.unwrap();
    assert!(description.binary);
    assert!(began.elapsed() < Duration::from_millis(10));
    assert_eq!(learned.capability().get(), description.batchable);
    assert_eq!(learned.description(), Some(description));
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_asking() {
    let (servers, upstream) = Servers::new("oip-rest", Some(TRITON_REST));
    let learned = learned(&upstream);
    let (one, two, three) = tokio::join!(learned.wait(), learned.wait(), learned.wait());
    assert!(one.is_some() && one == two && two == three);
    assert_eq!(servers.asked(), 3, "config, metadata and server");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_keeps_a_request_for_two_seconds_and_only_once() {
    let (_, upstream) = Servers::new("oip-rest", None);
    let learned = learned(&upstream);
    let began = Instant::now();
    assert_eq!(learned.wait().await, None);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    assert_eq!(learned.wait().await, None);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_comes_late_is_found_and_one_that_goes_stays_known() {
    let (servers, upstream) = Servers::new("oip-rest", Some(&[]));
    let learned = learned(&upstream);
    learned.begin();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(learned.wait().await, None);
    assert_eq!(learned.capability().get(), Batchable::Unasked);
    servers.set(Some(TRITON_REST));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let known = learned.description().unwrap();
    servers.set(Some(&[]));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(learned.description(), Some(known));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_loaded_anew_is_noticed_within_ten_seconds() {
    let (servers, upstream) = Servers::new("oip-grpc", Some(TRITON_GRPC));
    let learned = learned(&upstream);
    let first = learned.wait().await.unwrap();
    servers.set(Some(MLSERVER_GRPC));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_ne!(learned.description().unwrap(), first);
    assert_eq!(learned.capability().get(), YES);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_did_not_divide_outweighs_what_the_server_says() {
    let (_, upstream) = Servers::new("oip-grpc", Some(TRITON_GRPC));
    let learned = learned(&upstream);
    let uneven = Batchable::No(Unbatchable::UnevenOutput);
    learned.capability().set(uneven);
    assert!(learned.wait().await.is_some());
    assert_eq!(learned.capability().get(), uneven);
}

#[tokio::test(start_paused = true)]
async fn the_asking_ends_with_the_last_handle() {
    let (servers, upstream) = Servers::new("oip-grpc", Some(TRITON_GRPC));
    let learned = learned(&upstream);
    let clone = learned.clone();
    learned.wait().await.unwrap();
    let asked = servers.asked();
    drop(learned);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(servers.asked() > asked);
    drop(clone);
    let asked = servers.asked();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(servers.asked(), asked);
    assert_eq!(Arc::strong_count(&upstream), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_endpoint_does_not_keep_a_model_unknown_that_another_knows() {
    let endpoints = ["http://silent:1", "http://good:1"];
    let (_, upstream) = Servers::at("oip-grpc", Some(TRITON_GRPC), &endpoints);
    let learned = learned(&upstream);
    learned.begin();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let known = Batchable::Yes {
        max_batch_size: Some(128),
    };
    assert_eq!(learned.capability().get(), known);
    assert!(learned.description().is_some());
}

fn models() -> Vec<(String, String)> {
    [DIGITS.model; 3]
        .map(|name| (name.to_owned(), String::new()))
        .to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_in_time_however_many_are_silent() {
    let began = Instant::now();
    let endpoints = ["http://silent:1", "http://silent:2", "http://silent:3"];
    let (_, silent) = Servers::at("oip-grpc", Some(TRITON_GRPC), &endpoints);
    assert_eq!(unready(&silent, &models()).await.len(), 3);
    assert_eq!(unready(&silent, &[]).await, ["upstream u"]);
    let took = began.elapsed();
    assert!(took < 2 * PATIENCE + Duration::from_millis(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_that_is_ready_is_enough_and_none_is_waited_for() {
    let began = Instant::now();
    let endpoints = ["http://silent:1", "http://good:1", "http://silent:2"];
    let (_, mixed) = Servers::at("oip-grpc", Some(TRITON_GRPC), &endpoints);
    assert!(unready(&mixed, &models()).await.is_empty());
    assert!(unready(&mixed, &[]).await.is_empty());
    assert!(began.elapsed() < Duration::from_millis(10));
}
