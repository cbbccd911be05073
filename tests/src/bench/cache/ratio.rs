//! Answers a second against the share of rows that were asked before.
//!
//! The model answers one row at a time. Where a share `h` of the rows is known it is asked for the
//! rest alone, so that answers come at its own rate divided by `1 - h`, until the proxy, the load
//! and the cores that they share set the limit.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger::demo::load::{Load, Pace, Target};
use serde_json::{Value, json};

use super::mixture::{Answer, Mixture};
use super::pages::Looked;
use super::{CALLERS, Goals, Options, all_right, progress};
use crate::bench::batching::batches;
use crate::bench::table::{Table, median, millis};
use crate::bench::{Result, message};
use crate::experiments::plot::{Panel, Sheet, Style};
use crate::experiments::scale::Kind;

/// What one load saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Answers a second.
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// Rows a second that the model was asked for, by its own count.
    asked: f64,
    /// The share of rows that it was spared, by the proxy's count.
    spared: f64,
    /// Processor seconds of the proxy for 100 000 answers.
    cpu: f64,
}

/// The middle of a step's repeats.
#[derive(Clone, Copy, Debug)]
struct Point {
    share: f64,
    seen: Seen,
    /// What the model's own rate gives at this share, as far as the ceiling.
    expected: f64,
}

/// Measures, prints a table, draws a chart, and returns the figures.
pub(super) fn run(options: &Options, goals: &mut Goals) -> Result<Value> {
    let model = format!("echo,name={MODEL},beta={}", COST.as_micros());
    let (server, _container) = options.container("ratio-model", &model)?;
    let shares: &[f64] = if options.quick { &QUICK } else { &SHARES };
    let mut seen = vec![Vec::new(); shares.len()];
    for repeat in 0..options.repeats {
        for turn in 0..shares.len() {
            // Each repeat begins with another share, so that none is always first.
            let at = (turn + repeat) % shares.len();
            let one = measure(options, server, shares[at])?;
            progress(format_args!(
                "{:.0} %: {:.0}/s\n",
                shares[at] * 100.0,
                one.rate
            ));
            seen[at].push(one);
        }
    }
    let middles: Vec<Seen> = seen.iter().map(|seen| Seen::median(seen)).collect();
    let (alone, ceiling) = (middles[0].rate, middles[middles.len() - 1].rate);
    let points: Vec<Point> = shares
        .iter()
        .zip(middles)
        .map(|(share, seen)| Point {
            share: *share,
            seen,
            expected: (alone / (1.0 - share)).min(ceiling),
        })
        .collect();
    print(&points);
    // Nearer to the ceiling the two limits are felt together.
    let far = points
        .iter()
        .filter(|point| point.expected <= ceiling * FAR_FROM_CEILING);
    let least = far
        .map(|point| point.seen.rate / point.expected)
        .fold(f64::NAN, f64::min);
    goals.at_least("answers to what the model's rate gives", least, NEAR);
    if let Some(folder) = &options.charts {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("cache-hit-ratio.svg"), chart(&points, ceiling))?;
    }
    let steps = points.iter().zip(&seen).map(|(point, seen)| {
        json!({
            "share": point.share,
            "answers_per_second": point.seen.rate,
            "expected_per_second": point.expected,
            "p50_ms": point.seen.p50.as_secs_f64() * 1e3,
            "p99_ms": point.seen.p99.as_secs_f64() * 1e3,
            "model_rows_per_second": point.seen.asked,
            "spared": point.seen.spared,
            "proxy_cpu_seconds_per_100k": point.seen.cpu,
            "answers_per_second_all": seen.iter().map(|seen| seen.rate).collect::<Vec<_>>(),
        })
    });
    Ok(json!({
        "model_microseconds_per_row": COST.as_micros() as u64,
        "columns": COLUMNS,
        "connections": CALLERS.connections,
        "streams": CALLERS.streams,
        "ceiling_per_second": ceiling,
        "least_to_expected": least,
        "steps": steps.collect::<Vec<_>>(),
    }))
}

fn measure(options: &Options, server: SocketAddr, share: f64) -> Result<Seen> {
    // A new proxy each time: nothing is left of an earlier share.
    let models = format!("models:\n  {MODEL}:\n    cache: {{}}\n");
    let proxy = options.outrigger("ratio-outrigger", server, &models)?;
    let rows = Mixture::new(MODEL, "input0", COLUMNS, Answer::Echo).known(share);
    rows.fill(proxy.address, FILLING)?;
    let target = || -> Result<Target> {
        Ok(Target::new(proxy.address, message::INFER)?.connections(CALLERS.connections))
    };
    let pace = Pace::Closed {
        callers: CALLERS.connections * CALLERS.streams,
    };
    Load::new(target()?, pace, rows.clone())
        .lasting(options.warm_up())
        .run()?;
    let before = (
        Looked::of(proxy.admin, MODEL)?,
        batches(server, MODEL),
        proxy.usage()?,
    );
    let report = Load::new(target()?, pace, rows.fresh())
        .lasting(options.lasting)
        .run()?;
    let after = (
        Looked::of(proxy.admin, MODEL)?,
        batches(server, MODEL),
        proxy.usage()?,
    );
    all_right("Outrigger", &report)?;
    let asked = match (before.1, after.1) {
        (Some((_, before)), Some((_, after))) => after.saturating_sub(before) as f64,
        _ => f64::NAN,
    };
    let cpu = after.2.cpu.saturating_sub(before.2.cpu).as_secs_f64();
    Ok(Seen {
        rate: report.rate(),
        p50: report.latency(0.5),
        p99: report.latency(0.99),
        asked: asked / report.elapsed.as_secs_f64(),
        spared: after.0.since(before.0).spared(),
        cpu: cpu * 1e5 / report.sent() as f64,
    })
}

fn print(points: &[Point]) {
    let mut table = Table::new([
        "known rows",
        "answers/s",
        "expected/s",
        "ratio",
        "model rows/s",
        "p50",
        "p99",
        "CPU-s/100k",
    ]);
    for Point {
        share,
        seen,
        expected,
    } in points
    {
        table.row([
            format!("{:.0} %", share * 100.0),
            format!("{:.0}", seen.rate),
            format!("{expected:.0}"),
            format!("{:.2}", seen.rate / expected),
            format!("{:.0}", seen.asked),
            millis(seen.p50),
            millis(seen.p99),
            format!("{:.2}", seen.cpu),
        ]);
    }
    println!(
        "Known rows before a model that takes {} for one\n\n{table}",
        millis(COST)
    );
}

fn chart(points: &[Point], ceiling: f64) -> String {
    let mut sheet = Sheet::new("Answers by the share of rows that were asked before", 2).note(
        format!(
            "Closed loop, {} callers, one row of {COLUMNS} floats each; the model takes {} for a row. \
             Broken: its own rate / (1 - share), as far as the ceiling.",
            CALLERS.connections * CALLERS.streams,
            millis(COST)
        ),
    );
    let share = ("known rows, %", Kind::Linear);
    let at = |figure: fn(&Point) -> f64| {
        points
            .iter()
            .map(move |point| (point.share * 100.0, figure(point)))
    };
    for (title, kind) in [
        ("Answers", Kind::Linear),
        ("The same, logarithmic", Kind::Log),
    ] {
        let rate = ("answers/s", kind);
        sheet.add(
            Panel::new(title, share, rate)
                .series("measured", Style::Joined, at(|point| point.seen.rate))
                .series("expected", Style::Broken, at(|point| point.expected))
                .level("ceiling", ceiling),
        );
    }
    sheet.to_string()
}

impl Seen {
    fn median(seen: &[Self]) -> Self {
        let middle = |figure: fn(&Self) -> f64| median(seen.iter().map(figure));
        let time = |figure: fn(&Self) -> f64| {
            Duration::try_from_secs_f64(middle(figure)).unwrap_or_default()
        };
        Self {
            rate: middle(|seen| seen.rate),
            p50: time(|seen| seen.p50.as_secs_f64()),
            p99: time(|seen| seen.p99.as_secs_f64()),
            asked: middle(|seen| seen.asked),
            spared: middle(|seen| seen.spared),
            cpu: middle(|seen| seen.cpu),
        }
    }
}

const MODEL: &str = "scores";
/// What a row costs the model: so much that ten times its rate is still far from what two cores can
/// do.
const COST: Duration = Duration::from_micros(500);
const COLUMNS: usize = 64;
const SHARES: [f64; 14] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0,
];
const QUICK: [f64; 4] = [0.0, 0.5, 0.9, 1.0];
/// How long all known rows may take to be answered once.
const FILLING: Duration = Duration::from_secs(30);
/// Up to this share of the ceiling it is not felt.
const FAR_FROM_CEILING: f64 = 0.5;
/// How near the answers are to come to what is expected.
const NEAR: f64 = 0.9;
