//! Batching before a real Triton whose model has none of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::{Calls, Load, Outcome, Pace, Report, Target, frame, unary};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Result;
use super::batching::batches;
use super::demand::mean_batch;
use super::message;
use super::process::{Process, free_address, pause};
use super::proxy::Proxy;
use super::table::{Table, machine, median, millis};

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gRPC address of a Triton that runs, or a script that starts one: `SCRIPT HTTP GRPC METRICS`.
    pub triton: String,
    /// A model of one FP32 input `x` of 64 columns, without batching of its own.
    pub model: String,
    /// Callers, each with one row at a time.
    pub callers: usize,
    /// Medians are taken over this many interleaved repeats.
    pub repeats: usize,
    /// How long each measurement lasts.
    pub lasting: Duration,
    /// Outrigger's binary, if it is not beside this one; none to measure Triton alone.
    pub outrigger: Option<PathBuf>,
    /// Measures Triton alone.
    pub direct_only: bool,
    /// Where configurations and logs go.
    pub folder: PathBuf,
}

/// One way to the model, with what was seen on it.
struct Way {
    name: &'static str,
    address: SocketAddr,
    reports: Vec<Report>,
    mean_batches: Vec<f64>,
}

/// Measures, prints a table, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    let (server, _triton) = start(&options.triton, &options.folder)?;
    wait_until_ready(server, &options.model)?;
    let digits = Digits::learn(server, &options.model)?;

    let mut ways = vec![Way::new("direct", server)];
    let mut _proxy = None;
    if !options.direct_only {
        let models = format!(
            "models:\n  {}:\n    latency_objective: {}ms\n    batch: {{ max_batch_size: 128 }}\n",
            options.model,
            OBJECTIVE.as_millis()
        );
        let proxy = Proxy::start(
            "outrigger-triton",
            options.outrigger.clone(),
            &options.folder,
            &[server],
            &models,
        )?;
        ways.push(Way::new("outrigger", proxy.address));
        _proxy = Some(proxy);
    }
    for _ in 0..options.repeats {
        for way in &mut ways {
            way.measure(options, server, &digits)?;
        }
    }

    let mut table = Table::new(["way", "rows/s", "p50", "p99", "mean batch", "x direct"]);
    let direct = ways[0].rate();
    let mut rows = serde_json::Map::new();
    for way in &ways {
        let ratio = way.rate() / direct;
        let mean = median(way.mean_batches.iter().copied());
        table.row([
            way.name.into(),
            format!("{:.0}", way.rate()),
            millis(way.latency(0.5)),
            millis(way.latency(0.99)),
            format!("{mean:.1}"),
            format!("{ratio:.2}"),
        ]);
        rows.insert(
            way.name.into(),
            json!({
                "rows_per_second": way.rate(),
                "p50_ms": way.latency(0.5).as_secs_f64() * 1e3,
                "p99_ms": way.latency(0.99).as_secs_f64() * 1e3,
                "mean_batch": mean,
                "to_direct": ratio,
            }),
        );
    }
    println!(
        "Triton, {}, {} callers with one row\n\n{table}",
        options.model, options.callers
    );
    if let Some(through) = ways.get(1) {
        let ratio = through.rate() / direct;
        let verdict = if ratio >= GOAL { "reached" } else { "MISSED" };
        println!("{verdict}: {ratio:.2}x of Triton alone (at least {GOAL}x)");
    }
    Ok(json!({
        "bench": "triton",
        "machine": machine(),
        "model": options.model,
        "callers": options.callers,
        "repeats": options.repeats,
        "objective_ms": OBJECTIVE.as_millis() as u64,
        "ways": rows,
    }))
}

/// Finds the server, or starts it.
pub(crate) fn start(triton: &str, folder: &Path) -> Result<(SocketAddr, Option<Process>)> {
    if let Ok(address) = triton.parse() {
        return Ok((address, None));
    }
    if !Path::new(triton).is_file() {
        return Err(format!("{triton} is neither an address nor a script").into());
    }
    let ports = [free_address()?, free_address()?, free_address()?];
    let arguments = ports.map(|address| address.port().to_string());
    let process = Process::start("triton", None, folder, triton, arguments)?;
    Ok((ports[1], Some(process)))
}

pub(crate) fn wait_until_ready(server: SocketAddr, model: &str) -> Result<()> {
    wait_while(server, model, || true)
}

/// Waits until a model is ready, as long as its server is up.
pub(crate) fn wait_while(
    server: SocketAddr,
    model: &str,
    mut is_up: impl FnMut() -> bool,
) -> Result<()> {
    let target = Target::new(server, message::READY)?;
    let give_up = Instant::now() + STARTING;
    loop {
        // `ready = true`
        match unary(
            &target,
            frame(&message::name(model)),
            Duration::from_secs(5),
        ) {
            Ok(answer) if answer == b"\x08\x01"[..] => return Ok(()),
            answer if Instant::now() > give_up || !is_up() => {
                return Err(format!("{model} did not become ready at {server}: {answer:?}").into());
            }
            _ => pause(Duration::from_millis(200)),
        }
    }
}

impl Way {
    fn new(name: &'static str, address: SocketAddr) -> Self {
        Self {
            name,
            address,
            reports: Vec::new(),
            mean_batches: Vec::new(),
        }
    }

    fn measure(&mut self, options: &Options, server: SocketAddr, digits: &Digits) -> Result<()> {
        let target = Target::new(self.address, message::INFER)?.connections(4);
        let load = Load::new(
            target,
            Pace::Closed {
                callers: options.callers,
            },
            digits.clone(),
        )
        .warm_up(options.lasting / 4)
        .lasting(options.lasting);
        let before = batches(server, &options.model);
        let report = load.run()?;
        let after = batches(server, &options.model);
        if report.count(Outcome::Grpc(0)) != report.sent() {
            return Err(format!("{}: not every answer was right:\n{report}", self.name).into());
        }
        self.mean_batches.extend(mean_batch(before, after));
        self.reports.push(report);
        Ok(())
    }

    fn rate(&self) -> f64 {
        median(self.reports.iter().map(Report::rate))
    }

    fn latency(&self, quantile: f64) -> Duration {
        let seconds = self
            .reports
            .iter()
            .map(|report| report.latency(quantile).as_secs_f64());
        Duration::from_secs_f64(median(seconds))
    }
}

/// Images that differ, and the labels that the server gives to each when asked directly.
#[derive(Clone, Debug)]
pub(crate) struct Digits {
    bodies: Vec<Bytes>,
    labels: Vec<Bytes>,
}

impl Digits {
    pub(crate) fn learn(server: SocketAddr, model: &str) -> Result<Self> {
        let target = Target::new(server, message::INFER)?;
        let mut digits = Self {
            bodies: Vec::new(),
            labels: Vec::new(),
        };
        for image in 0..IMAGES {
            // Values of pixels, 0 to 16, that are no digit but have a label all the same.
            let row: Vec<f32> = (0..64_u32)
                .map(|pixel| f32::from((pixel * 7 + image * 13) as u8 % 17))
                .collect();
            let body = frame(&message::infer(model, "x", &row));
            let answer = unary(&target, body.clone(), Duration::from_secs(30))?;
            let label =
                message::output(&answer, 0).ok_or("the model answers without raw outputs")?;
            digits.bodies.push(body);
            digits.labels.push(label);
        }
        Ok(digits)
    }
}

impl Calls for Digits {
    fn body(&self, n: u64) -> Bytes {
        self.bodies[n as usize % self.bodies.len()].clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let own = &self.labels[n as usize % self.labels.len()];
        answer.get(5..).is_some() && message::output(&answer.slice(5..), 0).as_ref() == Some(own)
    }
}

/// What the proxy may take, batch and all: seven times a single call of the support vector machine.
const OBJECTIVE: Duration = Duration::from_millis(20);
/// How many times Triton's own throughput we want to reach.
const GOAL: f64 = 5.0;
/// What Triton prints when it catches a signal that ends other programs: 6 or 11.
pub(crate) const BROKEN: &str = "Signal (";
/// The first start makes a Python environment.
const STARTING: Duration = Duration::from_secs(600);
const IMAGES: u32 = 61;
