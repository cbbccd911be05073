//! All contestants from half of what the model can do to four times that.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::contestant::{Contestant, Phase, Step, Taken};
use super::seen::{Seen, milliseconds};
use crate::bench::Result;
use crate::bench::demand::progress;
use crate::bench::table::{Table, median, millis};
use crate::experiments::plot::{Panel, Sheet, Style};
use crate::experiments::scale::Kind;

/// What was seen of contestants at rising load.
#[derive(Debug)]
pub(super) struct Curve {
    server: String,
    capacity: f64,
    deadline: Duration,
    loads: Vec<f64>,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    name: String,
    is_ours: bool,
    /// By load, then by repeat.
    phases: Vec<Vec<Phase>>,
}

/// The middle of the repeats of a load.
#[derive(Clone, Copy, Debug)]
struct Point {
    load: f64,
    goodput: f64,
    answered: (f64, f64),
    admitted: (f64, f64),
    refused: (f64, f64),
    front: Option<Taken>,
    server: Taken,
}

impl Curve {
    pub(super) fn new(server: &str, capacity: f64, deadline: Duration, loads: &[f64]) -> Self {
        Self {
            server: server.to_owned(),
            capacity,
            deadline,
            loads: loads.to_vec(),
            lines: Vec::new(),
        }
    }

    /// Goes through all loads; contestants take turns at each, and another begins each time.
    pub(super) fn measure(
        &mut self,
        contestants: &[Contestant],
        repeat: usize,
        step: impl Fn(f64) -> Step,
    ) -> Result<()> {
        if self.lines.is_empty() {
            self.lines = contestants
                .iter()
                .map(|contestant| Line {
                    name: contestant.name.clone(),
                    is_ours: contestant.is_ours(),
                    phases: vec![Vec::new(); self.loads.len()],
                })
                .collect();
        }
        for (at, load) in self.loads.iter().copied().enumerate() {
            let step = step(load * self.capacity);
            progress(format_args!("{load}x, {:.0}/s:", step.rate));
            for turn in 0..contestants.len() {
                let index = (turn + at + repeat) % contestants.len();
                let phase = contestants[index].offer(&step)?;
                say(&contestants[index].name, &phase);
                self.lines[index].phases[at].push(phase);
            }
            progress(format_args!("\n"));
        }
        Ok(())
    }

    pub(super) fn chart(&self) -> String {
        let deadline = milliseconds(self.deadline);
        let mut sheet = Sheet::new(
            format!(
                "Overload: {}, {:.0} calls a second, deadline {deadline} ms",
                self.server, self.capacity
            ),
            2,
        )
        .note("Open loop, Poisson arrivals, callers who stay; medians of the repeats.");
        let load = ("offered, times what the model can do", Kind::Linear);
        let mut good = Panel::new(
            "Right answers in time",
            load,
            ("goodput, answers/s", Kind::Linear),
        );
        let mut late = Panel::new(
            "99th percentile of those that were admitted",
            load,
            ("p99, ms", Kind::Log),
        )
        .level("deadline", deadline);
        let mut told = Panel::new(
            "When a refusal comes: the middle",
            load,
            ("p50, ms", Kind::Log),
        )
        .level("deadline", deadline);
        let mut memory = Panel::new(
            "Memory of both, by which it grew",
            load,
            ("most resident less before, MB", Kind::Linear),
        );
        for line in &self.lines {
            let points = self.points(line);
            let of = |figure: fn(&Point) -> f64| {
                let points = points.iter();
                points
                    .map(move |point| (point.load, figure(point)))
                    .collect::<Vec<_>>()
            };
            good = good.series(&line.name, Style::Joined, of(|point| point.goodput));
            late = late.series(&line.name, Style::Joined, of(|point| point.admitted.1));
            let refused = points.iter().filter(|point| point.refused.0 > 0.0);
            let refused = refused.map(|point| (point.load, point.refused.0));
            told = told.series(&line.name, Style::Joined, refused.collect::<Vec<_>>());
            memory = memory.series(&line.name, Style::Joined, of(|point| point.grown() / MB));
        }
        let all = self
            .loads
            .iter()
            .map(|load| (*load, load.min(1.0) * self.capacity));
        good = good.series("the most that is possible", Style::Broken, all);
        sheet.extend([good, late, told, memory]);
        sheet.to_string()
    }

    pub(super) fn figures(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            let points = self.points(line);
            let steps = self.loads.iter().zip(&line.phases).map(|(load, phases)| {
                json!({
                    "load": load,
                    "repeats": phases.iter().map(Phase::figures).collect::<Vec<_>>(),
                })
            });
            json!({
                "name": line.name,
                "peak_goodput": peak(&points),
                "at_twice_to_peak": at(&points, 2.0).map(|point| point.goodput / peak(&points)),
                "steps": steps.collect::<Vec<_>>(),
            })
        });
        json!({
            "server": self.server,
            "capacity": self.capacity,
            "loads": self.loads,
            "contestants": lines.collect::<Vec<_>>(),
        })
    }

    fn points(&self, line: &Line) -> Vec<Point> {
        let steps = self.loads.iter().zip(&line.phases);
        steps
            .filter(|(_, phases)| !phases.is_empty())
            .map(|(load, phases)| Point::of(*load, phases))
            .collect()
    }

    /// The shares of codes at a load, all repeats together.
    fn ends(&self, line: &Line, at: usize) -> String {
        let all = line.phases[at].iter().map(|phase| &phase.all);
        shares(all)
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = || self.loads.iter().map(|load| format!("{load}x"));
        let table = |what: &str, cell: &dyn Fn(&Point) -> String| {
            let mut table = Table::with([what.to_owned()].into_iter().chain(headings()));
            for line in &self.lines {
                let points = self.points(line);
                table.row(
                    [line.name.clone()]
                        .into_iter()
                        .chain(points.iter().map(cell)),
                );
            }
            table
        };
        writeln!(
            f,
            "{}: {:.0} calls/s at a time, deadline {}\n",
            self.server,
            self.capacity,
            millis(self.deadline)
        )?;
        let pair = |(p50, p99): (f64, f64)| match p99 {
            0.0 => "-".to_owned(),
            _ => format!("{p50:.0} / {p99:.0}"),
        };
        let goodput = table("right and in time, /s", &|point| {
            format!("{:.0}", point.goodput)
        });
        let answered = table("answered, p50 / p99 ms", &|point| pair(point.answered));
        let admitted = table("admitted, p50 / p99 ms", &|point| pair(point.admitted));
        let refused = table("refused after, p50 / p99 ms", &|point| {
            let (p50, p99) = point.refused;
            match p99 {
                0.0 => "-".to_owned(),
                _ => format!("{p50:.1} / {p99:.1}"),
            }
        });
        let grown = table("memory grew by, MB, both", &|point| {
            format!("{:.1}", point.grown() / MB)
        });
        let memory = table("most resident: before it, server, MB", &|point| {
            let front = point.front.map_or("-".to_owned(), |front| {
                format!("{:.0}", front.most as f64 / MB)
            });
            format!("{front}, {:.0}", point.server.most as f64 / MB)
        });
        let cpu = table("processor: before it, server", &|point| {
            let front = point
                .front
                .map_or("-".to_owned(), |front| format!("{:.2}", front.cpu));
            format!("{front}, {:.2}", point.server.cpu)
        });
        writeln!(
            f,
            "{goodput}\n{admitted}\n{answered}\n{refused}\n{grown}\n{memory}\n{cpu}"
        )?;
        let mut ends = Table::with(["not answered".to_owned()].into_iter().chain(headings()));
        for line in &self.lines {
            let cells = (0..self.loads.len()).map(|at| self.ends(line, at));
            ends.row([line.name.clone()].into_iter().chain(cells));
        }
        writeln!(f, "{ends}")?;
        let lags = self.lines.iter().flat_map(|line| &line.phases).flatten();
        let lag = lags.map(|phase| phase.all.lag).max().unwrap_or_default();
        writeln!(
            f,
            "generator's lag, p99 of the worst phase: {}\n",
            millis(lag)
        )?;
        for line in self.lines.iter().filter(|line| line.is_ours) {
            let points = self.points(line);
            for verdict in verdicts(&points, self.deadline) {
                writeln!(f, "{} ({})", verdict, line.name)?;
            }
        }
        Ok(())
    }
}

impl Point {
    fn of(load: f64, phases: &[Phase]) -> Self {
        let middle = |figure: &dyn Fn(&Phase) -> f64| median(phases.iter().map(figure));
        let quantiles = |of: fn(&Seen) -> super::seen::Quantiles| {
            (
                middle(&|phase| milliseconds(of(&phase.all).p50)),
                middle(&|phase| milliseconds(of(&phase.all).p99)),
            )
        };
        let taken = |of: &dyn Fn(&Phase) -> Taken| Taken {
            before: middle(&|phase| of(phase).before as f64) as u64,
            most: middle(&|phase| of(phase).most as f64) as u64,
            cpu: middle(&|phase| of(phase).cpu),
        };
        let has_front = phases.iter().any(|phase| phase.front.is_some());
        Self {
            load,
            goodput: middle(&|phase| phase.all.goodput),
            answered: quantiles(|seen| seen.of_answered),
            admitted: quantiles(|seen| seen.of_admitted),
            refused: quantiles(|seen| seen.of_refused),
            front: has_front.then(|| taken(&|phase| phase.front.unwrap_or_default())),
            server: taken(&|phase| phase.server),
        }
    }

    /// Bytes that were resident during the step and not before it.
    fn grown(&self) -> f64 {
        let grown = |taken: Taken| taken.most.saturating_sub(taken.before);
        (self.front.map_or(0, grown) + grown(self.server)) as f64
    }
}

/// Shows on stderr what a phase brought.
pub(super) fn say(name: &str, phase: &Phase) {
    let seen = &phase.all;
    progress(format_args!(
        "\n  {name}: {:.0} good/s, admitted p99 {}, answered p50 {}, refused p50 {}, {}, cpu {:.2} + {:.2}, lag {}",
        seen.goodput,
        millis(seen.of_admitted.p99),
        millis(seen.of_answered.p50),
        millis(seen.of_refused.p50),
        shares([seen]),
        phase.server.cpu,
        phase.front.map_or(0.0, |front| front.cpu),
        millis(seen.lag),
    ));
}

/// Which shares of the calls ended how, other than with their answers.
pub(super) fn shares<'a>(all: impl IntoIterator<Item = &'a Seen>) -> String {
    let mut ends = std::collections::BTreeMap::<&str, u64>::new();
    let (mut sent, mut late) = (0, 0);
    for seen in all {
        sent += seen.sent;
        late += seen.answered - seen.good;
        for (name, count) in &seen.ends {
            *ends.entry(name).or_default() += count;
        }
    }
    let share = |count: u64| count as f64 * 100.0 / sent.max(1) as f64;
    let ends = ends.into_iter().chain((late > 0).then_some(("late", late)));
    let parts: Vec<String> = ends
        .map(|(name, count)| format!("{name} {:.1} %", share(count)))
        .collect();
    if parts.is_empty() {
        return "-".into();
    }
    parts.join(", ")
}

/// What is said of our own lines.
fn verdicts(points: &[Point], deadline: Duration) -> Vec<String> {
    let word = |reached| if reached { "reached" } else { "MISSED" };
    let mut verdicts = Vec::new();
    if let Some(twice) = at(points, 2.0) {
        let ratio = twice.goodput / peak(points);
        verdicts.push(format!(
            "{}: goodput at 2x {ratio:.2} of the peak (at least {OF_THE_PEAK})",
            word(ratio >= OF_THE_PEAK)
        ));
    }
    let worst = points
        .iter()
        .map(|point| point.admitted.1)
        .fold(0.0, f64::max);
    verdicts.push(format!(
        "{}: p99 of admitted calls at most {worst:.1} ms (at most {:.0})",
        word(worst <= milliseconds(deadline)),
        milliseconds(deadline)
    ));
    let resident = |point: &Point| point.front.map_or(0.0, |front| front.most as f64);
    let least = points.iter().map(resident).fold(f64::INFINITY, f64::min);
    let most = points.iter().map(resident).fold(0.0, f64::max);
    verdicts.push(format!(
        "{}: memory {:.1} to {:.1} MB (at most {FLAT:.0} MB more)",
        word(most - least <= FLAT * MB),
        least / MB,
        most / MB
    ));
    verdicts
}

fn peak(points: &[Point]) -> f64 {
    points.iter().map(|point| point.goodput).fold(0.0, f64::max)
}

fn at(points: &[Point], load: f64) -> Option<&Point> {
    points.iter().find(|point| point.load == load)
}

/// The share of the peak that twice the load must leave.
const OF_THE_PEAK: f64 = 0.9;
const MB: f64 = 1e6;
/// Megabytes that streams and buffers of a busier proxy may take; a queue that grows takes more.
const FLAT: f64 = 4.0;
