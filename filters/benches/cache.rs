//! What the cache costs: `cargo bench -p outrigger-filters --bench cache`.
//!
//! Each figure is the least of several rounds, in nanoseconds: what the code takes when nothing
//! else has the core. A second table has what knowing bytes by a hash, by a digest and by
//! themselves takes, from which it was chosen how long rows may be that are stored in full.

#![expect(
    clippy::disallowed_types,
    reason = "a program, which measures real time"
)]

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    hash::{BuildHasher, Hasher},
    hint::black_box,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use outrigger_filters::{
    batch::{Batchable, Capability},
    cache::{Bypass, Cache, CacheLayer, Config, Handles, Unit},
    inference::{
        Datatype, Form, Head, Parameters, Payload, Request, RequestParts, Response, ResponseParts,
        Shape, Tensor,
    },
};
use tokio::runtime::Runtime;
use tower::{Layer as _, Service};

/// That of the proxy's binary: what a miss costs is in good part memory that is taken and given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives each row one number, at once or when the bench opens the gate.
#[derive(Clone, Debug)]
struct Model(Arc<Mutex<Gate>>);

#[derive(Debug)]
struct Gate {
    open: bool,
    waker: Option<Waker>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    for bytes in [64, 3072] {
        filter(&runtime, bytes);
    }
    joined(&runtime);
    hashing();
}

/// What a request takes on its way through the filter.
fn filter(runtime: &Runtime, bytes: usize) {
    let mut plain = Model::new();
    for (what, rows) in [("a row", 1), (ROWS_WORD, ROWS)] {
        let known: Vec<u64> = (0..rows as u64).collect();
        let request = request(&known, bytes);
        // What making the answer takes, which a hit is spared, and a miss is not.
        let model = least(ROUNDS, CALLS, |_| {
            runtime.block_on(answer(&mut plain, request.clone()))
        });
        let clone = least(ROUNDS, CALLS, |_| request.clone());
        report(
            &format!("{bytes} B, {what}: without the cache"),
            model - clone,
        );
        let mut cache = cache();
        runtime.block_on(answer(&mut cache, request.clone()));
        let hit = least(ROUNDS, CALLS, |_| {
            runtime.block_on(answer(&mut cache, request.clone()))
        });
        report(&format!("{bytes} B, {what}: hit"), hit - clone);
    }

    // Requests are made ahead, as a codec makes them whether there is a cache or not.
    let mut next = 1 << 32;
    let mut cache = cache();
    let mut fresh = |rows: u64| {
        next += rows;
        request(&(next..next + rows).collect::<Vec<_>>(), bytes)
    };
    let without = prepared(runtime, &mut plain, || fresh(1));
    let missed = prepared(runtime, &mut cache, || fresh(1));
    report(
        &format!("{bytes} B, a row: miss and store, more"),
        missed - without,
    );
    for _ in 0..FULL / bytes {
        runtime.block_on(answer(&mut cache, fresh(1)));
    }
    let missed = prepared(runtime, &mut cache, || fresh(1));
    report(
        &format!("{bytes} B, a row: miss in a full store, more"),
        missed - without,
    );
    let half: Vec<u64> = (0..ROWS as u64 / 2).collect();
    let partial = prepared(runtime, &mut cache, || {
        next += ROWS as u64;
        let unknown = next..next + ROWS as u64 / 2;
        request(
            &half.iter().copied().chain(unknown).collect::<Vec<_>>(),
            bytes,
        )
    });
    report(
        &format!("{bytes} B, {ROWS_WORD}: half of them known, in all"),
        partial,
    );
}

/// What each request takes of those that arrive while another asks for the same row.
fn joined(runtime: &Runtime) {
    let mut least = f64::INFINITY;
    for round in 0..ROUNDS as u64 * 20 {
        let model = Model::new();
        model.set(false);
        let mut cache = layer().layer(model.clone());
        let requests: Vec<Request> = (0..=FOLLOWERS).map(|_| request(&[round], 3072)).collect();
        let took = runtime.block_on(async {
            let mut requests = requests.into_iter();
            let leader = requests.next().expect("there is one more than follow");
            let mut callers = vec![Some(Box::pin(cache.call(leader)))];
            poll_all(&mut callers).await;
            let began = Instant::now();
            callers.extend(requests.map(|request| Some(Box::pin(cache.call(request)))));
            poll_all(&mut callers).await;
            model.set(true);
            while callers.iter().any(Option::is_some) {
                poll_all(&mut callers).await;
                tokio::task::yield_now().await;
            }
            began.elapsed()
        });
        least = least.min(took.as_nanos() as f64 / FOLLOWERS as f64);
    }
    report("3072 B, a row: joined, of 1000 callers", least);
}

/// Polls each once, and forgets those that are done.
async fn poll_all<F: Future>(callers: &mut [Option<Pin<Box<F>>>]) {
    poll_fn(|cx| {
        for slot in &mut *callers {
            if let Some(caller) = slot
                && caller.as_mut().poll(cx).is_ready()
            {
                *slot = None;
            }
        }
        Poll::Ready(())
    })
    .await;
}

fn hashing() {
    println!(
        "\nnanoseconds\n{:>9} {:>10} {:>10} {:>10} {:>10}",
        "bytes", "foldhash", "BLAKE3", "compare", "copy"
    );
    let state = foldhash::quality::RandomState::default();
    let key = [7; blake3::KEY_LEN];
    for len in [
        64, 256, 1024, 3072, 4096, 8192, 16_384, 65_536, 150_528, 602_112,
    ] {
        // Rows come from the network, and are not in the nearest cache: many take turns.
        let rows: Vec<Vec<u8>> = (0..(TOGETHER / len).clamp(2, 4096))
            .map(|row| vec![row as u8; len])
            .collect();
        let others = rows.clone();
        let times = (50_000_000 / (len as u32 + 500)).max(50);
        let mut at = 0;
        let mut turn = || {
            at = (at + 1) % rows.len();
            at
        };
        let hashed = least(ROUNDS, times, |_| {
            let mut hasher = state.build_hasher();
            hasher.write(&rows[turn()]);
            hasher.finish()
        });
        let digested = least(ROUNDS, times, |_| blake3::keyed_hash(&key, &rows[turn()]));
        let compared = least(ROUNDS, times, |_| {
            let at = turn();
            black_box(&rows[at]) == black_box(&others[at])
        });
        let copied = least(ROUNDS, times, |_| Bytes::copy_from_slice(&rows[turn()]));
        println!("{len:>9} {hashed:>10.0} {digested:>10.0} {compared:>10.0} {copied:>10.0}");
    }
}

fn cache() -> Cache<Model> {
    layer().layer(Model::new())
}

fn layer() -> CacheLayer {
    let config = Config {
        ttl: Duration::from_secs(3600),
        unit: Unit::Row,
        bypass: Bypass::Never,
        ..Config::default()
    };
    let capability = Capability::new(Batchable::Yes {
        max_batch_size: None,
    });
    CacheLayer::new(config, capability, Handles::default())
}

async fn answer<S>(service: &mut S, request: Request) -> usize
where
    S: Service<Request, Response = Response>,
{
    let ready = poll_fn(|cx| service.poll_ready(cx)).await;
    assert!(ready.is_ok(), "the filter is always ready");
    match service.call(request).await {
        Ok(answer) => answer.outputs.len(),
        Err(_) => panic!("the model answers always"),
    }
}

/// Sends each of many requests that are made before the clock starts.
fn prepared<S>(runtime: &Runtime, service: &mut S, mut make: impl FnMut() -> Request) -> f64
where
    S: Service<Request, Response = Response>,
{
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let requests: Vec<Request> = (0..PREPARED).map(|_| make()).collect();
        let took = runtime.block_on(async {
            let began = Instant::now();
            for request in requests {
                black_box(answer(service, request).await);
            }
            began.elapsed()
        });
        least = least.min(took.as_nanos() as f64 / f64::from(PREPARED));
    }
    least
}

impl Model {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Gate {
            open: true,
            waker: None,
        })))
    }

    fn set(&self, open: bool) {
        let mut gate = self.0.lock().expect("nobody panicked");
        gate.open = open;
        if open && let Some(waker) = gate.waker.take() {
            waker.wake();
        }
    }
}

impl Service<Request> for Model {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let gate = Arc::clone(&self.0);
        Box::pin(async move {
            poll_fn(|cx| {
                let mut gate = gate.lock().expect("nobody panicked");
                if gate.open {
                    return Poll::Ready(());
                }
                gate.waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            Ok(response(&request))
        })
    }
}

/// Rows of so many bytes, each with its number at its begin.
fn request(rows: &[u64], bytes: usize) -> Request {
    let mut data = vec![0x5a; rows.len() * bytes];
    for (row, number) in data.chunks_exact_mut(bytes).zip(rows) {
        row[..8].copy_from_slice(&number.to_le_bytes());
    }
    Request::from(RequestParts {
        head: Head {
            model: "digits".into(),
            id: "a-request".into(),
            ..Head::default()
        },
        inputs: vec![tensor(
            "x",
            Datatype::Uint8,
            [rows.len() as i64, bytes as i64],
            data,
        )],
        ..RequestParts::default()
    })
}

/// One label for each row.
fn response(request: &Request) -> Response {
    let rows = request.inputs[0].shape.rows().unwrap_or(0);
    Response::from(ResponseParts {
        model: request.head.model.clone(),
        version: "1".into(),
        id: request.head.id.clone(),
        outputs: vec![tensor(
            "label",
            Datatype::Int64,
            [rows as i64, 1],
            vec![1; rows * 8],
        )],
        ..ResponseParts::default()
    })
}

fn tensor(name: &'static str, datatype: Datatype, shape: [i64; 2], data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: Shape::new(shape),
        parameters: Parameters::default(),
        data: Payload::from(Bytes::from(data)),
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

fn least<T>(rounds: usize, times: u32, mut act: impl FnMut(u32) -> T) -> f64 {
    (0..rounds)
        .map(|_| {
            let began = Instant::now();
            for n in 0..times {
                black_box(act(n));
            }
            began.elapsed().as_nanos() as f64 / f64::from(times)
        })
        .fold(f64::INFINITY, f64::min)
}

fn report(what: &str, nanos: f64) {
    println!("{what:<44} {nanos:>8.0} ns");
}

const ROUNDS: usize = 7;
const CALLS: u32 = 20_000;
/// Requests that are made ahead.
const PREPARED: u32 = 2000;
/// Bytes of rows after which the store is full.
const FULL: usize = 70 << 20;
const ROWS: usize = 32;
const ROWS_WORD: &str = "32 rows";
const FOLLOWERS: usize = 999;
/// Bytes of rows that take turns: more than the second cache of a core.
const TOGETHER: usize = 4 << 20;
