//! Figure 6: how throughput grows with replicas, and what a slow one among them does.

use std::time::Duration;

use outrigger_native::Handle;
use serde_json::{Value, json};

use super::admin::{learned, wait_until_ready};
use super::containers::{Native, Recorder};
use super::plot::{Bar, Panel, Sheet};
use super::scale::Kind;
use super::subject::{OBJECTIVE, Way, synthetic};
use super::{Findings, Options, quantile, short, spread};
use crate::bench::Result;
use crate::bench::curves::Curve;
use crate::bench::demand::{Demand, progress};
use crate::bench::process::pause;
use crate::bench::proxy::Proxy;
use crate::bench::rows::Rows;
use crate::bench::table::{Table, machine};

/// Replicas of one model behind one proxy.
struct Fleet {
    containers: Vec<Native>,
    proxy: Proxy,
    demand: Demand<Rows>,
    name: &'static str,
}

/// What was seen of one replica of a fleet with a slow one, repeat by repeat.
#[derive(Clone, Debug, Default)]
struct Replica {
    rows_per_second: Vec<f64>,
    mean_batch: Vec<f64>,
    limit: Vec<f64>,
    /// Milliseconds at the paper's scale.
    call_p99: Vec<f64>,
    request_p99: Vec<f64>,
}

/// What was seen of a fleet as a whole at a load below what it holds.
#[derive(Clone, Debug, Default)]
struct Whole {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    replicas: Vec<Replica>,
}

/// Measures, prints tables, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let scale = options
        .scale
        .unwrap_or(if options.quick { 5.0 } else { SCALE });
    let curve = Curve::named(CURVE).ok_or("the curve is one of the six")?;
    let curve = curve.scaled(scale);
    let counts: &[usize] = if options.quick {
        &[1, 4]
    } else {
        &[1, 2, 3, 4]
    };
    let mut held: Vec<(Vec<f64>, usize)> = counts.iter().map(|count| (vec![], *count)).collect();
    let mut with_slow = Vec::new();
    let (mut alike, mut uneven) = (Whole::default(), Whole::default());
    for _ in 0..options.repeats {
        for (rates, count) in &mut held {
            let fleet = Fleet::start(curve, &vec![1.0; *count], scale, options)?;
            progress(format_args!("{count} replicas:"));
            let one = curve.batched_rate(f64::INFINITY, OBJECTIVE.mul_f64(scale));
            let guess = match rates.last() {
                Some(last) if *last > 0.0 => last / scale,
                _ => one * *count as f64,
            };
            rates.push(fleet.highest(guess, options)? * scale);
        }
        let all = held.last().map_or(f64::NAN, |(rates, _)| spread(rates).1) / scale;
        let slow = [1.0, 1.0, 1.0, SLOWER];
        let fleet = Fleet::start(curve, &slow, scale, options)?;
        if !options.quick {
            progress(format_args!("with a slow one:"));
            with_slow.push(fleet.highest(all * 0.85, options)? * scale);
        }
        fleet.watch(all * LOADED, scale, options, &mut uneven)?;
        drop(fleet);
        let fleet = Fleet::start(curve, &[1.0; 4], scale, options)?;
        fleet.watch(all * LOADED, scale, options, &mut alike)?;
    }
    print(&held, &with_slow, &alike, &uneven);
    let sheet = picture(&held, &with_slow, &alike, &uneven);
    Ok(Findings {
        figures: json!({
            "experiment": "fig6",
            "machine": machine(),
            "quick": options.quick,
            "repeats": options.repeats,
            "curve": CURVE,
            "scale": scale,
            "held_rows_per_second": held
                .iter()
                .map(|(rates, count)| json!({ "replicas": count, "repeats": rates }))
                .collect::<Vec<_>>(),
            "held_with_one_slow": with_slow,
            "four_alike": alike.figures(),
            "one_of_four_slow": uneven.figures(),
            "paper_rows_per_second": PAPER
                .iter()
                .map(|(count, rate)| json!({ "replicas": count, "rate": rate }))
                .collect::<Vec<_>>(),
        }),
        pictures: vec![("fig6", sheet)],
    })
}

impl Fleet {
    /// Starts a container for each factor, so many times slower than the curve, and Outrigger
    /// before them.
    fn start(curve: Curve, factors: &[f64], scale: f64, options: &Options) -> Result<Self> {
        let containers = factors
            .iter()
            .map(|factor| Native::start(curve.name, synthetic(curve.scaled(*factor))))
            .collect::<Result<Vec<_>>>()?;
        let addresses: Vec<_> = containers.iter().map(|native| native.address).collect();
        let objective = OBJECTIVE.mul_f64(scale);
        let way = Way::Controller("quantile");
        let proxy = Proxy::start(
            "outrigger",
            options.outrigger.clone(),
            &options.folder,
            &addresses,
            &way.models(curve.name, objective, ""),
        )?;
        wait_until_ready(proxy.admin)?;
        let demand = Demand {
            address: proxy.address,
            objective,
            calls: Rows::new(curve.name),
            effort: options.effort(),
        };
        Ok(Self {
            containers,
            proxy,
            demand,
            name: curve.name,
        })
    }

    fn highest(&self, guess: f64, options: &Options) -> Result<f64> {
        let learning = if options.quick { 2.0 } else { 8.0 };
        self.demand.load(guess * 0.7, 0.0, learning)?.wait();
        let handles: Vec<&Handle> = self
            .containers
            .iter()
            .map(|native| &native.handle)
            .collect();
        let executed = || {
            let counters = handles.iter().map(|handle| handle.counters());
            let sum = |(calls, rows), counters: outrigger_native::Counters| {
                (calls + counters.calls, rows + counters.rows)
            };
            Some(counters.fold((0, 0), sum))
        };
        Ok(self.demand.highest(guess, 0.0, executed)?.rate)
    }

    /// Sends at a rate, and looks at each replica.
    fn watch(&self, rate: f64, scale: f64, options: &Options, seen: &mut Whole) -> Result<()> {
        let (learning, lasting) = if options.quick {
            (2.0, 2.0)
        } else {
            (8.0, 8.0)
        };
        let recorders = self
            .containers
            .iter()
            .map(|native| Recorder::start(native.handle.clone()))
            .collect::<Result<Vec<_>>>()?;
        let running = self.demand.load(rate, learning, lasting)?;
        pause(Duration::from_secs_f64(learning));
        let from: Vec<usize> = recorders.iter().map(Recorder::count).collect();
        let report = running.wait();
        let learned = learned(self.proxy.admin, self.name)?;
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3 / scale;
        seen.rate.push(report.rate() * scale);
        seen.p50.push(millis(report.latency(0.5)));
        seen.p99.push(millis(report.latency(0.99)));
        seen.replicas.resize(recorders.len(), Replica::default());
        for (index, replica) in seen.replicas.iter_mut().enumerate() {
            let calls = recorders[index].calls(from[index]);
            let rows: f64 = calls.iter().map(|call| call.rows).sum();
            let took: Vec<f64> = calls.iter().map(|call| millis(call.took)).collect();
            let address = self.containers[index].address.to_string();
            let of = learned.iter().find(|one| one.address == address);
            replica.rows_per_second.push(rows / lasting * scale);
            replica.mean_batch.push(rows / calls.len().max(1) as f64);
            replica.call_p99.push(quantile(&took, 0.99));
            replica.limit.push(of.map_or(f64::NAN, |one| one.limit));
            let p99 = of.and_then(|one| one.p99).unwrap_or(f64::NAN);
            replica.request_p99.push(p99 * 1e3 / scale);
        }
        Ok(())
    }
}

fn print(held: &[(Vec<f64>, usize)], with_slow: &[f64], alike: &Whole, uneven: &Whole) {
    let mut table = Table::new([
        "replicas",
        "rows/s",
        "lowest .. highest",
        "x one",
        "paper: rows/s",
        "paper: x one",
    ]);
    let one = held.first().map_or(f64::NAN, |(rates, _)| spread(rates).1);
    let paper_one = PAPER[0].1;
    let mut row = |name: String, rates: &[f64], paper: Option<f64>| {
        let (low, rate, high) = spread(rates);
        table.row([
            name,
            short(rate),
            format!("{} .. {}", short(low), short(high)),
            short(rate / one),
            paper.map_or("-".into(), short),
            paper.map_or("-".into(), |paper| short(paper / paper_one)),
        ]);
    };
    for (rates, count) in held {
        let paper = PAPER.iter().find(|(of, _)| of == count);
        row(count.to_string(), rates, paper.map(|(_, rate)| *rate));
    }
    if !with_slow.is_empty() {
        row("4, one twice as slow".into(), with_slow, None);
    }
    println!(
        "Highest Poisson arrival rate (times scale) at which 99 of 100 requests keep to 20 ms, {CURVE}\n\n{table}"
    );
    let mut table = Table::new([
        "replica",
        "rows/s",
        "rows a call",
        "limit",
        "p99 of calls",
        "p99 of its requests",
        "p99 of all",
    ]);
    for (name, whole) in [("alike", alike), ("one slow", uneven)] {
        let last = whole.replicas.len();
        for (index, replica) in whole.replicas.iter().enumerate() {
            let slow = if name == "one slow" && index + 1 == last {
                " (slow)"
            } else {
                ""
            };
            table.row([
                format!("{name}: {}{slow}", index + 1),
                short(spread(&replica.rows_per_second).1),
                short(spread(&replica.mean_batch).1),
                short(spread(&replica.limit).1),
                short(spread(&replica.call_p99).1),
                short(spread(&replica.request_p99).1),
                short(spread(&whole.p99).1),
            ]);
        }
    }
    println!(
        "Four replicas at {LOADED} of what four alike hold; milliseconds divided by the scale\n\n{table}"
    );
}

fn picture(held: &[(Vec<f64>, usize)], with_slow: &[f64], alike: &Whole, uneven: &Whole) -> Sheet {
    let mut sheet = Sheet::new("Figure 6: replicas", 2).note(
        "Left: the highest arrival rate at which p99 keeps to 20 ms, times scale; thin lines: lowest and highest repeat. Pale: the paper, on other machines and models. Others: four replicas below what they hold together.",
    );
    let bar = |rates: &[f64]| {
        let (low, height, high) = spread(rates);
        height.is_finite().then_some(Bar {
            height,
            range: Some((low, high)),
        })
    };
    let mut names: Vec<String> = held.iter().map(|(_, count)| count.to_string()).collect();
    let mut rates: Vec<_> = held.iter().map(|(rates, _)| bar(rates)).collect();
    let paper = held.iter().map(|(_, count)| {
        let found = PAPER.iter().find(|(of, _)| of == count);
        found.map(|(_, height)| Bar {
            height: *height,
            range: None,
        })
    });
    let mut paper: Vec<_> = paper.collect();
    if !with_slow.is_empty() {
        names.push("4, one 2x slower".into());
        rates.push(bar(with_slow));
        paper.push(None);
    }
    sheet.add(
        Panel::of_bars(
            "throughput",
            "replicas",
            names,
            ("rows a second", Kind::Linear),
        )
        .bars("measured", rates)
        .pale_bars("paper", "measured", paper),
    );
    type Of = fn(&Replica) -> &Vec<f64>;
    let panels: [(&str, &str, Of); 3] = [
        ("what each replica is given", "rows a second", |one| {
            &one.rows_per_second
        }),
        ("rows of its calls", "rows", |one| &one.mean_batch),
        ("p99 of its requests", "milliseconds", |one| {
            &one.request_p99
        }),
    ];
    for (title, unit, of) in panels {
        let names = ["1", "2", "3", "4 (slow)"];
        let bars =
            |whole: &Whole| -> Vec<_> { whole.replicas.iter().map(|one| bar(of(one))).collect() };
        sheet.add(
            Panel::of_bars(title, "replica", names, (unit, Kind::Linear))
                .bars("four alike", bars(alike))
                .bars("one twice as slow", bars(uneven)),
        );
    }
    sheet
}

impl Whole {
    fn figures(&self) -> Value {
        let replicas = self.replicas.iter().map(|replica| {
            json!({
                "rows_per_second": replica.rows_per_second,
                "mean_batch": replica.mean_batch,
                "limit": replica.limit,
                "call_p99_ms": replica.call_p99,
                "request_p99_ms": replica.request_p99,
            })
        });
        json!({
            "rows_per_second": self.rate,
            "p50_ms": self.p50,
            "p99_ms": self.p99,
            "replicas": replicas.collect::<Vec<_>>(),
        })
    }
}

/// Of the curves that batches pay for, the one whose rate is nearest to the paper's single replica.
const CURVE: &str = "pyspark_svm";
/// So that four replicas, their proxy and the load have room on two cores.
const SCALE: f64 = 10.0;
/// How many times slower the slow replica is.
const SLOWER: f64 = 2.0;
/// The share of what four alike hold at which each replica is looked at.
const LOADED: f64 = 0.75;
/// What the authors measured with one and with four replicas, over a network of 10 Gbit/s.
const PAPER: [(usize, f64); 2] = [(1, 19_500.0), (4, 77_100.0)];
