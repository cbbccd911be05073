//! What it costs to tell how good answers were, and to choose who answers.
//!
//! ```text
//!  core 0                                            core 1
//!  generator --predictions-------------------------> Outrigger --> a model that always says the same
//!            --feedback, in lists and one by one --> (also core 0)
//! ```

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::{Caller, Load, Outcome, Pace, Repeat, Target, frame};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::pin::Pin;
use super::process::Process;
use super::proxy::Proxy;
use super::table::{Table, machine, median};
use super::{Result, message};
use crate::experiments::admin::wait_until_ready;
use crate::experiments::arms::FEEDBACK;

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// Times that each figure is measured, in turns; medians are shown.
    pub repeats: usize,
    /// How long each load of predictions is counted.
    pub lasting: Duration,
    /// How many labels are told each time.
    pub labels: usize,
    /// Lets Outrigger run on every core, and the generator too.
    pub unpinned: bool,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
}

/// A model of the configuration, and what predictions of it cost.
struct Way {
    name: &'static str,
    proxy: Proxy,
    /// Microseconds of the proxy for a prediction, one entry a repeat.
    cpu: Vec<f64>,
}

/// How labels are told to a proxy, and what that costs.
struct Told {
    policy: &'static str,
    form: Form,
    /// Microseconds of the proxy for a label, one entry a repeat.
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

/// How labels are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    RestList,
    GrpcList,
    RestSingle,
}

/// Measures, prints tables, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    let before = machine();
    let pin = Pin::new(options.unpinned)?;
    pin.load()?;
    let ourselves = std::env::current_exe()?;
    let folder = options.folder.as_path();
    let mut model = Process::start("model", None, folder, ourselves, ["label"])?;
    let server = model.wait_for_line("listening ")?.parse()?;
    pin.measured()?;
    let mut ways = Vec::new();
    for (name, arms, selection) in WAYS {
        let program = options.outrigger.clone();
        let file = name.replace([' ', ','], "-");
        let models = models(arms, selection);
        let proxy = Proxy::start(&file, program, folder, &[server], &models)?;
        wait_until_ready(proxy.admin)?;
        ways.push(Way {
            name,
            proxy,
            cpu: Vec::new(),
        });
    }
    pin.load()?;
    let mut told: Vec<Told> = POLICIES
        .into_iter()
        .flat_map(|policy| Form::ALL.map(|form| Told::new(policy, form)))
        .collect();
    for repeat in 0..=options.repeats {
        // The first round only warms up.
        let counted = repeat > 0;
        for turn in 0..ways.len() {
            let count = ways.len();
            ways[(turn + repeat) % count].predict(options, counted)?;
        }
        for told in &mut told {
            let way = ways.iter().find(|way| way.name == told.policy);
            let way = way.ok_or("feedback goes to one of the ways")?;
            told.measure(&way.proxy, options, counted)?;
        }
    }
    print(&ways, &told);
    Ok(json!({
        "bench": "feedback",
        "machine": before,
        "repeats": options.repeats,
        "seconds": options.lasting.as_secs_f64(),
        "labels": options.labels,
        "pinned": pin.is_on(),
        "predictions": ways.iter().map(|way| json!({
            "name": way.name,
            "microseconds": median(way.cpu.iter().copied()),
            "microseconds_all": way.cpu,
        })).collect::<Vec<_>>(),
        "feedback": told.iter().map(|told| json!({
            "policy": told.policy,
            "form": told.form.name(),
            "microseconds": median(told.cpu.iter().copied()),
            "microseconds_all": told.cpu,
            "per_second": median(told.rate.iter().copied()),
        })).collect::<Vec<_>>(),
    }))
}

fn print(ways: &[Way], told: &[Told]) {
    let alone = ways.iter().find(|way| way.name == ALONE);
    let mut table = Table::new(["way", "CPU-s/100k", "more than one arm"]);
    for way in ways {
        let more = alone.map(|alone| {
            let pairs = way.cpu.iter().zip(&alone.cpu);
            median(pairs.map(|(way, alone)| way - alone))
        });
        table.row([
            way.name.into(),
            format!("{:.2}", median(way.cpu.iter().copied()) / 10.0),
            more.map_or_else(String::new, |more| format!("{:+.2}", more / 10.0)),
        ]);
    }
    println!("Processor time of the proxy for predictions, {CONNECTIONS}x{STREAMS}\n\n{table}");
    let mut table = Table::new([
        "feedback",
        "policy",
        "us each",
        "a second of one core",
        "told a second",
    ]);
    for told in told {
        let cpu = median(told.cpu.iter().copied());
        table.row([
            told.form.name().into(),
            told.policy.into(),
            format!("{cpu:.2}"),
            format!("{:.0}", 1e6 / cpu),
            format!("{:.0}", median(told.rate.iter().copied())),
        ]);
    }
    println!("Processor time of the proxy for a label, lists of {LIST}\n\n{table}");
    for told in told.iter().filter(|told| told.form != Form::RestSingle) {
        let rate = 1e6 / median(told.cpu.iter().copied());
        let verdict = if rate >= WANTED { "reached" } else { "MISSED" };
        println!(
            "{verdict}: feedback a second of one core, {} {}, {rate:.0} (at least {WANTED:.0})",
            told.policy,
            told.form.name()
        );
    }
}

impl Way {
    fn predict(&mut self, options: &Options, counted: bool) -> Result<()> {
        let user = (
            http::HeaderName::from_static("x-user"),
            http::HeaderValue::from_static("somebody"),
        );
        let target = Target::new(self.proxy.address, message::INFER)?
            .connections(CONNECTIONS)
            .header(user.0, user.1);
        let pace = Pace::Closed {
            callers: CONNECTIONS * STREAMS,
        };
        let before = self.proxy.usage()?;
        let report = Load::new(target, pace, Repeat::new([question()]))
            .lasting(options.lasting)
            .run()?;
        let cpu = self.proxy.usage()?.cpu.saturating_sub(before.cpu);
        if report.sent() == 0 || report.count(Outcome::Grpc(0)) != report.sent() {
            return Err(format!("{}: not every answer was right:\n{report}", self.name).into());
        }
        if counted {
            let micros = cpu.as_secs_f64() * 1e6 / report.sent() as f64;
            progress(format_args!("{}: {micros:.2} us\n", self.name));
            self.cpu.push(micros);
        }
        Ok(())
    }
}

impl Told {
    fn new(policy: &'static str, form: Form) -> Self {
        Self {
            policy,
            form,
            cpu: Vec::new(),
            rate: Vec::new(),
        }
    }

    fn measure(&mut self, proxy: &Proxy, options: &Options, counted: bool) -> Result<()> {
        let labels = match self.form {
            Form::RestSingle => options.labels / 5,
            Form::RestList | Form::GrpcList => options.labels,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let target = Target::new(proxy.address, message::INFER)?;
            let mut callers = Vec::new();
            for _ in 0..CONNECTIONS {
                callers.push(Caller::connect(&target, PATIENCE).await?);
            }
            let ids = ask(&callers, labels).await?;
            let reports = self.form.write(&ids);
            // What was asked before shall be over with.
            let before = proxy.usage()?;
            let begin = Instant::now();
            tell(&callers, self.form, reports).await?;
            let took = begin.elapsed();
            let cpu = proxy.usage()?.cpu.saturating_sub(before.cpu);
            if counted {
                let micros = cpu.as_secs_f64() * 1e6 / labels as f64;
                progress(format_args!(
                    "{} {}: {micros:.2} us\n",
                    self.policy,
                    self.form.name()
                ));
                self.cpu.push(micros);
                self.rate.push(labels as f64 / took.as_secs_f64());
            }
            Ok(())
        })
    }
}

/// Asks so many questions, and keeps under which ids the answers may be judged.
async fn ask(callers: &[Caller], questions: usize) -> Result<Vec<String>> {
    let each = |at: usize| {
        let caller = callers[at % callers.len()].clone();
        let share = questions / ASKING + usize::from(at < questions % ASKING);
        async move {
            let mut ids = Vec::with_capacity(share);
            for _ in 0..share {
                let answer = caller.call(question(), &[]).await?;
                let id = answer.header("outrigger-prediction-id");
                ids.push(id.ok_or("an answer has no prediction id")?.to_owned());
            }
            Result::Ok(ids)
        }
    };
    let ids = futures_util::future::try_join_all((0..ASKING).map(each)).await?;
    Ok(ids.into_iter().flatten().collect())
}

/// Tells all; each report is written before the clock runs.
async fn tell(callers: &[Caller], form: Form, reports: Vec<(Bytes, u64)>) -> Result<()> {
    let mut shares: Vec<Vec<(Bytes, u64)>> = vec![Vec::new(); TELLING];
    for (at, report) in reports.into_iter().enumerate() {
        shares[at % TELLING].push(report);
    }
    let each = |(at, share): (usize, Vec<(Bytes, u64)>)| {
        let caller = callers[at % callers.len()].clone();
        async move {
            for (report, labels) in share {
                let answer = match form {
                    Form::GrpcList => caller.call_method(message::REPORT, report).await?,
                    Form::RestList | Form::RestSingle => caller.post(FEEDBACK, report).await?,
                };
                let applied = match form {
                    Form::GrpcList => answer
                        .body
                        .get(PREFIX..)
                        .map(|message| message::applied(&answer.body.slice_ref(message))),
                    Form::RestList | Form::RestSingle => {
                        let told: Option<Value> = serde_json::from_slice(&answer.body).ok();
                        told.and_then(|told| told.get("applied")?.as_u64())
                    }
                };
                if applied != Some(labels) {
                    let body = String::from_utf8_lossy(&answer.body);
                    return Err(format!("feedback ended with {}: {body}", answer.outcome).into());
                }
            }
            Result::Ok(())
        }
    };
    futures_util::future::try_join_all(shares.into_iter().enumerate().map(each)).await?;
    Ok(())
}

impl Form {
    const ALL: [Self; 3] = [Self::RestList, Self::GrpcList, Self::RestSingle];

    fn name(self) -> &'static str {
        match self {
            Self::RestList => "REST, lists",
            Self::GrpcList => "gRPC, lists",
            Self::RestSingle => "REST, one by one",
        }
    }

    /// Writes reports about these answers, each with how many labels it tells.
    fn write(self, ids: &[String]) -> Vec<(Bytes, u64)> {
        let list = if self == Self::RestSingle { 1 } else { LIST };
        // One answer in ten was wrong.
        let label = |at: usize| if at.is_multiple_of(10) { 3 } else { RIGHT };
        let write = |ids: &[String]| {
            let told = ids
                .iter()
                .enumerate()
                .map(|(at, id)| (id.as_str(), label(at)));
            match self {
                Self::GrpcList => frame(&message::report(told)),
                Self::RestList | Self::RestSingle => {
                    let items: Vec<_> = told
                        .map(|(id, label)| format!(r#"{{"prediction_id":"{id}","label":{label}}}"#))
                        .collect();
                    match &items[..] {
                        [item] => item.clone().into(),
                        items => format!(r#"{{"feedback":[{}]}}"#, items.join(",")).into(),
                    }
                }
            }
        };
        let lists = ids.chunks(list);
        lists.map(|ids| (write(ids), ids.len() as u64)).collect()
    }
}

/// Writes the model of a configuration with so many arms; without any it is not named.
fn models(arms: usize, selection: &str) -> String {
    if arms == 0 {
        return String::new();
    }
    let arms: Vec<_> = (0..arms)
        .map(|arm| format!("arm{arm}: {{ upstream: model, model: {MODEL} }}"))
        .collect();
    let selection = match selection {
        "" => String::new(),
        settings => format!(", selection: {{ {settings} }}"),
    };
    format!(
        "models:\n  {MODEL}: {{ arms: {{ {} }}{selection} }}\n",
        arms.join(", ")
    )
}

/// A question about a row of 64 floats.
fn question() -> Bytes {
    frame(&message::infer(MODEL, "input0", &[0.5; 64]))
}

fn progress(what: std::fmt::Arguments<'_>) {
    eprint!("{what}");
    let _ = std::io::stderr().flush();
}

const MODEL: &str = "labels";
/// What the model says of every row.
const RIGHT: u64 = 7;
/// What predictions are compared with.
const ALONE: &str = "one arm";
const POLICIES: [&str; 3] = ["exp3", "thompson", "exp4"];
/// With how many arms, and how they are selected. They are the same model, so that the difference is
/// selection; of `exp4` a second call too.
const WAYS: [(&str, usize, &str); 7] = [
    ("passed", 0, ""),
    (ALONE, 1, ""),
    ("fixed", 2, "policy: fixed"),
    ("exp3", 2, "policy: exp3"),
    ("thompson", 2, "policy: thompson"),
    (
        "thompson, contexts",
        2,
        "policy: thompson, context: { header: x-user }",
    ),
    ("exp4", 2, "policy: exp4"),
];
/// Connections of a load, and calls on each at a time.
const CONNECTIONS: usize = 8;
const STREAMS: usize = 8;
/// Labels of a list.
const LIST: usize = 100;
/// Callers who gather ids at the same time, and who tell labels.
const ASKING: usize = 64;
const TELLING: usize = 16;
/// Bytes of gRPC's prefix: whether it is compressed, and the length.
const PREFIX: usize = 5;
const PATIENCE: Duration = Duration::from_secs(10);
/// Labels a second that one core shall take.
const WANTED: f64 = 50_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_told_once() {
        let ids: Vec<String> = (0..250).map(|id| format!("id{id}")).collect();
        for (form, reports) in [
            (Form::RestList, 3),
            (Form::GrpcList, 3),
            (Form::RestSingle, 250),
        ] {
            let written = form.write(&ids);
            assert_eq!(written.len(), reports, "{form:?}");
            let told: u64 = written.iter().map(|(_, labels)| labels).sum();
            assert_eq!(told, 250, "{form:?}");
        }
        let single = &Form::RestSingle.write(&ids)[0].0;
        assert_eq!(single, r#"{"prediction_id":"id0","label":3}"#);
    }

    #[test]
    fn feedback_goes_to_ways_that_there_are() {
        for policy in POLICIES {
            assert!(WAYS.iter().any(|(name, ..)| *name == policy), "{policy}");
        }
    }
}
