//! Goodput under rising load: servers with their own batchers, and without behind Outrigger.
//!
//! ```text
//!  one generator --+--> server with its own batcher, best settings of a sweep
//!   (open loop)    +--> the same server without --- nobody's batches
//!                  +--> Outrigger, as it comes --> the same server without
//! ```

mod curve;
pub(super) mod host;
mod http;
mod images;
mod peer;
mod seen;
mod servers;
pub(super) mod triton;

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use self::curve::Curve;
use self::images::{Images, Wire};
use self::peer::{Peer, Role, Step};
use self::seen::Seen;
use self::servers::Place;
use self::triton::Triton;
use super::Result;
use super::table::{Table, machine, millis};

pub use self::servers::Adaptive;
pub use self::triton::Batcher;

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of the scripts that start servers: `tests/servers`.
    pub servers: PathBuf,
    /// What all of them serve.
    pub model: Model,
    /// Within which an answer is good; if left out, the model's own default.
    pub objective: Option<Duration>,
    /// Whose own batching is compared, or who is measured for orientation.
    pub peers: Vec<Server>,
    /// Settings of Triton to measure, without a sweep.
    pub batchers: Vec<Batcher>,
    /// Settings of MLServer to measure, without a sweep.
    pub adaptive: Vec<Adaptive>,
    /// What Outrigger is told in `batch`; nothing, if it is not the bench that experiments.
    pub batch: String,
    /// Rates, instead of a ladder that is found.
    pub rates: Vec<f64>,
    /// How long each step is counted.
    pub lasting: Duration,
    /// Times that each step is measured; medians are shown.
    pub repeats: usize,
    /// Few steps and settings: to see that it works.
    pub quick: bool,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
    /// Where charts go.
    pub charts: Option<PathBuf>,
}

/// A scikit-learn model of digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Model {
    /// A support vector machine: a row costs a twentieth of a call.
    Svm,
    /// A hundred trees: a row costs next to nothing beside a call.
    Forest,
}

/// A server that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Server {
    /// NVIDIA's, over gRPC.
    Triton,
    /// Seldon's, over gRPC.
    Mlserver,
    /// For orientation, over HTTP/1.1.
    Mosec,
    /// For orientation, over HTTP/1.1.
    Bentoml,
}

/// A run under way.
struct Run<'a> {
    options: &'a Options,
    place: Place,
    images: Images,
    objective: Duration,
}

/// Measures, prints tables, and returns the figures.
pub fn run(options: &Options) -> Result<Value> {
    let place = Place {
        scripts: options.servers.clone(),
        folder: options.folder.clone(),
        model: options.model,
    };
    place.prepare()?;
    let run = Run {
        options,
        images: Images::read(&place.data(), options.model.name())?,
        objective: options.objective.unwrap_or(options.model.objective()),
        place,
    };
    let before = machine();
    let asked = |server| options.peers.contains(&server);
    let mut stages = serde_json::Map::new();
    if [Server::Triton, Server::Mosec, Server::Bentoml]
        .into_iter()
        .any(asked)
    {
        stages.insert("triton".into(), run.triton()?);
    }
    if asked(Server::Mlserver) {
        stages.insert("mlserver".into(), run.mlserver()?);
    }
    Ok(json!({
        "bench": "goodput",
        "machine": before,
        "quick": options.quick,
        "model": options.model.name(),
        "objective_ms": run.objective.as_secs_f64() * 1e3,
        "seconds": options.lasting.as_secs_f64(),
        "repeats": options.repeats,
        "outrigger_batch": options.batch,
        "stages": stages,
    }))
}

impl Run<'_> {
    fn triton(&self) -> Result<Value> {
        let options = self.options;
        let asked = |server| options.peers.contains(&server);
        let mut peers = Vec::new();
        let (mut sweep, mut _triton) = (Value::Null, None);
        if asked(Server::Triton) {
            let triton = Triton::start(&self.place)?;
            let own = |batcher: Batcher| -> Result<Peer> {
                let model = triton.load(Some(batcher))?;
                Ok(self.triton_peer(
                    &triton,
                    format!("Triton {batcher}"),
                    Role::Own,
                    triton.address,
                    &model,
                ))
            };
            let mut batchers = options.batchers.clone();
            if batchers.is_empty() {
                let all = Batcher::all().filter(|batcher| !options.quick || batcher.delay == 2000);
                (batchers, sweep) = self.sweep(
                    all,
                    |batcher| own(*batcher),
                    |batcher| triton.unload(&Triton::name(Some(*batcher))),
                )?;
            }
            let alone = triton.load(None)?;
            peers.push(self.triton_peer(
                &triton,
                "Triton alone".into(),
                Role::Alone,
                triton.address,
                &alone,
            ));
            for batcher in batchers {
                peers.push(own(batcher)?);
            }
            let proxy = self.place.outrigger(
                options.outrigger.clone(),
                triton.address,
                &alone,
                self.objective,
                &options.batch,
            )?;
            peers.push(
                self.triton_peer(
                    &triton,
                    "Outrigger + Triton alone".into(),
                    Role::Outrigger,
                    proxy.address,
                    &alone,
                )
                .behind(proxy),
            );
            _triton = Some(triton);
        }
        for (server, script, wire, name) in [
            (Server::Mosec, "mosec", Wire::Raw, "mosec"),
            (Server::Bentoml, "bentoml", Wire::Json, "BentoML"),
        ] {
            if asked(server) {
                let (size, time) = match server {
                    // What BentoML is told is how long a request may take, not how long it may wait.
                    Server::Bentoml => (128, self.objective.as_millis() as u32),
                    _ => (128, 2),
                };
                let (address, process) = self.place.http(script, size, time)?;
                peers.push(Peer::new(
                    name,
                    Role::Other,
                    address,
                    wire,
                    &self.images,
                    &process,
                ));
            }
        }
        self.curve("Triton", peers, sweep)
    }

    fn triton_peer(
        &self,
        triton: &Triton,
        name: String,
        role: Role,
        address: SocketAddr,
        model: &str,
    ) -> Peer {
        let wire = Wire::Grpc(model.to_owned());
        Peer::new(name, role, address, wire, &self.images, &triton.host)
            .counted_by(triton.address, model)
    }

    fn mlserver(&self) -> Result<Value> {
        let options = self.options;
        let mut settings = options.adaptive.clone();
        let swept = settings.is_empty();
        if swept {
            settings = Adaptive::all();
            settings.retain(|setting| !options.quick || setting.time == 2000);
        }
        let (address, process) = self.place.mlserver(&settings)?;
        let peer = |name: String, role, model: String| {
            Peer::new(
                name,
                role,
                address,
                Wire::Grpc(model),
                &self.images,
                &process,
            )
        };
        let own =
            |setting: &Adaptive| peer(format!("MLServer {setting}"), Role::Own, setting.model());
        let mut sweep = Value::Null;
        if swept {
            (settings, sweep) = self.sweep(settings, |setting| Ok(own(setting)), |_| Ok(()))?;
        }
        let alone = servers::MLSERVER_ALONE;
        let mut peers = vec![peer("MLServer alone".into(), Role::Alone, alone.into())];
        peers.extend(settings.iter().map(own));
        // MLServer does not say how many rows its models take, so that somebody has to.
        let batch = ["max_batch_size: 128", &options.batch]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        let proxy = self.place.outrigger(
            options.outrigger.clone(),
            address,
            alone,
            self.objective,
            &batch,
        )?;
        let wire = Wire::Grpc(alone.into());
        let name = "Outrigger + MLServer alone";
        peers.push(
            Peer::new(
                name,
                Role::Outrigger,
                proxy.address,
                wire,
                &self.images,
                &process,
            )
            .behind(proxy),
        );
        self.curve("MLServer", peers, sweep)
    }

    /// Offers each setting loads around what the first can do, and returns the best.
    fn sweep<S: Display>(
        &self,
        settings: impl IntoIterator<Item = S>,
        peer: impl Fn(&S) -> Result<Peer>,
        done: impl Fn(&S) -> Result<()>,
    ) -> Result<(Vec<S>, Value)> {
        let mut rates = Vec::new();
        let mut found: Vec<(S, Vec<Seen>)> = Vec::new();
        for setting in settings {
            let peer = peer(&setting)?;
            if rates.is_empty() {
                let capacity = peer.capacity(PROBE)?;
                rates = SWEPT.map(|share| round(capacity * share)).to_vec();
            }
            let mut seen = Vec::new();
            for rate in &rates {
                seen.push(peer.offer(&Step {
                    lasting: PROBE,
                    ..self.step(*rate, 0)
                })?);
            }
            let goodputs: Vec<_> = seen
                .iter()
                .map(|seen| format!("{:.0}", seen.goodput))
                .collect();
            progress(&format!("{setting}: {}\n", goodputs.join(" ")));
            done(&setting)?;
            found.push((setting, seen));
        }
        let sum = |seen: &[Seen]| seen.iter().map(|seen| seen.goodput).sum::<f64>();
        found.sort_by(|(_, one), (_, other)| sum(other).total_cmp(&sum(one)));
        let mut table = Table::with(
            ["setting".to_owned()].into_iter().chain(
                rates
                    .iter()
                    .flat_map(|rate| [format!("goodput at {rate:.0}/s"), "p99".into()]),
            ),
        );
        let mut figures = Vec::new();
        for (setting, seen) in &found {
            let cells = seen
                .iter()
                .flat_map(|seen| [format!("{:.0}", seen.goodput), millis(seen.p99)]);
            table.row([setting.to_string()].into_iter().chain(cells));
            figures.push(json!({
                "setting": setting.to_string(),
                "points": seen.iter().map(Seen::figures).collect::<Vec<_>>(),
            }));
        }
        println!("Sweep (size/microseconds)\n\n{table}");
        found.truncate(if self.options.quick { 1 } else { BEST });
        let best = found.into_iter().map(|(setting, _)| setting).collect();
        Ok((best, json!({ "rates": rates, "settings": figures })))
    }

    /// Measures all peers in turns along a ladder of rates.
    fn curve(&self, server: &str, peers: Vec<Peer>, sweep: Value) -> Result<Value> {
        let options = self.options;
        let mut rates = options.rates.clone();
        if rates.is_empty() {
            let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
            for peer in peers.iter().filter(|peer| peer.role != Role::Other) {
                let capacity = peer.capacity(PROBE)?;
                progress(&format!(
                    "{}: {capacity:.0}/s of {} callers\n",
                    peer.name,
                    peer::CALLERS
                ));
                peer.rest(self.objective)?;
                (least, most) = (least.min(capacity), most.max(capacity));
            }
            if least > most {
                (least, most) = UNKNOWN;
            }
            rates = ladder(least, most, options.quick);
        }
        let mut curve = Curve::new(server, self.objective, peers, rates);
        for repeat in 0..options.repeats {
            curve.measure(repeat, |rate| self.step(rate, repeat))?;
        }
        println!("{curve}");
        if let Some(folder) = &options.charts {
            std::fs::create_dir_all(folder)?;
            let name = format!(
                "goodput-{}-{}.svg",
                server.to_lowercase(),
                options.model.name()
            );
            std::fs::write(folder.join(name), curve.chart(options.model))?;
        }
        let mut figures = curve.figures();
        figures["sweep"] = sweep;
        Ok(figures)
    }

    fn step(&self, rate: f64, repeat: usize) -> Step {
        Step {
            rate,
            seed: rate.to_bits() ^ repeat as u64,
            warm_up: WARM_UP,
            lasting: self.options.lasting,
            objective: self.objective,
        }
    }
}

impl Model {
    fn name(self) -> &'static str {
        match self {
            Self::Svm => "svm",
            Self::Forest => "forest",
        }
    }

    /// Some seven times what a lone request takes, as an operator would choose who wants batches.
    fn objective(self) -> Duration {
        match self {
            Self::Svm => Duration::from_millis(20),
            Self::Forest => Duration::from_millis(50),
        }
    }
}

impl Server {
    /// All.
    pub const ALL: [Self; 4] = [Self::Triton, Self::Mlserver, Self::Mosec, Self::Bentoml];
}

/// Rates from half of what the worst can do to twice what the best can.
fn ladder(least: f64, most: f64, quick: bool) -> Vec<f64> {
    let ratio: f64 = if quick { 2.0 } else { 1.25 };
    let mut rates: Vec<f64> = std::iter::successors(Some(2.0 * most), |rate| Some(rate / ratio))
        .take_while(|rate| *rate * ratio > least / 2.0)
        .map(round)
        .collect();
    rates.reverse();
    rates
}

/// To two figures, as a chart's reader would.
fn round(rate: f64) -> f64 {
    let unit = 10_f64.powf((rate.log10().floor() - 1.0).max(0.0));
    ((rate / unit).round() * unit).max(1.0)
}

fn progress(what: &str) {
    eprint!("{what}");
    let _ = std::io::stderr().flush();
}

/// Of the capacity that the first setting of a sweep shows in a closed loop.
const SWEPT: [f64; 3] = [0.7, 1.0, 1.4];
/// Settings of a sweep that are measured along the whole ladder.
const BEST: usize = 3;
/// How long a setting of a sweep is offered a rate.
const PROBE: Duration = Duration::from_secs(2);
/// Not counted: connections, and what Outrigger learns.
const WARM_UP: Duration = Duration::from_millis(1500);
/// Where only servers for orientation are measured, which are not asked for their capacity.
const UNKNOWN: (f64, f64) = (400.0, 2000.0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_begins_below_the_worst_and_ends_at_twice_the_best() {
        for quick in [false, true] {
            let rates = ladder(300.0, 4000.0, quick);
            assert_eq!(rates.last(), Some(&8000.0));
            assert!((60.0..=150.0).contains(&rates[0]), "{rates:?}");
            assert!(rates.windows(2).all(|pair| pair[0] < pair[1]), "{rates:?}");
        }
    }

    #[test]
    fn rates_have_two_figures() {
        assert_eq!(round(1234.0), 1200.0);
        assert_eq!(round(87.4), 87.0);
        assert_eq!(round(0.2), 1.0);
    }
}
