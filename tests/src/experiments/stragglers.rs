//! Figure 9: ensembles of 1 to 20 models that answer by a deadline, and what waiting for all would cost.
//!
//! ```text
//!  client --Poisson--> Outrigger, 20 ms --> native container: random forests, each with threads of its own
//!  (ahead of all)      (a process)          (a process; its calls straggle, or use up the processors)
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderName, HeaderValue};
use outrigger::demo::load::{Caller, Calls, Load, Outcome, Pace, Report, Target};
use outrigger_native::digits::Digits;
use serde_json::{Value, json};

use super::admin::{metrics, wait_until_ready};
use super::ahead::Ahead;
use super::arms::{block_on, digit, question};
use super::plot::{Panel, Sheet, Style};
use super::scale::Kind;
use super::{Findings, Options, decimals, short, spread};
use crate::bench::demand::progress;
use crate::bench::process::{Process, beside, pause};
use crate::bench::proxy::Proxy;
use crate::bench::table::{Table, machine};
use crate::bench::{Result, message};

/// What the models do, and whether they are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// Calls straggle now and then; the deadline cuts them off.
    CutOff,
    /// Calls straggle now and then, and are waited for.
    Blocking,
    /// All answer at once.
    Fast,
    /// Half of the models are never in time.
    HalfLate,
    /// More processor time is asked for than there is; calls go straight to the models.
    Overload,
    /// More processor time is asked for than there is; calls wait in Outrigger's queues.
    Queued,
    /// The same two, where the system gives Outrigger more weight than the models.
    OverloadWeighed,
    QueuedWeighed,
}

/// Ensembles of one size in one case, repeat by repeat.
#[derive(Clone, Debug)]
struct Series {
    case: Case,
    size: usize,
    seen: Vec<Seen>,
}

/// What was seen of an ensemble over some seconds; times are in milliseconds.
#[derive(Clone, Debug)]
struct Seen {
    rate: f64,
    sent: u64,
    mean: f64,
    p50: f64,
    p99: f64,
    max: f64,
    /// How late the generator itself sent 99 of 100 calls, which is a part of the above.
    lag_p99: f64,
    /// What calls take meanwhile that Outrigger refuses at once.
    floor_p50: f64,
    floor_p99: f64,
    /// Of the answers that models gave, those that were right.
    accuracy: f64,
    /// Of all requests: those answered by the default output,
    defaults: f64,
    /// and those that were told that time was up.
    exceeded: f64,
    /// All other failures.
    failed: f64,
    /// Of all votes that there could have been, those that were missing.
    missing: f64,
    /// Of which so many were not asked for, because the arm is late mostly.
    not_asked: f64,
    /// How long before the deadline answers were cut off at the end.
    margin: f64,
    /// Processors that Outrigger used.
    proxy: f64,
}

/// Images of digits, and what was said of them.
#[derive(Clone, Debug)]
struct Questions {
    bodies: Vec<Bytes>,
    labels: Vec<u8>,
    said: Arc<Said>,
}

/// Answers, by what they were worth.
#[derive(Debug, Default)]
struct Said {
    right: AtomicU64,
    wrong: AtomicU64,
    defaults: AtomicU64,
}

/// Asks now and then how many models an answer is of.
#[derive(Debug)]
struct Explained {
    thread: Option<std::thread::JoinHandle<Result<()>>>,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    answers: AtomicU64,
    votes: AtomicU64,
    over: AtomicBool,
}

/// Refused at once, for what its header says.
#[derive(Debug)]
struct Refused(Bytes);

/// A container of all models that a case needs.
#[derive(Debug)]
struct Container {
    address: SocketAddr,
    _process: Process,
}

/// Measures, prints tables, and returns what was found.
pub fn run(options: &Options) -> Result<Findings> {
    let sizes: &[usize] = match &options.sizes[..] {
        [] if options.quick => &[1, 4, 20],
        [] => &SIZES,
        told => told,
    };
    if let Some(size) = sizes.iter().find(|size| !(1..=MOST).contains(*size)) {
        return Err(format!("an ensemble has 1 to {MOST} models, not {size}").into());
    }
    let mut series: Vec<Series> = Case::ALL
        .into_iter()
        .flat_map(|case| sizes.iter().map(move |size| (case, *size)))
        .filter(|(case, size)| *case != Case::HalfLate || *size == HALVED)
        .filter(|(case, _)| {
            let mut wanted = options.cases.iter();
            options.cases.is_empty() || wanted.any(|part| case.name().contains(part))
        })
        .map(|(case, size)| Series {
            case,
            size,
            seen: Vec::new(),
        })
        .collect();
    let mut ahead = true;
    for _ in 0..options.repeats {
        for series in &mut series {
            let (seen, was_ahead) = measure(series.case, series.size, options)?;
            ahead &= was_ahead;
            progress(format_args!(
                "{} {}: p50 {} p99 {} ms, mean {}, floor p99 {}, accuracy {}, default {}\n",
                series.case.name(),
                series.size,
                short(seen.p50),
                short(seen.p99),
                short(seen.mean),
                short(seen.floor_p99),
                decimals(seen.accuracy, 3),
                decimals(seen.defaults, 3),
            ));
            series.seen.push(seen);
        }
    }
    print(&series, ahead);
    Ok(Findings {
        figures: json!({
            "experiment": "fig9",
            "machine": machine(),
            "quick": options.quick,
            "repeats": options.repeats,
            "deadline_ms": DEADLINE_MS,
            "stragglers": STRAGGLERS,
            "rate": RATE,
            "labour_us": LABOUR_US,
            "overload": OVERLOAD,
            "generator_ahead": ahead,
            "series": series.iter().map(Series::figures).collect::<Vec<_>>(),
            "paper": PAPER,
            "reference_accuracy": REFERENCE,
        }),
        pictures: vec![("fig9", picture(&series))],
    })
}

/// Loads an ensemble; tells, too, whether the generator was ahead of all.
fn measure(case: Case, size: usize, options: &Options) -> Result<(Seen, bool)> {
    let fast = Container::start(case, size, options)?;
    let late = match case {
        Case::HalfLate => Some(Container::late(options)?),
        _ => None,
    };
    let proxy = Proxy::start(
        "fig9",
        options.outrigger.clone(),
        &options.folder,
        &[fast.address],
        &configuration(case, size, late.as_ref()),
    )?;
    wait_until_ready(proxy.admin)?;
    if case.is_weighed() {
        renice(proxy.id())?;
    }
    let rate = case.rate(size);
    let (warm_up, lasting) = if options.quick {
        (0.5, 1.5)
    } else {
        (2.0, (CALLS / rate).clamp(SHORTEST, LONGEST))
    };
    let (warm_up, lasting) = (
        Duration::from_secs_f64(warm_up),
        Duration::from_secs_f64(lasting),
    );
    let questions = Questions::new();
    let target = Target::new(proxy.address, message::INFER)?.connections(4);
    let name = HeaderName::from_static("outrigger-timeout");
    let refused = target
        .clone()
        .connections(2)
        .header(name, HeaderValue::from_static("none"));
    let poisson = |rate| Pace::Poisson { rate, seed: 9 };
    let start = |load: Load| {
        load.warm_up(warm_up)
            .lasting(lasting)
            .patience(PATIENCE)
            .start()
    };
    // What was started before stays where it is.
    let ahead = Ahead::new();
    let floor = Refused(question(NAME, &Digits::load().held_out().images[0]));
    let floor = start(Load::new(refused, poisson(FLOOR_RATE), floor))?;
    let load = start(Load::new(target, poisson(rate), questions.clone()))?;
    let explained = Explained::start(proxy.address, case, size)?;
    pause(warm_up);
    explained.forget();
    let (metrics_before, used_before) = (metrics(proxy.admin)?, proxy.usage()?.cpu);
    questions.forget();
    let report = load.wait();
    let used = proxy.usage()?.cpu.saturating_sub(used_before);
    let metrics_after = metrics(proxy.admin)?;
    let floor = floor.wait();
    let counted = |name, labels: &[(&str, &str)]| {
        metrics_after.sum(name, labels) - metrics_before.sum(name, labels)
    };
    let of_model = &[("model", NAME)];
    let asked = counted("outrigger_select_total", of_model);
    let sent = report.sent() as f64;
    let votes = sent * size as f64;
    // Without a deadline one arm alone is nothing to select from.
    let selects = size > 1 || case.has_deadline();
    let missing = explained.missing(size)?;
    let exceeded = report.count(Outcome::Grpc(DEADLINE_EXCEEDED)) as f64;
    let elapsed = report.elapsed.as_secs_f64();
    let seen = Seen {
        rate,
        sent: report.sent(),
        mean: mean(&report),
        p50: millis(report.latency(0.5)),
        p99: millis(report.latency(0.99)),
        max: millis(report.max_latency()),
        lag_p99: millis(report.lag(0.99)),
        floor_p50: millis(floor.latency(0.5)),
        floor_p99: millis(floor.latency(0.99)),
        accuracy: questions.accuracy(),
        defaults: questions.default_share(),
        exceeded: exceeded / sent,
        failed: (report.failed() as f64 - exceeded) / sent,
        missing,
        not_asked: match selects {
            true => ((votes - asked) / votes).clamp(0.0, 1.0),
            false => 0.0,
        },
        margin: metrics_after.sum("outrigger_deadline_margin_seconds", of_model) * 1e3,
        proxy: used.as_secs_f64() / elapsed,
    };
    Ok((seen, ahead.is_on()))
}

/// Writes a configuration of one ensemble.
fn configuration(case: Case, size: usize, late: Option<&Container>) -> String {
    let arms: Vec<_> = (0..size)
        .map(|number| {
            let upstream = match late {
                Some(_) if number >= size / 2 => "late",
                _ => "model",
            };
            let arm = format!("digits_forest_{number}");
            format!("{arm}: {{ upstream: {upstream}, model: {arm} }}")
        })
        .collect();
    let late = late.map_or(String::new(), |late| {
        // Of the section that stands before.
        format!(
            "  late: {{ protocol: oip-grpc, endpoints: [\"http://{}\"] }}\n",
            late.address
        )
    });
    let selection = match size {
        // One has nobody to agree with.
        1 => "",
        _ => "    selection: { policy: fixed, ensemble: true }\n",
    };
    let deadline = match case.has_deadline() {
        true => format!(
            "    deadline: {{ default: {DEADLINE_MS}ms, default_output: {{ label: [{NOTHING}], \
             proba: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }} }}\n"
        ),
        false => String::new(),
    };
    let queue = match (case.is_queued(), size) {
        (true, 1) => "    batch: { max_in_flight: 2 }\n",
        (true, _) => "    batch: {}\n",
        (false, _) => "",
    };
    let arms = arms.join(", ");
    format!("{late}models:\n  {NAME}:\n    arms: {{ {arms} }}\n{selection}{deadline}{queue}")
}

impl Case {
    const ALL: [Self; 8] = [
        Self::CutOff,
        Self::Blocking,
        Self::Fast,
        Self::HalfLate,
        Self::Overload,
        Self::Queued,
        Self::OverloadWeighed,
        Self::QueuedWeighed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::CutOff => "stragglers, cut off",
            Self::Blocking => "stragglers, waited for",
            Self::Fast => "all fast",
            Self::HalfLate => "half of them late",
            Self::Overload => "overloaded",
            Self::Queued => "overloaded, batch: {}",
            Self::OverloadWeighed => "overloaded, nice",
            Self::QueuedWeighed => "overloaded, batch: {}, nice",
        }
    }

    fn has_deadline(self) -> bool {
        self != Self::Blocking
    }

    fn is_overload(self) -> bool {
        self.is_queued() || matches!(self, Self::Overload | Self::OverloadWeighed)
    }

    fn is_queued(self) -> bool {
        matches!(self, Self::Queued | Self::QueuedWeighed)
    }

    fn is_weighed(self) -> bool {
        matches!(self, Self::OverloadWeighed | Self::QueuedWeighed)
    }

    /// What the container is told besides.
    fn arguments(self, size: usize) -> Vec<String> {
        let words: &[&str] = match self {
            // One thread alone cannot fill two processors.
            _ if self.is_overload() && size == 1 => &["--labour", LABOUR_US, "--concurrency", "2"],
            _ if self.is_overload() => &["--labour", LABOUR_US],
            Self::CutOff | Self::Blocking => {
                &["--stragglers", STRAGGLERS, "--concurrency", AT_ONCE]
            }
            _ => &[],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// Requests a second.
    fn rate(self, size: usize) -> f64 {
        if !self.is_overload() {
            return RATE;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let labour: f64 = LABOUR_US.parse().unwrap_or(f64::NAN) / 1e6;
        OVERLOAD * cores as f64 / (size as f64 * labour)
    }
}

impl Container {
    fn start(case: Case, size: usize, options: &Options) -> Result<Self> {
        Self::serve("forests", &case.arguments(size), options)
    }

    /// One whose models are never in time.
    fn late(options: &Options) -> Result<Self> {
        let overhead = ["--overhead", "50000", "--concurrency", "20"].map(str::to_owned);
        Self::serve("late", &overhead, options)
    }

    fn serve(name: &str, more: &[String], options: &Options) -> Result<Self> {
        let told = std::env::var_os("OUTRIGGER_NATIVE").map(PathBuf::from);
        let program = beside(told, "outrigger-native")?;
        let most = MOST.to_string();
        let arguments = ["--listen", "127.0.0.1:0", "--threads", "2", "--forests"]
            .map(str::to_owned)
            .into_iter()
            .chain([most])
            .chain(more.iter().cloned());
        let mut process = Process::start(name, None, &options.folder, program, arguments)?;
        Ok(Self {
            address: process.wait_for_line("listening on ")?.parse()?,
            _process: process,
        })
    }
}

impl Questions {
    fn new() -> Self {
        let images = Digits::load().held_out();
        let ask = |image| question(NAME, image);
        Self {
            bodies: images.images.iter().map(ask).collect(),
            labels: images.labels.to_vec(),
            said: Arc::default(),
        }
    }

    /// Begins to count anew.
    fn forget(&self) {
        let Said {
            right,
            wrong,
            defaults,
        } = &*self.said;
        for count in [right, wrong, defaults] {
            count.store(0, Relaxed);
        }
    }

    fn accuracy(&self) -> f64 {
        let (right, wrong) = (&self.said.right, &self.said.wrong);
        let (right, wrong) = (right.load(Relaxed), wrong.load(Relaxed));
        right as f64 / (right + wrong) as f64
    }

    /// Of the answers, so many were the default output.
    fn default_share(&self) -> f64 {
        let Said {
            right,
            wrong,
            defaults,
        } = &*self.said;
        let answers = [right, wrong, defaults].map(|count| count.load(Relaxed) as f64);
        answers[2] / answers.iter().sum::<f64>()
    }

    fn at(&self, n: u64) -> usize {
        n as usize % self.bodies.len()
    }
}

impl Calls for Questions {
    fn body(&self, n: u64) -> Bytes {
        self.bodies[self.at(n)].clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let count = match digit(answer) {
            Some(said) if said == self.labels[self.at(n)] => &self.said.right,
            Some(_) => &self.said.wrong,
            // The default output is no digit.
            None => &self.said.defaults,
        };
        count.fetch_add(1, Relaxed);
        true
    }
}

impl Calls for Refused {
    fn body(&self, _: u64) -> Bytes {
        self.0.clone()
    }
}

impl Explained {
    fn start(address: SocketAddr, case: Case, size: usize) -> Result<Self> {
        let heard = Arc::new(Heard::default());
        let thread = std::thread::Builder::new()
            .name("explained".into())
            .spawn({
                let heard = heard.clone();
                move || block_on(heard.ask(address, size > 1, case.has_deadline()))
            })?;
        Ok(Self {
            thread: Some(thread),
            heard,
        })
    }

    /// Begins to count anew.
    fn forget(&self) {
        self.heard.votes.store(0, Relaxed);
        self.heard.answers.store(0, Relaxed);
    }

    /// Ends, and returns the share of votes that were missing of so many for each answer.
    fn missing(mut self, size: usize) -> Result<f64> {
        self.heard.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_| "who asks for explanations panicked")??;
        }
        let (votes, answers) = (&self.heard.votes, &self.heard.answers);
        let all = answers.load(Relaxed) as f64 * size as f64;
        Ok(1.0 - votes.load(Relaxed) as f64 / all)
    }
}

impl Drop for Explained {
    fn drop(&mut self) {
        self.heard.over.store(true, Relaxed);
    }
}

impl Heard {
    async fn ask(&self, address: SocketAddr, is_ensemble: bool, has_deadline: bool) -> Result<()> {
        let caller = Caller::connect(&Target::new(address, message::INFER)?, PATIENCE).await?;
        let question = question(NAME, &Digits::load().held_out().images[0]);
        let explain = [(EXPLAIN, HeaderValue::from_static("1"))];
        let mut ticks = tokio::time::interval(ASKING);
        let mut calls = FuturesUnordered::new();
        while !self.over.load(Relaxed) {
            tokio::select! {
                _ = ticks.tick() => {
                    let (caller, question, explain) = (&caller, question.clone(), &explain);
                    calls.push(async move { caller.call(question, explain).await });
                }
                Some(answer) = calls.next() => {
                    let answer = answer?;
                    let default = answer.header("outrigger-default").is_some();
                    let votes = match answer.header(EXPLAIN.as_str()) {
                        Some(text) if is_ensemble => answered(text),
                        _ if answer.outcome != Outcome::Grpc(0) || default && has_deadline => 0,
                        _ => 1,
                    };
                    self.votes.fetch_add(votes, Relaxed);
                    self.answers.fetch_add(1, Relaxed);
                }
            }
        }
        Ok(())
    }
}

/// Reads out of an explanation how many models have answered.
fn answered(explanation: &str) -> u64 {
    let mut words = explanation.split([';', ',']);
    let answered = words.find_map(|word| word.trim().strip_prefix("answered="));
    answered.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Gives all threads of a process more weight than others have.
fn renice(process: u32) -> Result<()> {
    let mut command = std::process::Command::new("renice");
    command.args(["-n", NICE, "-p"]);
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        command.arg(thread?.file_name());
    }
    let done = command.stdout(std::process::Stdio::null()).status()?;
    done.success()
        .then_some(())
        .ok_or_else(|| "renice is not allowed to".into())
}

impl Series {
    /// The middle of the repeats.
    fn median(&self, of: impl Fn(&Seen) -> f64) -> f64 {
        let figures: Vec<f64> = self.seen.iter().map(of).collect();
        spread(&figures).1
    }

    fn figures(&self) -> Value {
        let repeats: Vec<Value> = self.seen.iter().map(Seen::figures).collect();
        json!({ "case": self.case.name(), "size": self.size, "repeats": repeats })
    }
}

impl Seen {
    fn figures(&self) -> Value {
        let round = |figure: f64| figure.is_finite().then_some((figure * 1e4).round() / 1e4);
        json!({
            "rate": round(self.rate),
            "sent": self.sent,
            "mean_ms": round(self.mean),
            "p50_ms": round(self.p50),
            "p99_ms": round(self.p99),
            "max_ms": round(self.max),
            "generator_lag_p99_ms": round(self.lag_p99),
            "refused_at_once_p50_ms": round(self.floor_p50),
            "refused_at_once_p99_ms": round(self.floor_p99),
            "accuracy": round(self.accuracy),
            "default_share": round(self.defaults),
            "deadline_exceeded_share": round(self.exceeded),
            "failed_share": round(self.failed),
            "missing_votes_share": round(self.missing),
            "not_asked_share": round(self.not_asked),
            "margin_ms": round(self.margin),
            "proxy_processors": round(self.proxy),
        })
    }
}

fn print(series: &[Series], ahead: bool) {
    let mut table = Table::new([
        "",
        "models",
        "requests/s",
        "mean ms",
        "p50",
        "p99",
        "refused at once, p99",
        "generator's lag, p99",
        "accuracy",
        "default",
        "exceeded",
        "votes missing",
        "not asked",
        "margin, ms",
        "proxy's CPU",
    ]);
    for one in series {
        let percent = |of: fn(&Seen) -> f64| format!("{:.1} %", one.median(of) * 100.0);
        table.row([
            one.case.name().to_owned(),
            one.size.to_string(),
            short(one.median(|seen| seen.rate)),
            short(one.median(|seen| seen.mean)),
            short(one.median(|seen| seen.p50)),
            short(one.median(|seen| seen.p99)),
            short(one.median(|seen| seen.floor_p99)),
            short(one.median(|seen| seen.lag_p99)),
            decimals(one.median(|seen| seen.accuracy), 3),
            percent(|seen| seen.defaults),
            percent(|seen| seen.exceeded + seen.failed),
            percent(|seen| seen.missing),
            percent(|seen| seen.not_asked),
            short(one.median(|seen| seen.margin)),
            short(one.median(|seen| seen.proxy)),
        ]);
    }
    println!("Figure 9: ensembles that answer within {DEADLINE_MS} ms\n\n{table}");
    if !ahead {
        println!(
            "The generator was not allowed ahead of the others: its own delays are in the figures."
        );
    }
    for one in series.iter().filter(|one| one.case.has_deadline()) {
        let (case, size) = (one.case.name(), one.size);
        let p99 = one.median(|seen| seen.p99);
        let most = f64::from(DEADLINE_MS + TOLERANCE_MS);
        println!(
            "{}: {case}, {size}: p99 {} ms (at most {most})",
            verdict(p99 <= most),
            short(p99)
        );
        if one.case == Case::Fast {
            let mean = one.median(|seen| seen.mean);
            let most = f64::from(DEADLINE_MS) / 2.0;
            println!(
                "{}: {case}, {size}: mean {} ms (at most {most})",
                verdict(mean <= most),
                short(mean)
            );
        }
        let reference = REFERENCE.iter().find(|(of, _)| *of == size);
        if let (Case::CutOff, Some((_, reference))) = (one.case, reference) {
            let accuracy = one.median(|seen| seen.accuracy);
            println!(
                "{}: {case}, {size}: accuracy {} (at least {})",
                verdict(accuracy >= *reference),
                decimals(accuracy, 3),
                decimals(*reference, 3)
            );
        }
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

fn picture(series: &[Series]) -> Sheet {
    let mut sheet = Sheet::new("Ensembles with a deadline of 20 ms", 2).note(format!(
        "Random forests of the digits. Stragglers: {STRAGGLERS} (share, and milliseconds from and to). Overload: {OVERLOAD} \
         times the processor time that there is."
    ));
    let of = |case: Case, figure: fn(&Seen) -> f64| -> Vec<(f64, f64)> {
        let points = series.iter().filter(|one| one.case == case);
        points
            .map(|one| (one.size as f64, one.median(figure)))
            .collect()
    };
    let panel = |title: &str, y: (&str, Kind)| {
        Panel::new(title, ("models in the ensemble", Kind::Linear), y)
    };
    let mut p99 = panel("p99", ("ms", Kind::Log)).level("deadline", f64::from(DEADLINE_MS));
    let mut mean = panel("mean", ("ms", Kind::Log)).level("deadline", f64::from(DEADLINE_MS));
    let mut missing = panel("votes that are missing", ("share", Kind::Linear));
    let mut accuracy = panel("accuracy of answers", ("share", Kind::Linear));
    for case in Case::ALL {
        if case == Case::HalfLate {
            continue;
        }
        p99 = p99.series(case.name(), Style::Joined, of(case, |seen| seen.p99));
        mean = mean.series(case.name(), Style::Joined, of(case, |seen| seen.mean));
        if case.has_deadline() {
            let points = of(case, |seen| seen.missing);
            missing = missing.series(case.name(), Style::Joined, points);
        }
        let points = of(case, |seen| seen.accuracy);
        accuracy = accuracy.series(case.name(), Style::Joined, points);
    }
    let reference = REFERENCE.map(|(size, accuracy)| (size as f64, accuracy));
    accuracy = accuracy.series("reference", Style::Broken, reference);
    let known =
        |waits: bool| PAPER.map(|(size, cut, all)| (size as f64, if waits { all } else { cut }));
    p99 = p99
        .series("the paper, cut off", Style::Broken, known(false))
        .series("the paper, waited for", Style::Broken, known(true));
    sheet.extend([p99, mean, missing, accuracy]);
    sheet
}

/// The mean, of a histogram's quantiles.
fn mean(report: &Report) -> f64 {
    let slices = f64::from(SLICES);
    let middles = (0..SLICES).map(|slice| (f64::from(slice) + 0.5) / slices);
    middles.map(|at| millis(report.latency(at))).sum::<f64>() / slices
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const NAME: &str = "digits";
const SIZES: [usize; 7] = [1, 2, 4, 8, 12, 16, MOST];
const MOST: usize = 20;
/// Of which half are late.
const HALVED: usize = 16;
const DEADLINE_MS: u32 = 20;
/// What an answer may be late by.
const TOLERANCE_MS: u32 = 2;
/// Requests a second where the processors are not what is short.
const RATE: f64 = 200.0;
/// A share of calls, and the least and the most milliseconds by which they are late.
const STRAGGLERS: &str = "0.02,20,150";
/// Calls that a straggling model executes at the same time, so that only one of them straggles.
const AT_ONCE: &str = "8";
/// Microseconds of a processor that a row takes of a model that makes the machine short of them.
const LABOUR_US: &str = "4000";
/// Times the processor time that there is.
const OVERLOAD: f64 = 2.0;
/// Calls a second that are refused at once.
const FLOOR_RATE: f64 = 50.0;
/// A repeat has so many calls, unless that takes too short or too long.
const CALLS: f64 = 2000.0;
const SHORTEST: f64 = 4.0;
const LONGEST: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(5);
/// The label of the default output.
const NOTHING: i64 = -1;
const DEADLINE_EXCEEDED: u32 = 4;
/// How much nicer the system is to Outrigger where it gives it more weight: nine times as much.
const NICE: &str = "-10";
const EXPLAIN: HeaderName = HeaderName::from_static("outrigger-explain");
/// How often somebody asks for an explanation.
const ASKING: Duration = Duration::from_millis(20);
const SLICES: u32 = 2000;
/// Models, and the authors' p99 with cut-off and without.
const PAPER: [(usize, f64, f64); 2] = [(1, 17.0, 18.0), (16, 23.0, 154.0)];
/// Forests of a reference in Python, in equal votes.
const REFERENCE: [(usize, f64); 6] = [
    (1, 0.721),
    (3, 0.788),
    (5, 0.842),
    (8, 0.873),
    (12, 0.900),
    (16, 0.911),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overload_is_as_large_whatever_the_size() {
        let asked = |size: usize| Case::Queued.rate(size) * size as f64;
        assert!((asked(1) - asked(20)).abs() < 1e-6);
        assert_eq!(Case::Fast.rate(20), RATE);
    }

    #[test]
    fn only_who_is_waited_for_has_no_deadline() {
        let with = configuration(Case::CutOff, 2, None);
        assert!(with.contains("default: 20ms") && with.contains("ensemble: true"));
        assert!(!configuration(Case::Blocking, 2, None).contains("deadline"));
        assert!(!configuration(Case::CutOff, 1, None).contains("ensemble"));
    }

    #[test]
    fn votes_are_counted_in_what_is_explained() {
        let text =
            r#"select;policy=fixed;arm="a";probability=1.0000;asked=8;answered=5;note="x", direct"#;
        assert_eq!(answered(text), 5);
        assert_eq!(answered("select;default=deadline"), 0);
    }

    #[test]
    fn a_default_output_is_neither_right_nor_wrong() {
        let questions = Questions::new();
        // Field 6, eight bytes: an answer with one raw output.
        let answer = |label: i64| {
            let mut answer = b"\0\0\0\0\0\x32\x08".to_vec();
            answer.extend_from_slice(&label.to_le_bytes());
            Bytes::from(answer)
        };
        let truth = i64::from(questions.labels[3]);
        for label in [truth, (truth + 1) % 10, NOTHING] {
            assert!(questions.accept(3, &answer(label)));
        }
        assert_eq!(questions.accuracy(), 0.5);
        assert!((questions.default_share() - 1.0 / 3.0).abs() < 1e-9);
        questions.forget();
        assert!(questions.accuracy().is_nan());
    }
}
