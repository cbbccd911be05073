use std::time::Duration;

use http::HeaderName;
use outrigger_filters::{batch, cache};

use super::Name;

/// A model that clients name, and what may happen to its inferences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name that clients send.
    pub name: Name,
    /// What 99 of 100 requests shall keep to.
    pub latency_objective: Duration,
    /// The models that may answer, at least one.
    pub arms: Vec<Arm>,
    /// How requests are merged; left out, they are not.
    pub batch: Option<batch::Config>,
    /// What is kept of answers; left out, nothing is.
    pub cache: Option<cache::Config>,
    /// Headers on which no answer depends, whichever section names them: they may differ between the
    /// requests of a batch, and the cache knows nothing of them.
    pub ignore_headers: Vec<HeaderName>,
}

/// A model on a server that may answer for a [`Model`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// The name in metrics and headers.
    pub name: Name,
    /// Where the model is served: a key of the upstreams; left out, the listener's upstream.
    pub upstream: Option<Name>,
    /// The model's name on the server.
    pub model: Name,
    /// The version asked for; left out, what the client asks for.
    pub version: Option<Name>,
}

impl Arm {
    /// The arm of a model that names none: the same name at the listener's upstream.
    #[must_use]
    pub fn same(name: &Name) -> Self {
        Self {
            name: name.clone(),
            upstream: None,
            model: name.clone(),
            version: None,
        }
    }
}
