//! Figure 4: how many rows a second each way of batching brings through, for each container.
//!
//! Two questions are asked. As the paper asked it: under a load that fills every call, how many rows
//! are answered, and do the *calls* keep to the objective? And as a user asks it: up to which
//! arrival rate do 99 of 100 *requests* keep to it?

use std::time::Duration;

use outrigger::demo::load::{Load, Pace, Target};
use outrigger_native::digits::Kind as Digit;
use serde_json::{Value, json};

use super::containers::Recorder;
use super::plot::{Bar, Panel, Sheet};
use super::scale::Kind;
use super::subject::{Subject, Way};
use super::{Findings, Options, quantile, short, spread, trace};
use crate::bench::Result;
use crate::bench::demand::{Demand, Effort, progress};
use crate::bench::message;
use crate::bench::process::pause;
use crate::bench::proxy::Proxy;
use crate::bench::table::{Table, machine};

/// What one way brought through, repeat by repeat; rates as if at the paper's scale.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Answered rows a second under a load that fills every call.
    full: Vec<f64>,
    /// What 99 of 100 of its calls took, to the objective.
    call_p99: Vec<f64>,
    /// The share of its calls that took longer than the objective.
    over: Vec<f64>,
    /// The highest arrival rate that was held.
    held: Vec<f64>,
    /// The 99th percentile of requests at that rate, to the objective.
    held_p99: Vec<f64>,
    mean_batch: Vec<f64>,
    generator_was_late: bool,
    size: Option<u64>,
}

/// A subject with all that was seen of it.
struct Measured {
    subject: Subject,
    ways: Vec<(Way, Seen)>,
}

/// Measures throughput and traces, prints tables, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let mut measured = Vec::new();
    for curve in options.curves.iter().copied() {
        let subject = Subject::synthetic(curve, options.scale.unwrap_or(SCALE))?;
        measured.push(measure(subject, options)?);
    }
    if options.digits {
        for mut subject in Subject::digits(&[Digit::Svc])? {
            subject.learn()?;
            measured.push(measure(subject, options)?);
        }
    }
    if let Some(mut subject) = Subject::triton(options)? {
        subject.learn()?;
        measured.push(measure(subject, options)?);
    }
    print(&measured);
    let best = measured
        .iter()
        .filter_map(|one| {
            let seen = one.seen(Way::Static(0))?;
            let held = seen.held.first().is_some_and(|rate| *rate > 0.0);
            Some((one.subject.curve.name, seen.size.filter(|_| held)?))
        })
        .collect();
    let traces = trace::run(&best, options)?;
    let mut pictures = vec![("fig4-throughput", picture(&measured))];
    pictures.extend(traces.pictures);
    Ok(Findings {
        figures: json!({
            "experiment": "fig4",
            "machine": machine(),
            "quick": options.quick,
            "repeats": options.repeats,
            "containers": measured.iter().map(Measured::figures).collect::<Vec<_>>(),
            "traces": traces.figures,
        }),
        pictures,
    })
}

fn measure(subject: Subject, options: &Options) -> Result<Measured> {
    let mut ways = vec![
        (Way::Unbatched, Seen::default()),
        (Way::Controller("aimd"), Seen::default()),
        (Way::Controller("quantile"), Seen::default()),
    ];
    for _ in 0..options.repeats {
        for (way, seen) in &mut ways {
            let proxy = subject.behind(*way, "", options)?;
            progress(format_args!("{} {way}:", subject.curve.name));
            full(&subject, *way, &proxy, options, seen)?;
            // In a hurry one search is enough to see that it works.
            let searched = *way == Way::Controller("quantile") && subject.scale > 1.0;
            if !options.quick || searched && subject.name == "linear_svm" {
                search(&subject, *way, &proxy, 0.0, options, seen)?;
            }
            progress(format_args!("\n"));
        }
    }
    if !options.quick {
        let best = best_static(&subject, options)?;
        ways.push(best);
    }
    Ok(Measured { subject, ways })
}

/// Searches for the best of a few static sizes, then repeats with that one only.
fn best_static(subject: &Subject, options: &Options) -> Result<(Way, Seen)> {
    let expected = subject.curve.fullest_batch(subject.objective());
    let sizes = if expected < 3.0 {
        vec![1, 2, 4]
    } else {
        [1.0, 1.4, 0.7]
            .map(|factor| (expected * factor) as u64)
            .to_vec()
    };
    let (mut best, mut found) = (Way::Static(1), Seen::default());
    for size in sizes {
        let way = Way::Static(size);
        let proxy = subject.behind(way, "", options)?;
        let known = found.held.last().copied().unwrap_or(0.0) / subject.scale;
        let mut seen = Seen {
            size: Some(size),
            ..Seen::default()
        };
        progress(format_args!("{} static {size}:", subject.curve.name));
        search(subject, way, &proxy, known, options, &mut seen)?;
        if seen.held.last().copied().unwrap_or(0.0) / subject.scale > known {
            (best, found) = (way, seen);
        }
    }
    if found.size.is_none() {
        // Nothing was searched for, or nothing held.
        let rows = rows_within(subject) as u64;
        (best, found.size) = (Way::Static(rows), Some(rows));
    }
    for repeat in 0..options.repeats {
        let proxy = subject.behind(best, "", options)?;
        progress(format_args!("{} {best} again:", subject.curve.name));
        full(subject, best, &proxy, options, &mut found)?;
        if repeat > 0 {
            search(subject, best, &proxy, 0.0, options, &mut found)?;
        }
        progress(format_args!("\n"));
    }
    Ok((best, found))
}

/// Keeps so many callers waiting that every call can be full.
fn full(
    subject: &Subject,
    way: Way,
    proxy: &Proxy,
    options: &Options,
    seen: &mut Seen,
) -> Result<()> {
    let objective = subject.objective();
    let callers = match way {
        // Each waits for all others.
        Way::Unbatched => 8,
        _ => callers(subject),
    };
    let (learning, lasting) = if options.quick {
        (1.5, 1.0)
    } else {
        (6.0, 5.0)
    };
    let recorder = subject.handle.clone().map(Recorder::start).transpose()?;
    let connections = callers.div_ceil(50).clamp(4, 64);
    let target = Target::new(proxy.address, message::INFER)?.connections(connections);
    let running = Load::new(target, Pace::Closed { callers }, subject.calls.clone())
        .warm_up(Duration::from_secs_f64(learning))
        .lasting(Duration::from_secs_f64(lasting))
        .patience(objective * 20)
        .start()?;
    pause(Duration::from_secs_f64(learning));
    let from = recorder.as_ref().map_or(0, Recorder::count);
    let report = running.wait();
    if report.failed() > 0 {
        return Err(format!(
            "{} {way}: not every answer was right:\n{report}",
            subject.name
        )
        .into());
    }
    let rate = report.rate() * subject.scale;
    progress(format_args!(" {rate:.0} full"));
    seen.full.push(rate);
    if let Some(recorder) = recorder {
        let objective = objective.as_secs_f64();
        let calls = recorder.calls(from);
        let took: Vec<f64> = calls
            .iter()
            .map(|call| call.took.as_secs_f64() / objective)
            .collect();
        let over = took.iter().filter(|share| **share > 1.0).count();
        seen.call_p99.push(quantile(&took, 0.99));
        seen.over.push(over as f64 / took.len().max(1) as f64);
        let rows: f64 = calls.iter().map(|call| call.rows).sum();
        seen.mean_batch.push(rows / calls.len().max(1) as f64);
    }
    Ok(())
}

/// Twice as many as a call within the objective has rows.
pub(super) fn callers(subject: &Subject) -> usize {
    (2.0 * rows_within(subject)).clamp(8.0, 4096.0) as usize
}

/// The rows of a call within the objective, at least one.
fn rows_within(subject: &Subject) -> f64 {
    let curve = subject.curve;
    let rows = (subject.objective().as_secs_f64() - curve.beta) / curve.alpha;
    rows.floor().max(1.0)
}

fn search(
    subject: &Subject,
    way: Way,
    proxy: &Proxy,
    known: f64,
    options: &Options,
    seen: &mut Seen,
) -> Result<()> {
    let objective = subject.objective();
    let guess = match (seen.held.last(), way) {
        (Some(last), _) if *last > 0.0 => last / subject.scale,
        (_, Way::Unbatched) => subject.curve.single_rate(objective),
        (_, Way::Static(size)) => subject
            .curve
            .batched_rate(size as f64, objective)
            .max(known),
        (_, Way::Controller(_)) => subject.curve.batched_rate(f64::INFINITY, objective),
    };
    let mut effort = Effort {
        fewest_calls: FEWEST_CALLS,
        ..options.effort()
    };
    if way == Way::Unbatched {
        // A queue that theory knows well, at a few calls a second.
        effort.calls = effort.calls.min(200.0);
    }
    let demand = Demand {
        address: proxy.address,
        objective,
        calls: subject.calls.clone(),
        effort,
    };
    let held = demand.highest(guess, known, || subject.executed())?;
    seen.held.push(held.rate * subject.scale);
    seen.generator_was_late |= held.generator_was_late;
    if held.rate > 0.0 {
        let p99 = held.p99.as_secs_f64() / objective.as_secs_f64();
        seen.held_p99.push(p99);
    }
    Ok(())
}

fn print(measured: &[Measured]) {
    let mut full = Table::new([
        "container",
        "way",
        "rows/s",
        "rows a call",
        "p99 of calls",
        "calls over",
        "x no batching",
        "paper: rows/s",
        "paper: x",
    ]);
    let mut held = Table::new([
        "container",
        "way",
        "rows/s",
        "lowest .. highest",
        "p99 of requests",
        "x no batching",
        "x best static",
    ]);
    for one in measured {
        let name = one.subject.curve.name;
        for (way, seen) in &one.ways {
            let (_, rate, _) = spread(&seen.full);
            let paper = one.paper(*way);
            let single = one.paper(Way::Unbatched).unwrap_or(f64::NAN);
            full.row([
                name.into(),
                way.to_string(),
                short(rate),
                short(spread(&seen.mean_batch).1),
                short(spread(&seen.call_p99).1),
                percent(spread(&seen.over).1),
                short(rate / one.median(Way::Unbatched, |seen| &seen.full)),
                paper.map_or("-".into(), short),
                paper.map_or("-".into(), |paper| short(paper / single)),
            ]);
            if seen.held.is_empty() {
                continue;
            }
            let (low, rate, high) = spread(&seen.held);
            let size = seen.size.map_or(String::new(), |size| format!(" ({size})"));
            held.row([
                name.into(),
                format!("{way}{size}"),
                short(rate),
                format!("{} .. {}", short(low), short(high)),
                short(spread(&seen.held_p99).1),
                short(rate / one.median(Way::Unbatched, |seen| &seen.held)),
                short(rate / one.median(Way::Static(0), |seen| &seen.held)),
            ]);
            if seen.generator_was_late {
                println!("{name} {way}: the load generator was late; try a larger --scale");
            }
        }
    }
    println!(
        "Rows a second (times scale) under a load that fills every call; p99 to the objective\n\n{full}"
    );
    println!(
        "Highest Poisson arrival rate (times scale) at which 99 of 100 requests keep to the objective\n\n{held}"
    );
}

fn picture(measured: &[Measured]) -> Sheet {
    let mut sheet = Sheet::new("Figure 4: throughput at an objective of 20 ms", 2).note(
        "Pale bars: the paper's measurements, of the same container or the one most like it. Thin lines: lowest and highest repeat. Rates are multiplied by the scale by which curve and objective were stretched.",
    );
    // Few containers to a panel, so that words below do not meet.
    for some in measured.chunks(3) {
        let bars = |way: Way, of: fn(&Seen) -> &Vec<f64>| {
            some.iter()
                .map(move |one| {
                    let (low, height, high) = spread(of(one.seen(way)?));
                    Some(Bar {
                        height,
                        range: Some((low, high)),
                    })
                })
                .collect::<Vec<_>>()
        };
        let paper = |way: Way| {
            some.iter().map(move |one| {
                one.paper(way).map(|height| Bar {
                    height,
                    range: None,
                })
            })
        };
        for (title, of) in [
            (
                "every call filled",
                (|seen| &seen.full) as fn(&Seen) -> &Vec<f64>,
            ),
            ("Poisson arrivals, p99 of requests held", |seen| &seen.held),
        ] {
            let names = some.iter().map(|one| one.subject.curve.name);
            let mut panel = Panel::of_bars(title, "", names, ("rows a second", Kind::Log));
            for way in [
                Way::Unbatched,
                Way::Controller("aimd"),
                Way::Controller("quantile"),
            ] {
                panel = panel.bars(way.to_string(), bars(way, of)).pale_bars(
                    format!("paper, {way}"),
                    way.to_string(),
                    paper(way),
                );
            }
            sheet.add(panel.bars("best static", bars(Way::Static(0), of)));
        }
    }
    sheet
}

impl Measured {
    /// What was seen of a way; all static sizes are one.
    fn seen(&self, way: Way) -> Option<&Seen> {
        let same = |other: &Way| match way {
            Way::Static(_) => matches!(other, Way::Static(_)),
            _ => *other == way,
        };
        let found = self.ways.iter().find(|(other, _)| same(other));
        found.map(|(_, seen)| seen)
    }

    fn median(&self, way: Way, of: fn(&Seen) -> &Vec<f64>) -> f64 {
        self.seen(way).map_or(f64::NAN, |seen| spread(of(seen)).1)
    }

    /// What the paper's authors measured.
    fn paper(&self, way: Way) -> Option<f64> {
        let paper = self.subject.curve.paper;
        match way {
            Way::Unbatched => Some(paper.single.into()),
            Way::Controller("aimd") => Some(paper.aimd.into()),
            Way::Controller("quantile") => Some(paper.quantile.into()),
            _ => None,
        }
    }

    fn figures(&self) -> Value {
        let curve = self.subject.curve;
        let ways = self.ways.iter().map(|(way, seen)| {
            json!({
                "way": way.to_string(),
                "size": seen.size,
                "full_rows_per_second": seen.full,
                "full_call_p99_to_objective": seen.call_p99,
                "full_calls_over_objective": seen.over,
                "full_mean_batch": seen.mean_batch,
                "held_rows_per_second": seen.held,
                "held_request_p99_to_objective": seen.held_p99,
                "generator_was_late": seen.generator_was_late,
                "paper_rows_per_second": self.paper(*way),
            })
        });
        json!({
            "container": curve.name,
            "scale": self.subject.scale,
            "beta_us": curve.beta * 1e6,
            "alpha_us": curve.alpha * 1e6,
            "ways": ways.collect::<Vec<_>>(),
        })
    }
}

fn percent(share: f64) -> String {
    if share.is_nan() {
        "-".to_owned()
    } else {
        format!("{:.1}%", share * 100.0)
    }
}

/// Of fewer calls there is no p99.
const FEWEST_CALLS: f64 = 100.0;
/// Curve and objective are this many times longer than the paper's: its own rates are more than
/// generator, proxy and container can make on two cores.
pub(super) const SCALE: f64 = 5.0;
