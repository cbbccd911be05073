use std::{collections::BTreeMap, time::Duration};

use outrigger_filters::{
    batch::{Config, Controller, InFlight, Share},
    overload::Cancel,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::figures::Figure;

/// A simulation, as a file describes it.
///
/// A key that is not known is a fault, and so is one that is missing, but for features that a case
/// does without: what is not said of the filter is its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What shall come of it, and why: a sentence of physics.
    pub(crate) why: String,
    /// A run for each.
    pub(crate) seeds: Vec<u64>,
    /// For how long callers ask.
    #[serde(deserialize_with = "duration")]
    pub(crate) length: Duration,
    pub(crate) filter: Filter,
    pub(crate) model: Model,
    /// Streams of requests by their names.
    pub(crate) load: BTreeMap<String, Stream>,
    pub(crate) expected: Vec<Expectation>,
}

/// What is configured otherwise than by default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    #[serde(default, deserialize_with = "some_duration")]
    latency_objective: Option<Duration>,
    max_batch_size: Option<usize>,
    controller: Option<String>,
    #[serde(default, deserialize_with = "some_duration")]
    max_delay: Option<Duration>,
    max_in_flight: Option<Places>,
    max_queue_rows: Option<usize>,
    split: Option<bool>,
    cancel: Option<String>,
    holdout: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Places {
    Auto,
    Calls(usize),
}

/// What calls take, and what goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    /// What a call takes, however many rows it has.
    #[serde(deserialize_with = "duration")]
    pub(crate) beta: Duration,
    /// What each of its rows takes.
    #[serde(deserialize_with = "duration")]
    pub(crate) alpha: Duration,
    /// Calls that it works on at the same time.
    pub(crate) executors: usize,
    pub(crate) noise: Option<Noise>,
    pub(crate) hangs: Option<Hangs>,
    #[serde(default)]
    pub(crate) phases: Vec<Phase>,
}

/// What a call takes more than it has to, as a share of that.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Noise {
    /// The mean.
    Exponential(f64),
    /// The most.
    Uniform(f64),
}

/// Calls that the server loses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hangs {
    pub(crate) one_in: u64,
    #[serde(deserialize_with = "duration")]
    pub(crate) lasts: Duration,
}

/// How the model is from a moment on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    #[serde(deserialize_with = "duration")]
    pub(crate) from: Duration,
    /// How many times as long calls take.
    pub(crate) slower: f64,
    /// The share of calls that fail.
    #[serde(default)]
    pub(crate) failing: f64,
}

/// Requests that are alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stream {
    pub(crate) arrivals: Arrivals,
    /// Rows of a request.
    pub(crate) rows: usize,
    /// From when on, and until when; otherwise from the start to the end.
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) from: Option<Duration>,
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) to: Option<Duration>,
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: Option<u64>,
    pub(crate) leave: Option<Leave>,
    /// The share of requests that the model refuses, and every call that they are in.
    pub(crate) bad: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Arrivals {
    /// By chance.
    Poisson(Rate),
    /// So many callers, each of whom asks again so long after its answer: at least and at most.
    Closed {
        callers: usize,
        #[serde(deserialize_with = "durations")]
        think: (Duration, Duration),
    },
    /// So many requests within a time, and again after another time by chance.
    Bursts {
        size: usize,
        #[serde(deserialize_with = "duration")]
        every: Duration,
        #[serde(deserialize_with = "duration")]
        within: Duration,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Rate {
    /// Requests a second.
    Rate(f64),
    /// Rows, as a share of what the best static limit makes.
    OfBest(f64),
}

/// Callers who do not wait for their answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leave {
    pub(crate) share: f64,
    #[serde(deserialize_with = "duration")]
    pub(crate) after: Duration,
}

/// Ranges of figures, of the requests that came and the calls that began within a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expectation {
    /// The stream; otherwise all requests.
    pub(crate) of: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub(crate) from: Duration,
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) to: Option<Duration>,
    pub(crate) figures: BTreeMap<Figure, (f64, f64)>,
}

/// Reads a file.
pub(crate) fn read(text: &str) -> Result<Case, serde_json::Error> {
    let case: Case = serde_json::from_str(text)?;
    case.fault()
        .map_or(Ok(case), |fault| Err(serde_json::Error::custom(fault)))
}

impl Case {
    /// Tells what is wrong with a case whose every part can be read.
    fn fault(&self) -> Option<String> {
        if self.seeds.is_empty() || self.load.is_empty() || self.expected.is_empty() {
            return Some("no seeds, no load or nothing that is expected".into());
        }
        if self.model.executors == 0 || self.filter.unknown().is_some() {
            return Some("no executors, or no such controller or cancel".into());
        }
        for Expectation {
            of,
            from,
            to,
            figures,
        } in &self.expected
        {
            if of.as_ref().is_some_and(|of| !self.load.contains_key(of)) {
                return Some(format!("there is no stream {of:?}"));
            }
            if *from >= to.unwrap_or(self.length) || figures.is_empty() {
                return Some(format!("nothing is expected from {from:?}"));
            }
            if let Some((figure, _)) = figures.iter().find(|(_, (low, high))| low > high) {
                return Some(format!("the range of {} is empty", figure.name()));
            }
        }
        None
    }
}

impl Filter {
    fn unknown(&self) -> Option<&str> {
        let controller = self.controller.as_deref();
        let cancel = self.cancel.as_deref();
        controller
            .filter(|name| Controller::ALL.iter().all(|known| known.as_str() != *name))
            .or(cancel.filter(|name| Cancel::ALL.iter().all(|known| known.as_str() != *name)))
    }

    pub(crate) fn objective(&self) -> Duration {
        self.config().latency_objective
    }

    pub(crate) fn config(&self) -> Config {
        let default = Config::default();
        let controller = self.controller.as_deref().and_then(|name| {
            Controller::ALL
                .into_iter()
                .find(|known| known.as_str() == name)
        });
        let cancel = self
            .cancel
            .as_deref()
            .and_then(|name| Cancel::ALL.into_iter().find(|known| known.as_str() == name));
        Config {
            latency_objective: self.latency_objective.unwrap_or(default.latency_objective),
            max_batch_size: self.max_batch_size,
            controller: controller.unwrap_or_default(),
            max_delay: self.max_delay.unwrap_or(default.max_delay),
            max_in_flight: match self.max_in_flight {
                None => default.max_in_flight,
                Some(Places::Auto) => InFlight::Auto,
                Some(Places::Calls(calls)) => InFlight::Fixed(calls),
            },
            max_queue_rows: self.max_queue_rows.unwrap_or(default.max_queue_rows),
            split: self.split.unwrap_or(default.split),
            cancel: cancel.unwrap_or_default(),
            holdout: self.holdout.and_then(Share::new).unwrap_or(default.holdout),
            ..default
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no duration")))
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(Duration, Duration), D::Error> {
    let (least, most) = <(String, String)>::deserialize(deserializer)?;
    let both = parse(&least)
        .zip(parse(&most))
        .filter(|(least, most)| least <= most);
    both.ok_or_else(|| D::Error::custom(format!("{least:?} to {most:?} is no range of durations")))
}

/// Reads a number with its unit: `60s`, `0.5ms`, `813us`.
fn parse(text: &str) -> Option<Duration> {
    // "s" comes last, since the others end with it too.
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)))?;
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}
