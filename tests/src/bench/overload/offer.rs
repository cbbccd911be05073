//! An open loop of calls that each have a deadline, and say so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outrigger::demo::load::{Caller, Calls as _, Outcome, Pace, Target};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::questions::Questions;
use super::seen::{Call, End};
use crate::bench::process::pause;
use crate::bench::{Result, message};

/// Poisson arrivals of calls that have as long as all others.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) address: SocketAddr,
    pub(super) rate: f64,
    pub(super) seed: u64,
    pub(super) warm_up: Duration,
    pub(super) lasting: Duration,
    pub(super) deadline: Duration,
    pub(super) callers: Callers,
    /// Whether calls say how long they have: `grpc-timeout`.
    pub(super) tells: bool,
    /// At least one; the shares are of their sum.
    pub(super) classes: Arc<[Class]>,
}

/// What callers do when their time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callers {
    /// They stay, so that it is seen how long an answer takes.
    Stay,
    /// They reset the stream, as gRPC's libraries do.
    Leave,
}

/// Calls that are equally urgent.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) share: f64,
    /// Triton's `priority`, which is also told to proxies as `x-priority`.
    pub(super) priority: Option<u8>,
    pub(super) questions: Questions,
}

impl Offer {
    /// Sends, waits for the last answers, and tells what became of the counted calls; ends early
    /// once it is told to stop.
    pub(super) fn run(self, stop: &AtomicBool) -> Result<Vec<Call>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.generate(stop))
    }

    async fn generate(self, stop: &AtomicBool) -> Result<Vec<Call>> {
        let target = Target::new(self.address, message::INFER)?;
        let mut callers = Vec::new();
        for _ in 0..CONNECTIONS {
            callers.push(Caller::connect(&target, CONNECTING).await?);
        }
        let pace = Pace::Poisson {
            rate: self.rate,
            seed: self.seed,
        };
        let arrivals = pace.arrivals().ok_or("an open loop has arrivals")?;
        let begin = Instant::now();
        let counted_from = begin + self.warm_up;
        let end = counted_from + self.lasting;
        let (pacer, mut due) = mpsc::unbounded_channel();
        let pacing = std::thread::spawn(move || {
            // The runtime's timers are 1 ms coarse.
            for at in arrivals.map(|at| begin + at).take_while(|at| *at < end) {
                pause(at.saturating_duration_since(Instant::now()));
                if pacer.send(at).is_err() {
                    return;
                }
            }
        });
        let (mut calls, mut n) = (JoinSet::new(), 0);
        let offer = Arc::new(self);
        while let Some(intended) = due.recv().await {
            if stop.load(Ordering::Relaxed) {
                return Err("told to stop".into());
            }
            let caller = callers[n as usize % callers.len()].clone();
            let offer = Arc::clone(&offer);
            let counted = intended >= counted_from;
            calls.spawn(async move {
                let call = offer.call(&caller, n, intended).await?;
                Result::Ok(counted.then_some(call))
            });
            n += 1;
        }
        let _ = pacing.join();
        let mut ended = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                call = calls.join_next() => match call {
                    Some(call) => ended.extend(call??),
                    None => return Ok(ended),
                },
                _ = look.tick() => if stop.load(Ordering::Relaxed) {
                    return Err("told to stop".into());
                },
            }
        }
    }

    async fn call(&self, caller: &Caller, n: u64, intended: Instant) -> Result<Call> {
        let class = self.class_of(n);
        let Class {
            priority,
            questions,
            ..
        } = &self.classes[class];
        let lag = intended.elapsed();
        let mut headers = Vec::new();
        if self.tells {
            // The deadline is the caller's own: what the generator was late comes off.
            let left = self.deadline.saturating_sub(lag).as_micros().max(1);
            let left = HeaderValue::try_from(format!("{left}u"))?;
            headers.push((HeaderName::from_static("grpc-timeout"), left));
        }
        if let Some(priority) = priority {
            let name = HeaderName::from_static("x-priority");
            headers.push((name, u16::from(*priority).into()));
        }
        let patience = match self.callers {
            Callers::Stay => intended + PATIENCE,
            Callers::Leave => intended + self.deadline,
        };
        let answer = caller.call(questions.body(n), &headers);
        let end = match tokio::time::timeout_at(patience, answer).await {
            Ok(Ok(answer)) => match answer.outcome {
                Outcome::Grpc(0) if questions.accept(n, &answer.body) => End::Right,
                Outcome::Grpc(0) => End::Other("a wrong answer".into()),
                outcome => End::told(outcome),
            },
            Ok(Err(error)) => End::Other(error.to_string()),
            Err(_) => End::Left,
        };
        Ok(Call {
            class,
            lag,
            latency: intended.elapsed(),
            end,
        })
    }

    /// Which class a call is of; the same one whoever is asked.
    fn class_of(&self, n: u64) -> usize {
        let all: f64 = self.classes.iter().map(|class| class.share).sum();
        // Low-discrepancy: of any stretch of calls, each class has its share.
        let mut at = (n as f64 * GOLDEN).fract() * all;
        for (index, class) in self.classes.iter().enumerate() {
            if at < class.share {
                return index;
            }
            at -= class.share;
        }
        self.classes.len() - 1
    }
}

/// As from some clients; few enough streams on each that no server's limit delays them.
const CONNECTIONS: usize = 16;
const CONNECTING: Duration = Duration::from_secs(5);
/// Whoever stays, stays this long: a queue without bounds is worked off by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// A stop is noticed within this time.
const LOOK: Duration = Duration::from_millis(50);
/// The golden ratio, whose multiples are spread evenly.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_share_of_any_stretch() {
        let class = |name, share| Class {
            name,
            share,
            priority: None,
            questions: Questions::new("m", None),
        };
        let offer = Offer {
            address: ([127, 0, 0, 1], 1).into(),
            rate: 1.0,
            seed: 0,
            warm_up: Duration::ZERO,
            lasting: Duration::ZERO,
            deadline: Duration::ZERO,
            callers: Callers::Stay,
            tells: true,
            classes: Arc::new([class("urgent", 0.2), class("others", 0.8)]),
        };
        for begin in [0, 1000, 123_456] {
            let urgent = (begin..begin + 1000).filter(|n| offer.class_of(*n) == 0);
            let urgent = urgent.count();
            assert!((195..=205).contains(&urgent), "{urgent}");
        }
    }
}
