use crate::batch::Share;

/// Settings of second tries for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The share of requests that may be sent again because their connection was lost; none is off.
    pub budget: Share,
    /// When a request is sent a second time because the first is slow; left out: never.
    pub hedge: Option<Hedge>,
}

/// When a request is sent to a second endpoint because the first takes longer than usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// After the time within which this share of requests is answered.
    pub quantile: Share,
    /// The share of requests that may be sent twice.
    pub budget: Share,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // A connection that breaks loses the calls of a moment; what loses more is no accident,
            // and sending more to it is no help.
            budget: Share::new(0.1).unwrap_or_default(),
            hedge: None,
        }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            // The slowest in twenty, of which the budget lets nearly all have a second chance.
            quantile: Share::new(0.95).unwrap_or_default(),
            budget: Share::new(0.05).unwrap_or_default(),
        }
    }
}
