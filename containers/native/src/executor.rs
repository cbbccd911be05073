//! One queue for each model, and threads that work it off in order.
//!
//! ```text
//!  infer ── place in the queue ──► executor 0: compute, wait out the curve ──► answer
//!                             └──► executor 1
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::container::{Behaviour, Container, Manner};
use crate::counters::Counters;
use crate::faults::Fault;
use crate::labour;
use crate::random::Random;
use crate::signature::Signature;
use crate::tensor::Tensor;

/// A model that is served.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) signature: Signature,
    behaviour: Arc<dyn Behaviour>,
    manner: Mutex<Manner>,
    queue: Mutex<Queue>,
    /// Signalled when an executor may find something to do.
    work: Condvar,
    counters: Mutex<Counters>,
    /// Signalled at every change of the counters.
    changed: Notify,
    ready: AtomicBool,
    stopped: AtomicBool,
}

/// The threads of a model. They end when this is dropped; what is queued then is answered with UNAVAILABLE.
#[derive(Debug)]
pub(crate) struct Executors {
    engine: Arc<Engine>,
    threads: Vec<JoinHandle<()>>,
}

/// What comes of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Vec<Tensor>),
    Error(Status),
    ResetStream,
    CloseConnection,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Calls that hang: kept so that their callers wait until they or we leave.
    hanging: Vec<oneshot::Sender<Outcome>>,
    paused: bool,
}

#[derive(Debug)]
struct Job {
    inputs: Vec<Tensor>,
    rows: usize,
    reply: oneshot::Sender<Outcome>,
    queued: Instant,
}

/// A received call: counted as in flight, and as cancelled unless it is answered.
#[derive(Debug)]
struct Place<'a> {
    engine: &'a Engine,
    answered: bool,
}

/// Waits until an instant, and learns by how much the system wakes it too late.
#[derive(Debug)]
struct Alarm {
    overshoot: Duration,
}

impl Engine {
    pub(crate) fn start(container: Container) -> (Arc<Self>, Executors) {
        let Container {
            signature,
            behaviour,
            manner,
            seed,
        } = container;
        let engine = Arc::new(Self {
            signature,
            behaviour,
            manner: Mutex::new(manner),
            queue: Mutex::default(),
            work: Condvar::new(),
            counters: Mutex::default(),
            changed: Notify::new(),
            ready: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
        });
        let threads = (0..engine.signature.concurrency.max(1)).map(|number| {
            let engine = engine.clone();
            let random = Random::new(seed.wrapping_add(number as u64));
            thread::Builder::new()
                .name(format!("executor {number}"))
                .spawn(move || engine.execute_all(random))
                .expect("the system can start one more thread")
        });
        let threads = threads.collect();
        (engine.clone(), Executors { engine, threads })
    }

    /// Queues a call and waits for what comes of it. A caller that leaves before its turn is not executed.
    pub(crate) async fn infer(
        &self,
        metadata: MetadataMap,
        inputs: Vec<Tensor>,
        rows: usize,
    ) -> Outcome {
        let place = Place::take(self, metadata);
        let (reply, answer) = oneshot::channel();
        let queued = {
            let mut queue = lock(&self.queue);
            let open = queue.jobs.len() < MAX_QUEUE;
            if open {
                queue.jobs.push_back(Job {
                    inputs,
                    rows,
                    reply,
                    queued: Instant::now(),
                });
            }
            open
        };
        let outcome = if queued {
            self.work.notify_one();
            // The other end is dropped only by executors that end.
            answer.await.unwrap_or_else(|_| Outcome::Error(stopping()))
        } else {
            Outcome::Error(Status::unavailable("Exceeds maximum queue size"))
        };
        place.answer(&outcome);
        outcome
    }

    pub(crate) fn counters<T>(&self, read: impl FnOnce(&Counters) -> T) -> T {
        read(&lock(&self.counters))
    }

    pub(crate) fn reset_counters(&self) {
        self.count(|counters| {
            let in_flight = counters.in_flight;
            *counters = Counters {
                received: in_flight,
                in_flight,
                ..Counters::default()
            };
        });
    }

    /// Counts a call that was refused for its form.
    pub(crate) fn refuse(&self) {
        self.count(|counters| counters.refused += 1);
    }

    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    pub(crate) fn manner<T>(&self, change: impl FnOnce(&mut Manner) -> T) -> T {
        change(&mut lock(&self.manner))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        lock(&self.queue).paused = paused;
        self.work.notify_all();
    }

    /// Lets hanging and paused calls go, so that nothing is left to wait for.
    pub(crate) fn drain(&self) {
        let hanging = std::mem::take(&mut lock(&self.queue).hanging);
        drop(hanging);
        self.set_paused(false);
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut lock(&self.counters));
        self.changed.notify_waiters();
    }

    fn execute_all(&self, mut random: Random) {
        let mut alarm = Alarm {
            overshoot: USUAL_OVERSHOOT,
        };
        while let Some(job) = self.next() {
            // One whose caller has left by now is not worth a call.
            if !job.reply.is_closed() {
                self.execute(job, &mut random, &mut alarm);
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return None;
            }
            if !queue.paused
                && let Some(job) = queue.jobs.pop_front()
            {
                return Some(job);
            }
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn execute(&self, job: Job, random: &mut Random, alarm: &mut Alarm) {
        let begun = Instant::now();
        let Job {
            inputs,
            rows,
            reply,
            queued,
        } = job;
        let Manner {
            labour,
            curve,
            jitter,
            faults,
        } = self.manner(|manner| manner.clone());
        let first_elements = || {
            inputs
                .first()
                .map_or_else(Vec::new, |i| i.first_elements(rows).collect())
        };
        let fault = faults.strike(random, first_elements);
        let outcome = match fault {
            None | Some(Fault::Hang | Fault::Straggle(..)) => {
                Outcome::Answer(self.behaviour.answer(&inputs, rows))
            }
            Some(Fault::Error(ref status)) => Outcome::Error(status.clone()),
            Some(Fault::ResetStream) => Outcome::ResetStream,
            Some(Fault::CloseConnection) => Outcome::CloseConnection,
            Some(Fault::Guess) => Outcome::Answer(self.behaviour.guess(&inputs, rows, random)),
            Some(Fault::WrongRowCount(difference)) => {
                let wanted = rows.saturating_add_signed(isize::try_from(difference).unwrap_or(0));
                let outputs = self.behaviour.answer(&inputs, rows);
                Outcome::Answer(outputs.iter().map(|o| o.with_rows(rows, wanted)).collect())
            }
            Some(Fault::Noise(share)) => {
                let mut noisy = |number: f32| {
                    let random = 2. * random.unit() - 1.;
                    number * (1. + share * random as f32)
                };
                let outputs = self.behaviour.answer(&inputs, rows);
                Outcome::Answer(outputs.iter().map(|o| o.with_numbers(&mut noisy)).collect())
            }
            Some(Fault::Neighbours(share)) => {
                let outputs = self.behaviour.answer(&inputs, rows);
                let moved = outputs.iter().map(|output| {
                    let numbers = output.as_fp32();
                    let mean = numbers.iter().sum::<f32>() / numbers.len().max(1) as f32;
                    output.with_numbers(&mut |number| number + share * mean)
                });
                Outcome::Answer(moved.collect())
            }
            Some(Fault::FirstRow) => {
                let outputs = self.behaviour.answer(&inputs, rows);
                let first = outputs
                    .iter()
                    .map(|o| o.with_rows(rows, 1).with_rows(1, rows));
                Outcome::Answer(first.collect())
            }
        };
        let cost = jitter.apply(curve.cost(rows), random)
            + fault.as_ref().map_or(Duration::ZERO, |f| f.delay(random));
        labour::spend(labour.cost(rows), || self.stopped.load(Ordering::Relaxed));
        let counted_from = if self.behaviour.computes() {
            Instant::now()
        } else {
            begun
        };
        alarm.wait_until(counted_from + cost, || self.stopped.load(Ordering::Relaxed));
        self.count(|counters| counters.execute(rows, begun - queued, begun.elapsed()));
        if let Some(Fault::Hang) = fault {
            let mut queue = lock(&self.queue);
            queue.hanging.retain(|reply| !reply.is_closed());
            queue.hanging.push(reply);
        } else {
            // A caller that has left meanwhile is counted where it left.
            let _ = reply.send(outcome);
        }
    }
}

impl<'a> Place<'a> {
    fn take(engine: &'a Engine, metadata: MetadataMap) -> Self {
        engine.count(|counters| counters.admit(metadata));
        Self {
            engine,
            answered: false,
        }
    }

    fn answer(mut self, outcome: &Outcome) {
        self.answered = true;
        self.engine.count(|counters| {
            counters.in_flight -= 1;
            match outcome {
                Outcome::Answer(_) => counters.succeeded += 1,
                _ => counters.failed += 1,
            }
        });
    }
}

impl Alarm {
    fn wait_until(&mut self, due: Instant, stopped: impl Fn() -> bool) {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left <= self.overshoot || stopped() {
                return;
            }
            let aim = left - self.overshoot;
            let asleep = Instant::now();
            thread::park_timeout(aim);
            let slept = asleep.elapsed();
            if slept < aim {
                continue; // Woken by something else than the time.
            }
            // A running median: single waits that are far too long teach no more than others.
            self.overshoot = if slept - aim > self.overshoot {
                (self.overshoot + LESSON).min(MAX_OVERSHOOT)
            } else {
                self.overshoot.saturating_sub(LESSON)
            };
            return;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.engine.count(|counters| {
                counters.in_flight -= 1;
                counters.cancelled += 1;
            });
        }
    }
}

impl Drop for Executors {
    fn drop(&mut self) {
        {
            let mut queue = lock(&self.engine.queue);
            self.engine.stopped.store(true, Ordering::Relaxed);
            queue.jobs.clear();
            queue.hanging.clear();
        }
        self.engine.work.notify_all();
        for executor in self.threads.drain(..) {
            executor.thread().unpark();
            // One that panicked has said so; there is nothing left to do for it.
            let _ = executor.join();
        }
    }
}

/// What is guarded here is whole between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

/// The most calls that wait for one model; far above what a proxy should let pile up.
const MAX_QUEUE: usize = 100_000;

/// What Linux adds to a sleep: 50 us of timer slack and the way back onto a core.
const USUAL_OVERSHOOT: Duration = Duration::from_micros(55);

/// Beyond this it is a busy machine, which no alarm can make up for.
const MAX_OVERSHOOT: Duration = Duration::from_micros(150);

/// How much one wait teaches.
const LESSON: Duration = Duration::from_micros(1);
