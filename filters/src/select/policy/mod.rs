//! How arms are chosen by what was learned of them: plain numbers, no clock and no dice.
//!
//! Which policy for what, by the simulation of five arms the best of which is lost for a while
//! (the share of wrong answers of all, in the first 500 without it, in the first 1000 with it
//! again, and in the end, where an oracle has 0.031, 0.085, 0.013 and 0.013):
//!
//! | policy | told | all | lost | back | end | for |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | fixed | | 0.245 | 0.37 | 0.20 | 0.20 | canaries |
//! | epsilon-greedy | one arm's loss | 0.045 | 0.14 | 0.036 | 0.023 | what changes often |
//! | exp3 | one arm's loss | 0.042 | 0.15 | 0.044 | 0.017 | losses that may do anything |
//! | thompson | one arm's loss | 0.042 | 0.17 | 0.038 | 0.015 | what seldom changes; replicas |
//! | exp4 | all arms' losses | 0.032 | 0.10 | 0.021 | 0.013 | where all arms may be asked |
//!
//! What replicas learn at the same time adds up to steps that are longer than any of them meant. Ten
//! that told each other after every 50 answers of each lost 2.9 (epsilon-greedy), 4.1 (exp3) and 3.6
//! (Thompson) times as much as one does beyond the oracle. So a loss counts for less where others
//! learn from many before all are told ([`Selector::learn_beside`]), but with Thompson:
//! `experiments scale` shows what fleets lose with it and without.

mod bounds;
mod epsilon_greedy;
mod exp3;
mod exp4;
mod fixed;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod thompson;
mod weights;

use std::{fmt::Debug, sync::Arc};

use smallvec::SmallVec;

use self::{
    bounds::Bounds, epsilon_greedy::EpsilonGreedy, exp3::Exp3, exp4::Exp4, fixed::Fixed,
    thompson::Thompson,
};
use super::{Arm, Available, Config, Evidence, Policy, State};

/// A number for each arm, in the order of the configuration: its probability, or its weight in the
/// vote.
pub type Shares = SmallVec<[f64; 8]>;

/// A policy with its arms. A clone is a handle of the same.
///
/// What was learned is kept elsewhere, in a [`State`] for each context.
#[derive(Clone, Debug)]
pub struct Selector(Arc<Inner>);

/// What keeps a [`State`] within bounds, wherever differences are added to it: in a replica and in
/// the store that replicas share.
///
/// Differences only ever add (a loss to a sum, what it takes from a log-weight), so those of any
/// number of replicas add up to what one would have learned of everything. What forgets is the
/// rule, after each addition:
///
/// 1. With a `span`: from all scores the greatest is subtracted, then what is below `-span` is
///    `-span`.
/// 2. Without one: if the arms have more than `memory` trials together, the scores and the trials
///    of all of them are multiplied by `memory` over what they have.
/// 3. If an arm has more than `past_memory` past trials, its past score and past trials are
///    multiplied by `past_memory` over what it has.
///
/// Where many differences wait, the rule comes after each one, in the order in which they were
/// made; after sums of them it forgets less than it should, but keeps the same bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// How far log-weights may be apart; `None` where scores are sums of losses.
    pub span: Option<f64>,
    /// How many trials of all arms together are remembered.
    pub memory: f64,
    /// How many past trials of each arm are remembered.
    pub past_memory: f64,
}

#[derive(Debug)]
struct Inner {
    mind: Box<dyn Mind>,
    bounds: Bounds,
    rule: Rule,
    prior: State,
}

/// What makes one policy another than the others.
trait Mind: Debug + Send + Sync {
    /// Sets the share of each arm that is available to a number that is not negative, of which one
    /// at least is above 0; what they come to together does not matter. The others' are 0.
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]);

    /// Adds to a state of zeros what is learned.
    fn lesson(&self, state: &State, told: &Told, lesson: &mut State);

    /// Lessens what was learned of all requests to what a context shall begin with.
    fn inherit(&self, overall: &State, prior: &State, state: &mut State) {
        let _ = prior;
        for (arm, overall) in state.arms.iter_mut().zip(&overall.arms) {
            let part = (INHERITED / overall.trials).min(1.);
            if part.is_finite() {
                arm.score = overall.score * part;
                arm.trials = overall.trials * part;
            }
        }
    }
}

/// Evidence with nothing in it that makes no sense.
#[derive(Debug)]
struct Told {
    losses: SmallVec<[(usize, f64); 8]>,
    /// With which the only arm was chosen; `None` where more is known than of the one that was.
    probability: Option<f64>,
    /// How much it counts.
    weight: f64,
}

impl Selector {
    /// Makes a policy for arms, none of which is a shadow.
    pub fn new(config: &Config, arms: &[Arm]) -> Self {
        let weights = weights_of(arms);
        let unforgetting = Rule {
            span: None,
            memory: f64::INFINITY,
            past_memory: f64::INFINITY,
        };
        let memory = |discount: f64| 1. / (1. - discount.clamp(0., LEAST_FORGETFUL));
        let (mind, rule): (Box<dyn Mind>, _) = match config.policy {
            Policy::Fixed => (
                Box::new(Fixed {
                    weights: weights.clone(),
                }),
                unforgetting,
            ),
            Policy::EpsilonGreedy { epsilon, discount } => {
                let mind = EpsilonGreedy {
                    epsilon,
                    weights: weights.clone(),
                };
                let memory = memory(discount);
                (
                    Box::new(mind),
                    Rule {
                        memory,
                        ..unforgetting
                    },
                )
            }
            Policy::Exp3 {
                learning_rate,
                exploration,
                share,
            } => {
                let span = weights::span(share, arms.len());
                let mind = Exp3::new(learning_rate, exploration, span);
                let span = Some(span);
                (
                    Box::new(mind),
                    Rule {
                        span,
                        past_memory: weights::PAST_MEMORY,
                        ..unforgetting
                    },
                )
            }
            Policy::Exp4 {
                learning_rate,
                share,
            } => {
                let span = weights::span(share, arms.len());
                let mind = Exp4::new(learning_rate, span);
                let span = Some(span);
                (
                    Box::new(mind),
                    Rule {
                        span,
                        past_memory: weights::PAST_MEMORY,
                        ..unforgetting
                    },
                )
            }
            Policy::Thompson { discount } => {
                let mind = Thompson::new(positive(&weights), memory(discount));
                let memory = memory(discount);
                (
                    Box::new(mind),
                    Rule {
                        memory,
                        past_memory: thompson::PAST_MEMORY,
                        ..unforgetting
                    },
                )
            }
        };
        let mut prior = State::new(arms.len());
        if rule.span.is_some() {
            for (learned, weight) in prior.arms.iter_mut().zip(&positive(&weights)) {
                learned.score = weight.ln();
            }
        }
        let bounds = arms
            .iter()
            .map(|arm| (arm.min_probability, arm.max_probability));
        let mut inner = Inner {
            mind,
            bounds: Bounds::new(bounds),
            rule,
            prior: State::default(),
        };
        inner.rule.apply(&mut prior);
        inner.prior = prior;
        Self(Arc::new(inner))
    }

    /// Returns the state before anything was learned: what the configured weights say.
    pub fn prior(&self) -> State {
        self.0.prior.clone()
    }

    /// Returns what keeps states of this policy within bounds.
    pub fn rule(&self) -> Rule {
        self.0.rule
    }

    /// Returns the probability of each arm, or its weight in the vote.
    ///
    /// They sum to 1 over the arms that are available and are 0 for the others, whatever the state
    /// says; all are 0 if none is available. The arms' least and greatest probabilities hold; where
    /// so few are available that the greatest cannot, those give way in proportion.
    pub fn probabilities(&self, state: &State, available: Available) -> Shares {
        let arms = self.0.prior.arms.len();
        let mut shares = Shares::from_elem(0., arms);
        let available: SmallVec<[usize; 8]> =
            available.iter().take_while(|arm| *arm < arms).collect();
        match *available {
            [] => return shares,
            [only] => {
                shares[only] = 1.;
                return shares;
            }
            _ => {}
        }
        let repaired;
        let sane = state.arms.len() == arms && state.arms.iter().all(|arm| arm.is_sane());
        let state = if sane {
            state
        } else {
            let mut copy = state.clone();
            self.repair(&mut copy);
            repaired = copy;
            &repaired
        };
        self.0.mind.shares(state, &available, &mut shares);
        normalise(&mut shares, &available);
        self.0.bounds.hold(&mut shares, &available);
        normalise(&mut shares, &available);
        shares
    }

    /// Chooses an arm by a number from 0 to 1; `None` if none has a share.
    pub fn choose(shares: &[f64], uniform: f64) -> Option<usize> {
        let total: f64 = shares.iter().sum();
        let mut rest = uniform * total;
        let mut last = None;
        for (arm, share) in shares.iter().enumerate() {
            if *share > 0. {
                if rest < *share {
                    return Some(arm);
                }
                rest -= share;
                last = Some(arm);
            }
        }
        last
    }

    /// Returns what a context begins with: what was learned of all requests, but of so little weight
    /// that what is told of the context itself soon counts for more.
    pub fn inherit(&self, overall: &State) -> State {
        let mut overall = overall.clone();
        self.repair(&mut overall);
        let mut state = overall.clone();
        for arm in &mut state.arms {
            arm.observations = 0.;
            arm.loss = 0.;
        }
        self.0.mind.inherit(&overall, &self.0.prior, &mut state);
        self.repair(&mut state);
        state
    }

    /// Learns from evidence, and returns what was added to the state, which is what others are to
    /// add to theirs, and to apply the [`Rule`] to.
    ///
    /// Of evidence that makes no sense nothing is learned.
    pub fn learn(&self, state: &mut State, evidence: Evidence<'_>) -> State {
        self.learn_beside(state, evidence, 0.)
    }

    /// Learns from evidence while others learn from so many losses that are not known here before
    /// they are added up.
    ///
    /// All of them take their steps from the same place, and together they would go further than
    /// any of them meant: so far that arms fall which are good, and that those which hardly anybody
    /// asked rise above them. So a loss counts for less then, and all of them together for as much
    /// as can be told from one place. Where the losses of all arms are known there is nothing to
    /// fear: what is seen of them does not depend on what was chosen.
    pub fn learn_beside(&self, state: &mut State, evidence: Evidence<'_>, others: f64) -> State {
        let arms = self.0.prior.arms.len();
        if state.arms.len() != arms {
            *state = self.prior();
        }
        let mut lesson = State::new(arms);
        let mut told = Told::new(evidence, arms);
        if told.probability.is_some() {
            told.weight = (AT_ONCE / others.max(AT_ONCE)).max(LEAST_WEIGHT);
        }
        if told.losses.is_empty() {
            return lesson;
        }
        self.0.mind.lesson(state, &told, &mut lesson);
        for (arm, loss) in &told.losses {
            lesson.arms[*arm].observations += 1.;
            lesson.arms[*arm].loss += loss;
        }
        *state += &lesson;
        self.repair(state);
        lesson
    }

    /// Brings a state within bounds, after differences were added to it or it was loaded: what of
    /// it makes no sense is made what it was before anything was learned, then the [`Rule`] is
    /// applied. Tells whether there was such a thing.
    pub fn repair(&self, state: &mut State) -> bool {
        let prior = &self.0.prior;
        let mut broken = false;
        if state.arms.len() != prior.arms.len() {
            *state = prior.clone();
            broken = true;
        }
        for (learned, prior) in state.arms.iter_mut().zip(&prior.arms) {
            if !learned.is_sane() {
                *learned = *prior;
                broken = true;
            }
            broken |= learned.repair(self.0.rule.span.is_none());
        }
        self.0.rule.apply(state);
        broken
    }
}

impl Rule {
    /// Applies the rule to a state of finite numbers.
    pub(super) fn apply(&self, state: &mut State) {
        if let Some(span) = self.span {
            let scores = state.arms.iter().map(|arm| arm.score);
            let top = scores.fold(f64::NEG_INFINITY, f64::max);
            for arm in &mut state.arms {
                arm.score = (arm.score - top).max(-span);
            }
        } else {
            let trials: f64 = state.arms.iter().map(|arm| arm.trials).sum();
            if trials > self.memory {
                for arm in &mut state.arms {
                    arm.score *= self.memory / trials;
                    arm.trials *= self.memory / trials;
                }
            }
        }
        for arm in &mut state.arms {
            if arm.past_trials > self.past_memory {
                arm.past_score *= self.past_memory / arm.past_trials;
                arm.past_trials = self.past_memory;
            }
        }
    }
}

impl Told {
    fn new(evidence: Evidence<'_>, arms: usize) -> Self {
        let sane = |(arm, loss): (usize, f64)| {
            (arm < arms && !loss.is_nan()).then(|| (arm, loss.clamp(0., 1.)))
        };
        match evidence {
            Evidence::Chosen {
                arm,
                probability,
                loss,
            } => Self {
                losses: sane((arm, loss)).into_iter().collect(),
                probability: Some(match probability > 0. {
                    true => probability.min(1.),
                    false => f64::MIN_POSITIVE,
                }),
                weight: 1.,
            },
            Evidence::Known(losses) => {
                let losses = losses.iter().enumerate();
                Self {
                    losses: losses
                        .filter_map(|(arm, loss)| sane((arm, (*loss)?)))
                        .collect(),
                    probability: None,
                    weight: 1.,
                }
            }
        }
    }
}

/// Takes a part of shares that sum to anything, and spreads it evenly over the arms.
fn mix(shares: &mut [f64], available: &[usize], evenly: f64) {
    normalise(shares, available);
    let evenly = evenly.clamp(0., 1.);
    for arm in available {
        shares[*arm] = shares[*arm] * (1. - evenly) + evenly / available.len() as f64;
    }
}

/// Makes shares sum to 1; they are even if that is not possible.
fn normalise(shares: &mut [f64], available: &[usize]) {
    let total: f64 = available.iter().map(|arm| shares[*arm]).sum();
    let possible = total > 0. && total.is_finite();
    for arm in available {
        shares[*arm] = match possible {
            true => shares[*arm] / total,
            false => 1. / available.len() as f64,
        };
    }
}

/// Returns the arms' weights, of which the greatest is 1.
fn weights_of(arms: &[Arm]) -> Box<[f64]> {
    let sane = |weight: f64| match weight.is_finite() {
        true => weight.max(0.),
        false => 0.,
    };
    let top = arms.iter().map(|arm| sane(arm.weight)).fold(0., f64::max);
    arms.iter()
        .map(|arm| match top > 0. {
            true => sane(arm.weight) / top,
            false => 1.,
        })
        .collect()
}

/// Lifts weights that are too small to be believed, where they are a prior only.
fn positive(weights: &[f64]) -> Box<[f64]> {
    weights
        .iter()
        .map(|weight| weight.max(LEAST_PRIOR))
        .collect()
}

/// The least that a prior says for an arm, relative to the greatest: an arm of weight 0 is still
/// tried.
const LEAST_PRIOR: f64 = 1e-3;

/// Losses that a context begins with of each arm: with fewer, its first answers are hardly better
/// than without any, with more, what is told of itself takes longer to count for more.
const INHERITED: f64 = 2.;

/// So many losses may be learned from at once. By simulation of 4 to 100 replicas: with half as many
/// an arm that fails is left later, with twice as many epsilon-greedy forgets what it knew of all
/// others before it has heard of them again.
const AT_ONCE: f64 = 80.;

/// What a loss counts for at least: after an outage there are many at once, which is soon over.
const LEAST_WEIGHT: f64 = 1e-3;

/// The discount that is next to none.
const LEAST_FORGETFUL: f64 = 1. - 1e-7;
