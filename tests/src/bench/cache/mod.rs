//! What the prediction cache is worth, and what it costs.
//!
//! ```text
//!  generator --> Outrigger, cache --> model          what comes through at a share of known rows,
//!      |                                             and what an unknown row costs
//!      +-------> Triton, its own response cache      what a known one costs, beside ours
//!
//!  a process of its own: cache over a model that takes no time      what it keeps, and what it holds
//! ```

mod crowd;
mod footprint;
mod known;
mod mixture;
mod pages;
mod ratio;
mod unknown;

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outrigger::demo::load::{Outcome, Report};
use serde_json::{Map, Value, json};

use super::Result;
use super::h2load::Shape;
use super::process::{Process, beside, free_address};
use super::proxy::Proxy;
use super::table::machine;
use crate::experiments::admin::wait_until_ready;

pub use self::footprint::{Insertions, fill};
pub use self::unknown::serve_label;

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// The parts of the bench.
    pub parts: Vec<Part>,
    /// Times that each figure is measured, in turns; medians are shown.
    pub repeats: usize,
    /// How long each load is counted.
    pub lasting: Duration,
    /// Short loads and few steps: to see that it works.
    pub quick: bool,
    /// Floats of a row before Triton.
    pub columns: Vec<usize>,
    /// Rows that are inserted to see what the store takes.
    pub insertions: u64,
    /// Lets the servers run on every core, and the generator too.
    pub unpinned: bool,
    /// The folder of the scripts that start servers: `tests/servers`.
    pub servers: PathBuf,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// The native container's binary, if it is not beside this one.
    pub native: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
    /// Where charts go.
    pub charts: Option<PathBuf>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Answers a second against the share of rows that are known.
    Ratio,
    /// Processor time and latency of answers that are known, beside Triton's own response cache.
    Triton,
    /// Processor time that a row takes which is not known.
    Miss,
    /// Memory of the store against its bound.
    Memory,
    /// Many who ask the same at the same moment.
    Crowd,
}

/// What was wanted of a figure, and whether it came out.
#[derive(Debug, Default)]
struct Goals(Vec<Value>);

/// Measures, prints tables, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    let before = machine();
    let mut goals = Goals::default();
    let mut parts = Map::new();
    for part in &options.parts {
        let figures = match part {
            Part::Ratio => ratio::run(options, &mut goals)?,
            Part::Triton => known::run(options, &mut goals)?,
            Part::Miss => unknown::run(options, &mut goals)?,
            Part::Memory => footprint::run(options, &mut goals)?,
            Part::Crowd => crowd::run(options, &mut goals)?,
        };
        parts.insert(part.name().into(), figures);
    }
    Ok(json!({
        "bench": "cache",
        "machine": before,
        "quick": options.quick,
        "repeats": options.repeats,
        "seconds": options.lasting.as_secs_f64(),
        "parts": parts,
        "goals": goals.0,
    }))
}

impl Options {
    /// Starts the native container with a synthetic model.
    fn container(&self, name: &str, model: &str) -> Result<(SocketAddr, Process)> {
        let program = beside(self.native.clone(), "outrigger-native")?;
        let address = free_address()?;
        let arguments = ["--listen", &address.to_string(), "--synthetic", model];
        let mut process = Process::start(name, None, &self.folder, program, arguments)?;
        process.wait_for(address)?;
        Ok((address, process))
    }

    /// Starts Outrigger and waits until it knows what the models before it take.
    fn outrigger(&self, name: &str, upstream: SocketAddr, models: &str) -> Result<Proxy> {
        let program = self.outrigger.clone();
        let proxy = Proxy::start(name, program, &self.folder, &[upstream], models)?;
        wait_until_ready(proxy.admin)?;
        Ok(proxy)
    }

    /// How long a load runs before it is counted.
    fn warm_up(&self) -> Duration {
        self.lasting / 4
    }
}

impl Part {
    /// All, in their order.
    pub const ALL: [Self; 5] = [
        Self::Ratio,
        Self::Triton,
        Self::Miss,
        Self::Memory,
        Self::Crowd,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Triton => "triton",
            Self::Miss => "miss",
            Self::Memory => "memory",
            Self::Crowd => "crowd",
        }
    }
}

impl Goals {
    fn at_least(&mut self, what: impl fmt::Display, value: f64, wanted: f64) {
        self.judge(what, value, wanted, value >= wanted, "at least");
    }

    fn at_most(&mut self, what: impl fmt::Display, value: f64, wanted: f64) {
        self.judge(what, value, wanted, value <= wanted, "at most");
    }

    fn judge(&mut self, what: impl fmt::Display, value: f64, wanted: f64, is: bool, bound: &str) {
        // What is not a number is not reached either.
        let verdict = if is { "reached" } else { "MISSED" };
        println!("{verdict}: {what} {value:.2} ({bound} {wanted:.2})");
        self.0.push(json!({
            "what": what.to_string(),
            "value": value,
            bound.replace(' ', "_"): wanted,
            "reached": is,
        }));
    }
}

/// A load is worth nothing if not every answer was right.
fn all_right(name: &str, report: &Report) -> Result<()> {
    if report.sent() > 0 && report.count(Outcome::Grpc(0)) == report.sent() {
        return Ok(());
    }
    Err(format!("{name}: not every answer was right:\n{report}").into())
}

/// Shows on stderr how far a long measurement has come.
fn progress(what: fmt::Arguments<'_>) {
    eprint!("{what}");
    let _ = std::io::stderr().flush();
}

/// Writes a shape as its two numbers.
fn name_of(shape: Shape) -> String {
    format!("{}x{}", shape.connections, shape.streams)
}

/// The callers of most parts: as many as the passthrough bench has in its middle shape.
const CALLERS: Shape = Shape {
    connections: 8,
    streams: 8,
};
