use std::path::PathBuf;
use std::time::Duration;

use bytestring::ByteString;
use http::HeaderName;
use outrigger_filters::select::{self, Value};
use outrigger_filters::{admission, batch, cache, retry};

use super::Name;

/// A model that clients name, and what may happen to its inferences.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The name that clients send.
    pub name: Name,
    /// What 99 of 100 requests shall keep to.
    pub latency_objective: Duration,
    /// The models that may answer, at least one that does, in the order of the file.
    pub arms: Vec<Arm>,
    /// Which arm answers, and what is learned. There wherever there is something to select: where it
    /// is written, where there are several arms, and where there is a default output.
    pub selection: Option<select::Config>,
    /// Where choices are written down; left out, nowhere.
    pub selection_log: Option<SelectionLog>,
    /// What is answered where there is no answer worth giving.
    pub deadline: Option<Deadline>,
    /// How many calls of requests that are not merged are under way; left out, all are.
    pub admission: Option<admission::Config>,
    /// What is sent again, or to two endpoints. There wherever anything is configured.
    pub retry: Option<retry::Config>,
    /// How requests are merged; left out, they are not.
    pub batch: Option<batch::Config>,
    /// What is kept of answers; left out, nothing is.
    pub cache: Option<cache::Config>,
    /// Headers on which no answer depends, whichever section names them: they may differ between the
    /// requests of a batch, and the cache knows nothing of them.
    pub ignore_headers: Vec<HeaderName>,
}

/// A model on a server that may answer for a [`Model`].
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// The name in metrics and headers.
    pub name: Name,
    /// Where the model is served: a key of the upstreams; left out, the listener's upstream.
    pub upstream: Option<Name>,
    /// The model's name on the server.
    pub model: Name,
    /// The version asked for; left out, what the client asks for.
    pub version: Option<Name>,
    /// Its share beside those of the other arms.
    pub weight: f64,
    /// The least probability with which it is chosen while it is up.
    pub min_probability: f64,
    /// The greatest probability with which it is chosen while others are up.
    pub max_probability: f64,
    /// The share of requests of which it gets a copy; left out, it answers.
    pub shadow: Option<f64>,
}

/// Where choices and what came of them are written down.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionLog {
    /// The file, of this model alone.
    pub path: PathBuf,
    /// Its size, beyond which another one is begun.
    pub max_bytes: usize,
    /// Files that are kept, with the one that is written to.
    pub files: usize,
    /// The share of requests that are written down.
    pub sample: f64,
}

/// What is answered where there is no answer worth giving.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deadline {
    /// How long an answer may take where the caller names no time.
    pub default: Option<Duration>,
    /// How many arms of an ensemble must have answered by the deadline; left out, one.
    pub quorum: Option<usize>,
    /// Whether an ensemble answers as soon as no other vote could change which label wins.
    pub enough: bool,
    /// The answer to a row, by outputs in the order of the file; empty where there is none.
    pub default_output: Vec<(ByteString, Vec<Value>)>,
    /// The share of an ensemble's weights that must agree; left out, every answer is given.
    pub min_confidence: Option<f64>,
    /// Whether servers are told the time that is left as the parameter `timeout`.
    pub timeout_parameter: bool,
}

impl Arm {
    /// The arm of a model that names none: the same name at the listener's upstream.
    #[must_use]
    pub fn same(name: &Name) -> Self {
        let share = select::Arm::new("");
        Self {
            name: name.clone(),
            upstream: None,
            model: name.clone(),
            version: None,
            weight: share.weight,
            min_probability: share.min_probability,
            max_probability: share.max_probability,
            shadow: share.shadow,
        }
    }

    /// The arm as selection knows it.
    #[must_use]
    pub fn selectable(&self) -> select::Arm {
        select::Arm {
            name: self.name.as_str().into(),
            weight: self.weight,
            min_probability: self.min_probability,
            max_probability: self.max_probability,
            shadow: self.shadow,
        }
    }
}
