//! Figure 5: what it is worth to wait for company before a call.

use std::fmt;
use std::time::Duration;

use outrigger::demo::load::{Load, Pace, Target};
use serde_json::{Value, json};

use super::containers::Recorder;
use super::plot::{Panel, Sheet, Style};
use super::scale::Kind;
use super::subject::{Subject, Way};
use super::{Findings, Options, short, spread};
use crate::bench::Result;
use crate::bench::curves::Curve;
use crate::bench::demand::progress;
use crate::bench::message;
use crate::bench::process::pause;
use crate::bench::proxy::Proxy;
use crate::bench::table::{Table, machine};

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    /// Poisson arrivals, at so many times the rate at which calls of one row fill all time.
    Times(f64),
    /// Poisson arrivals at this rate, as the paper offered them.
    Rate(f64),
    /// So many callers who wait for their answer before they ask again.
    Callers(usize),
}

/// What was seen of one load and one delay, repeat by repeat; as if at the paper's scale.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Answered requests a second, and those of them that were in time.
    answered: Vec<f64>,
    in_time: Vec<f64>,
    /// Milliseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
    mean_batch: Vec<f64>,
    /// The share of time that the model was at work.
    busy: Vec<f64>,
}

/// All delays of one load on one curve.
struct Sweep {
    curve: Curve,
    asked: Asked,
    /// The delay in milliseconds, at the paper's scale, and what was seen.
    seen: Vec<(f64, Seen)>,
}

/// Measures, prints a table, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let scale = options.scale.unwrap_or(SCALE);
    let wanted = |curve: &Curve| PAPER.iter().any(|(name, _)| *name == curve.name);
    let mut sweeps = Vec::new();
    for curve in options.curves.iter().copied().filter(wanted) {
        let mut of_curve: Vec<Sweep> = loads(options)
            .iter()
            .map(|asked| Sweep {
                curve,
                asked: *asked,
                seen: delays(options)
                    .iter()
                    .map(|delay| (*delay, Seen::default()))
                    .collect(),
            })
            .collect();
        let subject = Subject::synthetic(curve, scale)?;
        for _ in 0..options.repeats {
            for (index, delay) in delays(options).iter().enumerate() {
                progress(format_args!("{} {delay} ms:", curve.name));
                // Nothing is said of it at 0, so that this much can be measured of any build.
                let more = match *delay {
                    0.0 => String::new(),
                    delay => format!(", max_delay: {:.0}us", delay * scale * 1e3),
                };
                let way = Way::Controller("quantile");
                let proxy = subject.behind(way, &more, options)?;
                for sweep in &mut of_curve {
                    let seen = &mut sweep.seen[index].1;
                    measure(&subject, &proxy, sweep.asked, options, seen)?;
                }
                progress(format_args!("\n"));
            }
        }
        sweeps.extend(of_curve);
    }
    print(&sweeps);
    Ok(Findings {
        figures: json!({
            "experiment": "fig5",
            "machine": machine(),
            "quick": options.quick,
            "repeats": options.repeats,
            "scale": scale,
            "sweeps": sweeps.iter().map(Sweep::figures).collect::<Vec<_>>(),
        }),
        pictures: vec![("fig5", picture(&sweeps))],
    })
}

fn measure(
    subject: &Subject,
    proxy: &Proxy,
    asked: Asked,
    options: &Options,
    seen: &mut Seen,
) -> Result<()> {
    let (scale, objective) = (subject.scale, subject.objective());
    let pace = asked.pace(subject.curve);
    let (learning, shortest, calls) = if options.quick {
        (0.7, 1.0, 20.0)
    } else {
        (3.0, 4.0, 100.0)
    };
    let (lasting, waiting) = match pace {
        Pace::Poisson { rate, .. } | Pace::Constant { rate } => {
            ((calls / rate).max(shortest), rate * objective.as_secs_f64())
        }
        Pace::Closed { callers } => (shortest, callers as f64),
    };
    let connections = (waiting / 50.0).ceil().clamp(4.0, 64.0) as usize;
    let handle = subject.handle.clone().ok_or("it is in this process")?;
    let recorder = Recorder::start(handle)?;
    let target = Target::new(proxy.address, message::INFER)?.connections(connections);
    let running = Load::new(target, pace, subject.calls.clone())
        .warm_up(Duration::from_secs_f64(learning))
        .lasting(Duration::from_secs_f64(lasting))
        .patience(objective * 10)
        .start()?;
    pause(Duration::from_secs_f64(learning));
    let from = recorder.count();
    let report = running.wait();
    let calls = recorder.calls(from);
    let rows: f64 = calls.iter().map(|call| call.rows).sum();
    let worked: Duration = calls.iter().map(|call| call.took).sum();
    let elapsed = report.elapsed.as_secs_f64();
    let millis = |quantile| report.latency(quantile).as_secs_f64() * 1e3 / scale;
    let late = report.later_than(objective).max(report.failed());
    seen.answered.push(report.rate() * scale);
    seen.in_time
        .push(report.sent().saturating_sub(late) as f64 / elapsed * scale);
    seen.p50.push(millis(0.5));
    seen.p99.push(millis(0.99));
    seen.mean_batch.push(rows / calls.len().max(1) as f64);
    seen.busy.push((worked.as_secs_f64() / elapsed).min(1.0));
    progress(format_args!(" {asked} {:.0}/s", report.rate() * scale));
    Ok(())
}

fn print(sweeps: &[Sweep]) {
    let mut table = Table::new([
        "container",
        "load",
        "0 ms: rows/s",
        "p50",
        "p99",
        "rows a call",
        "2 ms: rows/s",
        "p50",
        "p99",
        "rows a call",
        "best p99 of the sweep",
        "rows/s 2 ms / 0 ms",
        "paper",
    ]);
    for sweep in sweeps {
        let cells = |delay: f64| {
            let seen = sweep.at(delay);
            [
                short(seen.map_or(f64::NAN, |seen| spread(&seen.answered).1)),
                short(seen.map_or(f64::NAN, |seen| spread(&seen.p50).1)),
                short(seen.map_or(f64::NAN, |seen| spread(&seen.p99).1)),
                short(seen.map_or(f64::NAN, |seen| spread(&seen.mean_batch).1)),
            ]
        };
        let p99 = |(delay, seen): &(f64, Seen)| (*delay, spread(&seen.p99).1);
        let best = sweep
            .seen
            .iter()
            .map(p99)
            .min_by(|a, b| a.1.total_cmp(&b.1));
        let rate = |delay| {
            sweep
                .at(delay)
                .map_or(f64::NAN, |seen| spread(&seen.answered).1)
        };
        let paper = match sweep.asked {
            Asked::Rate(_) => PAPER.iter().find(|(name, _)| *name == sweep.curve.name),
            _ => None,
        };
        let [rate_0, p50_0, p99_0, batch_0] = cells(0.0);
        let [rate_2, p50_2, p99_2, batch_2] = cells(2.0);
        table.row([
            sweep.curve.name.into(),
            sweep.asked.to_string(),
            rate_0,
            p50_0,
            p99_0,
            batch_0,
            rate_2,
            p50_2,
            p99_2,
            batch_2,
            best.map_or("-".into(), |(delay, p99)| {
                format!("{} ({delay} ms)", short(p99))
            }),
            short(rate(2.0) / rate(0.0)),
            paper.map_or("-".into(), |(_, words)| (*words).into()),
        ]);
    }
    println!(
        "Delayed batching: rows/s times scale, milliseconds divided by it. Loads are multiples of the rate at which calls of\none row take all of the model's time, the paper's 20 000 a second, and callers who wait for their answer\n\n{table}"
    );
}

fn picture(sweeps: &[Sweep]) -> Sheet {
    let mut sheet = Sheet::new("Figure 5: waiting for company", 4)
        .note("Rates are multiplied by the scale, times divided by it. The paper: 2 ms brought its linear SVM from 5510 to 18 454 a second of 20 000 offered, and PySpark's nothing.");
    type Of = fn(&Seen) -> &Vec<f64>;
    let panels: [(&str, &str, Kind, Of); 4] = [
        ("throughput", "rows a second", Kind::Log, |seen| {
            &seen.answered
        }),
        ("median latency", "milliseconds", Kind::Log, |seen| {
            &seen.p50
        }),
        ("99th percentile", "milliseconds", Kind::Log, |seen| {
            &seen.p99
        }),
        ("rows a call", "rows", Kind::Log, |seen| &seen.mean_batch),
    ];
    let mut curves: Vec<_> = sweeps.iter().map(|sweep| sweep.curve.name).collect();
    curves.dedup();
    for curve in curves {
        for (title, unit, kind, of) in panels {
            let mut panel = Panel::new(
                format!("{curve}: {title}"),
                ("max_delay, milliseconds", Kind::Linear),
                (unit, kind),
            );
            for sweep in sweeps.iter().filter(|sweep| sweep.curve.name == curve) {
                let points = sweep
                    .seen
                    .iter()
                    .map(|(delay, seen)| (*delay, spread(of(seen)).1));
                panel = panel.series(sweep.asked.to_string(), Style::Joined, points);
            }
            sheet.add(panel);
        }
    }
    sheet
}

impl Asked {
    fn pace(self, curve: Curve) -> Pace {
        let poisson = |rate: f64| Pace::Poisson {
            rate,
            seed: rate.to_bits(),
        };
        match self {
            Self::Times(times) => poisson(times / curve.cost(1.0)),
            // The curve is stretched by how much slower its single call is than the paper's.
            Self::Rate(rate) => {
                let paper = Curve::named(curve.name).unwrap_or(curve);
                poisson(rate * paper.beta / curve.beta)
            }
            Self::Callers(callers) => Pace::Closed { callers },
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}x"),
            Self::Rate(rate) => write!(f, "{rate}/s"),
            Self::Callers(callers) => write!(f, "{callers} callers"),
        }
    }
}

impl Sweep {
    fn at(&self, wanted: f64) -> Option<&Seen> {
        let found = self.seen.iter().find(|(delay, _)| *delay == wanted);
        found.map(|(_, seen)| seen)
    }

    fn figures(&self) -> Value {
        let seen = self.seen.iter().map(|(delay, seen)| {
            json!({
                "max_delay_ms": delay,
                "rows_per_second": seen.answered,
                "in_time_per_second": seen.in_time,
                "p50_ms": seen.p50,
                "p99_ms": seen.p99,
                "mean_batch": seen.mean_batch,
                "busy": seen.busy,
            })
        });
        json!({
            "container": self.curve.name,
            "load": self.asked.to_string(),
            "delays": seen.collect::<Vec<_>>(),
        })
    }
}

fn delays(options: &Options) -> &'static [f64] {
    if options.quick {
        &[0.0, 2.0]
    } else {
        &[0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    }
}

fn loads(options: &Options) -> Vec<Asked> {
    let all = [
        Asked::Times(0.1),
        Asked::Times(0.3),
        Asked::Times(0.9),
        Asked::Times(1.5),
        Asked::Callers(32),
        Asked::Rate(20_000.0),
    ];
    let skipped = usize::from(options.quick);
    all.into_iter().skip(skipped).collect()
}

/// The curves that the paper delayed, and what 2 ms were worth there.
const PAPER: [(&str, &str); 2] = [
    ("linear_svm", "5510 -> 18454 = 3.35x"),
    ("pyspark_svm", "nothing"),
];
/// Curve, objective and delay are this many times longer than the paper's.
const SCALE: f64 = 5.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_stretched_with_the_curve() {
        let curve = Curve::named("linear_svm").expect("it is one of the six");
        let rate = |asked: Asked, curve| match asked.pace(curve) {
            Pace::Poisson { rate, .. } => rate,
            _ => f64::NAN,
        };
        let slow = curve.scaled(5.0);
        assert!((rate(Asked::Rate(20_000.0), slow) - 4000.0).abs() < 1e-6);
        let single = rate(Asked::Times(1.0), curve);
        assert!((single * curve.cost(1.0) - 1.0).abs() < 1e-9);
        assert!((single / rate(Asked::Times(1.0), slow) - 5.0).abs() < 1e-9);
    }
}
