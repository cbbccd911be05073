//! More than a model can do: what comes of it, with deadlines, before servers whose capacity is fixed.
//!
//! ```text
//!                            +--> server, its queue as it comes
//!  one generator, deadlines -+--> server with its own queue policy (Triton)
//!        (open loop)         +--> HAProxy, `maxconn` and `timeout queue` --> the server as it comes
//!                            +--> Outrigger --> the server as it comes
//! ```

mod contestant;
mod curve;
mod haproxy;
mod offer;
mod questions;
mod seen;
mod server;

use std::fmt::Display;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use self::contestant::{Contestant, Front, Phase, Step};
use self::curve::{Curve, say};
use self::offer::Callers;
use self::seen::milliseconds;
use self::server::{Queue, Server};
use super::Result;
use super::demand::progress;
use super::proxy::Proxy;
use super::table::{Table, machine, median};

pub use self::haproxy::Haproxy;
pub use self::server::Policy;

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of the scripts that start servers: `tests/servers`.
    pub servers: PathBuf,
    /// Whose capacity is exceeded.
    pub server: Kind,
    /// How long the model takes for each call.
    pub call: Duration,
    /// How long each caller has.
    pub deadline: Duration,
    /// What is offered, in capacities.
    pub loads: Vec<f64>,
    /// What is measured.
    pub parts: Vec<Part>,
    /// A setting of Triton's queue, instead of a sweep.
    pub policy: Option<Policy>,
    /// A setting of HAProxy's queue, instead of a sweep.
    pub haproxy: Option<Haproxy>,
    /// Ways to configure Outrigger's model.
    pub ours: Vec<Ours>,
    /// How long each phase is counted.
    pub lasting: Duration,
    /// Times that each phase is measured; medians are shown.
    pub repeats: usize,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// The native container's binary, if it is not beside this one.
    pub native: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
    /// Where the chart goes.
    pub charts: Option<PathBuf>,
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// NVIDIA's, with a model in its Python backend.
    Triton,
    /// Ours, with a synthetic model; it has no queues to choose from.
    Native,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// All loads, callers who stay.
    Load,
    /// Twice the capacity, a fifth of the callers urgent.
    Ranked,
    /// Twice the capacity, callers who leave when their time is up.
    Leaving,
}

/// A way to configure Outrigger's model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    name: String,
    yaml: String,
}

/// A run under way.
struct Run<'a> {
    options: &'a Options,
    server: Rc<Server>,
    capacity: f64,
}

/// Measures, prints tables, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    let before = machine();
    let folder = options.folder.as_path();
    let server = Rc::new(match options.server {
        Kind::Triton => Server::triton(&options.servers, folder, options.call)?,
        Kind::Native => Server::native(options.native.clone(), folder, options.call)?,
    });
    let plain = Contestant::new("alone", &server, &server.plain);
    // The first calls of a server are slow.
    plain.capacity(Duration::from_secs(1))?;
    let capacity = plain.capacity(PROBE)?;
    progress(format_args!(
        "{}: {capacity:.0} calls/s\n",
        options.server.name()
    ));
    let run = Run {
        options,
        server,
        capacity,
    };
    let (policy, haproxy, swept) = run.settings()?;
    let asked = |part| options.parts.contains(&part);
    let mut parts = serde_json::Map::new();
    if asked(Part::Load) {
        parts.insert("load".into(), run.load(policy, haproxy)?);
    }
    for (part, name) in [(Part::Ranked, "ranked"), (Part::Leaving, "leaving")] {
        if asked(part) {
            parts.insert(name.into(), run.at_twice(part, policy, haproxy)?);
        }
    }
    Ok(json!({
        "bench": "overload",
        "machine": before,
        "server": options.server.name(),
        "call_ms": milliseconds(options.call),
        "deadline_ms": milliseconds(options.deadline),
        "capacity": capacity,
        "seconds": options.lasting.as_secs_f64(),
        "repeats": options.repeats,
        "triton_queue_policy": policy.map(|policy| policy.to_string()),
        "haproxy": haproxy.to_string(),
        "outrigger": options.ours.iter().map(|ours| (ours.name.clone(), ours.yaml.clone().into()))
            .collect::<serde_json::Map<_, _>>(),
        "sweep": swept,
        "parts": parts,
    }))
}

impl Run<'_> {
    /// The best settings of Triton's queue and of HAProxy's at twice the capacity.
    fn settings(&self) -> Result<(Option<Policy>, Haproxy, Value)> {
        let options = self.options;
        let mut swept = serde_json::Map::new();
        let policy = match options.policy {
            _ if !self.server.has_queues() => None,
            Some(policy) => Some(policy),
            None => {
                let (best, figures) = self.sweep(
                    "Triton",
                    Policy::all(options.call, options.deadline),
                    |policy| self.queued(Queue::Policy(policy)),
                    |policy| self.unloaded(policy),
                )?;
                swept.insert("triton".into(), figures);
                Some(best)
            }
        };
        let haproxy = match options.haproxy {
            Some(haproxy) => haproxy,
            None => {
                let (best, figures) = self.sweep(
                    "HAProxy",
                    Haproxy::all(options.deadline),
                    |setting| self.haproxy(setting),
                    |_| Ok(()),
                )?;
                swept.insert("haproxy".into(), figures);
                best
            }
        };
        Ok((policy, haproxy, swept.into()))
    }

    fn sweep<S: Display + Copy>(
        &self,
        who: &str,
        settings: impl IntoIterator<Item = S>,
        contestant: impl Fn(S) -> Result<Contestant>,
        done: impl Fn(S) -> Result<()>,
    ) -> Result<(S, Value)> {
        let mut best: Option<(S, f64)> = None;
        let mut figures = Vec::new();
        progress(format_args!("{who}'s settings at 2x:"));
        for setting in settings {
            let step = Step {
                lasting: PROBE,
                ..self.step(2.0 * self.capacity, 0)
            };
            let phase = contestant(setting)?.offer(&step)?;
            say(&setting.to_string(), &phase);
            done(setting)?;
            let goodput = phase.all.goodput;
            if best.is_none_or(|(_, known)| goodput > known) {
                best = Some((setting, goodput));
            }
            figures.push(json!({ "setting": setting.to_string(), "at_2x": phase.figures() }));
        }
        progress(format_args!("\n"));
        let (best, _) = best.ok_or("there are no settings to choose from")?;
        Ok((best, figures.into()))
    }

    fn load(&self, policy: Option<Policy>, haproxy: Haproxy) -> Result<Value> {
        let options = self.options;
        let contestants = self.contestants(policy.map(Queue::Policy), haproxy)?;
        let name = options.server.name();
        let mut curve = Curve::new(name, self.capacity, options.deadline, &options.loads);
        for repeat in 0..options.repeats {
            curve.measure(&contestants, repeat, |rate| self.step(rate, repeat))?;
        }
        println!("{curve}");
        if let Some(folder) = &options.charts {
            std::fs::create_dir_all(folder)?;
            let file = format!("overload-{}.svg", name.to_lowercase());
            std::fs::write(folder.join(file), curve.chart())?;
        }
        Ok(curve.figures())
    }

    /// Another kind of callers, at twice the capacity.
    fn at_twice(&self, part: Part, policy: Option<Policy>, haproxy: Haproxy) -> Result<Value> {
        let ranked = part == Part::Ranked;
        let queue = if ranked { Queue::Ranked } else { Queue::Policy };
        let contestants = self.contestants(policy.map(queue), haproxy)?;
        let mut phases: Vec<Vec<Phase>> = vec![Vec::new(); contestants.len()];
        for repeat in 0..self.options.repeats {
            progress(format_args!("{part:?}, 2x:"));
            for turn in 0..contestants.len() {
                let index = (turn + repeat) % contestants.len();
                let phase = contestants[index].offer(&Step {
                    ranked,
                    callers: if ranked {
                        Callers::Stay
                    } else {
                        Callers::Leave
                    },
                    ..self.step(2.0 * self.capacity, repeat)
                })?;
                say(&contestants[index].name, &phase);
                phases[index].push(phase);
            }
            progress(format_args!("\n"));
        }
        let names: Vec<&str> = phases[0][0].classes.iter().map(|(name, _)| *name).collect();
        let headings = names.iter().flat_map(|name| {
            [
                format!("{name}, /s"),
                "in time".into(),
                "p99 ms".into(),
                "otherwise".into(),
            ]
        });
        let mut table = Table::with([format!("{part:?}, at 2x")].into_iter().chain(headings));
        let mut figures = serde_json::Map::new();
        for (contestant, phases) in contestants.iter().zip(&phases) {
            let cells = (0..names.len()).flat_map(|class| {
                let seen = || phases.iter().map(move |phase| &phase.classes[class].1);
                let otherwise = curve::shares(seen());
                [
                    format!("{:.0}", median(seen().map(|seen| seen.goodput))),
                    format!("{:.1} %", median(seen().map(|seen| seen.share() * 100.0))),
                    format!(
                        "{:.0}",
                        median(seen().map(|seen| milliseconds(seen.of_admitted.p99)))
                    ),
                    otherwise,
                ]
            });
            table.row([contestant.name.clone()].into_iter().chain(cells));
            let repeats: Vec<Value> = phases.iter().map(Phase::figures).collect();
            figures.insert(contestant.name.clone(), repeats.into());
        }
        println!("{table}");
        Ok(figures.into())
    }

    fn contestants(&self, queue: Option<Queue>, haproxy: Haproxy) -> Result<Vec<Contestant>> {
        let name = self.options.server.name();
        let mut all = vec![Contestant::new(
            format!("{name} alone"),
            &self.server,
            &self.server.plain,
        )];
        if let Some(queue) = queue {
            all.push(self.queued(queue)?);
        }
        all.push(self.haproxy(haproxy)?);
        for ours in &self.options.ours {
            all.push(self.outrigger(ours)?);
        }
        Ok(all)
    }

    fn queued(&self, queue: Queue) -> Result<Contestant> {
        let model = self.server.load(queue)?;
        Ok(Contestant::new(queue.to_string(), &self.server, &model))
    }

    fn unloaded(&self, policy: Policy) -> Result<()> {
        self.server.unload(&Queue::Policy(policy).name())
    }

    fn haproxy(&self, setting: Haproxy) -> Result<Contestant> {
        let (address, process) = setting.start(self.server.address, &self.options.folder)?;
        let contestant = self.before(format!("HAProxy {setting}"));
        Ok(contestant.behind(Front::Haproxy(address, process)))
    }

    fn outrigger(&self, ours: &Ours) -> Result<Contestant> {
        let file = ours.name.replace(' ', "-");
        let models = format!("models:\n  {}: {}\n", self.server.plain, ours.yaml);
        let proxy = Proxy::start(
            &format!("outrigger-{file}"),
            self.options.outrigger.clone(),
            &self.options.folder,
            &[self.server.address],
            &models,
        )?;
        let contestant = self.before(format!("Outrigger {}", ours.name));
        Ok(contestant.behind(Front::Outrigger(proxy)))
    }

    fn before(&self, name: String) -> Contestant {
        Contestant::new(name, &self.server, &self.server.plain)
    }

    fn step(&self, rate: f64, repeat: usize) -> Step {
        Step {
            rate,
            seed: rate.to_bits() ^ repeat as u64,
            warm_up: WARM_UP,
            lasting: self.options.lasting,
            deadline: self.options.deadline,
            callers: Callers::Stay,
            ranked: false,
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Triton => "Triton",
            Self::Native => "native",
        }
    }
}

impl Part {
    /// All.
    pub const ALL: [Self; 3] = [Self::Load, Self::Ranked, Self::Leaving];
}

impl Ours {
    /// The ways that are measured unless others are named.
    pub fn all(deadline: Duration) -> Vec<Self> {
        let deadline = format!("{}ms", deadline.as_millis());
        let ways = [
            (
                "deadline",
                format!("{{ deadline: {{ default: {deadline} }} }}"),
            ),
            (
                "batch",
                format!(
                    "{{ latency_objective: {deadline}, batch: {{}}, deadline: {{ default: {deadline} }} }}"
                ),
            ),
        ];
        ways.map(|(name, yaml)| Self {
            name: name.into(),
            yaml,
        })
        .to_vec()
    }
}

impl std::str::FromStr for Ours {
    type Err = String;

    /// Reads `NAME=YAML`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, yaml) = text
            .split_once('=')
            .ok_or_else(|| format!("{text} is not NAME=YAML"))?;
        Ok(Self {
            name: name.to_owned(),
            yaml: yaml.to_owned(),
        })
    }
}

/// How long the capacity is measured, and each setting of a sweep.
const PROBE: Duration = Duration::from_millis(2500);
/// Not counted: queues are as long then as they will be, where they are bounded.
const WARM_UP: Duration = Duration::from_secs(1);
