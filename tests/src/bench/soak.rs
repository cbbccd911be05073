//! A million requests whose callers leave: what stays of them, and what becomes of connections and memory.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Result;
use super::demand::progress;
use super::leavers::{Count, Progress, Storm};
use super::process::{Process, beside, pause};
use super::proxy::Proxy;
use super::table::{Table, machine, median};
use crate::experiments::admin::{metrics, models, wait_until_ready};

/// What to do, and with what.
#[derive(Debug)]
pub struct Options {
    /// Requests that are given up on each way.
    pub cancels: u64,
    /// Parts of the names of ways; if none, all.
    pub ways: Vec<String>,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// The native container's binary, if it is not beside this one.
    pub native: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
}

/// A way through Outrigger.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    /// What stands in the configuration of the model.
    model: &'static str,
    /// The share of rows that were asked for before.
    known: f64,
}

/// What was seen of the proxy while its callers left.
#[derive(Debug)]
struct Watch {
    upstream: u16,
    /// How many requests were given up, and resident bytes.
    resident: Vec<(u64, u64)>,
    /// The proxy's ports of connections to the container, at the first look that counts.
    first: BTreeSet<u16>,
    /// All that were ever seen.
    ever: BTreeSet<u16>,
    /// Those that stood at the last look.
    last: BTreeSet<u16>,
}

/// What came of one way.
#[derive(Debug)]
struct Soaked {
    way: Way,
    count: Count,
    took: Duration,
    watch: Watch,
    /// What `/models` and `/metrics` still show when all have left; empty where it is nothing.
    left: Vec<String>,
    first_wrong: Option<String>,
    first_lost: Option<String>,
    cpu: Duration,
}

/// Soaks, prints a table, and returns the figures, and whether nobody who stayed was let down.
pub fn run(options: &Options) -> Result<(Value, bool)> {
    let mut soaked = Vec::new();
    for way in WAYS {
        let mut wanted = options.ways.iter();
        if options.ways.is_empty() || wanted.any(|part| way.name.contains(part)) {
            soaked.push(soak(way, options)?);
        }
    }
    print(&soaked);
    let all: u64 = soaked.iter().map(|one| one.count.cancelled()).sum();
    let figures = json!({
        "bench": "soak",
        "machine": machine(),
        "cancelled": all,
        "ways": soaked.iter().map(Soaked::figures).collect::<Vec<_>>(),
    });
    let right = soaked.iter().all(|one| one.count.wrong == 0);
    Ok((figures, right))
}

fn soak(way: Way, options: &Options) -> Result<Soaked> {
    let program = beside(options.native.clone(), "outrigger-native")?;
    let mut arguments = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
    for arm in ARMS {
        arguments.extend(["--synthetic".to_owned(), format!("echo,name={arm},{COST}")]);
    }
    let mut container = Process::start("model", None, &options.folder, program, arguments)?;
    let upstream: SocketAddr = container.wait_for_line("listening on ")?.parse()?;
    let models = match way.model {
        "" => String::new(),
        model => format!("models:\n  {MODEL}:\n{model}"),
    };
    let proxy = Proxy::start(
        "soak",
        options.outrigger.clone(),
        &options.folder,
        &[upstream],
        &models,
    )?;
    wait_until_ready(proxy.admin)?;
    let storm = Storm {
        address: proxy.address,
        model: MODEL,
        cancels: options.cancels,
        connections: 8,
        at_once: 12,
        // What is passed through untouched must be what the server speaks.
        http1: if way.model.is_empty() { 0 } else { 2 },
        staying: 8,
        patience: Duration::from_millis(3),
        known: way.known,
        seed: 1,
    };
    let course = Progress::default();
    let raging = std::thread::Builder::new().name("storm".into()).spawn({
        let (storm, course) = (storm.clone(), course.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            std::io::Result::Ok(runtime.block_on(storm.rage(&course)))
        }
    })?;
    let began = Instant::now();
    let mut watch = Watch::new(upstream.port());
    while !raging.is_finished() {
        pause(LOOK);
        let done = course.count().cancelled();
        watch.look(done, storm.cancels, proxy.usage()?.resident)?;
        if watch.resident.len().is_multiple_of(25) {
            progress(format_args!(" {}k", done / 1000));
        }
    }
    let count = raging.join().map_err(|_| "the storm panicked")??;
    let took = began.elapsed();
    watch.look(storm.cancels, storm.cancels, proxy.usage()?.resident)?;
    let left = left(proxy.admin)?;
    let cpu = proxy.usage()?.cpu;
    progress(format_args!(" {}\n", way.name));
    Ok(Soaked {
        way,
        count,
        took,
        watch,
        left,
        first_wrong: course.first_wrong().map(str::to_owned),
        first_lost: course.first_lost().map(str::to_owned),
        cpu,
    })
}

/// Returns what is still shown as waiting, under way or connected, once it had time to end.
fn left(admin: SocketAddr) -> Result<Vec<String>> {
    let give_up = Instant::now() + ENDING;
    loop {
        let mut left = Vec::new();
        let models = models(admin)?;
        let arms = models[MODEL]["arms"].as_object();
        for (arm, shown) in arms.into_iter().flatten() {
            for endpoint in shown["endpoints"].as_array().into_iter().flatten() {
                for gauge in GAUGES {
                    let figure = endpoint[gauge].as_f64().unwrap_or(0.0);
                    if figure != 0.0 {
                        left.push(format!("{arm} {gauge} {figure}"));
                    }
                }
            }
        }
        let connections = metrics(admin)?.sum("outrigger_connections", &[]);
        if connections != 0.0 {
            left.push(format!("connections {connections}"));
        }
        if left.is_empty() || Instant::now() > give_up {
            return Ok(left);
        }
        pause(LOOK);
    }
}

impl Watch {
    fn new(upstream: u16) -> Self {
        Self {
            upstream,
            resident: Vec::new(),
            first: BTreeSet::new(),
            ever: BTreeSet::new(),
            last: BTreeSet::new(),
        }
    }

    fn look(&mut self, done: u64, of: u64, resident: u64) -> Result<()> {
        self.resident.push((done, resident));
        let seen = connections_to(self.upstream)?;
        if done * WARM < of {
            self.first = seen.clone();
        }
        if self.first.is_empty() {
            self.first = seen.clone();
        }
        self.ever.extend(&seen);
        self.last = seen;
        Ok(())
    }

    /// Connections that were seen at any time and no longer stand at the end.
    fn lost(&self) -> usize {
        self.ever.difference(&self.last).count()
    }

    /// Connections that stand and were made since the first look that counts: not in place of others,
    /// where none was lost.
    fn made(&self) -> usize {
        self.last.difference(&self.first).count()
    }

    /// Resident bytes of each tenth of the way but the first, in the middle: what an allocator holds for a
    /// moment comes and goes.
    fn resident(&self) -> Vec<f64> {
        let end = self.resident.last().map_or(0, |(done, _)| *done);
        let tenth = |done: u64| (done * 10).checked_div(end).unwrap_or(0).min(9);
        (1..10)
            .map(|wanted| {
                let of = self
                    .resident
                    .iter()
                    .filter(|(done, _)| tenth(*done) == wanted);
                median(of.map(|(_, resident)| *resident as f64))
            })
            .filter(|middle| middle.is_finite())
            .collect()
    }

    /// The most that was ever resident after a tenth of the way.
    fn most(&self) -> u64 {
        let end = self.resident.last().map_or(0, |(done, _)| *done);
        let after = self.resident.iter().filter(|(done, _)| done * 10 >= end);
        after.map(|(_, resident)| *resident).max().unwrap_or(0)
    }

    /// By what share of itself it grew from the second tenth of the way to any later one.
    fn growth(&self) -> f64 {
        let resident = self.resident();
        let first = resident.first().copied().unwrap_or(f64::NAN);
        resident.into_iter().fold(first, f64::max) / first - 1.0
    }
}

impl Soaked {
    fn figures(&self) -> Value {
        let step = (self.watch.resident.len() / 100).max(1);
        json!({
            "way": self.way.name,
            "model": self.way.model,
            "seconds": self.took.as_secs_f64(),
            "cancelled": self.count.cancelled(),
            "half_asked": self.count.half_asked,
            "at_once": self.count.at_once,
            "later": self.count.later,
            "connection_closed": self.count.hung_up,
            "http1_closed": self.count.http1,
            "answered": self.count.answered,
            "stayed": self.count.stayed,
            "wrong": self.count.wrong,
            "first_wrong": self.first_wrong,
            "client_connections_lost": self.count.lost,
            "upstream_connections": self.watch.first.len(),
            "upstream_lost": self.watch.lost(),
            "upstream_made": self.watch.made(),
            "resident_of_tenths": self.watch.resident(),
            "resident_most": self.watch.most(),
            "growth": self.watch.growth(),
            "left": self.left,
            "cpu_seconds": self.cpu.as_secs_f64(),
            "resident": self.watch.resident.iter().step_by(step).collect::<Vec<_>>(),
        })
    }
}

fn print(soaked: &[Soaked]) {
    let mut table = Table::new([
        "",
        "given up",
        "a second",
        "half asked",
        "at once",
        "later",
        "hung up",
        "HTTP/1.1",
        "answered rightly",
        "wrong",
        "upstream connections",
        "lost",
        "made",
        "RSS, second tenth",
        "last tenth",
        "most ever",
        "growth",
        "left",
    ]);
    let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
    for one in soaked {
        let resident = one.watch.resident();
        let at = |bytes: Option<&f64>| megabytes(bytes.copied().unwrap_or(f64::NAN));
        let cancelled = one.count.cancelled();
        table.row([
            one.way.name.to_owned(),
            cancelled.to_string(),
            format!("{:.0}", cancelled as f64 / one.took.as_secs_f64()),
            one.count.half_asked.to_string(),
            one.count.at_once.to_string(),
            one.count.later.to_string(),
            one.count.hung_up.to_string(),
            one.count.http1.to_string(),
            one.count.answered.to_string(),
            one.count.wrong.to_string(),
            one.watch.first.len().to_string(),
            one.watch.lost().to_string(),
            one.watch.made().to_string(),
            at(resident.first()),
            at(resident.last()),
            megabytes(one.watch.most() as f64),
            format!("{:.1} %", one.watch.growth() * 100.0),
            one.left.len().to_string(),
        ]);
    }
    println!("Requests whose callers leave\n\n{table}");
    for one in soaked {
        let verdict = |reached: bool| if reached { "reached" } else { "MISSED" };
        let name = one.way.name;
        let lost = one.watch.lost();
        println!(
            "{}: {name}: {lost} upstream connections lost (none)",
            verdict(lost == 0)
        );
        let growth = one.watch.growth();
        println!(
            "{}: {name}: RSS {:+.1} % from the second tenth of the way on (at most 5 %)",
            verdict(growth <= FLAT),
            growth * 100.0
        );
        println!(
            "{}: {name}: left behind: {:?}",
            verdict(one.left.is_empty()),
            one.left
        );
        if one.count.wrong > 0 {
            println!(
                "WRONG: {name}: {} requests of callers who stayed; the first: {}",
                one.count.wrong,
                one.first_wrong.as_deref().unwrap_or_default()
            );
        }
        if one.count.lost > 0 {
            let why = one.first_lost.as_deref().unwrap_or("politely");
            println!(
                "{name}: {} connections of clients ended without their doing: {why}",
                one.count.lost
            );
        }
    }
}

/// Returns the local ports of established connections to a port of the loopback.
pub fn connections_to(port: u16) -> Result<BTreeSet<u16>> {
    let table = fs::read_to_string("/proc/net/tcp")?;
    Ok(table
        .lines()
        .filter_map(|line| established(line, port))
        .collect())
}

/// Reads a line of the kernel's table: `n: local:port remote:port state ...`, in hexadecimal.
fn established(line: &str, port: u16) -> Option<u16> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let mut port_of = || u16::from_str_radix(words.next()?.rsplit_once(':')?.1, 16).ok();
    let (local, remote) = (port_of()?, port_of()?);
    (remote == port && words.next() == Some(ESTABLISHED)).then_some(local)
}

const MODEL: &str = "m";
/// The model, and those of an ensemble.
const ARMS: [&str; 4] = [MODEL, "a", "b", "c"];
/// A call takes a millisecond and a little for each row, eight at a time.
const COST: &str = "beta=1000,alpha=20,concurrency=8,exponential=0.5";
const WAYS: [Way; 6] = [
    Way {
        name: "batch",
        model: "    batch: {}\n",
        known: 0.0,
    },
    Way {
        name: "batch, abandoned calls cancelled",
        model: "    batch: { cancel: abandoned }\n",
        known: 0.0,
    },
    Way {
        name: "deadline only",
        model: "    deadline: { default: 10s }\n",
        known: 0.0,
    },
    Way {
        name: "ensemble of three",
        model: "    arms: { a: { upstream: model, model: a }, b: { upstream: model, model: b }, c: { upstream: model, model: c } }\n    \
                selection: { policy: fixed, ensemble: true }\n    deadline: { default: 10s }\n",
        known: 0.0,
    },
    Way {
        name: "cache and batch",
        model: "    cache: { max_bytes: 4MiB }\n    batch: {}\n",
        known: 0.5,
    },
    Way {
        name: "passed through",
        model: "",
        known: 0.0,
    },
];
const GAUGES: [&str; 5] = [
    "queue_rows",
    "queue_requests",
    "queue_bytes",
    "in_flight",
    "beside",
];
const ESTABLISHED: &str = "01";
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);
/// One of so many parts of the way belongs to the start.
const WARM: u64 = 20;
/// What memory may grow by.
const FLAT: f64 = 0.05;
/// How long it may take until nothing is left.
const ENDING: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_connections_to_a_port_are_found() {
        let line = "   3: 0100007F:C350 0100007F:1F41 01 00000000:00000000 00:00000000 00000000";
        assert_eq!(established(line, 8001), Some(50_000));
        assert_eq!(established(line, 8002), None);
        assert_eq!(established(&line.replace(" 01 ", " 06 "), 8001), None);
        assert_eq!(
            established("  sl  local_address rem_address   st", 8001),
            None
        );
    }

    #[test]
    fn growth_is_from_a_tenth_of_the_way_on() {
        let mut watch = Watch::new(1);
        watch.resident = vec![
            (0, 50),
            (99, 90),
            (100, 100),
            (500, 104),
            (510, 190),
            (520, 103),
            (1000, 101),
        ];
        assert_eq!(watch.resident(), [100.0, 104.0, 101.0]);
        assert_eq!(watch.most(), 190);
        assert!((watch.growth() - 0.04).abs() < 1e-9);
    }
}
