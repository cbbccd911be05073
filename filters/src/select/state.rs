use std::ops::{AddAssign, Sub};

/// What was learned of a model's arms, from all feedback or from that of one context.
///
/// Everything in it is a sum, so that what several replicas learn at the same time adds up: each
/// works on its own copy, and tells the others what it added. Nothing is taken away but by
/// [`Rule`], which is applied by each who adds, and never told.
///
/// [`Rule`]: super::Rule
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// What was learned of each arm, in the order of the configuration.
    pub arms: Box<[Learned]>,
}

/// What was learned of one arm, or by how much that has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Learned {
    /// What the policy goes by: the logarithm of the weight, or the sum of the latest losses.
    pub score: f64,
    /// The number of losses in the score, where that is their sum.
    pub trials: f64,
    /// The sum of the losses of a longer time, where the policy remembers how an arm used to be.
    pub past_score: f64,
    /// Their number.
    pub past_trials: f64,
    /// How many losses were told.
    pub observations: f64,
    /// Their sum.
    pub loss: f64,
}

/// Which arms may be chosen: one bit each, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available(u64);

/// What is told of arms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence<'a> {
    /// What an arm lost that was chosen, of which the others' losses are not known.
    Chosen {
        /// Which arm.
        arm: usize,
        /// The probability with which it was chosen, in (0, 1].
        probability: f64,
        /// From 0 to 1.
        loss: f64,
    },
    /// What arms lost by the same input; those are `None` of which it is not known.
    Known(&'a [Option<f64>]),
}

impl State {
    /// Makes the state of so many arms of which nothing was learned.
    pub fn new(arms: usize) -> Self {
        Self {
            arms: vec![Learned::default(); arms].into(),
        }
    }
}

impl Learned {
    /// What its numbers are called where they are kept, in the order of [`Learned::numbers`].
    pub const NAMES: [&str; 6] = [
        "score",
        "trials",
        "past_score",
        "past_trials",
        "observations",
        "loss",
    ];

    /// Returns all of its numbers.
    pub const fn numbers(&self) -> [f64; 6] {
        [
            self.score,
            self.trials,
            self.past_score,
            self.past_trials,
            self.observations,
            self.loss,
        ]
    }

    /// Tells whether its numbers can be computed with.
    pub(super) fn is_sane(&self) -> bool {
        self.numbers().iter().all(|number| number.abs() < ABSURD)
    }

    /// Makes sums what they can be: of as many losses from 0 to 1 as are counted. Tells whether
    /// they were something else.
    pub(super) fn repair(&mut self, score_is_sum: bool) -> bool {
        let mut broken = false;
        let mut sum_of = |sum: &mut f64, count: &mut f64| {
            // Rounding is no fault.
            broken |= *count < -ROUNDING || *sum < -ROUNDING || *sum > *count + ROUNDING;
            *count = count.max(0.);
            *sum = sum.clamp(0., *count);
        };
        sum_of(&mut self.loss, &mut self.observations);
        sum_of(&mut self.past_score, &mut self.past_trials);
        if score_is_sum {
            sum_of(&mut self.score, &mut self.trials);
        }
        broken
    }
}

impl From<[f64; 6]> for Learned {
    fn from(numbers: [f64; 6]) -> Self {
        let [score, trials, past_score, past_trials, observations, loss] = numbers;
        Self {
            score,
            trials,
            past_score,
            past_trials,
            observations,
            loss,
        }
    }
}

impl AddAssign<&Self> for State {
    fn add_assign(&mut self, change: &Self) {
        for (arm, change) in self.arms.iter_mut().zip(&change.arms) {
            *arm += *change;
        }
    }
}

impl Sub for &State {
    type Output = State;

    fn sub(self, before: Self) -> State {
        let pairs = self.arms.iter().zip(&before.arms);
        State {
            arms: pairs.map(|(after, before)| *after - *before).collect(),
        }
    }
}

impl AddAssign for Learned {
    fn add_assign(&mut self, change: Self) {
        self.score += change.score;
        self.trials += change.trials;
        self.past_score += change.past_score;
        self.past_trials += change.past_trials;
        self.observations += change.observations;
        self.loss += change.loss;
    }
}

impl Sub for Learned {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            score: self.score - before.score,
            trials: self.trials - before.trials,
            past_score: self.past_score - before.past_score,
            past_trials: self.past_trials - before.past_trials,
            observations: self.observations - before.observations,
            loss: self.loss - before.loss,
        }
    }
}

impl Available {
    /// The most arms that a model may have.
    pub const MOST: usize = 64;

    /// The first so many arms.
    pub const fn first(arms: usize) -> Self {
        match arms {
            0 => Self(0),
            arms if arms >= Self::MOST => Self(u64::MAX),
            arms => Self(u64::MAX >> (Self::MOST - arms)),
        }
    }

    /// Tells whether an arm may be chosen.
    pub const fn has(self, arm: usize) -> bool {
        arm < Self::MOST && self.0 >> arm & 1 == 1
    }

    /// Tells whether all of these arms may be chosen.
    pub const fn has_all(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Leaves an arm out.
    #[must_use]
    pub const fn without(self, arm: usize) -> Self {
        match arm < Self::MOST {
            true => Self(self.0 & !(1 << arm)),
            false => self,
        }
    }

    /// Adds an arm; one past the most is none.
    #[must_use]
    pub const fn with(self, arm: usize) -> Self {
        match arm < Self::MOST {
            true => Self(self.0 | 1 << arm),
            false => self,
        }
    }

    /// Tells whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns how many there are.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Goes through the arms that may be chosen.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MOST).filter(move |arm| self.has(*arm))
    }
}

/// More than any sum ever comes to.
const ABSURD: f64 = 1e15;

/// By how much sums may be off that were added up in different orders.
const ROUNDING: f64 = 1e-3;
