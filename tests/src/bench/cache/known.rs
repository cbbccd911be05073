//! What an answer costs that is known: by Outrigger's cache, and by Triton's own.
//!
//! ```text
//!  core 0        core 1
//!  generator --> Triton, model with response_cache
//!      '-------> Outrigger, cache --> the same Triton, the same model without: idle
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use outrigger::demo::load::{Load, Pace, Report, Target, frame, unary};
use outrigger_native::inference::ModelStatisticsResponse;
use prost::Message as _;
use serde_json::{Value, json};

use super::mixture::{Answer, Mixture};
use super::pages::Looked;
use super::{Goals, Options, all_right, name_of, progress};
use crate::bench::h2load::Shape;
use crate::bench::pin::Pin;
use crate::bench::process::{Process, free_address};
use crate::bench::proxy::Proxy;
use crate::bench::table::{Table, median, millis};
use crate::bench::triton::{BROKEN, wait_while};
use crate::bench::{Result, message};

/// A Triton that serves the model of each width twice.
struct Triton {
    process: Process,
    address: SocketAddr,
}

/// Who answers from a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Triton,
    Outrigger,
}

/// Both peers under way.
struct Stage<'a> {
    options: &'a Options,
    triton: Triton,
    proxy: Proxy,
}

/// What one load saw of one peer.
#[derive(Clone, Debug)]
struct Seen {
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// Processor seconds for 100 000 answers.
    cpu: f64,
    /// The same of the Triton behind Outrigger, which is to have nothing to do.
    idle: f64,
}

/// A rate of arrivals at one peer, and what an open loop saw of it in each repeat.
#[derive(Clone, Debug)]
struct Offered {
    rate: f64,
    seen: Vec<(Seen, Duration)>,
}

/// Measures, prints tables, and returns the figures.
pub(super) fn run(options: &Options, goals: &mut Goals) -> Result<Value> {
    let pin = Pin::new(options.unpinned)?;
    pin.measured()?;
    let triton = Triton::start(options)?;
    let models: String = options
        .columns
        .iter()
        .map(|columns| format!("  {}:\n    cache: {{}}\n", plain(*columns)))
        .collect();
    let models = format!("models:\n{models}");
    let proxy = options.outrigger("known-outrigger", triton.address, &models)?;
    pin.load()?;
    let stage = Stage {
        options,
        triton,
        proxy,
    };
    let mut widths = Vec::new();
    for columns in options.columns.iter().copied() {
        widths.push(stage.width(columns, goals)?);
    }
    Ok(json!({
        "pinned": pin.is_on(),
        "triton_cache_bytes": TRITON_CACHE,
        "widths": widths,
    }))
}

impl Stage<'_> {
    fn width(&self, columns: usize, goals: &mut Goals) -> Result<Value> {
        for peer in Peer::ALL {
            // Whoever learns by the first requests has learned then.
            self.rows(peer, columns)
                .fill(self.address(peer), self.options.lasting.max(FILLING))?;
        }
        let mut highest = [0.0_f64; 2];
        let mut shapes = Vec::new();
        for shape in SHAPES {
            let seen = self.closed(columns, shape)?;
            for (highest, seen) in highest.iter_mut().zip(&seen) {
                *highest = highest.max(middle(seen, |seen| seen.rate));
            }
            shapes.push(self.show_closed(columns, shape, &seen, goals));
        }
        let offered = self.open(columns, highest)?;
        let open = self.show_open(columns, highest, &offered, goals);
        Ok(json!({ "columns": columns, "shapes": shapes, "open_loop": open }))
    }

    /// Callers who wait for their answer; by peer, then by repeat.
    fn closed(&self, columns: usize, shape: Shape) -> Result<[Vec<Seen>; 2]> {
        let mut seen = [Vec::new(), Vec::new()];
        for repeat in 0..=self.options.repeats {
            for peer in Peer::in_turn(repeat) {
                let pace = Pace::Closed {
                    callers: shape.connections * shape.streams,
                };
                let counted = repeat > 0;
                let lasting = if counted {
                    self.options.lasting
                } else {
                    self.options.warm_up()
                };
                let target = self.target(peer)?.connections(shape.connections);
                let load = Load::new(target, pace, self.rows(peer, columns)).lasting(lasting);
                let (one, _) = self.measure(peer, columns, load)?;
                if counted {
                    progress(format_args!(
                        "{} {}: {:.2} CPU-s/100k, {:.0}/s\n",
                        peer.name(),
                        name_of(shape),
                        one.cpu,
                        one.rate
                    ));
                    seen[peer as usize].push(one);
                }
            }
        }
        Ok(seen)
    }

    /// Arrivals that wait for nobody, at the rates that are at most half of what each peer can;
    /// by peer.
    fn open(&self, columns: usize, highest: [f64; 2]) -> Result<[Vec<Offered>; 2]> {
        let mut offered = highest.map(|highest| {
            let half = highest / 2.0;
            let rates = RATES.into_iter().filter(|rate| *rate < half);
            let seen = Vec::new();
            let rates = rates.chain([half]).map(|rate| Offered {
                rate,
                seen: seen.clone(),
            });
            rates.collect::<Vec<_>>()
        });
        for repeat in 0..self.options.repeats {
            for peer in Peer::in_turn(repeat) {
                for Offered { rate, seen } in &mut offered[peer as usize] {
                    let pace = Pace::Poisson {
                        rate: *rate,
                        seed: repeat as u64,
                    };
                    let target = self.target(peer)?.connections(OPEN_CONNECTIONS);
                    let load = Load::new(target, pace, self.rows(peer, columns))
                        .lasting(self.options.lasting)
                        .spinning();
                    let (one, report) = self.measure(peer, columns, load)?;
                    progress(format_args!(
                        "{} {rate:.0}/s: p99 {}, lag {}\n",
                        peer.name(),
                        millis(one.p99),
                        millis(report.lag(0.99)),
                    ));
                    seen.push((one, report.lag(0.99)));
                }
            }
        }
        Ok(offered)
    }

    /// Runs a load that counts from its begin, and sees to it that every answer was a known one.
    fn measure(&self, peer: Peer, columns: usize, load: Load) -> Result<(Seen, Report)> {
        let known = self.known(peer, columns)?;
        let (triton, proxy) = (self.triton.process.usage()?, self.proxy.usage()?);
        let report = load.run()?;
        let cpu = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e5 / report.sent() as f64
        };
        let triton = cpu(self.triton.process.usage()?.cpu, triton.cpu);
        let proxy = cpu(self.proxy.usage()?.cpu, proxy.cpu);
        all_right(peer.name(), &report)?;
        let known = self.known(peer, columns)? - known;
        if known < report.sent() as f64 * NEARLY_ALL {
            let sent = report.sent();
            return Err(format!("{}: {known} of {sent} were known", peer.name()).into());
        }
        let (cpu, idle) = match peer {
            Peer::Triton => (triton, 0.0),
            Peer::Outrigger => (proxy, triton),
        };
        let seen = Seen {
            rate: report.rate(),
            p50: report.latency(0.5),
            p99: report.latency(0.99),
            cpu,
            idle,
        };
        Ok((seen, report))
    }

    /// How many answers the peer has given from its cache, by its own count.
    fn known(&self, peer: Peer, columns: usize) -> Result<f64> {
        match peer {
            Peer::Triton => self.triton.hits(&cached(columns)),
            Peer::Outrigger => Ok(Looked::of(self.proxy.admin, &plain(columns))?.hit),
        }
    }

    fn rows(&self, peer: Peer, columns: usize) -> Mixture {
        let model = match peer {
            Peer::Triton => cached(columns),
            Peer::Outrigger => plain(columns),
        };
        Mixture::new(&model, "INPUT0", columns, Answer::Echo).known(1.0)
    }

    fn address(&self, peer: Peer) -> SocketAddr {
        match peer {
            Peer::Triton => self.triton.address,
            Peer::Outrigger => self.proxy.address,
        }
    }

    fn target(&self, peer: Peer) -> Result<Target> {
        Ok(Target::new(self.address(peer), message::INFER)?)
    }

    fn show_closed(
        &self,
        columns: usize,
        shape: Shape,
        seen: &[Vec<Seen>; 2],
        goals: &mut Goals,
    ) -> Value {
        let mut table = Table::new([
            "peer",
            "CPU-s/100k",
            "answers/CPU-s",
            "answers/s",
            "p50",
            "p99",
            "x Triton",
            "idle Triton",
        ]);
        let pairs = seen[Peer::Triton as usize]
            .iter()
            .zip(&seen[Peer::Outrigger as usize]);
        let ratios: Vec<f64> = pairs.map(|(triton, ours)| triton.cpu / ours.cpu).collect();
        let ratio = median(ratios.iter().copied());
        let mut peers = serde_json::Map::new();
        for peer in Peer::ALL {
            let seen = &seen[peer as usize];
            let cpu = middle(seen, |seen| seen.cpu);
            let p50 = middle(seen, |seen| seen.p50.as_secs_f64());
            let p99 = middle(seen, |seen| seen.p99.as_secs_f64());
            let rate = middle(seen, |seen| seen.rate);
            let is_ours = peer == Peer::Outrigger;
            let ours = |text: String| if is_ours { text } else { "-".into() };
            table.row([
                peer.name().into(),
                format!("{cpu:.2}"),
                format!("{:.0}", 1e5 / cpu),
                format!("{rate:.0}"),
                millis(Duration::from_secs_f64(p50)),
                millis(Duration::from_secs_f64(p99)),
                ours(format!("{ratio:.2}")),
                ours(format!("{:.2}", middle(seen, |seen| seen.idle))),
            ]);
            peers.insert(
                peer.name().into(),
                json!({
                    "cpu_seconds_per_100k": cpu,
                    "cpu_seconds_per_100k_all": seen.iter().map(|seen| seen.cpu).collect::<Vec<_>>(),
                    "answers_per_second": rate,
                    "p50_ms": p50 * 1e3,
                    "p99_ms": p99 * 1e3,
                    "idle_triton_cpu_seconds_per_100k": middle(seen, |seen| seen.idle),
                }),
            );
        }
        let name = name_of(shape);
        println!(
            "Known rows of {columns} floats, {} connections x {} streams\n\n{table}",
            shape.connections, shape.streams
        );
        goals.at_least(
            format_args!("answers per CPU-second to Triton's, {columns} floats, {name}"),
            ratio,
            WANTED,
        );
        json!({ "shape": name, "peers": peers, "to_triton": ratio, "to_triton_all": ratios })
    }

    fn show_open(
        &self,
        columns: usize,
        highest: [f64; 2],
        offered: &[Vec<Offered>; 2],
        goals: &mut Goals,
    ) -> Value {
        let mut table = Table::new([
            "peer",
            "offered/s",
            "of its highest",
            "p50",
            "p99",
            "generator's lag p99",
            "it was",
            "CPU-s/100k",
        ]);
        let mut peers = serde_json::Map::new();
        for peer in Peer::ALL {
            let highest = highest[peer as usize];
            let rates = offered[peer as usize].iter().map(|offered| {
                let cpu = offered.middle(|(seen, _)| seen.cpu);
                let time = |figure: fn(&(Seen, Duration)) -> Duration| {
                    let seconds = offered.middle(|one| figure(one).as_secs_f64());
                    Duration::try_from_secs_f64(seconds).unwrap_or_default()
                };
                let (p50, p99) = (time(|(seen, _)| seen.p50), time(|(seen, _)| seen.p99));
                let lag = offered.lag();
                let share = offered.rate / highest;
                table.row([
                    peer.name().into(),
                    format!("{:.0}", offered.rate),
                    format!("{:.0} %", share * 100.0),
                    millis(p50),
                    millis(p99),
                    millis(lag),
                    if lag <= PUNCTUAL { "in time" } else { "late" }.into(),
                    format!("{cpu:.2}"),
                ]);
                let ms = |time: Duration| time.as_secs_f64() * 1e3;
                json!({
                    "offered_per_second": offered.rate,
                    "of_highest": share,
                    "p50_ms": ms(p50),
                    "p99_ms": ms(p99),
                    "p99_ms_all":
                        offered.seen.iter().map(|(seen, _)| ms(seen.p99)).collect::<Vec<_>>(),
                    "generator_lag_p99_ms": ms(lag),
                    "in_time": lag <= PUNCTUAL,
                    "cpu_seconds_per_100k": cpu,
                })
            });
            let rates = rates.collect::<Vec<_>>();
            peers.insert(
                peer.name().into(),
                json!({ "highest_per_second": highest, "rates": rates }),
            );
        }
        println!(
            "Poisson arrivals, {columns} floats, up to half of each one's highest load\n\n{table}"
        );
        let highest = highest[Peer::Outrigger as usize];
        let mut ours = offered[Peer::Outrigger as usize].iter();
        let Some(best) = ours.rfind(|offered| offered.lag() <= PUNCTUAL) else {
            println!("Not shown: the generator was late at every rate");
            return json!({ "connections": OPEN_CONNECTIONS, "peers": peers });
        };
        goals.at_most(
            format_args!(
                "us, p99 of known rows of {columns} floats at {:.0}/s, {:.0} % of the highest load",
                best.rate,
                best.rate / highest * 100.0,
            ),
            best.middle(|(seen, _)| seen.p99.as_secs_f64() * 1e6),
            ALLOWED.as_secs_f64() * 1e6,
        );
        json!({ "connections": OPEN_CONNECTIONS, "peers": peers })
    }
}

impl Offered {
    fn middle(&self, figure: impl Fn(&(Seen, Duration)) -> f64) -> f64 {
        median(self.seen.iter().map(figure))
    }

    /// How late the generator was at the 99th percentile.
    fn lag(&self) -> Duration {
        let seconds = self.middle(|(_, lag)| lag.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

impl Triton {
    fn start(options: &Options) -> Result<Self> {
        let repository = options.folder.join("triton");
        let source = options
            .servers
            .join("triton-models/echo/1/model.py")
            .canonicalize()?;
        for columns in &options.columns {
            write_model(&repository, &source, &plain(*columns), *columns, "")?;
            let cache = "response_cache { enable: true }\n";
            write_model(&repository, &source, &cached(*columns), *columns, cache)?;
        }
        let caches = caches(&options.servers)?;
        let ports = [free_address()?, free_address()?, free_address()?];
        let script = options.servers.join("triton").canonicalize()?;
        let mut arguments = vec![
            format!("TRITON_MODELS={}", repository.display()),
            script.display().to_string(),
        ];
        arguments.extend(ports.map(|address| address.port().to_string()));
        arguments.push(format!("--cache-directory={}", caches.display()));
        arguments.push(format!("--cache-config=local,size={TRITON_CACHE}"));
        let mut broke = String::new();
        for _ in 0..ATTEMPTS {
            let process = Process::start("triton", None, &options.folder, "env", &arguments)?;
            let mut triton = Self {
                process,
                address: ports[1],
            };
            match triton.first_answers(&options.columns) {
                Ok(()) => return Ok(triton),
                Err(error) => broke = format!("{error}\n{}", triton.process.output()),
            }
            // It gives its ports back before the next one asks for them.
            drop(triton);
            progress(format_args!("{broke}\nTriton is started again\n"));
        }
        Err(broke.into())
    }

    /// Waits until all models have answered: a Python backend that broke says that it is ready.
    fn first_answers(&mut self, columns: &[usize]) -> Result<()> {
        for columns in columns.iter().copied() {
            for model in [plain(columns), cached(columns)] {
                wait_while(self.address, &model, || {
                    self.process.is_running() && !self.process.output().contains(BROKEN)
                })?;
                let row = vec![0.0; columns];
                let row = frame(&message::infer(&model, "INPUT0", &row));
                unary(&Target::new(self.address, message::INFER)?, row, PATIENCE)
                    .map_err(|error| format!("{model}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Answers of a model that came from the cache.
    fn hits(&self, model: &str) -> Result<f64> {
        let target = Target::new(self.address, message::STATISTICS)?;
        let answer = unary(&target, frame(&message::name(model)), PATIENCE)?;
        let statistics = ModelStatisticsResponse::decode(answer)?;
        let hits = statistics.model_stats.iter().map(|model| {
            let inferences = model.inference_stats.as_ref();
            inferences
                .and_then(|inferences| inferences.cache_hit.as_ref())
                .map_or(0, |hits| hits.count)
        });
        Ok(hits.sum::<u64>() as f64)
    }
}

impl Peer {
    /// By number, as their figures stand.
    const ALL: [Self; 2] = [Self::Triton, Self::Outrigger];

    /// Both; another begins each time.
    fn in_turn(repeat: usize) -> [Self; 2] {
        if repeat.is_multiple_of(2) {
            Self::ALL
        } else {
            [Self::Outrigger, Self::Triton]
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Triton => "Triton's cache",
            Self::Outrigger => "Outrigger",
        }
    }
}

fn middle(seen: &[Seen], figure: impl Fn(&Seen) -> f64) -> f64 {
    median(seen.iter().map(figure))
}

fn plain(columns: usize) -> String {
    format!("echo_{columns}")
}

fn cached(columns: usize) -> String {
    format!("echo_{columns}_cached")
}

/// Finds the folder of Triton's caches in the environment that runs it, which is made if need be.
fn caches(servers: &Path) -> Result<PathBuf> {
    let told = |program: PathBuf, arguments: &[&str]| -> Result<PathBuf> {
        let output = Command::new(&program).args(arguments).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().into())
    };
    let environment = told(servers.join("environment").canonicalize()?, &["triton"])?;
    let packages = told(
        environment.join("bin/python"),
        &[
            "-c",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
        ],
    )?;
    Ok(packages.join("pytriton/tritonserver/caches"))
}

/// Writes a model of the repository: the same code for all.
fn write_model(
    repository: &Path,
    source: &Path,
    name: &str,
    columns: usize,
    cache: &str,
) -> Result<()> {
    let version = repository.join(name).join("1");
    std::fs::create_dir_all(&version)?;
    std::fs::copy(source, version.join("model.py"))?;
    std::fs::write(
        repository.join(name).join("config.pbtxt"),
        format!(
            "name: \"{name}\"
backend: \"python\"
max_batch_size: 64
input [ {{ name: \"INPUT0\" data_type: TYPE_FP32 dims: [ {columns} ] }} ]
output [ {{ name: \"OUTPUT0\" data_type: TYPE_FP32 dims: [ {columns} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{cache}"
        ),
    )?;
    Ok(())
}

/// What Triton's cache was measured with before us: many at a time, and nothing to join.
const SHAPES: [Shape; 2] = [
    Shape {
        connections: 8,
        streams: 8,
    },
    Shape {
        connections: 4,
        streams: 1,
    },
];
const OPEN_CONNECTIONS: usize = 8;
/// As large as ours by default.
const TRITON_CACHE: usize = 64 << 20;
/// How many times Triton's answers per processor second we want to reach.
const WANTED: f64 = 4.0;
/// Arrivals a second, as far as they are less than half of a peer's highest load.
const RATES: [f64; 4] = [10_000.0, 20_000.0, 30_000.0, 40_000.0];
/// How late the generator may be at the 99th percentile, for its figures to be the peer's.
const PUNCTUAL: Duration = Duration::from_micros(50);
/// Within which 99 of 100 known rows are to be answered at half load.
const ALLOWED: Duration = Duration::from_micros(300);
/// Triton now and then does not find what it has stored.
const NEARLY_ALL: f64 = 0.999;
/// Times that Triton is started: its Python backend is known to break its heap now and then.
const ATTEMPTS: usize = 4;
/// How long all known rows may take to be answered once.
const FILLING: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
