use std::{error::Error, fmt, future::Future};

use bytestring::ByteString;
use outrigger_filters::{
    inference::Form,
    select::{self, Refused},
};

use crate::codec::feedback::{Item, Standings};

/// What learns from feedback.
pub trait Applies: Send + Sync {
    /// Returns the form in which a model's inputs are wanted; any, where there is no such model.
    fn form(&self, model: &str) -> Form;

    /// Learns from an item, and returns when it is sure to be counted.
    fn apply(&self, item: Item) -> impl Future<Output = Result<Applied, Rejected>> + Send;

    /// Tells how a model's arms stand, for a context or for all callers.
    fn standings(&self, model: &str, context: Option<&str>) -> Standings;
}

/// An item that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The model of which it told.
    pub model: ByteString,
    /// Whose state has learned, where callers are told apart.
    pub context: Option<ByteString>,
    /// Whether it has counted before, and nothing was changed by it now.
    pub duplicate: bool,
}

/// An item that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    cause: Cause,
    reason: String,
}

/// Why an item does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its id is none.
    Malformed,
    /// Its id was signed with another key, or changed.
    Foreign,
    /// Its id is too old.
    Expired,
    /// Its model is not configured, or has no selection.
    Model,
    /// Its arm is not configured.
    Arm,
    /// What it tells does not go together with the rows of the answer.
    Rows,
    /// Its label cannot be compared with what was answered.
    Label,
    /// Nothing is learned for the time being.
    Frozen,
    /// Too much waits to be shared.
    Full,
    /// No arm answered to its inputs.
    Unavailable,
}

impl Rejected {
    /// Says why, in a word and in a sentence.
    pub fn new(cause: Cause, reason: impl Into<String>) -> Self {
        Self {
            cause,
            reason: reason.into(),
        }
    }

    /// Returns why, in a word.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns why, in a sentence.
    pub fn into_reason(self) -> String {
        self.reason
    }
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Foreign,
        Self::Expired,
        Self::Model,
        Self::Arm,
        Self::Rows,
        Self::Label,
        Self::Frozen,
        Self::Full,
        Self::Unavailable,
    ];

    /// Returns what callers are told; metrics count by coarser words (`outrigger_feedback_total`).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::Model => "model",
            Self::Arm => "arm",
            Self::Rows => "rows",
            Self::Label => "label",
            Self::Frozen => "frozen",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<Refused> for Rejected {
    fn from(refused: Refused) -> Self {
        let cause = match refused {
            Refused::Malformed => Cause::Malformed,
            Refused::Foreign => Cause::Foreign,
            Refused::Expired => Cause::Expired,
        };
        Self::new(cause, refused.to_string())
    }
}

impl From<select::Rejected> for Rejected {
    fn from(rejected: select::Rejected) -> Self {
        use select::Rejected as Why;
        let cause = match &rejected {
            Why::Refused(refused) => return (*refused).into(),
            Why::OtherModel => Cause::Model,
            Why::UnknownArm => Cause::Arm,
            Why::Rows { .. } => Cause::Rows,
            Why::Nothing
            | Why::Loss
            | Why::Cut
            | Why::NoLabel
            | Why::NotComparable(_)
            | Why::Whose => Cause::Label,
            Why::Frozen => Cause::Frozen,
            Why::Full => Cause::Full,
        };
        Self::new(cause, rejected.to_string())
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for Rejected {}
