//! Who is measured, and one phase of it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outrigger::demo::load::{Calls as _, Load, Pace, Target, unary};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::offer::{Callers, Class, Offer};
use super::questions::Questions;
use super::seen::Seen;
use super::server::Server;
use crate::bench::demand::progress;
use crate::bench::process::{Process, pause};
use crate::bench::proxy::Proxy;
use crate::bench::usage::Usage;
use crate::bench::{Result, message};

/// One line of the chart: a server, or somebody in front of it.
#[derive(Debug)]
pub(super) struct Contestant {
    /// What the tables call it.
    pub(super) name: String,
    server: Rc<Server>,
    front: Option<Front>,
    model: String,
}

/// Somebody before the server.
#[derive(Debug)]
pub(super) enum Front {
    Haproxy(SocketAddr, Process),
    Outrigger(Proxy),
}

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) rate: f64,
    pub(super) seed: u64,
    pub(super) warm_up: Duration,
    pub(super) lasting: Duration,
    pub(super) deadline: Duration,
    pub(super) callers: Callers,
    /// Whether some are more urgent than others, and say so.
    pub(super) ranked: bool,
}

/// What was seen of one contestant in one phase.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) all: Seen,
    /// The urgent ones and the others, if there are such.
    pub(super) classes: Vec<(&'static str, Seen)>,
    pub(super) server: Taken,
    pub(super) front: Option<Taken>,
}

/// What a process tree took of the machine during a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Taken {
    /// Resident bytes at the begin,
    pub(super) before: u64,
    /// and the most that was seen.
    pub(super) most: u64,
    /// Processor seconds a second.
    pub(super) cpu: f64,
}

impl Contestant {
    pub(super) fn new(name: impl Into<String>, server: &Rc<Server>, model: &str) -> Self {
        Self {
            name: name.into(),
            server: Rc::clone(server),
            front: None,
            model: model.to_owned(),
        }
    }

    #[must_use]
    pub(super) fn behind(mut self, front: Front) -> Self {
        self.front = Some(front);
        self
    }

    pub(super) fn is_ours(&self) -> bool {
        matches!(self.front, Some(Front::Outrigger(_)))
    }

    /// Offers a load and sees what comes back, at rest before and after; a server that breaks is
    /// started again, and so is the step.
    pub(super) fn offer(&self, step: &Step) -> Result<Phase> {
        for _ in 0..ATTEMPTS {
            let phase = self.rest(step.deadline).and_then(|()| self.try_offer(step));
            let error = match phase.and_then(|phase| self.rest(step.deadline).map(|()| phase)) {
                Ok(phase) => return Ok(phase),
                Err(error) => error,
            };
            progress(format_args!("\n  {error}; its server is started again"));
            self.server.host.restart()?;
        }
        Err(format!("{} broke {ATTEMPTS} times at {}/s", self.name, step.rate).into())
    }

    fn try_offer(&self, step: &Step) -> Result<Phase> {
        let classes = self.classes(step.ranked);
        let offer = Offer {
            address: self.address(),
            rate: step.rate,
            seed: step.seed,
            warm_up: step.warm_up,
            lasting: step.lasting,
            deadline: step.deadline,
            callers: step.callers,
            // Triton does nothing for it but answer an expired call four times on one stream, which
            // Rust's h2 takes for a broken connection; those who are told of time otherwise lose nothing.
            tells: self.is_ours(),
            classes: Arc::clone(&classes),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (before, begin) = (self.usage()?, Instant::now());
        let mut most = before;
        let load = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || offer.run(&stop)
        });
        while !load.is_finished() {
            pause(LOOK);
            let now = self.usage()?;
            most.0.resident = most.0.resident.max(now.0.resident);
            most.1.resident = most.1.resident.max(now.1.resident);
            if begin.elapsed() <= step.warm_up + step.lasting {
                (most.0.cpu, most.1.cpu) = (now.0.cpu, now.1.cpu);
            }
            if self.server.host.is_broken() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        let calls = load.join().map_err(|_| "the load panicked")??;
        let sent = (step.warm_up + step.lasting).as_secs_f64();
        let taken = |before: Usage, most: Usage| Taken {
            before: before.resident,
            most: most.resident,
            cpu: (most.cpu.saturating_sub(before.cpu)).as_secs_f64() / sent,
        };
        let of = |class: usize| calls.iter().filter(move |call| call.class == class);
        let named = classes.iter().enumerate().map(|(index, class)| {
            let seen = Seen::of(of(index), step.deadline, step.lasting);
            (class.name, seen)
        });
        Ok(Phase {
            all: Seen::of(&calls, step.deadline, step.lasting),
            classes: named.collect(),
            server: taken(before.0, most.0),
            front: self.front.as_ref().map(|_| taken(before.1, most.1)),
        })
    }

    /// Calls a second with a few callers who wait for theirs: what the model can do.
    pub(super) fn capacity(&self, lasting: Duration) -> Result<f64> {
        let target = Target::new(self.address(), message::INFER)?.connections(CALLERS);
        let pace = Pace::Closed { callers: CALLERS };
        let load = Load::new(target, pace, Questions::new(&self.model, None));
        let report = load.warm_up(lasting / 4).lasting(lasting).run()?;
        match report.answered() {
            0 => Err(format!("{} answers nothing:\n{report}", self.name).into()),
            _ => Ok(report.rate()),
        }
    }

    /// Waits until what was sent earlier is done.
    fn rest(&self, deadline: Duration) -> Result<()> {
        let target = Target::new(self.address(), message::INFER)?;
        let questions = Questions::new(&self.model, None);
        let give_up = Instant::now() + UNREST;
        let mut calm = 0;
        let mut last = Ok(Duration::ZERO);
        while calm < 3 {
            if self.server.host.is_broken() || Instant::now() > give_up {
                return Err(format!("{} did not come to rest: {last:?}", self.name).into());
            }
            let begin = Instant::now();
            last = unary(&target, questions.body(0), CALM).map(|_| begin.elapsed());
            calm = match &last {
                Ok(latency) if *latency <= deadline => calm + 1,
                _ => 0,
            };
            if calm == 0 {
                pause(LOOK);
            }
        }
        Ok(())
    }

    fn classes(&self, ranked: bool) -> Arc<[Class]> {
        let class = |name, share, priority| Class {
            name,
            share,
            priority,
            questions: Questions::new(&self.model, priority),
        };
        if ranked {
            Arc::new([
                class("urgent", URGENT, Some(1)),
                class("others", 1.0 - URGENT, Some(2)),
            ])
        } else {
            Arc::new([class("all", 1.0, None)])
        }
    }

    fn address(&self) -> SocketAddr {
        match &self.front {
            None => self.server.address,
            Some(Front::Haproxy(address, _)) => *address,
            Some(Front::Outrigger(proxy)) => proxy.address,
        }
    }

    /// Of the server, and of who is before it.
    fn usage(&self) -> Result<(Usage, Usage)> {
        let front = match &self.front {
            None => Usage::default(),
            Some(Front::Haproxy(_, process)) => process.usage()?,
            Some(Front::Outrigger(proxy)) => proxy.usage()?,
        };
        Ok((self.server.host.usage()?, front))
    }
}

impl Phase {
    pub(super) fn figures(&self) -> Value {
        let mut figures = self.all.figures();
        figures["server"] = self.server.figures();
        figures["front"] = self.front.map_or(Value::Null, Taken::figures);
        if self.classes.len() > 1 {
            let classes = self.classes.iter();
            figures["classes"] = classes
                .map(|(name, seen)| ((*name).to_owned(), seen.figures()))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        figures
    }
}

impl Taken {
    fn figures(self) -> Value {
        json!({
            "resident_before": self.before,
            "resident_most": self.most,
            "cpu": self.cpu,
        })
    }
}

/// The share of calls that are urgent, where some are.
const URGENT: f64 = 0.2;
/// Callers of a closed loop: the model is never idle, and none waits long.
const CALLERS: usize = 4;
/// How often the processes are looked at, and how long a lone call that was late is left alone.
const LOOK: Duration = Duration::from_millis(100);
/// How often a step is begun before the server is given up.
const ATTEMPTS: u32 = 5;
/// How long a lone call may take before another is tried.
const CALM: Duration = Duration::from_secs(10);
/// How long a server may work off what is left of an overload.
const UNREST: Duration = Duration::from_secs(90);
