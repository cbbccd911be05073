//! What requests notice of a Redis that is killed, stands still, forgets, or is slow.
//!
//! ```text
//!  generator --predictions, open loop--> Outrigger 1 --+--> a model that always says the same
//!  somebody who asks one --------------> Outrigger 2 --'
//!  and tells the other                      '--------> a way that can be slow --> Redis
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use outrigger::demo::load::{Load, Pace, Repeat, Running, Target, frame};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::demand::progress;
use super::process::{Process, pause};
use super::proxy::Proxy;
use super::table::{Table, machine, median};
use super::{Result, message};
use crate::experiments::admin::{models, wait_until_ready};
use crate::redis::{Redis, Way};
use crate::wire::{Reply, Wire, grpc};

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// Times that all phases are gone through; medians are shown.
    pub repeats: usize,
    /// How long each phase is.
    pub lasting: Duration,
    /// Predictions a second.
    pub rate: f64,
    /// Predictions a second that are told of.
    pub feedback: f64,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
}

/// What happens to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Undisturbed,
    Killed,
    Back,
    Frozen,
    Flushed,
    Slow,
    UndisturbedAgain,
}

/// What predictions took in a phase, one entry a repeat.
struct Seen {
    phase: Phase,
    p50: Vec<f64>,
    p99: Vec<f64>,
    failed: u64,
    sent: u64,
}

/// What became of feedback in a repeat.
struct Count {
    acknowledged: u64,
    refused: u64,
    counted: [f64; 2],
    settled: Duration,
}

/// Two proxies on one Redis, and somebody who asks them and tells them.
struct Stage {
    proxies: Vec<Proxy>,
    redis: Redis,
    way: Way,
    told: Arc<Told>,
    telling: thread::JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    /// Nothing more is to be told.
    over: AtomicBool,
    /// All is told.
    done: AtomicBool,
    /// The way to Redis is not needed any more.
    left: AtomicBool,
}

/// Measures, prints tables, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    let before = machine();
    let ourselves = std::env::current_exe()?;
    let folder = options.folder.as_path();
    let mut model = Process::start("model", None, folder, ourselves, ["label"])?;
    let server = model.wait_for_line("listening ")?.parse()?;
    let mut seen = Phase::ALL.map(Seen::new);
    let mut counts = Vec::new();
    for repeat in 0..options.repeats {
        let mut stage = Stage::start(repeat, server, options)?;
        let load = stage.load(options)?;
        load.interval();
        for seen in &mut seen {
            stage.turn(seen.phase);
            if seen.phase == Phase::Flushed {
                for _ in 0..FLUSHES {
                    stage.redis.ask(&["FLUSHALL"]);
                    pause(options.lasting / FLUSHES);
                }
            } else {
                pause(options.lasting);
            }
            let report = load.interval();
            let micros = |quantile| report.latency(quantile).as_secs_f64() * 1e6;
            seen.p50.push(micros(0.5));
            seen.p99.push(micros(0.99));
            seen.failed += report.failed();
            seen.sent += report.sent();
            progress(format_args!(" {}", seen.phase.name()));
        }
        load.stop();
        drop(load.wait());
        let count = stage.finish()?;
        progress(format_args!(
            ": {} of {} counted\n",
            count.counted[0], count.acknowledged
        ));
        counts.push(count);
    }
    print(&seen, &counts);
    Ok(json!({
        "bench": "outage",
        "machine": before,
        "repeats": options.repeats,
        "seconds": options.lasting.as_secs_f64(),
        "predictions_per_second": options.rate,
        "feedback_per_second": options.feedback,
        "phases": seen.iter().map(|phase| json!({
            "phase": phase.phase.name(),
            "p50_us": phase.p50,
            "p99_us": phase.p99,
            "p99_to_undisturbed": median(phase.beside(&seen[0], |it| &it.p99)),
            "sent": phase.sent,
            "failed": phase.failed,
        })).collect::<Vec<_>>(),
        "feedback": counts.iter().map(|count| json!({
            "acknowledged": count.acknowledged,
            "refused": count.refused,
            "counted": count.counted,
            "settled_seconds": count.settled.as_secs_f64(),
        })).collect::<Vec<_>>(),
    }))
}

fn print(seen: &[Seen], counts: &[Count]) {
    let mut table = Table::new([
        "Redis",
        "p50 us",
        "x undisturbed",
        "p99 us",
        "x undisturbed",
        "lowest .. highest",
        "failed",
    ]);
    for phase in seen {
        let p50 = phase.beside(&seen[0], |it| &it.p50);
        let p99 = phase.beside(&seen[0], |it| &it.p99);
        let low = p99.iter().copied().fold(f64::INFINITY, f64::min);
        let high = p99.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        table.row([
            phase.phase.name().into(),
            format!("{:.0}", median(phase.p50.iter().copied())),
            format!("{:.2}", median(p50)),
            format!("{:.0}", median(phase.p99.iter().copied())),
            format!("{:.2}", median(p99)),
            format!("{low:.2} .. {high:.2}"),
            format!("{} of {}", phase.failed, phase.sent),
        ]);
    }
    println!("Latency of predictions, beside the undisturbed phase of the same run\n\n{table}");
    let mut table = Table::new([
        "feedback acknowledged",
        "refused",
        "counted by the first",
        "by the second",
        "seconds until then",
    ]);
    for count in counts {
        table.row([
            count.acknowledged.to_string(),
            count.refused.to_string(),
            count.counted[0].to_string(),
            count.counted[1].to_string(),
            format!("{:.2}", count.settled.as_secs_f64()),
        ]);
    }
    println!("{table}");
}

impl Phase {
    const ALL: [Self; 7] = [
        Self::Undisturbed,
        Self::Killed,
        Self::Back,
        Self::Frozen,
        Self::Flushed,
        Self::Slow,
        Self::UndisturbedAgain,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Undisturbed => "undisturbed",
            Self::Killed => "killed",
            Self::Back => "started again, empty",
            Self::Frozen => "standing still",
            Self::Flushed => "flushed four times",
            Self::Slow => "500 ms slow",
            Self::UndisturbedAgain => "undisturbed again",
        }
    }
}

impl Seen {
    fn new(phase: Phase) -> Self {
        Self {
            phase,
            p50: Vec::new(),
            p99: Vec::new(),
            failed: 0,
            sent: 0,
        }
    }

    fn beside(&self, other: &Self, of: impl Fn(&Self) -> &Vec<f64>) -> Vec<f64> {
        let pairs = of(self).iter().zip(of(other));
        pairs.map(|(ours, theirs)| ours / theirs).collect()
    }
}

impl Stage {
    fn start(repeat: usize, server: std::net::SocketAddr, options: &Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let redis = Redis::start(&[]);
        let way = runtime.block_on(Way::to(&redis));
        let key = options.folder.join("key");
        std::fs::write(&key, "whatever signs prediction ids")?;
        let settings = format!(
            "models:\n  {MODEL}: {{ arms: {{ a: {{ upstream: model, model: {MODEL} }}, \
             b: {{ upstream: model, model: {MODEL} }} }}, \
             selection: {{ policy: exp3, context: {{ header: x-user }} }} }}\n\
             feedback: {{ key: {} }}\n\
             state: {{ redis: \"{}\" }}\n",
            key.display(),
            way.url(),
        );
        let mut proxies = Vec::new();
        for name in ["first", "second"] {
            let program = options.outrigger.clone();
            let name = format!("{name}-{repeat}");
            let proxy = Proxy::start(&name, program, &options.folder, &[server], &settings)?;
            wait_until_ready(proxy.admin)?;
            proxies.push(proxy);
        }
        let told = Arc::<Told>::default();
        let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.address).collect();
        let pace = Duration::from_secs_f64(1. / options.feedback);
        let telling = thread::Builder::new().name("telling".into()).spawn({
            let told = told.clone();
            // The way to Redis is open for as long as this lasts.
            move || {
                runtime.block_on(async {
                    tell(addresses, pace, &told).await;
                    told.done.store(true, Relaxed);
                    while !told.left.load(Relaxed) {
                        tokio::time::sleep(LOOK).await;
                    }
                });
            }
        })?;
        Ok(Self {
            proxies,
            redis,
            way,
            told,
            telling,
        })
    }

    /// Asks the first proxy, at moments that nothing delays.
    fn load(&self, options: &Options) -> Result<Running> {
        let user = http::HeaderValue::from_static("user-7");
        let target = Target::new(self.proxies[0].address, message::INFER)?
            .connections(4)
            .header(http::HeaderName::from_static("x-user"), user);
        let pace = Pace::Poisson {
            rate: options.rate,
            seed: 1,
        };
        let phases = u32::try_from(Phase::ALL.len())?;
        let load = Load::new(target, pace, Repeat::new([question()]))
            // It is stopped when all phases are over.
            .lasting(options.lasting * phases * 2 + Duration::from_secs(60))
            .start()?;
        pause(WARM_UP);
        Ok(load)
    }

    /// Begins a phase.
    fn turn(&mut self, phase: Phase) {
        match phase {
            Phase::Undisturbed => {}
            Phase::Flushed => self.redis.thaw(),
            Phase::Killed => self.redis.kill(),
            Phase::Back => self.redis.start_again(),
            Phase::Frozen => self.redis.freeze(),
            Phase::Slow => self.way.delay(SLOW),
            Phase::UndisturbedAgain => self.way.delay(Duration::ZERO),
        }
    }

    /// Tells no more, and waits until both proxies have counted what was told.
    fn finish(self) -> Result<Count> {
        self.told.over.store(true, Relaxed);
        while !self.told.done.load(Relaxed) {
            pause(LOOK);
        }
        let ended = Instant::now();
        let acknowledged = self.told.acknowledged.load(Relaxed);
        let mut counted = [0.; 2];
        while counted != [acknowledged as f64; 2] && ended.elapsed() < SETTLING {
            pause(LOOK);
            for (counted, proxy) in counted.iter_mut().zip(&self.proxies) {
                let models = models(proxy.admin)?;
                let of = |arm: &str| models[MODEL]["arms"][arm]["observations"].as_f64();
                *counted = ["a", "b"].iter().filter_map(|arm| of(arm)).sum();
            }
        }
        let settled = ended.elapsed();
        self.told.left.store(true, Relaxed);
        self.telling
            .join()
            .map_err(|_| "the one who tells panicked")?;
        Ok(Count {
            acknowledged,
            refused: self.told.refused.load(Relaxed),
            counted,
            settled,
        })
    }
}

/// Asks the proxies in turn, and tells the other one.
async fn tell(addresses: Vec<std::net::SocketAddr>, pace: Duration, told: &Told) {
    let mut wires = Vec::new();
    for address in addresses {
        wires.push(Wire::connect(address).await);
    }
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut at = 0_usize;
    while !told.over.load(Relaxed) {
        ticks.tick().await;
        at += 1;
        let (here, there) = (&wires[at % 2], &wires[(at + 1) % 2]);
        let mut request = grpc(message::INFER);
        if let Ok(user) = format!("user-{}", at % USERS).parse() {
            request.headers_mut().insert("x-user", user);
        }
        let Ok(reply) = here.exchange(request, &[question()], None).await else {
            continue;
        };
        let id = reply.headers.get("outrigger-prediction-id");
        let Some(Ok(id)) = id.map(|id| id.to_str()) else {
            continue;
        };
        let loss = u8::from(at.is_multiple_of(3));
        let report: Bytes = format!(r#"{{"prediction_id":"{id}","loss":{loss}}}"#).into();
        match post(there, report).await {
            Some(reply) if applied(&reply) => told.acknowledged.fetch_add(1, Relaxed),
            _ => told.refused.fetch_add(1, Relaxed),
        };
    }
}

async fn post(wire: &Wire, report: Bytes) -> Option<Reply> {
    let request = Request::post("http://model.test/outrigger/v1/feedback")
        .version(Version::HTTP_2)
        .header("content-type", "application/json")
        .body(())
        .ok()?;
    wire.exchange(request, &[report], None).await.ok()
}

fn applied(reply: &Reply) -> bool {
    let told: Option<Value> = serde_json::from_slice(&reply.body).ok();
    told.is_some_and(|told| told["applied"] == 1)
}

/// A question about a row of 64 floats.
fn question() -> Bytes {
    frame(&message::infer(MODEL, "input0", &[0.5; 64]))
}

const MODEL: &str = "labels";
/// Callers of whom is told.
const USERS: usize = 100;
const SLOW: Duration = Duration::from_millis(500);
/// Before the first phase.
const WARM_UP: Duration = Duration::from_secs(2);
/// How often a phase has Redis forget everything.
const FLUSHES: u32 = 4;
const LOOK: Duration = Duration::from_millis(20);
/// How long it may take until everything is counted.
const SETTLING: Duration = Duration::from_secs(30);
