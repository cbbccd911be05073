use std::fmt::Debug;

use super::{Arm, Evidence, Shares};

/// Who writes down what was chosen with which probability, and what came of it, so that other
/// policies can be judged by it afterwards.
///
/// It is told on the way of requests, and must not wait.
pub trait Ledger: Debug + Send + Sync {
    /// An arm was chosen, or all were asked, and the answer is on its way.
    fn chose(&self, choice: &Choice<'_>);

    /// Losses were learned.
    fn learned(&self, lesson: &Lesson<'_>);
}

/// What was chosen for a request.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The prediction's own number.
    pub nonce: u64,
    /// Whose request it was.
    pub context: Option<&'a str>,
    /// The arms that could be chosen.
    pub arms: &'a [Arm],
    /// The probability with which each is chosen, or its share of the vote.
    pub shares: &'a Shares,
    /// The arm that was; `None` for an ensemble.
    pub chosen: Option<usize>,
    /// The rows of the request.
    pub rows: u32,
}

/// What was learned.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The number of the prediction; `None` for feedback on inputs.
    pub nonce: Option<u64>,
    /// The one row that is meant; `None` for all.
    pub row: Option<u32>,
    /// Whose request it was.
    pub context: Option<&'a str>,
    /// The arms.
    pub arms: &'a [Arm],
    /// What they lost.
    pub evidence: Evidence<'a>,
}
