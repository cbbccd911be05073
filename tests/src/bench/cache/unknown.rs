//! What a row costs that is not known: hashed, looked for, stored, and sent to the model all the
//! same.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::{Load, Pace, Target};
use outrigger_native::{Output, Server, Synthetic, Tensor};
use serde_json::{Value, json};

use super::mixture::{Answer, Mixture};
use super::pages::Looked;
use super::{CALLERS, Goals, Options, all_right, name_of, progress};
use crate::bench::pin::Pin;
use crate::bench::process::Process;
use crate::bench::proxy::Proxy;
use crate::bench::table::{Table, median};
use crate::bench::{Result, message};

/// A way to the model.
struct Way {
    name: &'static str,
    proxy: Proxy,
    cached: bool,
    /// Microseconds of the proxy for a request, one entry a repeat.
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

/// Measures, prints a table, and returns the figures.
pub(super) fn run(options: &Options, goals: &mut Goals) -> Result<Value> {
    let pin = Pin::new(options.unpinned)?;
    pin.load()?;
    let ourselves = std::env::current_exe()?;
    let folder = options.folder.as_path();
    let mut model = Process::start("miss-model", None, folder, ourselves, ["label"])?;
    let server = model.wait_for_line("listening ")?.parse()?;
    pin.measured()?;
    let mut ways = Vec::new();
    for (name, settings) in WAYS {
        let models = match settings {
            Some(settings) => format!("models:\n  {MODEL}:\n{settings}"),
            None => String::new(),
        };
        let proxy = options.outrigger(&format!("miss-{name}"), server, &models)?;
        ways.push(Way {
            name,
            proxy,
            cached: settings.is_some_and(|settings| settings.contains("cache")),
            cpu: Vec::new(),
            rate: Vec::new(),
        });
    }
    pin.load()?;

    let label = Bytes::copy_from_slice(&LABEL.to_le_bytes());
    let rows = Mixture::new(MODEL, "input0", COLUMNS, Answer::Always(label));
    for repeat in 0..=options.repeats {
        for turn in 0..ways.len() {
            let count = ways.len();
            let way = &mut ways[(turn + repeat) % count];
            // The first round only warms up.
            way.measure(options, rows.clone().fresh(), repeat > 0)?;
        }
    }
    let count = ways.len();
    let way = |name: &str| ways.iter().find(|way| way.name == name);
    // Of each repeat by itself: the machine may be faster in one than in another.
    let more = |with: &str, without: &str| {
        let (Some(with), Some(without)) = (way(with), way(without)) else {
            return Vec::new();
        };
        let pairs = with.cpu.iter().zip(&without.cpu);
        pairs.map(|(with, without)| with - without).collect()
    };
    let (single, batched) = (more("single+cache", "single"), more("batch+cache", "batch"));
    let mut table = Table::new(["way", "us/request", "least", "most", "requests/s"]);
    for way in &ways {
        table.row([
            way.name.into(),
            format!("{:.2}", median(way.cpu.iter().copied())),
            format!("{:.2}", least(&way.cpu)),
            format!("{:.2}", most(&way.cpu)),
            format!("{:.0}", median(way.rate.iter().copied())),
        ]);
    }
    let mut differences = Table::new(["a miss costs more", "us", "least", "most"]);
    for (name, all) in [("one by one", &single), ("in batches", &batched)] {
        differences.row([
            name.into(),
            format!("{:.2}", median(all.iter().copied())),
            format!("{:.2}", least(all)),
            format!("{:.2}", most(all)),
        ]);
    }
    println!(
        "Processor time of the proxy for rows of {} bytes that are never known, {}\n\n{table}\n{differences}",
        COLUMNS * 4,
        name_of(CALLERS),
    );
    for (name, all) in [("alone", &single), ("in a batch", &batched)] {
        let middle = median(all.iter().copied());
        goals.at_most(format_args!("us for a miss {name}"), middle, ALLOWED);
    }
    Ok(json!({
        "row_bytes": COLUMNS * 4,
        "connections": CALLERS.connections,
        "streams": CALLERS.streams,
        "pinned": pin.is_on(),
        "ways": (0..count).map(|at| json!({
            "name": ways[at].name,
            "microseconds": median(ways[at].cpu.iter().copied()),
            "microseconds_all": ways[at].cpu,
            "requests_per_second": median(ways[at].rate.iter().copied()),
        })).collect::<Vec<_>>(),
        "miss_microseconds": median(single.iter().copied()),
        "miss_microseconds_all": single,
        "miss_in_batch_microseconds": median(batched.iter().copied()),
        "miss_in_batch_microseconds_all": batched,
    }))
}

impl Way {
    fn measure(&mut self, options: &Options, rows: Mixture, counted: bool) -> Result<()> {
        let target = Target::new(self.proxy.address, message::INFER)?;
        let pace = Pace::Closed {
            callers: CALLERS.connections * CALLERS.streams,
        };
        let lasting = if counted {
            options.lasting
        } else {
            options.warm_up()
        };
        let looked = self.looked()?;
        let before = self.proxy.usage()?;
        let report = Load::new(target.connections(CALLERS.connections), pace, rows)
            .lasting(lasting)
            .run()?;
        let cpu = self.proxy.usage()?.cpu.saturating_sub(before.cpu);
        all_right(self.name, &report)?;
        if let (Some(before), Some(after)) = (looked, self.looked()?) {
            let looked = after.since(before);
            // What the cache let pass has cost it next to nothing, and would flatter it.
            if looked.miss < report.sent() as f64 {
                return Err(format!("{}: not every row was a miss: {looked:?}", self.name).into());
            }
        }
        if counted {
            let micros = cpu.as_secs_f64() * 1e6 / report.sent() as f64;
            progress(format_args!("{}: {micros:.2} us\n", self.name));
            self.cpu.push(micros);
            self.rate.push(report.rate());
        }
        Ok(())
    }

    fn looked(&self) -> Result<Option<Looked>> {
        self.cached
            .then(|| Looked::of(self.proxy.admin, MODEL))
            .transpose()
    }
}

/// Serves a model that gives every row the same label until stdin ends, and prints
/// `listening ADDRESS`.
pub fn serve_label() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let model = Synthetic {
            output: Output::Constant(Tensor::int64("label", &[1, 1], &[LABEL])),
            ..Synthetic::new(MODEL)
        };
        let server = Server::builder().model(model).bind("127.0.0.1:0").await?;
        println!("listening {}", server.address());
        // The parent holds the other end, so its death is ours.
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            let _ = ended.send(());
        });
        let _ = end.await;
        let _ = tokio::time::timeout(Duration::from_secs(1), server.abort()).await;
        Ok(())
    })
}

fn least(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::NAN, f64::min)
}

fn most(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::NAN, f64::max)
}

const MODEL: &str = "labels";
/// The floats of a picture of 32 by 32 by 3 bytes: 3 KB.
const COLUMNS: usize = 768;
const LABEL: i64 = 7;
/// Each with the settings of the model; without any it is passed through, and not even read.
const WAYS: [(&str, Option<&str>); 5] = [
    ("passed", None),
    (
        "single",
        Some("    batch: { controller: fixed, max_batch_size: 1 }\n"),
    ),
    (
        "single+cache",
        Some("    batch: { controller: fixed, max_batch_size: 1 }\n    cache: { bypass: never }\n"),
    ),
    ("batch", Some("    batch: {}\n")),
    (
        "batch+cache",
        Some("    batch: {}\n    cache: { bypass: never }\n"),
    ),
];
/// Microseconds that a miss of this size may cost.
const ALLOWED: f64 = 3.0;
