//! Nothing that a model said is given as an answer once its server has another one: the server
//! multiplies, and by what it multiplies tells which model answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use outrigger_native::inference::{
    ModelConfig, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelStatistics,
    ModelStatisticsResponse, model_infer_response::InferOutputTensor,
};
use outrigger_tests::{
    gateway::Gateway,
    http1::Http1,
    model::{INFER, numbers, rows},
    origin::{Exchange, Origin},
    patience::{until, within},
    wire::{self, Wire, framed},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::Semaphore};

/// A server of one model, which multiplies.
#[derive(Clone, Debug)]
struct Multiplier(Arc<State>);

#[derive(Debug)]
struct State {
    factor: AtomicUsize,
    /// Rows since the model was loaded; a server may not say.
    counted: AtomicUsize,
    counts: bool,
    /// How many inferences were begun, and how many looks were answered.
    inferences: AtomicUsize,
    looks: AtomicUsize,
    /// How many loads have come.
    loads: AtomicUsize,
    refuses: AtomicBool,
    /// What inferences and loads need in order to go on.
    answers: Semaphore,
    loading: Semaphore,
}

impl Multiplier {
    fn new(factor: usize, counts: bool) -> Self {
        Self(Arc::new(State {
            factor: factor.into(),
            counted: AtomicUsize::new(0),
            counts,
            inferences: AtomicUsize::new(0),
            looks: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
            answers: Semaphore::new(1000),
            loading: Semaphore::new(1000),
        }))
    }

    async fn serve(&self) -> Origin {
        let server = self.clone();
        Origin::http2(move |exchange| server.clone().answer(exchange)).await
    }

    /// Takes the place of another process.
    async fn serve_at(&self, address: SocketAddr) -> Origin {
        let listener = TcpListener::bind(address).await.expect("it is free again");
        let server = self.clone();
        Origin::listening(listener, move |socket| {
            let server = server.clone();
            outrigger_tests::origin::serve_http2(socket, move |exchange| {
                server.clone().answer(exchange)
            })
        })
    }

    fn inferences(&self) -> usize {
        self.0.inferences.load(Ordering::SeqCst)
    }

    fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    /// Multiplies by one more from now on.
    fn change(&self) {
        self.0.factor.fetch_add(1, Ordering::SeqCst);
        self.0.counted.store(0, Ordering::SeqCst);
    }

    async fn load(&self) -> bool {
        self.0.loads.fetch_add(1, Ordering::SeqCst);
        if self.0.refuses.load(Ordering::SeqCst) {
            return false;
        }
        self.0.loading.acquire().await.expect("it is open").forget();
        self.change();
        true
    }

    async fn infer(&self, message: &[u8]) -> Vec<u8> {
        let request = ModelInferRequest::decode(message).expect("a request");
        self.0.inferences.fetch_add(1, Ordering::SeqCst);
        let factor = self.0.factor.load(Ordering::SeqCst);
        self.0.answers.acquire().await.expect("it is open").forget();
        let data = request.raw_input_contents.first().expect("it is raw");
        let values = data.as_chunks().0.iter().copied().map(f32::from_le_bytes);
        let product: Vec<u8> = values
            .flat_map(|value| (value * factor as f32).to_le_bytes())
            .collect();
        self.0.counted.fetch_add(1, Ordering::SeqCst);
        let output = InferOutputTensor {
            name: "output0".to_owned(),
            datatype: "FP32".to_owned(),
            shape: request.inputs[0].shape.clone(),
            ..Default::default()
        };
        ModelInferResponse {
            model_name: request.model_name,
            model_version: "1".to_owned(),
            id: request.id,
            outputs: vec![output],
            raw_output_contents: vec![product.into()],
            ..Default::default()
        }
        .encode_to_vec()
    }

    async fn answer(self, (request, mut respond): Exchange) {
        let path = request.uri().path().to_owned();
        let Ok((body, _)) = wire::drink(&mut request.into_body()).await else {
            return;
        };
        let message = body.get(5..).unwrap_or_default();
        let answer = match path.rsplit('/').next() {
            Some("ModelConfig") => {
                let config = ModelConfig {
                    max_batch_size: 64,
                    ..Default::default()
                };
                let config = Some(config);
                Some(ModelConfigResponse { config }.encode_to_vec())
            }
            Some("ModelStatistics") if self.0.counts => {
                self.0.looks.fetch_add(1, Ordering::SeqCst);
                let counted = ModelStatistics {
                    name: "m".to_owned(),
                    version: "1".to_owned(),
                    inference_count: self.0.counted.load(Ordering::SeqCst) as u64,
                    ..Default::default()
                };
                let model_stats = vec![counted];
                Some(ModelStatisticsResponse { model_stats }.encode_to_vec())
            }
            Some("ModelReady" | "ModelMetadata") => {
                self.0.looks.fetch_add(1, Ordering::SeqCst);
                Some(vec![])
            }
            Some("ModelInfer") => Some(self.infer(message).await),
            Some("RepositoryModelLoad") => self.load().await.then(Vec::new),
            _ => None,
        };
        let mut head = Response::new(());
        let grpc = HeaderValue::from_static("application/grpc");
        head.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        let mut trailers = HeaderMap::new();
        let status = if answer.is_some() { "0" } else { "12" };
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        let Ok(mut stream) = respond.send_response(head, false) else {
            return;
        };
        if let Some(answer) = answer
            && wire::send(&mut stream, framed(&answer), false)
                .await
                .is_err()
        {
            return;
        }
        let _ = stream.send_trailers(trailers);
    }

    /// Waits until the server has been looked at after all that happened so far.
    async fn looked_at(&self) {
        let looks = || self.0.looks.load(Ordering::SeqCst);
        let before = looks();
        until("it is looked at", || looks() >= before + 2).await;
    }
}

fn config(server: SocketAddr, rest: SocketAddr) -> String {
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", upstream: server }}, \
         {{ address: \"127.0.0.1:0\", upstream: rest }}]\n\
         upstreams: {{ server: {{ protocol: oip-grpc, endpoints: [\"http://{server}\"] }}, \
         rest: {{ protocol: oip-rest, endpoints: [\"http://{rest}\"] }} }}\n\
         models: {{ m: {{ cache: {{ bypass: never }}, arms: {{ m: {{ upstream: server, model: m }} }} }} }}\n"
    )
}

/// A model with a cache, behind which stands a server that may change.
struct Scene {
    server: Multiplier,
    origin: Origin,
    gateway: Gateway,
    wire: Wire,
}

impl Scene {
    async fn new(counts: bool) -> Self {
        let server = Multiplier::new(2, counts);
        let origin = server.serve().await;
        // Nothing is called there.
        let gateway = Gateway::start(&config(origin.address(), origin.address()));
        let wire = Wire::connect(gateway.address()).await;
        let scene = Self {
            server,
            origin,
            gateway,
            wire,
        };
        scene.is_cached(2.).await;
        scene
    }

    async fn ask(&self) -> f32 {
        product_of_one(&self.wire).await.expect("an answer")
    }

    /// Asks until the cache answers, and checks what.
    async fn is_cached(&self, product: f32) {
        let answered = async {
            loop {
                assert_eq!(self.ask().await, product);
                let before = self.server.inferences();
                assert_eq!(self.ask().await, product);
                // A look at the server may have flushed it just now.
                if self.server.inferences() == before {
                    return;
                }
            }
        };
        within("it is cached", answered).await;
    }

    async fn load(&self) -> Option<String> {
        let load = self.wire.call(LOAD, b"");
        let reply = within("an answer", load).await.expect("an answer");
        reply.grpc_status().map(str::to_owned)
    }
}

/// Asks for the product of one; there is none where the call failed.
async fn product_of_one(wire: &Wire) -> Option<f32> {
    let request = rows("m", &[1.]).encode_to_vec();
    let reply = within("an answer", wire.call(INFER, &request)).await;
    let message = reply.expect("an answer").body.get(5..)?.to_vec();
    let answer = ModelInferResponse::decode(&*message).expect("an answer");
    numbers(&answer).first().copied()
}

const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";

#[tokio::test]
async fn the_next_request_after_a_load_goes_to_the_model() {
    let scene = Scene::new(true).await;
    for product in [3., 4., 5.] {
        assert_eq!(scene.load().await.as_deref(), Some("0"));
        scene.is_cached(product).await;
    }
}

#[tokio::test]
async fn a_load_over_another_port_of_the_server_counts_as_well() {
    let scene = Scene::new(true).await;
    let loaded = scene.server.clone();
    let rest_origin = Origin::http1(move |request: Request<_>| {
        let loaded = loaded.clone();
        async move {
            if request.uri().path() == "/v2/repository/models/m/load" {
                loaded.load().await;
            }
            Response::new(
                Full::new(Bytes::new())
                    .map_err(|never| match never {})
                    .boxed(),
            )
        }
    })
    .await;
    let gateway = Gateway::start(&config(scene.origin.address(), rest_origin.address()));
    let wire = Wire::connect(gateway.address()).await;
    let scene = Scene {
        gateway,
        wire,
        ..scene
    };
    scene.is_cached(2.).await;
    let address = scene.gateway.addresses()[1];
    let mut rest = Http1::connect(address).await;
    let load =
        "POST /v2/repository/models/m/load HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let answer = within("an answer", rest.exchange(load)).await;
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(scene.server.loads(), 1);
    scene.is_cached(3.).await;
}

#[tokio::test]
async fn what_was_asked_before_a_load_is_not_kept_after_it() {
    let scene = Scene::new(true).await;
    scene.load().await;
    // The next answer is that of the model that is there now, and it comes late.
    scene.server.0.answers.forget_permits(2000);
    let begun = scene.server.inferences();
    let (late, ()) = tokio::join!(scene.ask(), async {
        until("it is under way", || scene.server.inferences() > begun).await;
        assert_eq!(scene.load().await.as_deref(), Some("0"));
        scene.server.0.answers.add_permits(1000);
    });
    assert_eq!(
        late, 3.,
        "whoever asked before gets what was the answer then"
    );
    scene.is_cached(4.).await;
}

#[tokio::test]
async fn what_is_asked_during_a_load_is_not_kept_after_it() {
    let scene = Scene::new(true).await;
    scene.server.0.loading.forget_permits(2000);
    let ((), loaded) = tokio::join!(
        async {
            until("it is loading", || scene.server.loads() == 1).await;
            // The old model still answers, and its answers are good until the end.
            scene.is_cached(2.).await;
            scene.server.0.loading.add_permits(1);
        },
        scene.load()
    );
    assert_eq!(loaded.as_deref(), Some("0"));
    scene.is_cached(3.).await;
}

#[tokio::test]
async fn a_load_that_the_server_refuses_flushes_too() {
    let scene = Scene::new(true).await;
    scene.server.0.refuses.store(true, Ordering::SeqCst);
    let before = scene.server.inferences();
    assert_eq!(scene.load().await.as_deref(), Some("12"));
    assert_eq!(scene.ask().await, 2.);
    assert_eq!(scene.server.inferences(), before + 1);
}

#[tokio::test]
async fn a_load_goes_on_to_count_after_its_caller_has_left() {
    // A server that shows nothing of a load.
    let scene = Scene::new(false).await;
    scene.server.0.loading.forget_permits(2000);
    let (answer, mut stream) = scene.wire.open(wire::grpc(LOAD), false).await.unwrap();
    stream.send_data(framed(b""), true).unwrap();
    until("it is loading", || scene.server.loads() == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    scene.server.change();
    let followed = async { while scene.ask().await != 3. {} };
    within("the next model answers", followed).await;
}

#[tokio::test]
async fn a_load_that_passes_by_somebody_else_is_noticed() {
    let scene = Scene::new(true).await;
    scene.server.looked_at().await;
    scene.server.change();
    let followed = async { while scene.ask().await != 3. {} };
    within("the next model answers", followed).await;
    scene.server.looked_at().await;
    scene.is_cached(3.).await;
}

#[tokio::test]
async fn a_server_that_goes_leaves_the_cache_and_the_next_one_flushes_it() {
    for counts in [true, false] {
        let scene = Scene::new(counts).await;
        scene.server.looked_at().await;
        let address = scene.origin.address();
        scene.origin.stop().await;
        let Scene {
            wire,
            gateway: _gateway,
            ..
        } = scene;
        let server = Multiplier::new(7, counts);
        for _ in 0..10 {
            assert_eq!(product_of_one(&wire).await, Some(2.), "the cache goes on");
        }
        let _origin = server.serve_at(address).await;
        let followed = async { while product_of_one(&wire).await != Some(7.) {} };
        within("the next server answers", followed).await;
    }
}
