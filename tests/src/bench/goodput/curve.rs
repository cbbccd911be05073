//! All peers along a ladder of rates.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::peer::{Peer, Role, Step};
use super::seen::Seen;
use super::{Model, progress};
use crate::bench::Result;
use crate::bench::table::{Table, median, millis};
use crate::experiments::plot::{Panel, Sheet, Style};
use crate::experiments::scale::Kind;

/// What was seen of peers at rising rates.
#[derive(Debug)]
pub(super) struct Curve {
    server: String,
    objective: Duration,
    rates: Vec<f64>,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    peer: Peer,
    /// By rate, then by repeat; nothing where the peer had given up at lower rates.
    seen: Vec<Vec<Seen>>,
}

/// The middle of a step's repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    rate: f64,
    goodput: f64,
    p99: Duration,
    mean_batch: Option<f64>,
    server_cpu: f64,
    proxy_cpu: Option<f64>,
}

impl Curve {
    pub(super) fn new(
        server: &str,
        objective: Duration,
        peers: Vec<Peer>,
        rates: Vec<f64>,
    ) -> Self {
        let steps = rates.len();
        let line = |peer| Line {
            peer,
            seen: vec![Vec::new(); steps],
        };
        Self {
            server: server.to_owned(),
            objective,
            rates,
            lines: peers.into_iter().map(line).collect(),
        }
    }

    /// Goes up the ladder once; peers take turns at each rate, and another begins each time.
    pub(super) fn measure(&mut self, repeat: usize, step: impl Fn(f64) -> Step) -> Result<()> {
        let mut hopeless = vec![false; self.lines.len()];
        for (at, rate) in self.rates.iter().copied().enumerate() {
            progress(&format!("{} {rate:.0}/s:", self.server));
            for turn in 0..self.lines.len() {
                let index = (turn + at + repeat) % self.lines.len();
                if hopeless[index] {
                    continue;
                }
                let line = &mut self.lines[index];
                let seen = line.peer.offer(&step(rate))?;
                hopeless[index] = seen.goodput < rate * HOPELESS;
                progress(&format!(
                    "\n  {}: {:.0} good/s, p50 {}, p99 {}, {} failed, batch {:.1}, cpu {:.2} + {:.2}, lag {}",
                    line.peer.name,
                    seen.goodput,
                    millis(seen.p50),
                    millis(seen.p99),
                    seen.failed(),
                    seen.mean_batch.unwrap_or(f64::NAN),
                    seen.server_cpu,
                    seen.proxy_cpu.unwrap_or(0.0),
                    millis(seen.lag),
                ));
                line.seen[at].push(seen);
            }
            progress("\n");
        }
        Ok(())
    }

    pub(super) fn chart(&self, model: Model) -> String {
        let mut sheet = Sheet::new(
            format!("Goodput: {} with the digits {}", self.server, model.name()),
            2,
        )
        .note("Open loop, Poisson arrivals, one row a request; medians of the repeats.");
        let rate = ("offered, requests/s", Kind::Linear);
        let objective = self.objective.as_secs_f64() * 1e3;
        let mut good = Panel::new(
            format!("Right answers within {objective} ms"),
            rate,
            ("goodput, answers/s", Kind::Linear),
        );
        let mut late = Panel::new("99th percentile of latency", rate, ("p99, ms", Kind::Log))
            .level("objective", objective);
        for line in &self.lines {
            let points = self.points(line);
            let name = &line.peer.name;
            let goodput = points.iter().map(|point| (point.rate, point.goodput));
            good = good.series(name, Style::Joined, goodput);
            let p99 = points
                .iter()
                .map(|point| (point.rate, point.p99.as_secs_f64() * 1e3));
            late = late.series(name, Style::Joined, p99);
        }
        let all = self.rates.iter().map(|rate| (*rate, *rate));
        good = good.series("all that is offered", Style::Broken, all);
        sheet.add(good);
        sheet.add(late);
        sheet.to_string()
    }

    pub(super) fn figures(&self) -> Value {
        let peers = self.lines.iter().map(|line| {
            let points = self.points(line);
            let steps = self.rates.iter().zip(&line.seen).map(|(rate, seen)| {
                json!({
                    "offered": rate,
                    "repeats": seen.iter().map(Seen::figures).collect::<Vec<_>>(),
                })
            });
            json!({
                "name": line.peer.name,
                "peak_goodput": peak(&points).map(|point| point.goodput),
                "held": held(&points, self.objective),
                "server_restarts": line.peer.server.restarts(),
                "steps": steps.collect::<Vec<_>>(),
            })
        });
        json!({
            "rates": self.rates,
            "peers": peers.collect::<Vec<_>>(),
            "to_own_at_peak": self.at_peak(),
            "to_own_at_worst": self.at_worst().map(|(_, ratio)| ratio),
        })
    }

    fn points(&self, line: &Line) -> Vec<Point> {
        let steps = self.rates.iter().zip(&line.seen);
        steps
            .filter(|(_, seen)| !seen.is_empty())
            .map(|(rate, seen)| Point::of(*rate, seen))
            .collect()
    }

    /// The best goodput of the server's own batcher, whichever setting, at each rate.
    fn own(&self) -> impl Fn(f64) -> Option<f64> {
        let own = self.lines.iter().filter(|line| line.peer.role == Role::Own);
        let points: Vec<Point> = own.flat_map(|line| self.points(line)).collect();
        move |rate| {
            let at = points.iter().filter(|point| point.rate == rate);
            at.map(|point| point.goodput).max_by(f64::total_cmp)
        }
    }

    fn outrigger(&self) -> Option<Vec<Point>> {
        let ours = self
            .lines
            .iter()
            .find(|line| line.peer.role == Role::Outrigger)?;
        Some(self.points(ours))
    }

    /// The highest goodput with Outrigger to the highest that the server reached by itself.
    fn at_peak(&self) -> Option<f64> {
        let own = self.own();
        let best = self
            .rates
            .iter()
            .filter_map(|rate| own(*rate))
            .max_by(f64::total_cmp)?;
        (best > 0.0).then_some(peak(&self.outrigger()?)?.goodput / best)
    }

    /// The rate at which Outrigger does worst beside the best of the server's own.
    fn at_worst(&self) -> Option<(f64, f64)> {
        let own = self.own();
        self.outrigger()?
            .iter()
            .filter_map(|point| Some((point.rate, point.goodput / own(point.rate)?)))
            .filter(|(_, ratio)| ratio.is_finite())
            .min_by(|(_, one), (_, other)| one.total_cmp(other))
    }
}

impl Point {
    fn of(rate: f64, seen: &[Seen]) -> Self {
        let middle = |figure: fn(&Seen) -> f64| median(seen.iter().map(figure));
        let maybe = |figure: fn(&Seen) -> Option<f64>| {
            let known: Vec<f64> = seen.iter().filter_map(figure).collect();
            (!known.is_empty()).then(|| median(known))
        };
        Self {
            rate,
            goodput: middle(|seen| seen.goodput),
            p99: Duration::from_secs_f64(middle(|seen| seen.p99.as_secs_f64())),
            mean_batch: maybe(|seen| seen.mean_batch),
            server_cpu: middle(|seen| seen.server_cpu),
            proxy_cpu: maybe(|seen| seen.proxy_cpu),
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new([
            "peer",
            "peak goodput/s",
            "of offered/s",
            "p99 there",
            "mean batch",
            "CPU server",
            "CPU proxy",
            "p99 held up to/s",
        ]);
        for line in &self.lines {
            let points = self.points(line);
            let Some(peak) = peak(&points) else { continue };
            let maybe = |figure: Option<f64>, digits| {
                figure.map_or("-".into(), |figure: f64| format!("{figure:.digits$}"))
            };
            table.row([
                line.peer.name.clone(),
                format!("{:.0}", peak.goodput),
                format!("{:.0}", peak.rate),
                millis(peak.p99),
                maybe(peak.mean_batch, 1),
                format!("{:.2}", peak.server_cpu),
                maybe(peak.proxy_cpu, 2),
                maybe(held(&points, self.objective), 0),
            ]);
        }
        let headings = self.rates.iter().map(|rate| format!("{rate:.0}/s"));
        let mut steps = Table::with(
            ["goodput/s (p99, ms) at".to_owned()]
                .into_iter()
                .chain(headings),
        );
        for line in &self.lines {
            let points = self.points(line);
            let cell = |rate: &f64| {
                let point = points.iter().find(|point| point.rate == *rate);
                point.map_or("-".into(), |point| {
                    format!(
                        "{:.0} ({:.0})",
                        point.goodput,
                        point.p99.as_secs_f64() * 1e3
                    )
                })
            };
            steps.row(
                [line.peer.name.clone()]
                    .into_iter()
                    .chain(self.rates.iter().map(cell)),
            );
        }
        let objective = millis(self.objective);
        writeln!(
            f,
            "{}: right answers within {objective}\n\n{table}\n{steps}",
            self.server
        )?;
        let verdict = |ratio: f64, goal| if ratio >= goal { "reached" } else { "MISSED" };
        if let Some(ratio) = self.at_peak() {
            let verdict = verdict(ratio, 1.0);
            writeln!(
                f,
                "{verdict}: peak goodput {ratio:.2}x of the best own batcher's (at least 1)"
            )?;
        }
        if let Some((rate, ratio)) = self.at_worst() {
            let verdict = verdict(ratio, NOISE);
            writeln!(
                f,
                "{verdict}: goodput at every rate, at worst {ratio:.2}x of the best own batcher's, at {rate:.0}/s (at least {NOISE})"
            )?;
        }
        Ok(())
    }
}

fn peak(points: &[Point]) -> Option<Point> {
    let best = points
        .iter()
        .max_by(|one, other| one.goodput.total_cmp(&other.goodput));
    best.copied()
}

/// The highest rate up to which every step kept 99 of 100 answers within the objective.
fn held(points: &[Point], objective: Duration) -> Option<f64> {
    let held = points.iter().take_while(|point| point.p99 <= objective);
    held.last().map(|point| point.rate)
}

/// The share of a rate below which a step is lost; higher ones are spared then.
const HOPELESS: f64 = 0.02;
/// Equal, but for what two runs of the same differ by.
const NOISE: f64 = 0.98;

#[cfg(test)]
mod tests {
    use super::*;

    fn point(rate: f64, goodput: f64, p99: u64) -> Point {
        Point {
            rate,
            goodput,
            p99: Duration::from_millis(p99),
            mean_batch: None,
            server_cpu: 0.0,
            proxy_cpu: None,
        }
    }

    #[test]
    fn what_holds_again_later_was_not_held() {
        let points = [
            point(100.0, 100.0, 5),
            point(200.0, 199.0, 19),
            point(300.0, 250.0, 40),
            point(400.0, 390.0, 18),
        ];
        assert_eq!(held(&points, Duration::from_millis(20)), Some(200.0));
        assert_eq!(held(&points[2..], Duration::from_millis(20)), None);
        assert_eq!(peak(&points), Some(points[3]));
        assert_eq!(peak(&[]), None);
    }

    #[test]
    fn a_point_is_the_middle_of_the_repeats() {
        let seen = [10.0, 90.0, 30.0].map(|goodput| Seen {
            goodput,
            mean_batch: (goodput > 20.0).then_some(goodput),
            ..Seen::default()
        });
        let point = Point::of(100.0, &seen);
        assert_eq!((point.goodput, point.mean_batch), (30.0, Some(60.0)));
        assert_eq!(point.proxy_cpu, None);
    }
}
