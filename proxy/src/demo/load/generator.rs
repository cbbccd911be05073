//! The threads that make a load.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc as handover};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::arrivals::{Arrivals, Pace};
use super::calls::Calls;
use super::connection::{Connection, Target, receive};
use super::report::{Outcome, Report};

/// A load that can be started.
#[derive(Clone)]
pub struct Load {
    /// Where the calls go.
    pub target: Target,
    /// When they go.
    pub pace: Pace,
    /// What is sent, and which answers are right.
    pub calls: Arc<dyn Calls>,
    /// For how long calls are sent that are not counted.
    pub warm_up: Duration,
    /// For how long calls are sent that are counted.
    pub lasting: Duration,
    /// For how long the last answers are waited for, and a connection.
    pub patience: Duration,
    /// How many calls may wait for their answer before an open loop drops further ones.
    pub max_outstanding: usize,
    /// Whether an open loop watches the clock and takes all of a core, in place of sleeping.
    pub spins: bool,
}

/// A load under way; it ends early when this is dropped.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    total: Report,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    tally: Mutex<Tally>,
    outstanding: AtomicUsize,
    /// Told when the last call under way has ended, and at a stop.
    progress: Notify,
    stop: AtomicBool,
    stopped: Notify,
}

#[derive(Debug)]
struct Tally {
    report: Report,
    first_sent: Option<Instant>,
    last_sent: Option<Instant>,
    cpu_at_first: Option<Duration>,
    cpu: Option<Duration>,
}

/// The arrivals that were due when the pacer woke.
struct Due {
    first: u64,
    intended: Vec<Instant>,
}

/// A call under way: whatever happens to it, it is counted once.
struct Pending {
    shared: Arc<Shared>,
    intended: Instant,
    counted: bool,
}

impl Load {
    /// Makes a load that lasts one second on one connection's target, counted from its begin.
    pub fn new(target: Target, pace: Pace, calls: impl Calls) -> Self {
        Self {
            target,
            pace,
            calls: Arc::new(calls),
            warm_up: Duration::ZERO,
            lasting: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            max_outstanding: 100_000,
            spins: false,
        }
    }

    /// Sends calls for this long before counting begins.
    #[must_use]
    pub fn warm_up(mut self, warm_up: Duration) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// Sends counted calls for this long.
    #[must_use]
    pub fn lasting(mut self, lasting: Duration) -> Self {
        self.lasting = lasting;
        self
    }

    /// Waits this long for a connection, and for the last answers.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Has an open loop watch the clock, in place of a pacer that sleeps up to 0.2 ms: it comes
    /// late by microseconds, and takes all of a core, which must be its own.
    #[must_use]
    pub fn spinning(mut self) -> Self {
        self.spins = true;
        self
    }

    /// Connects, and sends from a thread of its own.
    pub fn start(self) -> io::Result<Running> {
        let shared = Arc::new(Shared {
            tally: Mutex::new(Tally::new()),
            outstanding: AtomicUsize::new(0),
            progress: Notify::new(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
        });
        let (connected, connection) = handover::channel();
        let thread = std::thread::Builder::new().name("load".into()).spawn({
            let shared = Arc::clone(&shared);
            move || self.generate(&shared, &connected)
        })?;
        let taken = Mutex::new(Taken {
            total: Report::new(),
            since: Instant::now(),
        });
        let running = Running {
            shared,
            thread: Some(thread),
            taken,
        };
        match connection.recv() {
            Ok(Ok(())) => Ok(running),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the load's thread ended at once")),
        }
    }

    /// Starts, waits for the end, and reports.
    pub fn run(self) -> io::Result<Report> {
        Ok(self.start()?.wait())
    }

    fn generate(self, shared: &Arc<Shared>, connected: &handover::Sender<io::Result<()>>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let outcome = runtime.and_then(|runtime| {
            runtime.block_on(async {
                let mut connections = Vec::new();
                for _ in 0..self.target.connections {
                    connections.push(self.target.connect(self.patience).await?);
                }
                let _ = connected.send(Ok(()));
                match self.pace.arrivals() {
                    Some(arrivals) if self.spins => {
                        self.watch(arrivals, &connections, shared).await;
                    }
                    Some(arrivals) => self.open(arrivals, &connections, shared).await?,
                    None => self.closed(&connections, shared).await,
                }
                self.settle(shared).await;
                Ok(())
            })
            // What is still under way ends with the runtime, and counts itself as unanswered.
        });
        if let Err(error) = outcome {
            let _ = connected.send(Err(error));
        }
    }

    async fn open(
        &self,
        arrivals: Arrivals,
        connections: &[Connection],
        shared: &Arc<Shared>,
    ) -> io::Result<()> {
        let (pacer, mut due) = mpsc::channel(PACER_AHEAD);
        let begin = Instant::now();
        let counted_from = begin + self.warm_up;
        let end = counted_from + self.lasting;
        let pacing = std::thread::Builder::new()
            .name("load-pacer".into())
            .spawn({
                let shared = Arc::clone(shared);
                move || pace(arrivals, begin, end, &shared, &pacer)
            })?;
        while let Some(Due { first, intended }) = due.recv().await {
            let now = Instant::now();
            for (n, intended) in (first..).zip(intended) {
                self.offer(n, (intended, now), counted_from, connections, shared);
            }
        }
        shared.tally().stop(Instant::now().min(end));
        let _ = pacing.join();
        Ok(())
    }

    /// Sends what is due, and looks after answers between two looks at the clock.
    async fn watch(&self, arrivals: Arrivals, connections: &[Connection], shared: &Arc<Shared>) {
        let begin = Instant::now();
        let counted_from = begin + self.warm_up;
        let end = counted_from + self.lasting;
        let due = arrivals.map(|at| begin + at).take_while(|at| *at < end);
        let mut due = (0..).zip(due).peekable();
        while due.peek().is_some() && !shared.is_stopped() {
            let now = Instant::now();
            while let Some((n, intended)) = due.next_if(|(_, at)| *at <= now) {
                self.offer(n, (intended, now), counted_from, connections, shared);
            }
            tokio::task::yield_now().await;
        }
        shared.tally().stop(Instant::now().min(end));
    }

    /// Sends a call that was meant for a moment and is sent at another one, if there is room.
    fn offer(
        &self,
        n: u64,
        (intended, now): (Instant, Instant),
        counted_from: Instant,
        connections: &[Connection],
        shared: &Arc<Shared>,
    ) {
        let counted = intended >= counted_from;
        if counted {
            shared.tally().sent(now, intended);
        }
        let pending = Pending::new(shared, intended, counted);
        if shared.outstanding.load(Ordering::Relaxed) > self.max_outstanding {
            pending.end(Outcome::Crowded);
            return;
        }
        // Sent here, not in a task, so that all that are due leave in one write.
        let connection = &connections[n as usize % connections.len()];
        match connection.send(self.calls.body(n)) {
            Ok(answer) => {
                let calls = Arc::clone(&self.calls);
                // Ends with its answer, or with the runtime.
                tokio::spawn(async move {
                    let (outcome, message) = receive(answer).await;
                    pending.end(judge(&*calls, n, outcome, &message));
                });
            }
            Err(_) => pending.end(Outcome::Lost),
        }
    }

    async fn closed(&self, connections: &[Connection], shared: &Arc<Shared>) {
        let Pace::Closed { callers } = self.pace else {
            return;
        };
        let counted_from = Instant::now() + self.warm_up;
        let end = counted_from + self.lasting;
        let all: Vec<_> = (0..callers)
            .map(|caller| {
                let mut connection = connections[caller % connections.len()].clone();
                let calls = Arc::clone(&self.calls);
                let shared = Arc::clone(shared);
                // Ends at the load's end, or with the runtime.
                tokio::spawn(async move {
                    for n in (caller as u64..).step_by(callers) {
                        let ready = connection.ready().await;
                        let now = Instant::now();
                        if now >= end || shared.is_stopped() {
                            return;
                        }
                        let counted = now >= counted_from;
                        if counted {
                            shared.tally().sent(now, now);
                        }
                        let pending = Pending::new(&shared, now, counted);
                        let Ok(answer) = ready.and_then(|()| connection.send(calls.body(n))) else {
                            pending.end(Outcome::Lost);
                            return;
                        };
                        let (outcome, message) = receive(answer).await;
                        pending.end(judge(&*calls, n, outcome, &message));
                    }
                })
            })
            .collect();
        let over = async {
            for caller in all {
                let _ = caller.await;
            }
        };
        tokio::select! {
            () = over => {}
            () = shared.stopped.notified() => {}
            () = tokio::time::sleep_until(end + self.patience) => {}
        }
        shared.tally().stop(Instant::now().min(end));
    }

    /// Waits for the last answers.
    async fn settle(&self, shared: &Shared) {
        let all_answered = async {
            while shared.outstanding.load(Ordering::Relaxed) > 0 && !shared.is_stopped() {
                shared.progress.notified().await;
            }
        };
        let _ = tokio::time::timeout(self.patience, all_answered).await;
    }
}

impl Running {
    /// Reports what was seen since the last time this was asked, or since the begin.
    pub fn interval(&self) -> Report {
        let mut taken = self
            .taken
            .lock()
            .expect("nothing panics while it holds a report");
        let mut report = std::mem::replace(&mut self.shared.tally().report, Report::new());
        let now = Instant::now();
        report.elapsed = now - std::mem::replace(&mut taken.since, now);
        taken.total.absorb(&report);
        report
    }

    /// Whether all has been sent and answered.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Sends no more and waits for no more answers.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.stopped.notify_one();
        self.shared.progress.notify_one();
    }

    /// Waits for the end and reports on the whole.
    pub fn wait(mut self) -> Report {
        self.join();
        self.interval();
        let tally = self.shared.tally();
        let mut taken = self
            .taken
            .lock()
            .expect("nothing panics while it holds a report");
        let mut report = std::mem::replace(&mut taken.total, Report::new());
        report.elapsed = tally.elapsed();
        report.cpu = tally.cpu;
        report
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the generator has been printed; what it counted still stands.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally
            .lock()
            .expect("nothing panics while it holds the tally")
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            report: Report::new(),
            first_sent: None,
            last_sent: None,
            cpu_at_first: None,
            cpu: None,
        }
    }

    fn sent(&mut self, now: Instant, intended: Instant) {
        self.report
            .record_lag(now.saturating_duration_since(intended));
        if self.first_sent.is_none() {
            self.first_sent = Some(intended);
            self.cpu_at_first = thread_cpu();
        }
        self.last_sent = Some(now);
    }

    fn stop(&mut self, now: Instant) {
        self.last_sent = self.last_sent.map(|last| last.max(now));
        self.cpu = Some(thread_cpu())
            .zip(self.cpu_at_first)
            .and_then(|(now, at_first)| now?.checked_sub(at_first));
    }

    fn elapsed(&self) -> Duration {
        match (self.first_sent, self.last_sent) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        }
    }
}

impl Pending {
    fn new(shared: &Arc<Shared>, intended: Instant, counted: bool) -> Self {
        shared.outstanding.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(shared),
            intended,
            counted,
        }
    }

    fn end(mut self, outcome: Outcome) {
        self.count(outcome);
    }

    fn count(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.counted, false) {
            let latency = self.intended.elapsed();
            self.shared.tally().report.record(outcome, latency);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.count(Outcome::Unanswered);
        if self.shared.outstanding.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.progress.notify_one();
        }
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("target", &self.target)
            .field("pace", &self.pace)
            .field("warm_up", &self.warm_up)
            .field("lasting", &self.lasting)
            .finish_non_exhaustive()
    }
}

/// Sleeps from arrival to arrival and hands over what is due.
fn pace(
    arrivals: Arrivals,
    begin: Instant,
    end: Instant,
    shared: &Shared,
    generator: &mpsc::Sender<Due>,
) {
    let mut arrivals = arrivals
        .map(|at| begin + at)
        .take_while(|at| *at < end)
        .peekable();
    let mut first = 0;
    let mut woke = begin;
    while let Some(next) = arrivals.peek() {
        let wake = (*next).max(woke + TICK);
        woke = Instant::now();
        while woke < wake {
            sleep((wake - woke).min(SLICE));
            if shared.is_stopped() {
                return;
            }
            woke = Instant::now();
        }
        let mut intended = Vec::new();
        while let Some(at) = arrivals.next_if(|at| *at <= woke) {
            intended.push(at);
        }
        let count = intended.len() as u64;
        // If the generator is behind, this waits; the intended times stay what they are.
        if count > 0 && generator.blocking_send(Due { first, intended }).is_err() {
            return;
        }
        first += count;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pacer has a thread of its own, because the runtime's timers are 1 ms coarse"
)]
fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

fn judge(calls: &dyn Calls, n: u64, outcome: Outcome, message: &bytes::Bytes) -> Outcome {
    match outcome {
        Outcome::Grpc(0) if !calls.accept(n, message) => Outcome::Wrong,
        other => other,
    }
}

/// What the calling thread has used of its processor.
fn thread_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(
        text.split_ascii_whitespace().next()?.parse().ok()?,
    ))
}

/// The pacer wakes at most this often: waking costs about 5 us, and the intended times stand.
const TICK: Duration = Duration::from_micros(200);
/// A stop is noticed within this time.
const SLICE: Duration = Duration::from_millis(20);
/// Wakings that the pacer may be ahead of the generator.
const PACER_AHEAD: usize = 1024;
