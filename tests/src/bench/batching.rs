//! What batching is worth: the highest arrival rate at which the objective holds, with and without.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::{Calls, Load, Pace, Report, Running, Target, frame, unary};
use serde_json::{Value, json};

use super::Result;
use super::curves::Curve;
use super::message;
use super::peers::outrigger;
use super::process::{Process, beside, free_address, pause};
use super::search::highest;
use super::table::{Table, machine, millis};

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// The curves.
    pub curves: Vec<Curve>,
    /// Curve and objective are this many times longer than the paper's; if left out, each curve's
    /// own default.
    pub scale: Option<f64>,
    /// Shorter probes and fewer static sizes.
    pub quick: bool,
    /// Only without batching, straight at the container: to see what the bench itself can do.
    pub direct_only: bool,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// The native container's binary, if it is not beside this one.
    pub native: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
}

/// How requests reach the container.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    /// Without a proxy.
    Direct,
    /// Through Outrigger, one by one.
    Unbatched,
    /// Through Outrigger, in batches of at most this many rows.
    Static(u64),
    /// Through Outrigger, in batches whose limit it finds.
    Adaptive,
}

/// A container, and the way to it, under way.
struct Stage<'a> {
    options: &'a Options,
    curve: Curve,
    objective: Duration,
    container: SocketAddr,
    _container: Process,
}

/// What a search found.
#[derive(Clone, Debug)]
struct Found {
    policy: Policy,
    rate: f64,
    p50: Duration,
    p99: Duration,
    mean_batch: Option<f64>,
    generator_was_late: bool,
    probes: usize,
}

/// Measures, prints a table, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    let mut table = Table::new([
        "curve",
        "scale",
        "unbatched/s",
        "best static/s",
        "adaptive/s",
        "its p99",
        "mean batch",
        "to unbatched",
        "to static",
        "paper",
    ]);
    let mut rows = Vec::new();
    for curve in options.curves.iter().copied() {
        let scale = options.scale.unwrap_or_else(|| default_scale(curve));
        let stage = Stage::start(
            options,
            curve.scaled(scale),
            OBJECTIVE.mul_f64(scale),
            scale,
        )?;
        let found = stage.measure()?;
        let rate = |wanted: fn(&Policy) -> bool| {
            let of_kind = found.iter().filter(|found| wanted(&found.policy));
            of_kind.max_by(|a, b| a.rate.total_cmp(&b.rate))
        };
        let unbatched = rate(|policy| matches!(policy, Policy::Direct | Policy::Unbatched));
        let best = rate(|policy| matches!(policy, Policy::Static(_)));
        let adaptive = rate(|policy| *policy == Policy::Adaptive);
        // As if at the paper's scale.
        let shown = |found: Option<&Found>| match found {
            Some(found) => format!("{:.0}", found.rate * scale),
            None => "-".into(),
        };
        let ratio = |over: Option<&Found>| Some(adaptive?.rate / over?.rate);
        let times = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}x"));
        let paper = f64::from(curve.paper.aimd) / f64::from(curve.paper.single);
        table.row([
            curve.name.into(),
            format!("{scale}"),
            shown(unbatched),
            match best.map(|best| best.policy) {
                Some(Policy::Static(size)) => format!("{} ({size})", shown(best)),
                _ => "-".into(),
            },
            shown(adaptive),
            adaptive.map_or("-".into(), |found| millis(found.p99)),
            adaptive
                .and_then(|found| found.mean_batch)
                .map_or("-".into(), |mean| format!("{mean:.0}")),
            times(ratio(unbatched)),
            times(ratio(best)),
            format!(
                "{} / {} = {paper:.1}x",
                curve.paper.aimd, curve.paper.single
            ),
        ]);
        for late in found.iter().filter(|found| found.generator_was_late) {
            println!(
                "{} {}: the load generator was late at this rate; try a larger --scale",
                curve.name, late.policy
            );
        }
        for (what, reached, wanted) in [
            ("of unbatched", ratio(unbatched), goal_over_unbatched(curve)),
            ("of best static", ratio(best), Some(0.9)),
        ] {
            if let (Some(reached), Some(wanted)) = (reached, wanted) {
                let verdict = if reached >= wanted {
                    "reached"
                } else {
                    "MISSED"
                };
                println!(
                    "{verdict}: {} {reached:.2}x {what} (at least {wanted}x)",
                    curve.name
                );
            }
        }
        rows.push(json!({
            "curve": curve.name,
            "scale": scale,
            "objective_ms": OBJECTIVE.as_secs_f64() * 1e3 * scale,
            "beta_us": curve.beta * 1e6,
            "alpha_us": curve.alpha * 1e6,
            "found": found.iter().map(Found::figures).collect::<Vec<_>>(),
            "adaptive_to_unbatched": ratio(unbatched),
            "adaptive_to_best_static": ratio(best),
            "paper": {
                "aimd": curve.paper.aimd,
                "quantile": curve.paper.quantile,
                "single": curve.paper.single,
            },
        }));
    }
    println!(
        "\nHighest Poisson arrival rate (rows/s, times scale) with p99 <= {} times scale\n\n{table}",
        millis(OBJECTIVE)
    );
    Ok(json!({ "bench": "batching", "machine": machine(), "quick": options.quick, "curves": rows }))
}

impl<'a> Stage<'a> {
    fn start(
        options: &'a Options,
        curve: Curve,
        objective: Duration,
        scale: f64,
    ) -> Result<Stage<'a>> {
        let program = beside(options.native.clone(), "outrigger-native")?;
        let address = free_address()?;
        let arguments = [
            "--listen".into(),
            address.to_string(),
            "--synthetic".into(),
            format!("{}:{scale}", curve.name),
        ];
        let mut container = Process::start("container", None, &options.folder, program, arguments)?;
        container.wait_for(address)?;
        Ok(Self {
            options,
            curve,
            objective,
            container: address,
            _container: container,
        })
    }

    fn measure(&self) -> Result<Vec<Found>> {
        if self.options.direct_only {
            return Ok(vec![
                self.search(Policy::Direct, self.curve.single_rate(self.objective))?,
            ]);
        }
        let mut found = vec![
            self.search(Policy::Unbatched, self.curve.single_rate(self.objective))?,
            self.search(
                Policy::Adaptive,
                self.curve.batched_rate(f64::INFINITY, self.objective),
            )?,
        ];
        let mut best = 0.0_f64;
        for size in self.static_sizes() {
            let guess = self.curve.batched_rate(size as f64, self.objective);
            let one = self.search_above(Policy::Static(size), guess.max(best), best)?;
            best = best.max(one.rate);
            found.push(one);
        }
        Ok(found)
    }

    /// Sizes around the one that theory expects, that one first.
    fn static_sizes(&self) -> Vec<u64> {
        let expected = self.curve.fullest_batch(self.objective);
        let sizes = [1.0, 0.7, 1.4, 4.0].map(|factor| (expected * factor).round() as u64);
        let mut sizes = if expected < 3.0 {
            vec![1, 2, 4]
        } else {
            sizes.to_vec()
        };
        if self.options.quick {
            sizes.truncate(1);
        }
        sizes
    }

    fn search(&self, policy: Policy, guess: f64) -> Result<Found> {
        self.search_above(policy, guess, 0.0)
    }

    /// Searches, but gives up at once on a policy that cannot hold the rate of a better one.
    fn search_above(&self, policy: Policy, guess: f64, known: f64) -> Result<Found> {
        let way = self.way(policy)?;
        let address = way.as_ref().map_or(self.container, |(address, _)| *address);
        progress(format_args!("{} {policy}:", self.curve.name));
        if policy == Policy::Adaptive {
            // It has to have seen full batches before it can be asked what it holds.
            let learning = if self.options.quick { 5.0 } else { 15.0 };
            self.load(address, guess * 0.7, 0.0, learning)?.wait();
        }
        let mut probes = 0;
        let mut held: Option<(f64, Report, Option<f64>)> = None;
        let mut holds = |rate: f64| -> Result<bool> {
            probes += 1;
            let before = self.batches();
            let (report, planned) = self.probe(address, rate)?;
            let holds = self.is_held(&report, planned);
            progress(format_args!(" {rate:.1}{}", if holds { "+" } else { "-" }));
            if holds {
                held = Some((rate, report, mean_batch(before, self.batches())));
            }
            Ok(holds)
        };
        let rate = if known > 0.0 && !holds(known * RESOLUTION)? {
            0.0
        } else {
            highest(guess, RESOLUTION, &mut holds)?
        };
        progress(format_args!("\n"));
        let held = held.filter(|(at, _, _)| *at == rate);
        let latency = |quantile| {
            held.as_ref()
                .map_or(Duration::ZERO, |(_, r, _)| r.latency(quantile))
        };
        Ok(Found {
            policy,
            rate,
            p50: latency(0.5),
            p99: latency(0.99),
            mean_batch: held.as_ref().and_then(|(_, _, mean)| *mean),
            generator_was_late: held
                .as_ref()
                .is_some_and(|(_, report, _)| report.generator_was_late(self.objective / 20)),
            probes,
        })
    }

    /// Starts Outrigger as the policy says.
    fn way(&self, policy: Policy) -> Result<Option<(SocketAddr, Process)>> {
        let batch = match policy {
            Policy::Direct => return Ok(None),
            Policy::Unbatched => None,
            Policy::Static(size) => Some(format!("controller: fixed, max_batch_size: {size}")),
            Policy::Adaptive => Some(format!("max_batch_size: {MAX_BATCH}")),
        };
        let models = batch.map_or(String::new(), |batch| {
            format!(
                "models:\n  {}:\n    latency_objective: {}ms\n    batch: {{ {batch} }}\n",
                self.curve.name,
                self.objective.as_millis(),
            )
        });
        let (listen, admin) = (free_address()?, free_address()?);
        let file = self.options.folder.join("outrigger.yaml");
        std::fs::write(&file, outrigger(listen, admin, self.container, &models))?;
        let program = beside(self.options.outrigger.clone(), "outrigger")?;
        let arguments = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
        let mut process =
            Process::start("outrigger", None, &self.options.folder, program, arguments)?;
        process.wait_for(listen)?;
        Ok(Some((listen, process)))
    }

    /// Sends at a rate until enough is known.
    fn probe(&self, address: SocketAddr, rate: f64) -> Result<(Report, f64)> {
        let objectives = self.objective.as_secs_f64();
        let (shortest, calls) = if self.options.quick {
            (1.0, 100.0)
        } else {
            (4.0, 500.0)
        };
        let warm_up = (objectives * 8.0).max(shortest / 2.0);
        let lasting =
            (calls / rate)
                .max(objectives * 25.0)
                .max(shortest)
                .min(if self.options.quick {
                    LONGEST_PROBE / 4.0
                } else {
                    LONGEST_PROBE
                });
        let running = self.load(address, rate, warm_up, lasting)?;
        let planned = rate * lasting;
        let mut late = 0;
        while !running.is_over() {
            pause(Duration::from_millis(50));
            let seen = running.interval();
            late += seen.later_than(self.objective) + seen.failed();
            if late as f64 > planned * ALLOWED_LATE {
                // Nothing that comes can mend this.
                running.stop();
            }
        }
        Ok((running.wait(), planned))
    }

    fn load(&self, address: SocketAddr, rate: f64, warm_up: f64, lasting: f64) -> Result<Running> {
        let waiting = rate * self.objective.as_secs_f64();
        // Few enough streams on each connection that no peer's limit delays them.
        let connections = (waiting / 50.0).ceil().clamp(4.0, 64.0) as usize;
        let target = Target::new(address, message::INFER)?.connections(connections);
        let pace = Pace::Poisson {
            rate,
            seed: rate.to_bits(),
        };
        let load = Load::new(target, pace, Rows::new(self.curve.name))
            .warm_up(Duration::from_secs_f64(warm_up))
            .lasting(Duration::from_secs_f64(lasting))
            .patience(self.objective * 10);
        Ok(load.start()?)
    }

    fn is_held(&self, report: &Report, planned: f64) -> bool {
        let late = report.later_than(self.objective) + report.failed();
        // A stopped probe sent less than it should have.
        late as f64 <= planned * ALLOWED_LATE && report.sent() as f64 > planned / 2.0
    }

    /// Batches that the container has executed, and their rows, if it tells.
    fn batches(&self) -> Option<(u64, u64)> {
        batches(self.container, self.curve.name)
    }
}

impl Found {
    fn figures(&self) -> Value {
        json!({
            "policy": self.policy.to_string(),
            "rows_per_second": self.rate,
            "p50_ms": self.p50.as_secs_f64() * 1e3,
            "p99_ms": self.p99.as_secs_f64() * 1e3,
            "mean_batch": self.mean_batch,
            "generator_was_late": self.generator_was_late,
            "probes": self.probes,
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Unbatched => f.write_str("unbatched"),
            Self::Static(size) => write!(f, "static {size}"),
            Self::Adaptive => f.write_str("adaptive"),
        }
    }
}

/// Rows that differ, each of which must come back to its own caller.
struct Rows {
    bodies: Vec<Bytes>,
    answers: Vec<Bytes>,
}

impl Rows {
    fn new(model: &str) -> Self {
        let rows: Vec<Vec<f32>> = (0..DIFFERENT_ROWS)
            .map(|row| (0..ROW).map(|column| (row * ROW + column) as f32).collect())
            .collect();
        Self {
            bodies: rows
                .iter()
                .map(|row| frame(&message::infer(model, "input0", row)))
                .collect(),
            answers: rows
                .iter()
                .map(|row| row.iter().flat_map(|value| value.to_le_bytes()).collect())
                .collect(),
        }
    }
}

impl Calls for Rows {
    fn body(&self, n: u64) -> Bytes {
        self.bodies[n as usize % DIFFERENT_ROWS].clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let own = &self.answers[n as usize % DIFFERENT_ROWS];
        answer.get(5..).is_some() && message::output(&answer.slice(5..), 0).as_ref() == Some(own)
    }
}

/// Asks a server how many batches of a model it has executed, and how many rows were in them.
pub(super) fn batches(server: SocketAddr, model: &str) -> Option<(u64, u64)> {
    let target = Target::new(server, message::STATISTICS).ok()?;
    let answer = unary(
        &target,
        frame(&message::name(model)),
        Duration::from_secs(5),
    )
    .ok()?;
    let batches = message::batches(&answer);
    Some((
        batches.values().sum(),
        batches.iter().map(|(size, count)| size * count).sum(),
    ))
}

/// The mean batch between two answers of [`batches`].
pub(super) fn mean_batch(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> Option<f64> {
    let ((calls_before, rows_before), (calls, rows)) = (before?, after?);
    let calls = calls.checked_sub(calls_before).filter(|calls| *calls > 0)?;
    Some(rows.checked_sub(rows_before)? as f64 / calls as f64)
}

fn progress(what: fmt::Arguments<'_>) {
    eprint!("{what}");
    let _ = std::io::stderr().flush();
}

/// The rates at scale 1 are more than a generator, a proxy and a container can make on two cores.
/// The kernel SVM's are so low that a larger scale would only take longer.
fn default_scale(curve: Curve) -> f64 {
    if curve.name == "kernel_svm" {
        1.0
    } else {
        10.0
    }
}

/// How many times the throughput without batching we want to reach.
fn goal_over_unbatched(curve: Curve) -> Option<f64> {
    match curve.name {
        "linear_svm" => Some(25.0),
        "random_forest" => Some(30.0),
        _ => None,
    }
}

/// The paper's objective.
const OBJECTIVE: Duration = Duration::from_millis(20);
/// The share that a p99 allows to be late.
const ALLOWED_LATE: f64 = 0.01;
/// Rates closer than this ratio are the same.
const RESOLUTION: f64 = 1.03;
/// Rows that the controller may put into one batch: more than any curve allows.
const MAX_BATCH: u64 = 4096;
/// Seconds; at a few calls a second a p99 takes long to see.
const LONGEST_PROBE: f64 = 40.0;
/// Floats of a row, as many as a digit has pixels.
const ROW: usize = 64;
const DIFFERENT_ROWS: usize = 251;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_row_is_accepted() {
        let rows = Rows::new("m");
        let answer = |n: usize| {
            let mut answer = b"\0\0\0\0\0\x32\x80\x02".to_vec();
            answer.extend_from_slice(&rows.answers[n]);
            Bytes::from(answer)
        };
        assert!(rows.accept(7, &answer(7)));
        assert!(rows.accept(7 + DIFFERENT_ROWS as u64, &answer(7)));
        assert!(!rows.accept(7, &answer(8)));
        assert!(!rows.accept(7, &Bytes::new()));
    }

    #[test]
    fn the_mean_batch_is_that_of_the_difference() {
        assert_eq!(mean_batch(Some((10, 10)), Some((20, 330))), Some(32.0));
        assert_eq!(mean_batch(Some((10, 10)), Some((10, 10))), None);
        assert_eq!(mean_batch(None, Some((10, 10))), None);
    }
}
