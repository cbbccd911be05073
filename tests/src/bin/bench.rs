//! `cargo run --release -p outrigger-tests --bin bench -- passthrough | batching | goodput | cache |
//! feedback | outage | overload | soak`: see `tests/bench/README.md`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use outrigger::demo::load::{Load, Pace, Repeat, Target, frame};
use outrigger_tests::bench::curves::Curve;
use outrigger_tests::bench::peers::Peer;
use outrigger_tests::bench::{
    Result, batching, cache, feedback, goodput, message, outage, overload, passthrough, soak,
    triton, upstream,
};

/// That of Outrigger's binary: what a cache takes of the machine is also what its allocator takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Outrigger against its peers, and batching against none.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What it costs to pass a call through: direct, nginx, HAProxy, Outrigger
    Passthrough {
        /// Interleaved repeats; the medians are shown
        #[arg(long, default_value_t = 5)]
        repeats: usize,
        /// A tenth of the calls and two repeats: to see that it works
        #[arg(long)]
        quick: bool,
        /// Peers to leave out
        #[arg(long)]
        without: Vec<Peer>,
        #[command(flatten)]
        common: Common,
    },
    /// What batching is worth, on synthetic models and on a real Triton
    Batching {
        /// Curves to measure [default: all six, unless only Triton is asked for]
        #[arg(long, value_parser = curve)]
        curve: Vec<Curve>,
        /// How many times slower than the paper's curve and objective [default: 10, kernel_svm 1]
        #[arg(long)]
        scale: Option<f64>,
        /// Short probes and one static size: to see that it works
        #[arg(long)]
        quick: bool,
        /// Measure the servers alone, without Outrigger
        #[arg(long)]
        direct: bool,
        /// The native container's binary [default: beside this one, or $OUTRIGGER_NATIVE]
        #[arg(long)]
        native: Option<PathBuf>,
        /// A running Triton's gRPC address, or a script that starts one (tests/servers/triton)
        #[arg(long)]
        triton: Option<String>,
        /// Triton's model: FP32 input `x` of 64 columns, no batching of its own
        #[arg(long, default_value = "digits_svm")]
        triton_model: String,
        /// Leave the synthetic models out
        #[arg(long, requires = "triton")]
        triton_only: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Answers within the objective at rising load: servers' own batchers, and Outrigger's
    Goodput {
        /// The model that all serve
        #[arg(long, value_enum, default_value = "svm")]
        model: goodput::Model,
        /// Milliseconds within which an answer is good [default: 20 for svm, 50 for forest]
        #[arg(long)]
        objective: Option<u64>,
        /// Who is measured [default: all]
        #[arg(long, value_enum)]
        peer: Vec<goodput::Server>,
        /// Settings of Triton's batcher, SIZE/MICROSECONDS, instead of a sweep
        #[arg(long)]
        triton_batcher: Vec<goodput::Batcher>,
        /// Settings of MLServer's batching, SIZE/MICROSECONDS, instead of a sweep
        #[arg(long)]
        mlserver_batching: Vec<goodput::Adaptive>,
        /// What to write into Outrigger's `batch`, to experiment
        #[arg(long, default_value = "")]
        batch: String,
        /// Offered requests a second [default: a ladder to twice the best capacity]
        #[arg(long)]
        rate: Vec<f64>,
        /// How long each step is counted
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Medians are taken over so many climbs of the ladder
        #[arg(long, default_value_t = 3)]
        repeats: usize,
        /// Few steps and settings: to see that it works
        #[arg(long)]
        quick: bool,
        /// The folder of the scripts that start servers
        #[arg(long, default_value = "tests/servers")]
        servers: PathBuf,
        /// Write charts into this folder
        #[arg(long)]
        charts: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// What the prediction cache is worth and costs, alone and beside Triton's response cache
    Cache {
        /// Parts to measure [default: all]
        #[arg(long, value_enum)]
        part: Vec<cache::Part>,
        /// Interleaved repeats; the medians are shown
        #[arg(long, default_value_t = 5)]
        repeats: usize,
        /// How long each load is counted
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Short loads and few steps: to see that it works
        #[arg(long)]
        quick: bool,
        /// Floats of a row before Triton; may be given several times
        #[arg(long, default_values_t = [64])]
        columns: Vec<usize>,
        /// Rows that are inserted to see what the store takes
        #[arg(long, default_value_t = 10_000_000)]
        insertions: u64,
        /// Leave it to the system which core runs what
        #[arg(long)]
        unpinned: bool,
        /// The folder of the scripts that start servers
        #[arg(long, default_value = "tests/servers")]
        servers: PathBuf,
        /// The native container's binary [default: beside this one, or $OUTRIGGER_NATIVE]
        #[arg(long)]
        native: Option<PathBuf>,
        /// Write charts into this folder
        #[arg(long)]
        charts: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// What feedback costs, and what selection adds to a prediction
    Feedback {
        /// Interleaved repeats; the medians are shown
        #[arg(long, default_value_t = 5)]
        repeats: usize,
        /// How long each load of predictions is counted
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Short loads, few labels, one repeat: to see that it works
        #[arg(long)]
        quick: bool,
        /// Leave it to the system which core runs what
        #[arg(long)]
        unpinned: bool,
        #[command(flatten)]
        common: Common,
    },
    /// What predictions notice of a Redis that is killed, stands still, forgets, or is slow
    Outage {
        /// Times that all of it happens; medians are shown
        #[arg(long, default_value_t = 5)]
        repeats: usize,
        /// How long each phase is
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Predictions a second
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// Predictions a second, besides, that are told of
        #[arg(long, default_value_t = 200.0)]
        feedback: f64,
        #[command(flatten)]
        common: Common,
    },
    /// A million requests each whose callers leave: connections, memory and gauges
    Soak {
        /// How many requests are given up, through each configuration
        #[arg(long, default_value_t = 1_000_000)]
        cancels: u64,
        /// A fiftieth of that: to see that it works
        #[arg(long)]
        quick: bool,
        /// Configurations by a part of their names, such as "deadline" [default: all]
        #[arg(long)]
        way: Vec<String>,
        /// The native container's binary [default: beside this one, or $OUTRIGGER_NATIVE]
        #[arg(long)]
        native: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// More calls with deadlines than a model can do: Triton's queues, HAProxy's, Outrigger's
    Overload {
        /// Whose capacity is exceeded
        #[arg(long, value_enum, default_value = "triton")]
        server: overload::Kind,
        /// Parts to measure [default: all]
        #[arg(long, value_enum)]
        part: Vec<overload::Part>,
        /// Milliseconds that the model takes for a call
        #[arg(long, default_value_t = 4.0)]
        call: f64,
        /// Milliseconds that each caller has
        #[arg(long, default_value_t = 50)]
        deadline: u64,
        /// Offered load, in capacities
        #[arg(long, default_values_t = [0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0])]
        load: Vec<f64>,
        /// A setting of Triton's queue, SIZE/MILLISECONDS, instead of a sweep
        #[arg(long)]
        policy: Option<overload::Policy>,
        /// A setting of HAProxy's queue, MAXCONN/MILLISECONDS, instead of a sweep
        #[arg(long)]
        haproxy: Option<overload::Haproxy>,
        /// What Outrigger is told of the model, NAME=YAML, instead of what is measured else
        #[arg(long)]
        ours: Vec<overload::Ours>,
        /// How long each phase is counted
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Medians are taken over so many repeats
        #[arg(long, default_value_t = 3)]
        repeats: usize,
        /// The folder of the scripts that start servers
        #[arg(long, default_value = "tests/servers")]
        servers: PathBuf,
        /// The native container's binary [default: beside this one, or $OUTRIGGER_NATIVE]
        #[arg(long)]
        native: Option<PathBuf>,
        /// Write the chart into this folder
        #[arg(long)]
        charts: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Loads one method of a server and says what was seen
    Load {
        /// The server
        address: SocketAddr,
        /// The method
        #[arg(long, default_value = message::INFER)]
        path: String,
        /// A file with one message, without gRPC's prefix [default: 495 bytes of no meaning]
        #[arg(long)]
        message: Option<PathBuf>,
        /// Poisson arrivals a second
        #[arg(long, conflicts_with = "callers")]
        rate: Option<f64>,
        /// Watches the clock in place of sleeping: takes a core of its own, and is hardly late
        #[arg(long, requires = "rate")]
        spin: bool,
        /// Callers who wait for their answer
        #[arg(long, default_value_t = 32)]
        callers: usize,
        /// Connections that share the load
        #[arg(long, default_value_t = 4)]
        connections: usize,
        /// For how long, after a tenth of it to warm up
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Answers calls cheaply until stdin ends
    #[command(hide = true)]
    Upstream,
    /// Gives every row the same label until stdin ends
    #[command(hide = true)]
    Label,
    /// Inserts rows into a cache and says what they took
    #[command(hide = true)]
    Fill(cache::Insertions),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Outrigger's binary [default: beside this one, or $OUTRIGGER]
    #[arg(long)]
    outrigger: Option<PathBuf>,
}

impl Common {
    fn outrigger(&self) -> Option<PathBuf> {
        self.outrigger
            .clone()
            .or_else(|| std::env::var_os("OUTRIGGER").map(PathBuf::from))
    }

    fn write(&self, figures: &serde_json::Value) -> Result<()> {
        if let Some(file) = &self.json {
            std::fs::write(file, serde_json::to_string_pretty(figures)? + "\n")?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Passthrough {
            repeats,
            quick,
            without,
            common,
        } => {
            let folder = Folder::new()?;
            let figures = passthrough::run(&passthrough::Options {
                repeats: if quick { 2 } else { repeats },
                divisor: if quick { 10 } else { 1 },
                without,
                outrigger: common.outrigger(),
                folder: folder.0.clone(),
            })?;
            common.write(&figures)
        }
        Command::Batching {
            curve,
            scale,
            quick,
            direct,
            native,
            triton,
            triton_model,
            triton_only,
            common,
        } => {
            let folder = Folder::new()?;
            let mut figures = serde_json::Map::new();
            if !triton_only {
                let synthetic = batching::run(&batching::Options {
                    curves: if curve.is_empty() {
                        Curve::ALL.to_vec()
                    } else {
                        curve
                    },
                    scale,
                    quick,
                    direct_only: direct,
                    outrigger: common.outrigger(),
                    native: native.or_else(|| told("OUTRIGGER_NATIVE")),
                    folder: folder.0.clone(),
                })?;
                figures.insert("synthetic".into(), synthetic);
            }
            if let Some(triton) = triton {
                let real = triton::run(&triton::Options {
                    triton,
                    model: triton_model,
                    callers: 32,
                    repeats: if quick { 1 } else { 5 },
                    lasting: Duration::from_secs(if quick { 2 } else { 5 }),
                    outrigger: common.outrigger(),
                    direct_only: direct,
                    folder: folder.0.clone(),
                })?;
                figures.insert("triton".into(), real);
            }
            common.write(&figures.into())
        }
        Command::Goodput {
            model,
            objective,
            peer,
            triton_batcher,
            mlserver_batching,
            batch,
            rate,
            seconds,
            repeats,
            quick,
            servers,
            charts,
            common,
        } => {
            let folder = Folder::new()?;
            let figures = goodput::run(&goodput::Options {
                servers,
                model,
                objective: objective.map(Duration::from_millis),
                peers: if peer.is_empty() {
                    goodput::Server::ALL.to_vec()
                } else {
                    peer
                },
                batchers: triton_batcher,
                adaptive: mlserver_batching,
                batch,
                rates: rate,
                lasting: Duration::from_secs_f64(if quick { 2.0 } else { seconds }),
                repeats: if quick { 1 } else { repeats },
                quick,
                outrigger: common.outrigger(),
                folder: folder.0.clone(),
                charts,
            })?;
            common.write(&figures)
        }
        Command::Cache {
            part,
            repeats,
            seconds,
            quick,
            columns,
            insertions,
            unpinned,
            servers,
            native,
            charts,
            common,
        } => {
            let folder = Folder::new()?;
            let figures = cache::run(&cache::Options {
                parts: if part.is_empty() {
                    cache::Part::ALL.to_vec()
                } else {
                    part
                },
                repeats: if quick { 1 } else { repeats },
                lasting: Duration::from_secs_f64(if quick { 1.0 } else { seconds }),
                quick,
                columns,
                insertions: if quick { insertions / 20 } else { insertions },
                unpinned,
                servers,
                outrigger: common.outrigger(),
                native: native.or_else(|| told("OUTRIGGER_NATIVE")),
                folder: folder.0.clone(),
                charts,
            })?;
            common.write(&figures)
        }
        Command::Feedback {
            repeats,
            seconds,
            quick,
            unpinned,
            common,
        } => {
            let folder = Folder::new()?;
            let figures = feedback::run(&feedback::Options {
                repeats: if quick { 1 } else { repeats },
                lasting: Duration::from_secs_f64(if quick { 0.5 } else { seconds }),
                labels: if quick { 2000 } else { 20_000 },
                unpinned,
                outrigger: common.outrigger(),
                folder: folder.0.clone(),
            })?;
            common.write(&figures)
        }
        Command::Outage {
            repeats,
            seconds,
            rate,
            feedback,
            common,
        } => {
            let folder = Folder::new()?;
            let figures = outage::run(&outage::Options {
                repeats,
                lasting: Duration::from_secs_f64(seconds),
                rate,
                feedback,
                outrigger: common.outrigger(),
                folder: folder.0.clone(),
            })?;
            common.write(&figures)
        }
        Command::Soak {
            cancels,
            quick,
            way,
            native,
            common,
        } => {
            let folder = Folder::new()?;
            let (figures, right) = soak::run(&soak::Options {
                cancels: if quick { cancels / 50 } else { cancels },
                ways: way,
                outrigger: common.outrigger(),
                native: native.or_else(|| told("OUTRIGGER_NATIVE")),
                folder: folder.0.clone(),
            })?;
            common.write(&figures)?;
            right
                .then_some(())
                .ok_or_else(|| "somebody who stayed was not answered rightly".into())
        }
        Command::Overload {
            server,
            part,
            call,
            deadline,
            load,
            policy,
            haproxy,
            ours,
            seconds,
            repeats,
            servers,
            native,
            charts,
            common,
        } => {
            let folder = Folder::new()?;
            let deadline = Duration::from_millis(deadline);
            let figures = overload::run(&overload::Options {
                servers,
                server,
                call: Duration::from_secs_f64(call / 1e3),
                deadline,
                loads: load,
                parts: if part.is_empty() {
                    overload::Part::ALL.to_vec()
                } else {
                    part
                },
                policy,
                haproxy,
                ours: if ours.is_empty() {
                    overload::Ours::all(deadline)
                } else {
                    ours
                },
                lasting: Duration::from_secs_f64(seconds),
                repeats,
                outrigger: common.outrigger(),
                native: native.or_else(|| told("OUTRIGGER_NATIVE")),
                folder: folder.0.clone(),
                charts,
            })?;
            common.write(&figures)
        }
        Command::Load {
            address,
            path,
            message,
            rate,
            spin,
            callers,
            connections,
            seconds,
        } => {
            let message = match message {
                Some(file) => std::fs::read(file)?,
                None => vec![b'q'; 495],
            };
            let pace = match rate {
                Some(rate) => Pace::Poisson { rate, seed: 1 },
                None => Pace::Closed { callers },
            };
            let target = Target::new(address, &path)?.connections(connections);
            let mut load = Load::new(target, pace, Repeat::new([frame(&message)]))
                .warm_up(Duration::from_secs_f64(seconds / 10.0))
                .lasting(Duration::from_secs_f64(seconds));
            if spin {
                load = load.spinning();
            }
            let report = load.run()?;
            println!("{report}");
            Ok(())
        }
        Command::Upstream => Ok(upstream::serve()?),
        Command::Label => Ok(cache::serve_label()?),
        Command::Fill(insertions) => {
            // As in Outrigger's binary; where the system does not know the setting, it has no such
            // pages.
            let _ = rustix::thread::disable_transparent_huge_pages(true);
            cache::fill(&insertions)
        }
    }
}

fn told(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn curve(name: &str) -> std::result::Result<Curve, String> {
    Curve::named(name).ok_or_else(|| {
        let known = Curve::ALL.map(|curve| curve.name).join(", ");
        format!("known are {known}")
    })
}

/// A folder that goes with us.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("outrigger-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
