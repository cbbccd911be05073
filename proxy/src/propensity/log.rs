use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use outrigger_filters::select::{Available, Choice, Evidence, Ledger, Lesson};

use super::{
    line::{Line, Names, What},
    logs::Open,
    sample::Sample,
};

/// A handle of a model's log. None of its calls but [`flush`](Self::flush) waits for anything.
#[derive(Clone, Debug)]
pub struct Log {
    open: Arc<Open>,
    names: Arc<Names>,
    sample: Sample,
}

/// A choice to be written down.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// When it was made.
    pub at: SystemTime,
    /// The nonce of the prediction id.
    pub nonce: u64,
    /// Who asked, where callers are told apart.
    pub context: Option<&'a ByteString>,
    /// The arm that was chosen; `None` where all were asked.
    pub arm: Option<usize>,
    /// How many rows the request has.
    pub rows: u32,
    /// Which arms could be chosen.
    pub available: Available,
    /// With which probabilities, or shares of the vote.
    pub probabilities: &'a [f64],
}

impl Log {
    pub(super) fn new(
        open: Arc<Open>,
        model: ByteString,
        arms: impl IntoIterator<Item = ByteString>,
        sample: f64,
    ) -> Self {
        let arms = arms.into_iter().collect();
        Self {
            open,
            names: Arc::new(Names { model, arms }),
            sample: Sample::new(sample),
        }
    }

    /// Writes a choice down, if it is in the sample.
    pub fn chosen(&self, chosen: Chosen<'_>) {
        self.push(chosen.at, chosen.nonce, || What::Choice {
            context: chosen.context.cloned(),
            arm: chosen.arm,
            rows: chosen.rows,
            available: chosen.available,
            probabilities: chosen.probabilities.into(),
        });
    }

    /// Writes down what arms lost by a prediction, or by one row of it, if it is in the sample.
    pub fn told(
        &self,
        at: SystemTime,
        nonce: u64,
        row: Option<u32>,
        losses: impl IntoIterator<Item = (usize, f64)>,
    ) {
        self.push(at, nonce, || What::Feedback {
            row,
            losses: losses.into_iter().collect(),
        });
    }

    /// Waits until all has been written that was handed over before, but not longer than so long.
    /// It keeps the thread: call it where that may wait.
    pub fn flush(&self, most: Duration) {
        self.open.queue.flush(most);
    }

    /// Returns how many lines were dropped.
    pub fn dropped(&self) -> u64 {
        self.open.queue.dropped()
    }

    #[cfg(test)]
    pub(super) fn queue(&self) -> Arc<super::queue::Queue> {
        self.open.queue.clone()
    }

    fn push(&self, at: SystemTime, nonce: u64, what: impl FnOnce() -> What) {
        if self.sample.has(nonce) {
            self.open.queue.push(Line {
                at,
                names: self.names.clone(),
                nonce,
                what: what(),
            });
        }
    }
}

impl Ledger for Log {
    fn chose(&self, choice: &Choice<'_>) {
        // What has no chance is not up, or never had one by the configuration; of the latter the
        // log says that it could have been chosen, and was not.
        let arms = choice.arms.iter().zip(choice.shares).enumerate();
        let available = arms
            .filter(|(_, (arm, share))| **share > 0. || arm.weight <= 0.)
            .fold(Available::first(0), |all, (arm, _)| all.with(arm));
        if self.sample.has(choice.nonce) {
            self.chosen(Chosen {
                at: SystemTime::now(),
                nonce: choice.nonce,
                context: choice.context.map(ByteString::from).as_ref(),
                arm: choice.chosen,
                rows: choice.rows,
                available,
                probabilities: choice.shares,
            });
        }
    }

    fn learned(&self, lesson: &Lesson<'_>) {
        // What no prediction is known of says nothing of a choice.
        let Some(nonce) = lesson.nonce else {
            return;
        };
        let at = SystemTime::now();
        match lesson.evidence {
            Evidence::Chosen { arm, loss, .. } => self.told(at, nonce, lesson.row, [(arm, loss)]),
            Evidence::Known(losses) => {
                let losses = losses.iter().enumerate();
                let known = losses.filter_map(|(arm, loss)| Some((arm, (*loss)?)));
                self.told(at, nonce, lesson.row, known);
            }
        }
    }
}
