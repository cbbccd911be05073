//! What batching is worth: the highest arrival rate at which the objective holds, with and without.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outrigger::demo::load::{Target, frame, unary};
use serde_json::{Value, json};

use super::Result;
use super::curves::Curve;
use super::demand::{Demand, Effort, Held, progress};
use super::message;
use super::process::{Process, beside, free_address};
use super::proxy::Proxy;
use super::rows::Rows;
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
    held: Held,
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
            of_kind.max_by(|a, b| a.held.rate.total_cmp(&b.held.rate))
        };
        let unbatched = rate(|policy| matches!(policy, Policy::Direct | Policy::Unbatched));
        let best = rate(|policy| matches!(policy, Policy::Static(_)));
        let adaptive = rate(|policy| *policy == Policy::Adaptive);
        // As if at the paper's scale.
        let shown = |found: Option<&Found>| match found {
            Some(found) => format!("{:.0}", found.held.rate * scale),
            None => "-".into(),
        };
        let ratio = |over: Option<&Found>| Some(adaptive?.held.rate / over?.held.rate);
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
            adaptive.map_or("-".into(), |found| millis(found.held.p99)),
            adaptive
                .and_then(|found| found.held.mean_batch)
                .map_or("-".into(), |mean| format!("{mean:.0}")),
            times(ratio(unbatched)),
            times(ratio(best)),
            format!(
                "{} / {} = {paper:.1}x",
                curve.paper.aimd, curve.paper.single
            ),
        ]);
        for late in found.iter().filter(|found| found.held.generator_was_late) {
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
            best = best.max(one.held.rate);
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
        let demand = Demand {
            address: way.as_ref().map_or(self.container, |way| way.address),
            objective: self.objective,
            calls: Rows::new(self.curve.name),
            effort: if self.options.quick {
                Effort::QUICK
            } else {
                Effort::THOROUGH
            },
        };
        progress(format_args!("{} {policy}:", self.curve.name));
        if policy == Policy::Adaptive {
            // It has to have seen full batches before it can be asked what it holds.
            let learning = if self.options.quick { 5.0 } else { 15.0 };
            demand.load(guess * 0.7, 0.0, learning)?.wait();
        }
        let held = demand.highest(guess, known, || self.batches())?;
        Ok(Found { policy, held })
    }

    /// Starts Outrigger as the policy says.
    fn way(&self, policy: Policy) -> Result<Option<Proxy>> {
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
        let Options {
            folder, outrigger, ..
        } = self.options;
        let proxy = Proxy::start(
            "outrigger",
            outrigger.clone(),
            folder,
            &[self.container],
            &models,
        )?;
        Ok(Some(proxy))
    }

    /// Batches that the container has executed, and their rows, if it tells.
    fn batches(&self) -> Option<(u64, u64)> {
        batches(self.container, self.curve.name)
    }
}

impl Found {
    fn figures(&self) -> Value {
        let held = &self.held;
        json!({
            "policy": self.policy.to_string(),
            "rows_per_second": held.rate,
            "p50_ms": held.p50.as_secs_f64() * 1e3,
            "p99_ms": held.p99.as_secs_f64() * 1e3,
            "mean_batch": held.mean_batch,
            "generator_was_late": held.generator_was_late,
            "probes": held.probes,
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

/// Asks a server how many batches of a model it has executed, and how many rows were in them.
pub(crate) fn batches(server: SocketAddr, model: &str) -> Option<(u64, u64)> {
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
/// Rows that the controller may put into one batch: more than any curve allows.
const MAX_BATCH: u64 = 4096;
