//! A model that an experiment is made on, and the ways to it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::{Calls, Load, Pace, Repeat, Report, Target, frame};
use outrigger_native::digits::{Kind, classifiers};
use outrigger_native::{Curve as Cost, Handle, Synthetic};

use super::Options;
use super::admin::wait_until_ready;
use super::containers::Native;
use super::fit::Fit;
use crate::bench::Result;
use crate::bench::batching::batches;
use crate::bench::curves::Curve;
use crate::bench::message;
use crate::bench::process::Process;
use crate::bench::proxy::Proxy;
use crate::bench::rows::Rows;
use crate::bench::triton::{self, Digits};

/// A model under way.
#[derive(Debug)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// The name of its input.
    pub input: &'static str,
    /// Where it is.
    pub address: SocketAddr,
    /// The most rows of a call.
    pub most_rows: usize,
    /// What a call of it costs: given, or measured by [`Subject::learn`]. The paper's figures are
    /// those of the same container, or of the one that is most like it.
    pub curve: Curve,
    /// How many times slower than the paper's container it is; 1 for real models.
    pub scale: f64,
    /// What is asked of it.
    pub calls: Questions,
    /// Its reins, if it is in this process.
    pub handle: Option<Handle>,
    _server: Server,
}

/// What is sent to a subject, and which answers are right.
#[derive(Clone)]
pub struct Questions(Arc<dyn Calls>);

/// What keeps a subject under way.
#[derive(Debug)]
enum Server {
    Native { _server: Native },
    Other { _process: Option<Process> },
}

/// How requests reach a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through Outrigger, one by one.
    Unbatched,
    /// Through Outrigger, in batches of at most this many rows.
    Static(u64),
    /// Through Outrigger, by the controller of this name.
    Controller(&'static str),
}

impl Subject {
    /// A model that waits out one of the paper's curves, so many times slower.
    pub fn synthetic(curve: Curve, scale: f64) -> Result<Self> {
        let curve = curve.scaled(scale);
        let server = Native::start(curve.name, synthetic(curve))?;
        Ok(Self {
            name: curve.name.to_owned(),
            input: "input0",
            address: server.address,
            most_rows: 65_536,
            curve,
            scale,
            calls: Questions(Arc::new(Rows::new(curve.name))),
            handle: Some(server.handle.clone()),
            _server: Server::Native { _server: server },
        })
    }

    /// All of the native digit models, or those of these kinds.
    pub fn digits(kinds: &[Kind]) -> Result<Vec<Self>> {
        let models = Kind::ALL.into_iter().zip(classifiers());
        let wanted = models.filter(|(kind, _)| kinds.contains(kind));
        let subjects = wanted.map(|(kind, model)| {
            let server = Native::start(kind.name(), model)?;
            let calls = Digits::learn(server.address, kind.name())?;
            Ok(Self {
                name: kind.name().to_owned(),
                input: "x",
                address: server.address,
                most_rows: MOST_ROWS,
                curve: unknown(kind.name(), like(kind)),
                scale: 1.0,
                calls: Questions(Arc::new(calls)),
                handle: Some(server.handle.clone()),
                _server: Server::Native { _server: server },
            })
        });
        subjects.collect()
    }

    /// A scikit-learn model in a real Triton: a running one's address, or a script that starts one.
    pub fn triton(options: &Options) -> Result<Option<Self>> {
        let Some(triton) = &options.triton else {
            return Ok(None);
        };
        let (address, process) = triton::start(triton, &options.folder)?;
        triton::wait_until_ready(address, TRITON_MODEL)?;
        let calls = Digits::learn(address, TRITON_MODEL)?;
        Ok(Some(Self {
            name: TRITON_MODEL.to_owned(),
            input: "x",
            address,
            most_rows: 128,
            curve: unknown("triton digits_svm", "kernel_svm"),
            scale: 1.0,
            calls: Questions(Arc::new(calls)),
            handle: None,
            _server: Server::Other { _process: process },
        }))
    }

    /// What 99 of 100 requests shall keep to: the paper's objective, as many times longer as the
    /// subject is slower.
    pub fn objective(&self) -> Duration {
        OBJECTIVE.mul_f64(self.scale)
    }

    /// Sends so many calls of `rows` rows, one after the other, without a proxy between.
    pub fn call(&self, rows: usize, calls: f64) -> Result<Report> {
        let values: Vec<f32> = (0..rows * COLUMNS)
            .map(|n| f32::from((n * 7 % 17) as u8))
            .collect();
        let body = frame(&message::infer_rows(
            &self.name, self.input, COLUMNS, &values,
        ));
        let target = Target::new(self.address, message::INFER)?;
        let load = |lasting: Duration| {
            let pace = Pace::Closed { callers: 1 };
            Load::new(target.clone(), pace, Repeat::new([body.clone()]))
                .lasting(lasting)
                .run()
        };
        let mut lasting = FIRST_LOOK;
        let first = loop {
            let first = load(lasting)?;
            // On a busy machine the first call may not leave in time.
            if first.sent() > 0 || lasting > OBJECTIVE * 100 {
                break first;
            }
            lasting *= 4;
        };
        let report = load(first.latency(0.5).mul_f64(calls).max(lasting))?;
        if first.failed() + report.failed() > 0 || report.answered() == 0 {
            return Err(format!("{}: calls of {rows} rows fail:\n{report}", self.name).into());
        }
        Ok(report)
    }

    /// Finds out what a call costs, of a model that nobody has told it of.
    pub fn learn(&mut self) -> Result<()> {
        let largest = self.largest()?;
        let sizes = [1, largest.div_ceil(4), largest.div_ceil(2), largest];
        let mut points = Vec::new();
        for rows in sizes {
            let report = self.call(rows, 30.0)?;
            points.push((rows as f64, report.latency(0.5).as_secs_f64()));
        }
        let Fit { beta, alpha } =
            Fit::through(&points).ok_or("one call takes as long as another")?;
        // A line through noise may fall, or begin below zero.
        self.curve.beta = beta.max(1e-6);
        self.curve.alpha = alpha.max(1e-7);
        Ok(())
    }

    /// The largest call that is of interest: one that takes half as long again as the objective,
    /// or all that the model takes.
    pub fn largest(&self) -> Result<usize> {
        let wanted = self.objective().mul_f64(1.5);
        let most = self.most_rows.min(MOST_ROWS);
        if self.curve.beta > 0.0 {
            let rows = (wanted.as_secs_f64() - self.curve.beta) / self.curve.alpha;
            return Ok((rows.max(4.0) as usize).min(most));
        }
        let mut rows = 1;
        while rows < most && self.call(rows, 3.0)?.latency(0.5) < wanted {
            rows = (rows * 2).min(most);
        }
        Ok(rows)
    }

    /// Starts Outrigger before it. `more` are further settings of the batch filter.
    pub fn behind(&self, way: Way, more: &str, options: &Options) -> Result<Proxy> {
        let models = way.models(&self.name, self.objective(), more);
        let proxy = Proxy::start(
            "outrigger",
            options.outrigger.clone(),
            &options.folder,
            &[self.address],
            &models,
        )?;
        wait_until_ready(proxy.admin)?;
        Ok(proxy)
    }

    /// Calls that it has executed, and their rows.
    pub fn executed(&self) -> Option<(u64, u64)> {
        match &self.handle {
            Some(handle) => {
                let counters = handle.counters();
                Some((counters.calls, counters.rows))
            }
            None => batches(self.address, &self.name),
        }
    }

    /// Makes a synthetic model as many times slower; 1 is as it was.
    pub fn slow_down(&self, times: f64) {
        if let Some(handle) = &self.handle {
            handle.set_curve(cost(self.curve.scaled(times)));
        }
    }
}

impl Way {
    /// The models of a configuration. `more` are further settings of the batch filter.
    pub fn models(self, model: &str, objective: Duration, more: &str) -> String {
        let batch = match self {
            Self::Unbatched => return String::new(),
            Self::Static(size) => format!("controller: fixed, max_batch_size: {size}"),
            Self::Controller(name) => format!("controller: {name}, max_batch_size: {MAX_BATCH}"),
        };
        format!(
            "models:\n  {model}:\n    latency_objective: {}us\n    batch: {{ {batch}{more} }}\n",
            objective.as_micros(),
        )
    }
}

/// A model of the native container that waits out a curve.
pub fn synthetic(curve: Curve) -> Synthetic {
    Synthetic {
        curve: cost(curve),
        ..Synthetic::new(curve.name)
    }
}

fn cost(curve: Curve) -> Cost {
    Cost::new(
        Duration::from_secs_f64(curve.beta),
        Duration::from_secs_f64(curve.alpha),
    )
}

/// A curve that is to be learned, with the figures of the container that is most like it.
fn unknown(name: &'static str, like: &str) -> Curve {
    let like = Curve::named(like).unwrap_or(Curve::ALL[0]);
    Curve {
        name,
        beta: 0.0,
        alpha: 0.0,
        ..like
    }
}

fn like(kind: Kind) -> &'static str {
    match kind {
        Kind::Tree | Kind::ShallowTree => "random_forest",
        Kind::Bayes => "noop",
        Kind::Logistic => "logistic_regression",
        Kind::Svc => "kernel_svm",
    }
}

impl Calls for Questions {
    fn body(&self, n: u64) -> Bytes {
        self.0.body(n)
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        self.0.accept(n, answer)
    }
}

impl fmt::Debug for Questions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Questions")
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbatched => f.write_str("no batching"),
            Self::Static(_) => f.write_str("best static"),
            Self::Controller(name) => f.write_str(name),
        }
    }
}

/// The paper's objective.
pub const OBJECTIVE: Duration = Duration::from_millis(20);
/// Rows that a controller may put into one batch: more than any curve allows.
const MAX_BATCH: u64 = 4096;
/// How long calls are sent to see about how long one takes.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// The most rows of a profile.
const MOST_ROWS: usize = 2048;
const COLUMNS: usize = 64;
const TRITON_MODEL: &str = "digits_svm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_a_configuration() {
        let objective = Duration::from_millis(100);
        assert_eq!(Way::Unbatched.models("m", objective, ""), "");
        let models = Way::Controller("aimd").models("m", objective, ", max_delay: 2ms");
        assert!(models.contains("latency_objective: 100000us"), "{models}");
        assert!(
            models.contains("aimd") && models.contains("max_delay: 2ms"),
            "{models}"
        );
        assert!(
            Way::Static(7)
                .models("m", objective, "")
                .contains("max_batch_size: 7")
        );
    }
}
