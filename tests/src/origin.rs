//! Servers behind the proxy that do what the test says.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Connection, SendResponse},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::wire;

/// A server on a socket of this machine, on the runtime of the test; dropping it closes the
/// address and every connection.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

/// A stream of an HTTP/2 server: the request, and the way to answer.
pub type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

impl Origin {
    /// Serves HTTP/2: each request is handed to the function in a task of its own.
    pub async fn http2<F>(answer: impl Fn(Exchange) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::sockets(move |socket| serve_http2(socket, answer.clone())).await
    }

    /// Serves HTTP/2 with whole connections handed over.
    pub async fn connections<F>(
        serve: impl Fn(Connection<TcpStream, Bytes>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::sockets(move |socket| {
            let serve = serve.clone();
            async move {
                if let Ok(connection) = h2::server::handshake(socket).await {
                    serve(connection).await;
                }
            }
        })
        .await
    }

    /// Serves HTTP/1.1.
    pub async fn http1<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Response<BoxBody<Bytes, hyper::Error>>> + Send + 'static,
    {
        Self::sockets(move |socket| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                // A client that goes is the test's own doing.
                let _ = hyper::server::conn::http1::Builder::new()
                    .auto_date_header(false)
                    .half_close(true)
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            }
        })
        .await
    }

    /// Hands each accepted socket over.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub async fn sockets<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::listening(listener, serve)
    }

    /// Hands each socket over that a listener accepts.
    ///
    /// # Panics
    ///
    /// When the listener has no address.
    pub fn listening<F>(
        listener: TcpListener,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                accepted.fetch_add(1, Ordering::SeqCst);
                served.spawn(serve(socket));
                while served.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            connections,
            accepting,
        }
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Closes the address and every connection, and waits until that is done.
    pub async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves HTTP/2 over anything.
pub async fn serve_http2<F>(io: impl AsyncRead + AsyncWrite + Unpin, answer: impl Fn(Exchange) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(10_000)
        .max_concurrent_reset_streams(10_000)
        .max_pending_accept_reset_streams(10_000)
        .max_header_list_size(256 << 10);
    let Ok(mut connection) = builder.handshake(io).await else {
        return;
    };
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok(exchange)) = connection.accept().await {
        streams.spawn(answer(exchange));
        while streams.try_join_next().is_some() {}
    }
}

/// Answers as a mirror: the body and the trailers that came, piece by piece as they come, under
/// headers that say what else came.
pub async fn mirror((request, mut respond): Exchange) {
    let (head, mut body) = request.into_parts();
    let mut answer = Response::new(());
    *answer.headers_mut() = seen(&head.headers);
    let headers = answer.headers_mut();
    for (name, value) in [
        ("seen-method", head.method.to_string()),
        ("seen-target", head.uri.to_string()),
    ] {
        headers.insert(name, value.parse().expect("it came in a header"));
    }
    let ends = head.method == http::Method::HEAD;
    let Ok(mut stream) = respond.send_response(answer, ends) else {
        return;
    };
    if ends {
        return;
    }
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        if wire::send(&mut stream, data, false).await.is_err() {
            return;
        }
    }
    let Ok(trailers) = body.trailers().await else {
        return;
    };
    let mut last = seen(&trailers.unwrap_or_default());
    last.insert("grpc-status", http::HeaderValue::from_static("0"));
    let _ = stream.send_trailers(last);
}

/// Answers an HTTP/1.1 request by what came with it: the body as it was, and headers that say
/// the rest.
///
/// # Panics
///
/// When the request breaks off.
pub async fn mirror_http1(request: Request<Incoming>) -> Response<BoxBody<Bytes, hyper::Error>> {
    let (head, body) = request.into_parts();
    let collected = body.collect().await.expect("the request is whole");
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    let headers = answer.headers_mut();
    *headers = seen(&head.headers);
    headers.extend(seen(&trailers.unwrap_or_default()));
    for (name, value) in [
        ("seen-method", head.method.to_string()),
        ("seen-target", head.uri.to_string()),
    ] {
        headers.insert(name, value.parse().expect("it came in a header"));
    }
    if head.uri.path() == "/teapot" {
        *answer.status_mut() = StatusCode::IM_A_TEAPOT;
    }
    answer
}

/// Says header fields again, under names that nobody acts on.
fn seen(headers: &HeaderMap) -> HeaderMap {
    headers
        .iter()
        .map(|(name, value)| {
            let name = format!("seen-{name}");
            (name.parse().expect("a name"), value.clone())
        })
        .collect()
}

/// A model server within the runtime of the test: whatever it is asked to infer it echoes after a
/// time, and it takes batches.
#[derive(Clone, Debug)]
pub struct EchoServer {
    /// How long each call takes.
    pub latency: std::time::Duration,
    /// What each row adds to that.
    pub per_row: std::time::Duration,
    /// The shapes of the calls that came, in their order.
    pub calls: Arc<std::sync::Mutex<Vec<Vec<i64>>>>,
    /// How many of them were cancelled before they were answered.
    pub cancelled: Arc<AtomicUsize>,
}

impl EchoServer {
    /// Makes a server whose calls take so long.
    pub fn new(latency: std::time::Duration) -> Self {
        Self {
            latency,
            per_row: std::time::Duration::ZERO,
            calls: Arc::default(),
            cancelled: Arc::default(),
        }
    }

    /// Answers one stream.
    pub async fn answer(self, (request, mut respond): Exchange) {
        use outrigger_native::inference::{
            ModelConfig, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
            model_infer_response::InferOutputTensor,
        };
        use prost::Message as _;

        let method = request.uri().path().rsplit('/').next().map(str::to_owned);
        let Ok((body, _)) = wire::drink(&mut request.into_body()).await else {
            return;
        };
        let message = body.get(5..).unwrap_or_default();
        let answer = match method.as_deref() {
            Some("ModelConfig") => ModelConfigResponse {
                config: Some(ModelConfig {
                    max_batch_size: 64,
                    ..Default::default()
                }),
            }
            .encode_to_vec(),
            Some("ModelInfer") => {
                let request = ModelInferRequest::decode(message).expect("a request");
                let shapes = request.inputs.iter().map(|input| input.shape.clone());
                if let Ok(mut calls) = self.calls.lock() {
                    calls.extend(shapes);
                }
                let rows = request.inputs.first().and_then(|input| input.shape.first());
                let rows = rows.and_then(|rows| u32::try_from(*rows).ok()).unwrap_or(1);
                let cancelled = std::future::poll_fn(|cx| respond.poll_reset(cx));
                let worked = tokio::time::timeout(self.latency + self.per_row * rows, cancelled);
                if worked.await.is_ok() {
                    self.cancelled.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                let outputs = request.inputs.into_iter().map(|input| InferOutputTensor {
                    name: input.name,
                    datatype: input.datatype,
                    shape: input.shape,
                    ..Default::default()
                });
                ModelInferResponse {
                    model_name: request.model_name,
                    id: request.id,
                    outputs: outputs.collect(),
                    raw_output_contents: request.raw_input_contents,
                    ..Default::default()
                }
                .encode_to_vec()
            }
            // `ModelReady`, `ServerReady`.
            _ => vec![8, 1],
        };
        let mut head = Response::new(());
        head.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/grpc"),
        );
        let Ok(mut stream) = respond.send_response(head, false) else {
            return;
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        if wire::send(&mut stream, wire::framed(&answer), false)
            .await
            .is_ok()
        {
            let _ = stream.send_trailers(trailers);
        }
    }
}
