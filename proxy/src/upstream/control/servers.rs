//! Servers for tests, which answer what real ones did.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use parking_lot::Mutex;
use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::AbortHandle,
};

use crate::{
    codec::grpc,
    config::Config,
    io::BoxStream,
    upstream::{Connector, Upstream},
};

/// What a server knows: paths and the answers to them. It does not know of any other path.
pub(crate) type Pages = &'static [(&'static str, &'static [u8])];

/// A server in the process of the test: it has pages, and is silent where it has none, or where it
/// is called as `silent`.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    pages: Arc<Mutex<Option<Pages>>>,
    asked: Arc<AtomicUsize>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    away: Arc<AtomicBool>,
    grpc: bool,
}

impl Servers {
    pub(crate) fn new(protocol: &str, pages: Option<Pages>) -> Self {
        Self {
            pages: Arc::new(Mutex::new(pages)),
            asked: Arc::default(),
            connections: Arc::default(),
            away: Arc::default(),
            grpc: protocol.ends_with("grpc"),
        }
    }

    /// Makes a server, and an upstream of it.
    pub(super) fn upstream(protocol: &str, pages: Option<Pages>) -> (Self, Arc<Upstream>) {
        Self::at(protocol, pages, &["http://server:1"])
    }

    pub(super) fn at(
        protocol: &str,
        pages: Option<Pages>,
        endpoints: &[&str],
    ) -> (Self, Arc<Upstream>) {
        let servers = Self::new(protocol, pages);
        let config = format!(
            "{{listeners: [{{address: '127.0.0.1:0', upstream: u}}],
               upstreams: {{u: {{protocol: {protocol}, endpoints: {endpoints:?}}}}}}}"
        );
        let config = Config::read(&config).unwrap();
        let called = servers.clone();
        let connector =
            Connector::new(move |authority| std::future::ready(called.connect(authority.host())));
        let upstream = Arc::new(Upstream::new("u", &config.upstreams["u"], &connector));
        (servers, upstream)
    }

    /// Opens a connection to the server.
    pub(crate) fn open(&self, host: &str) -> BoxStream {
        let (near, far) = io::duplex(1 << 16);
        let silent = host == "silent";
        let serving = match self.grpc {
            true => tokio::spawn(self.clone().serve_grpc(far, silent)),
            false => tokio::spawn(self.clone().serve_rest(far, silent)),
        };
        self.connections.lock().push(serving.abort_handle());
        Box::new(near)
    }

    fn connect(&self, host: &str) -> io::Result<BoxStream> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::ConnectionRefused.into()),
            false => Ok(self.open(host)),
        }
    }

    /// Closes all connections, as a process does that ends, and takes no more where it stays away.
    pub(super) fn restart(&self, stays_away: bool) {
        self.away.store(stays_away, Ordering::Relaxed);
        let mut connections = self.connections.lock();
        connections.drain(..).for_each(|serving| serving.abort());
    }

    pub(crate) fn set(&self, pages: Option<Pages>) {
        *self.pages.lock() = pages;
    }

    pub(crate) fn asked(&self) -> usize {
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
            let end = read.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end.filter(|_| !silent && !self.is_silent()) else {
                continue;
            };
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            let len = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if read.len() < end + 4 + len.map_or(0, |len| len.parse().unwrap()) {
                continue;
            }
            read.clear();
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

macro_rules! recorded {
    ($file:literal) => {
        include_bytes!(concat!("../../codec/", $file))
    };
}

pub(crate) const TRITON_GRPC: Pages = &[
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

pub(crate) const MLSERVER_GRPC: Pages = &[
    (
        "/inference.GRPCInferenceService/ModelMetadata",
        recorded!("oip_grpc/recorded/mlserver.digits.metadata.bin"),
    ),
    (
        "/inference.GRPCInferenceService/ModelReady",
        recorded!("oip_grpc/recorded/mlserver.ready.bin"),
    ),
];

pub(crate) const TRITON_REST: Pages = &[
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

pub(crate) const MLSERVER_REST: Pages = &[
    (
        "/v2/models/digits_svm/versions/v1",
        recorded!("oip_rest/recorded/mlserver.digits.metadata.json"),
    ),
    ("/v2", recorded!("oip_rest/recorded/mlserver.server.json")),
    ("/v2/models/digits_svm/versions/v1/ready", b""),
];

pub(crate) const TENSORFLOW_GRPC: Pages = &[
    (
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        recorded!("tfs_grpc/recorded/tensorflow.half_plus_two.metadata.bin"),
    ),
    (
        "/tensorflow.serving.ModelService/GetModelStatus",
        recorded!("tfs_grpc/recorded/tensorflow.half_plus_two.status.bin"),
    ),
];

pub(crate) const TENSORFLOW_REST: Pages = &[
    (
        "/v1/models/half_plus_two/metadata",
        recorded!("tfs_rest/recorded/tensorflow.half_plus_two.metadata.json"),
    ),
    (
        "/v1/models/half_plus_two",
        recorded!("tfs_rest/recorded/tensorflow.half_plus_two.status.json"),
    ),
];

pub(crate) const KSERVE_V1: Pages = &[
    (
        "/v1/models/digits",
        recorded!("tfs_rest/recorded/kserve.digits.status.json"),
    ),
    ("/v1/models", br#"{"models":["digits"]}"#),
];
