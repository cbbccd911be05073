//! What it costs to pass a call through: Outrigger, nginx, HAProxy and nobody, under one load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::{Calls, Load, Outcome, Pace, Target, frame};
use serde_json::{Value, json};

use super::Result;
use super::h2load::{self, Shape};
use super::peers::{Peer, Started};
use super::process::{Process, installed, pause};
use super::table::{Table, machine, median, millis};
use super::upstream;

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Medians are taken over this many interleaved repeats.
    pub repeats: usize,
    /// Calls of each measurement are divided by this.
    pub divisor: u64,
    /// Who is left out.
    pub without: Vec<Peer>,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
}

/// One peer's figures at one shape, one entry a repeat.
#[derive(Clone, Debug, Default)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
    resident: Vec<f64>,
}

/// Measures, prints a table of every shape, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    installed("h2load", "nghttp2-client")?;
    installed("taskset", "util-linux")?;
    let cores = std::thread::available_parallelism()?.get();
    let (load_core, proxy_core) = if cores >= 2 {
        (Some(0), Some(1))
    } else {
        (None, None)
    };
    if cores < 2 {
        println!("one core only: load and proxy share it, and rates are not worth reading");
    }
    let folder = options.folder.as_path();
    let ourselves = std::env::current_exe()?;
    let mut server = Process::start("upstream", load_core, folder, ourselves, ["upstream"])?;
    let upstream = server.wait_for_line("listening ")?.parse()?;

    let mut peers = Vec::new();
    for peer in Peer::ALL
        .into_iter()
        .filter(|peer| !options.without.contains(peer))
    {
        let started = peer.start(proxy_core, upstream, folder, options.outrigger.clone())?;
        verify(&started)?;
        peers.push(started);
    }
    // Let them finish what starting began.
    pause(Duration::from_millis(500));
    let idle: Vec<f64> = peers
        .iter()
        .map(|peer| resident(peer, &server))
        .collect::<Result<_>>()?;

    let body = folder.join("body");
    std::fs::write(&body, frame(&[b'q'; REQUEST - 5]))?;
    let mut figures = vec![vec![Figures::default(); peers.len()]; SHAPES.len()];
    for (index, (shape, count)) in SHAPES.into_iter().enumerate() {
        let count = (count / options.divisor).max(MIN_CALLS);
        for repeat in 0..=options.repeats {
            for turn in 0..peers.len() {
                // Each repeat begins with another peer, so that no one always goes first.
                let at = (turn + repeat) % peers.len();
                let count = if repeat == 0 { count / 10 } else { count };
                let one = measure(&peers[at], &server, load_core, shape, count, &body, folder)?;
                // The first round only warms up.
                if repeat > 0 {
                    figures[index][at].add(&one);
                }
            }
            eprint!(
                "\r{} of {} shapes, repeat {repeat} ",
                index + 1,
                SHAPES.len()
            );
        }
    }
    eprintln!();
    Ok(report(options, &peers, &idle, &figures))
}

/// Asks a few hundred calls whose every answer is read: `h2load` looks at `:status` only.
fn verify(peer: &Started) -> Result<()> {
    let target = Target::new(peer.address, h2load::PATH)?.connections(2);
    let report = Load::new(target, Pace::Closed { callers: 8 }, Verified)
        .lasting(Duration::from_millis(300))
        .run()
        .map_err(|error| format!("{}: {error}", peer.peer.name()))?;
    if report.sent() == 0 || report.count(Outcome::Grpc(0)) != report.sent() {
        let log = peer
            .process
            .as_ref()
            .map(Process::output)
            .unwrap_or_default();
        let name = peer.peer.name();
        return Err(format!("{name} does not pass answers on:\n{report}\n{log}").into());
    }
    Ok(())
}

struct Verified;

impl Calls for Verified {
    fn body(&self, _: u64) -> Bytes {
        frame(&[b'q'; REQUEST - 5])
    }

    fn accept(&self, _: u64, received: &Bytes) -> bool {
        *received == upstream::answer()
    }
}

struct Measured {
    run: h2load::Run,
    cpu_per_100k: f64,
    resident: f64,
}

fn measure(
    peer: &Started,
    server: &Process,
    load_core: Option<usize>,
    shape: Shape,
    count: u64,
    body: &Path,
    folder: &Path,
) -> Result<Measured> {
    let process = peer.process.as_ref().unwrap_or(server);
    let before = process.usage()?;
    let (run, resident) = std::thread::scope(|scope| {
        let load = scope.spawn(|| h2load::run(load_core, peer.address, shape, count, body, folder));
        let mut resident = 0_f64;
        while !load.is_finished() {
            resident = resident.max(self::resident(peer, server)?);
            pause(Duration::from_millis(50));
        }
        let run = load
            .join()
            .map_err(|_| "the thread that ran h2load panicked")?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((run, resident))
    })?;
    let run = run.map_err(|error| format!("{}: {error}", peer.peer.name()))?;
    let cpu = process.usage()?.cpu.saturating_sub(before.cpu);
    Ok(Measured {
        run,
        cpu_per_100k: cpu.as_secs_f64() * 1e5 / count as f64,
        resident,
    })
}

/// Megabytes resident.
fn resident(peer: &Started, server: &Process) -> Result<f64> {
    let usage = peer.process.as_ref().unwrap_or(server).usage()?;
    Ok(usage.resident as f64 / 1e6)
}

impl Figures {
    fn add(&mut self, one: &Measured) {
        self.rate.push(one.run.rate);
        self.p50.push(one.run.p50.as_secs_f64());
        self.p99.push(one.run.p99.as_secs_f64());
        self.cpu.push(one.cpu_per_100k);
        self.resident.push(one.resident);
    }

    fn cpu(&self) -> f64 {
        median(self.cpu.iter().copied())
    }

    fn p99(&self) -> f64 {
        median(self.p99.iter().copied())
    }

    fn resident(&self) -> f64 {
        self.resident.iter().copied().fold(0.0, f64::max)
    }
}

fn report(options: &Options, peers: &[Started], idle: &[f64], figures: &[Vec<Figures>]) -> Value {
    let of = |shape: usize, peer: Peer| {
        let at = peers.iter().position(|started| started.peer == peer)?;
        Some(&figures[shape][at])
    };
    let mut shapes = Vec::new();
    for (index, (shape, _)) in SHAPES.into_iter().enumerate() {
        let mut table = Table::new([
            "peer",
            "requests/s",
            "p50",
            "p99",
            "CPU-s/100k",
            "x haproxy",
            "x nginx",
            "RSS",
        ]);
        let mut rows = serde_json::Map::new();
        for (at, started) in peers.iter().enumerate() {
            let one = &figures[index][at];
            let rate = median(one.rate.iter().copied());
            let p50 = median(one.p50.iter().copied());
            let ratio = |other: Peer| of(index, other).map(|other| one.cpu() / other.cpu());
            let shown = |ratio: Option<f64>| match ratio {
                Some(ratio) if started.peer != Peer::Direct => format!("{ratio:.2}"),
                _ => "-".into(),
            };
            table.row([
                started.peer.name().into(),
                format!("{rate:.0}"),
                millis(Duration::from_secs_f64(p50)),
                millis(Duration::from_secs_f64(one.p99())),
                format!("{:.2}", one.cpu()),
                shown(ratio(Peer::Haproxy)),
                shown(ratio(Peer::Nginx)),
                format!("{:.1} MB", one.resident()),
            ]);
            rows.insert(
                started.peer.name().into(),
                json!({
                    "requests_per_second": rate,
                    "p50_ms": p50 * 1e3,
                    "p99_ms": one.p99() * 1e3,
                    "cpu_seconds_per_100k": one.cpu(),
                    "cpu_seconds_per_100k_all": one.cpu,
                    "requests_per_second_all": one.rate,
                    "cpu_to_haproxy": ratio(Peer::Haproxy),
                    "cpu_to_nginx": ratio(Peer::Nginx),
                    "rss_mb": one.resident(),
                }),
            );
        }
        println!(
            "{} connections x {} streams\n\n{table}",
            shape.connections, shape.streams
        );
        shapes.push(json!({
            "connections": shape.connections,
            "streams": shape.streams,
            "peers": rows,
        }));
    }
    let idle_of: serde_json::Map<String, Value> = peers
        .iter()
        .zip(idle)
        .map(|(peer, idle)| (peer.peer.name().into(), json!(idle)))
        .collect();
    let mut table = Table::new(["peer", "RSS idle"]);
    for (peer, idle) in peers.iter().zip(idle) {
        table.row([peer.peer.name().into(), format!("{idle:.1} MB")]);
    }
    println!("{table}");

    let mut goals = Vec::new();
    if let Some(at) = peers
        .iter()
        .position(|started| started.peer == Peer::Outrigger)
    {
        let mut goal = |what: String, reached: f64, at_most: f64| {
            let verdict = if reached <= at_most {
                "reached"
            } else {
                "MISSED"
            };
            println!("{verdict}: {what} {reached:.2} (at most {at_most:.2})");
            goals.push(json!({ "what": what, "value": reached, "at_most": at_most }));
        };
        for (index, (shape, _)) in SHAPES.into_iter().enumerate() {
            let ours = &figures[index][at];
            let name = format!("{}x{}", shape.connections, shape.streams);
            let (to_haproxy, to_nginx) = CPU_GOALS[index];
            if let Some(haproxy) = of(index, Peer::Haproxy) {
                goal(
                    format!("CPU to haproxy at {name}"),
                    ours.cpu() / haproxy.cpu(),
                    to_haproxy,
                );
                goal(
                    format!("p99 to haproxy at {name}"),
                    ours.p99() / haproxy.p99(),
                    1.0,
                );
            }
            if let (Some(nginx), Some(to_nginx)) = (of(index, Peer::Nginx), to_nginx) {
                goal(
                    format!("CPU to nginx at {name}"),
                    ours.cpu() / nginx.cpu(),
                    to_nginx,
                );
            }
        }
        goal("RSS idle, MB".into(), idle[at], 15.0);
        let busiest = &figures[SHAPES.len() - 1][at];
        goal("RSS at 512 streams, MB".into(), busiest.resident(), 40.0);
    }
    json!({
        "bench": "passthrough",
        "machine": machine(),
        "repeats": options.repeats,
        "divisor": options.divisor,
        "request_bytes": REQUEST,
        "answer_bytes": upstream::answer().len(),
        "rss_idle_mb": idle_of,
        "shapes": shapes,
        "goals": goals,
    })
}

/// Bytes of a request's body: a gRPC frame of a few hundred bytes.
const REQUEST: usize = 500;
/// Fewer calls than this say nothing about the 99th percentile.
const MIN_CALLS: u64 = 2000;
/// The shapes of the load, and how many calls take a few seconds.
const SHAPES: [(Shape, u64); 3] = [
    (
        Shape {
            connections: 4,
            streams: 1,
        },
        40_000,
    ),
    (
        Shape {
            connections: 8,
            streams: 8,
        },
        120_000,
    ),
    (
        Shape {
            connections: 16,
            streams: 32,
        },
        200_000,
    ),
];
/// Processor time at each shape as a share of HAProxy's and of nginx's: what we want to stay under.
const CPU_GOALS: [(f64, Option<f64>); 3] = [(0.8, None), (0.7, Some(0.3)), (0.7, Some(0.3))];
