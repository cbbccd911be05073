use std::time::Duration;

/// What a caller says of answers that were stored, after the HTTP header `cache-control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// The model itself shall answer; its answer may be stored.
    pub no_cache: bool,
    /// Nothing of the request or its answer shall be stored, nor be looked for.
    pub no_store: bool,
    /// How old an answer may be at most.
    pub max_age: Option<Duration>,
    /// The model shall not be asked.
    pub only_if_cached: bool,
}

/// What a cache did for one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheReport {
    /// In a word.
    pub result: CacheResult,
    /// Rows that were stored.
    pub hits: usize,
    /// Rows that the model was asked for already, on behalf of others or in the same request.
    pub joined: usize,
    /// Rows that were sent to the model for this request.
    pub sent: usize,
    /// Why the cache was not asked, or had not all.
    pub reason: Option<&'static str>,
    /// How long the oldest row that came out of the cache had been stored.
    pub age: Option<Duration>,
}

/// Where the rows of an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheResult {
    /// The model was asked nothing for this request.
    Hit,
    /// The model was asked for some of the rows.
    Partial,
    /// The model was asked for all that the request holds.
    Miss,
    /// The cache was not asked.
    Bypass,
}

impl CacheResult {
    /// Returns the word that headers use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Partial => "partial",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}
