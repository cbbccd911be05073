//! Who is measured, and one measurement.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use outrigger::demo::load::{Calls as _, Load, Pace, Target, unary};
use tokio::time::Instant;

use super::host::Host;
use super::http::HttpLoad;
use super::images::{Images, Questions, Wire};
use super::progress;
use super::seen::Seen;
use crate::bench::batching::batches;
use crate::bench::demand::mean_batch;
use crate::bench::process::pause;
use crate::bench::proxy::Proxy;
use crate::bench::usage::Usage;
use crate::bench::{Result, message};

/// One line of the chart.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// What the tables call it.
    pub(super) name: String,
    /// What part it has in the comparison.
    pub(super) role: Role,
    address: SocketAddr,
    questions: Questions,
    wire: Wire,
    pub(super) server: Rc<Host>,
    proxy: Option<Rc<Proxy>>,
    /// A Triton and the name of its model, which counts batches.
    witness: Option<(SocketAddr, String)>,
}

/// What a peer is measured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The server with one request at a time.
    Alone,
    /// The server with its own batcher.
    Own,
    /// The server without, behind Outrigger.
    Outrigger,
    /// Another server, for orientation.
    Other,
}

/// One step of the ladder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) rate: f64,
    pub(super) seed: u64,
    pub(super) warm_up: Duration,
    pub(super) lasting: Duration,
    pub(super) objective: Duration,
}

impl Peer {
    pub(super) fn new(
        name: impl Into<String>,
        role: Role,
        address: SocketAddr,
        wire: Wire,
        images: &Images,
        server: &Rc<Host>,
    ) -> Self {
        Self {
            name: name.into(),
            role,
            address,
            questions: images.questions(&wire),
            wire,
            server: Rc::clone(server),
            proxy: None,
            witness: None,
        }
    }

    #[must_use]
    pub(super) fn behind(mut self, proxy: Rc<Proxy>) -> Self {
        self.proxy = Some(proxy);
        self
    }

    #[must_use]
    pub(super) fn counted_by(mut self, triton: SocketAddr, model: &str) -> Self {
        self.witness = Some((triton, model.to_owned()));
        self
    }

    /// Offers a rate and sees what comes back, at rest before and after; a server that breaks is
    /// started again, and so is the step.
    pub(super) fn offer(&self, step: &Step) -> Result<Seen> {
        for _ in 0..ATTEMPTS {
            let rested = self.rest(step.objective);
            let seen = rested.and_then(|()| self.try_offer(step));
            let error = match seen.and_then(|seen| self.rest(step.objective).map(|()| seen)) {
                Ok(seen) => return Ok(seen),
                Err(error) => error,
            };
            progress(&format!("\n  {error}; its server is started again"));
            self.server.restart()?;
        }
        Err(format!("{} broke {ATTEMPTS} times at {}/s", self.name, step.rate).into())
    }

    fn try_offer(&self, step: &Step) -> Result<Seen> {
        let pace = Pace::Poisson {
            rate: step.rate,
            seed: step.seed,
        };
        let (before, executed) = (self.cpu()?, self.batches());
        let begin = Instant::now();
        let mut seen = match &self.wire {
            Wire::Grpc(_) => {
                let load = self.load(pace)?.warm_up(step.warm_up).lasting(step.lasting);
                let running = load.patience(PATIENCE).start()?;
                while !running.is_over() {
                    pause(Duration::from_millis(100));
                    if self.server.is_broken() {
                        return Err(format!("{} broke", self.name).into());
                    }
                }
                Seen::of(&running.wait(), step.objective)
            }
            Wire::Raw | Wire::Json => self
                .http(pace, step.warm_up, step.lasting)
                .run(step.objective)?,
        };
        let seconds = begin.elapsed().as_secs_f64();
        let after = self.cpu()?;
        seen.server_cpu = (after.0 - before.0) / seconds;
        let proxy = after.1.zip(before.1);
        seen.proxy_cpu = proxy.map(|(after, before)| (after - before) / seconds);
        seen.mean_batch = mean_batch(executed, self.batches());
        Ok(seen)
    }

    /// Answers a second with many callers who wait for theirs; gRPC only.
    pub(super) fn capacity(&self, lasting: Duration) -> Result<f64> {
        let load = self.load(Pace::Closed { callers: CALLERS })?;
        let report = load.warm_up(lasting).lasting(lasting).run()?;
        match report.answered() {
            0 => Err(format!("{} answers nothing:\n{report}", self.name).into()),
            _ => Ok(report.rate()),
        }
    }

    /// Waits until what was sent earlier is done.
    pub(super) fn rest(&self, objective: Duration) -> Result<()> {
        let give_up = Instant::now() + UNREST;
        let mut calm = 0;
        let mut last = Ok(Duration::ZERO);
        while calm < 3 {
            if self.server.is_broken() || Instant::now() > give_up {
                return Err(format!("{} did not come to rest: {last:?}", self.name).into());
            }
            last = self.once();
            calm = match &last {
                Ok(latency) if *latency <= objective => calm + 1,
                _ => 0,
            };
            if calm == 0 {
                pause(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    fn once(&self) -> Result<Duration> {
        if self.wire == Wire::Raw || self.wire == Wire::Json {
            return self
                .http(Pace::Closed { callers: 1 }, Duration::ZERO, Duration::ZERO)
                .once();
        }
        let target = Target::new(self.address, message::INFER)?;
        let begin = Instant::now();
        unary(&target, self.questions.body(0), CALM)?;
        Ok(begin.elapsed())
    }

    fn load(&self, pace: Pace) -> Result<Load> {
        let target = Target::new(self.address, message::INFER)?.connections(CONNECTIONS);
        Ok(Load::new(target, pace, self.questions.clone()))
    }

    fn http(&self, pace: Pace, warm_up: Duration, lasting: Duration) -> HttpLoad {
        let (path, content_type) = match self.wire {
            Wire::Json => ("/predict", "application/json"),
            Wire::Raw | Wire::Grpc(_) => ("/inference", "application/octet-stream"),
        };
        HttpLoad {
            address: self.address,
            path,
            content_type,
            questions: self.questions.clone(),
            pace,
            warm_up,
            lasting,
            patience: PATIENCE,
        }
    }

    fn batches(&self) -> Option<(u64, u64)> {
        let (triton, model) = self.witness.as_ref()?;
        batches(*triton, model)
    }

    /// Processor seconds of the server and of the proxy.
    fn cpu(&self) -> Result<(f64, Option<f64>)> {
        let proxy = self.proxy.as_deref().map(Proxy::usage).transpose()?;
        let seconds = |usage: Usage| usage.cpu.as_secs_f64();
        Ok((seconds(self.server.usage()?), proxy.map(seconds)))
    }
}

/// As from some clients; few enough streams on each that no server's limit delays them.
const CONNECTIONS: usize = 16;
/// Callers of a closed loop: more than any server here takes in one batch by itself.
pub(super) const CALLERS: usize = 64;
/// Every answer is waited for: a Triton whose callers left by the thousand was seen to answer nobody
/// any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a step is begun before the server is given up.
const ATTEMPTS: u32 = 5;
/// How long a lone call may take before another is tried.
const CALM: Duration = Duration::from_secs(10);
/// How long a server may work off what is left of an overload.
const UNREST: Duration = Duration::from_secs(60);
