//! Figure 3: how long a call takes by its rows, for each container.

use serde_json::{Value, json};

use super::fit::Fit;
use super::plot::{Panel, Sheet, Style};
use super::scale::Kind;
use super::subject::{OBJECTIVE, Subject};
use super::{Findings, Options, short, spread};
use crate::bench::Result;
use crate::bench::curves::Curve;
use crate::bench::demand::progress;
use crate::bench::table::{Table, machine};
use outrigger_native::digits;

/// What calls of one size took, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Point {
    rows: usize,
    p50: f64,
    p99: f64,
}

/// Measures, prints a table, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let scale = options.scale.unwrap_or(1.0);
    let mut table = Table::new([
        "container",
        "beta (us)",
        "alpha (us/row)",
        "p99 / p50",
        "rows within 20 ms",
        "paper: beta + alpha n",
        "paper: rows",
    ]);
    let mut sheet = Sheet::new("Figure 3: latency of a call by its rows", 3).note(
        "One call at a time, straight at the container. Digit models and Triton's are real, the others wait out the paper's curves.",
    );
    let mut all = Vec::new();
    let mut add = |subject: &Subject, paper: Option<Curve>| -> Result<()> {
        progress(format_args!("{}:", subject.curve.name));
        let points = profile(subject, options)?;
        progress(format_args!("\n"));
        let middles: Vec<_> = points.iter().map(|p| (p.rows as f64, p.p50)).collect();
        let fit = Fit::through(&middles).ok_or("one call takes as long as another")?;
        let objective = subject.objective().as_secs_f64() * 1e3;
        let excess: Vec<f64> = points.iter().map(|p| p.p99 / p.p50).collect();
        let (_, excess, _) = spread(&excess);
        let unscaled = 1e3 / subject.scale;
        let (beta, alpha) = (fit.beta * unscaled, fit.alpha * unscaled);
        let expected = paper.map(|curve| Fit {
            beta: curve.beta * 1e3,
            alpha: curve.alpha * 1e3,
        });
        // A line says nothing far beyond its last point.
        let most = points.last().map_or(0.0, |point| point.rows as f64 * 2.0);
        let within = |fit: Fit, objective: f64| match fit.within(objective) {
            rows if rows > most => format!("> {most:.0}"),
            rows => format!("{rows:.0}"),
        };
        let paper_words = expected.map_or("-".into(), |paper| {
            format!(
                "{} + {} n",
                short(paper.beta * 1e3),
                short(paper.alpha * 1e3)
            )
        });
        table.row([
            subject.curve.name.into(),
            short(beta),
            short(alpha),
            format!("{excess:.2}"),
            within(fit, objective),
            paper_words,
            expected.map_or("-".into(), |paper| {
                within(paper, OBJECTIVE.as_secs_f64() * 1e3)
            }),
        ]);
        sheet.add(panel(subject, &points, fit, expected));
        all.push(json!({
            "container": subject.curve.name,
            "scale": subject.scale,
            "beta_us": beta,
            "alpha_us": alpha,
            "rows_within_objective": fit.within(objective),
            "points": points.iter().map(Point::figures).collect::<Vec<_>>(),
            "paper": paper.map(|curve| json!({
                "beta_us": curve.beta * 1e6,
                "alpha_us": curve.alpha * 1e6,
            })),
        }));
        Ok(())
    };
    for curve in options.curves.iter().copied() {
        add(&Subject::synthetic(curve, scale)?, Some(curve))?;
    }
    if options.digits {
        for subject in Subject::digits(&digits::Kind::ALL)? {
            add(&subject, None)?;
        }
    }
    if let Some(subject) = Subject::triton(options)? {
        add(&subject, None)?;
    }
    println!("Latency of a call: beta + alpha * rows\n\n{table}");
    Ok(Findings {
        figures: json!({
            "experiment": "fig3",
            "machine": machine(),
            "quick": options.quick,
            "repeats": options.repeats,
            "containers": all,
        }),
        pictures: vec![("fig3", sheet)],
    })
}

/// Calls of several sizes in turns, so that a disturbance does not meet one size only.
fn profile(subject: &Subject, options: &Options) -> Result<Vec<Point>> {
    let (sizes, calls) = if options.quick {
        (5, 20.0)
    } else {
        (10, 100.0)
    };
    let sizes = spaced(subject.largest()?, sizes);
    let mut seen = vec![(Vec::new(), Vec::new()); sizes.len()];
    for _ in 0..options.repeats {
        for (rows, (p50, p99)) in sizes.iter().zip(&mut seen) {
            let report = subject.call(*rows, calls)?;
            p50.push(report.latency(0.5).as_secs_f64() * 1e3);
            p99.push(report.latency(0.99).as_secs_f64() * 1e3);
        }
        progress(format_args!(" ."));
    }
    let points = sizes.into_iter().zip(seen);
    let points = points.map(|(rows, (p50, p99))| Point {
        rows,
        p50: spread(&p50).1,
        p99: spread(&p99).1,
    });
    Ok(points.collect())
}

/// Sizes from 1 to the largest, equally far apart; fewer if there are not so many.
fn spaced(largest: usize, count: usize) -> Vec<usize> {
    let steps = count.clamp(2, largest.max(2)) - 1;
    let mut sizes: Vec<_> = (0..=steps)
        .map(|step| 1 + (largest.max(1) - 1) * step / steps)
        .collect();
    sizes.dedup();
    sizes
}

fn panel(subject: &Subject, points: &[Point], fit: Fit, paper: Option<Fit>) -> Panel {
    let last = points.last().map_or(1.0, |point| point.rows as f64);
    let line = |fit: Fit, scale: f64| [0.0, last].map(|rows| (rows, fit.at(rows) * scale));
    let series = |of: fn(&Point) -> f64| points.iter().map(move |p| (p.rows as f64, of(p)));
    let mut panel = Panel::new(
        subject.curve.name,
        ("rows", Kind::Linear),
        ("milliseconds", Kind::Linear),
    )
    .series("p50", Style::Points, series(|point| point.p50))
    .series("p99", Style::Points, series(|point| point.p99))
    .series("fitted line", Style::Line, line(fit, 1.0));
    if let Some(paper) = paper {
        panel = panel.series("paper's line", Style::Broken, line(paper, subject.scale));
    }
    let objective = subject.objective().as_secs_f64() * 1e3;
    if points.iter().any(|point| point.p99 > objective / 2.0) {
        panel = panel.level("objective", objective);
    }
    panel
}

impl Point {
    fn figures(&self) -> Value {
        json!({ "rows": self.rows, "p50_ms": self.p50, "p99_ms": self.p99 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_reach_from_one_to_the_largest() {
        assert_eq!(spaced(9, 5), [1, 3, 5, 7, 9]);
        assert_eq!(spaced(3, 10), [1, 2, 3]);
        assert_eq!(spaced(1, 10), [1]);
    }
}
