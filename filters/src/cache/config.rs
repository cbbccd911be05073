use std::time::Duration;

use bytestring::ByteString;

/// Settings of the prediction cache of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes that the entries take, with all that is kept of them besides.
    pub max_bytes: usize,
    /// How long an answer may be given again, at most.
    pub ttl: Duration,
    /// What an entry holds.
    pub unit: Unit,
    /// By which header callers are told apart, none of whom may fill the cache alone.
    pub tenant: Option<Tenant>,
    /// The most rows that a new version of the model is asked at once, because they were asked for
    /// last.
    pub warm: usize,
    /// Whether the cache may stand aside.
    pub bypass: Bypass,
}

/// What an entry of the cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Rows, where the model takes batches, and whole requests where it does not.
    #[default]
    Auto,
    /// The answer to one row, whatever request it came in.
    Row,
    /// The answer to a whole request.
    Request,
}

/// Callers who are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The header that names them, in lower case.
    pub header: ByteString,
    /// Bytes that the entries of one of them take.
    pub max_bytes: usize,
}

/// Whether the cache may stand aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bypass {
    /// Where looking answers up costs more than it saves.
    #[default]
    Auto,
    /// Not even then.
    Never,
}

impl Unit {
    /// All that can be configured; left out, it is [`Unit::Auto`].
    pub const ALL: [Self; 2] = [Self::Row, Self::Request];

    /// Returns the name that the configuration knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Row => "row",
            Self::Request => "request",
        }
    }
}

impl Bypass {
    /// All, the default first.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Never];

    /// Returns the name that the configuration knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Twenty thousand rows of a digit; a quarter of a small sidecar's memory.
            max_bytes: 64 << 20,
            // A model that was replaced behind the proxy's back answers wrongly for no longer.
            ttl: Duration::from_secs(600),
            unit: Unit::default(),
            tenant: None,
            warm: 0,
            bypass: Bypass::default(),
        }
    }
}
