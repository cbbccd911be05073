//! Single flight: rows that the model is being asked for already are not sent again.
//!
//! ```text
//!  asks first            asks the same meanwhile
//!  leader -- Call <----- follower            waits for the call's outcome
//!    |         |
//!    |         '-- a row of it in the shard's table, under its digest, until the call is over
//!    '-- polls the call itself; if it leaves, and somebody else waits, a task does
//! ```

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use smallvec::SmallVec;
use tokio::sync::{Notify, SetOnce};

use super::{
    frame::{Answers, Frame},
    key::{Cut, Question},
    store::{Counted, Mixed, Sent},
};

/// A call to the model for rows that others may wait for, too.
#[derive(Debug)]
pub(super) struct Call {
    /// The generation of the store in which it began: what comes of it is stored in no other.
    pub(super) generation: u64,
    outcome: SetOnce<Outcome>,
    /// How many wait besides the leader.
    waiting: AtomicUsize,
    /// How many besides them would like to know what comes of it.
    watching: AtomicUsize,
    /// How many rows it has; all are there before it is sent.
    rows: AtomicUsize,
    abandoned: Notify,
}

/// What came of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(Answered),
    /// It failed; whoever waited for all of its rows has the same failure.
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    /// It was given up, or came too late for its caller: others may ask again, together.
    GivenUp,
    /// What came of it is for one caller: others ask each for himself.
    Unfit,
}

/// The rows of an answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) frame: Arc<Counted<Frame>>,
    pub(super) answers: Answers,
}

/// Somebody who waits for a call; leaving counts.
#[derive(Debug)]
pub(super) struct Waiting {
    call: Arc<Call>,
    /// Whether the call is made for its sake, too.
    counts: AtomicBool,
}

/// The rows under way of one shard.
#[derive(Debug, Default)]
pub(super) struct Flights(HashMap<u64, SmallVec<[Flight; 1]>, BuildHasherDefault<Mixed>>);

#[derive(Debug)]
struct Flight {
    call: Arc<Call>,
    /// Which of the call's rows it is.
    index: usize,
    question: Arc<Counted<Question>>,
    sent: Sent,
}

impl Call {
    pub(super) fn new(generation: u64) -> Arc<Self> {
        Arc::new(Self {
            generation,
            outcome: SetOnce::new(),
            waiting: AtomicUsize::new(0),
            watching: AtomicUsize::new(0),
            rows: AtomicUsize::new(0),
            abandoned: Notify::new(),
        })
    }

    /// Counts a row, and returns which it is.
    pub(super) fn add(&self) -> usize {
        self.rows.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns how many rows it has.
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// Tells whether somebody else waits than the leader.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Tells whether anybody else than the leader hears what comes of it.
    pub(super) fn is_heard(&self) -> bool {
        self.is_awaited() || self.watching.load(Ordering::Acquire) > 0
    }

    /// Says what came of it; the first word counts.
    pub(super) fn end(&self, outcome: Outcome) {
        // Somebody else said it before.
        let _ = self.outcome.set(outcome);
    }

    /// Lets somebody go who waited.
    fn leave(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.abandoned.notify_one();
        }
    }

    /// Waits until nobody waits any more for a call whose leader has left.
    pub(super) async fn abandoned(&self) {
        while self.is_awaited() {
            self.abandoned.notified().await;
        }
    }
}

impl Waiting {
    fn new(call: &Arc<Call>) -> Self {
        call.waiting.fetch_add(1, Ordering::AcqRel);
        Self {
            call: call.clone(),
            counts: AtomicBool::new(true),
        }
    }

    /// Waits for what comes of the call.
    pub(super) async fn outcome(&self) -> &Outcome {
        self.call.outcome.wait().await
    }

    /// Goes on to wait, but no more as somebody for whom the call is made: where nobody else is
    /// left, it is given up, and is not sent if it was not yet.
    pub(super) fn step_back(&self) {
        if self.counts.swap(false, Ordering::AcqRel) {
            self.call.watching.fetch_add(1, Ordering::AcqRel);
            self.call.leave();
        }
    }

    /// Returns the call's answers, if it has them.
    pub(super) fn answered(&self) -> Option<&Answered> {
        match self.call.outcome.get()? {
            Outcome::Answered(answered) => Some(answered),
            Outcome::Failed(_) | Outcome::GivenUp | Outcome::Unfit => None,
        }
    }

    pub(super) fn call(&self) -> &Arc<Call> {
        &self.call
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if *self.counts.get_mut() {
            self.call.leave();
        } else {
            self.call.watching.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Flights {
    /// Looks for a row under way, and waits for it: for the call, and its row. It may be one of
    /// the request's `own` call, or of others' that began in the generation `others`.
    pub(super) fn join(
        &self,
        cut: &Cut<'_>,
        sought: &Sent,
        own: Option<&Arc<Call>>,
        others: Option<u64>,
    ) -> Option<(Waiting, usize)> {
        let flight = self.0.get(&sought.digest)?.iter().find(|flight| {
            (own.is_some_and(|own| Arc::ptr_eq(own, &flight.call))
                || others == Some(flight.call.generation))
                && cut.asks(&flight.question)
                && flight.sent.is(sought)
        })?;
        Some((Waiting::new(&flight.call), flight.index))
    }

    /// Enters a row of a call.
    pub(super) fn enter(&mut self, call: &Arc<Call>, question: Arc<Counted<Question>>, sent: Sent) {
        let flights = self.0.entry(sent.digest).or_default();
        flights.push(Flight {
            index: call.add(),
            call: call.clone(),
            question,
            sent,
        });
    }

    /// Takes a row of a call out, and returns it.
    pub(super) fn leave(
        &mut self,
        digest: u64,
        call: &Arc<Call>,
        index: usize,
    ) -> Option<(Arc<Counted<Question>>, Sent)> {
        let flights = self.0.get_mut(&digest)?;
        let is_it = |flight: &Flight| Arc::ptr_eq(&flight.call, call) && flight.index == index;
        let at = flights.iter().position(is_it)?;
        let flight = flights.swap_remove(at);
        if flights.is_empty() {
            self.0.remove(&digest);
        }
        Some((flight.question, flight.sent))
    }
}

impl Sent {
    /// Tells whether it is the same row, of the same question.
    fn is(&self, other: &Self) -> bool {
        self.strong == other.strong && (self.strong.is_some() || self.row == other.row)
    }
}
