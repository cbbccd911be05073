use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use smallvec::SmallVec;
use tracing::warn;

use super::{
    Applied, Arm, Available, Chosen, Config, Defaults, Evidence, Handles, Id, Keys, Learnt, Ledger,
    Like, Memory, Missing, NoDefault, Predictions, Rejected, Shares, Token,
    label::{self, Column},
    ledger,
    lessons::ALL_ROWS,
    random::Sequence,
};
use crate::inference::{DefaultReason, Request, Response, Signature};

/// What is learned of a model's arms, and how: it outlives the stacks of the arms. A handle.
#[derive(Clone, Debug)]
pub struct Learner(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) model: ByteString,
    pub(super) config: Config,
    /// The arms that answer.
    pub(super) arms: Box<[Arm]>,
    /// What prediction ids call the model, and the arms.
    pub(super) digest: u32,
    pub(super) digests: Box<[u32]>,
    pub(super) memory: Memory,
    pub(super) keys: Keys,
    pub(super) max_age: Duration,
    pub(super) default_output: Option<Defaults>,
    pub(super) min_confidence: Option<f64>,
    pub(super) quorum: Option<usize>,
    pub(super) ends_early: bool,
    pub(super) fair: Duration,
    pub(super) ledger: Option<Arc<dyn Ledger>>,
    pub(super) metrics: Handles,
    /// By which choices are made.
    pub(super) sequence: Sequence,
    /// What tells predictions apart: also from those of replicas with the same seed, and from those
    /// before a restart.
    pub(super) nonces: Sequence,
}

/// What a learner is made of.
#[derive(Debug)]
pub struct Parts {
    /// The name that clients send.
    pub model: ByteString,
    /// How arms are chosen.
    pub config: Config,
    /// The arms that answer: none is a shadow.
    pub arms: Vec<Arm>,
    /// What was learned, and is yet to be shared.
    pub memory: Memory,
    /// What prediction ids are signed with.
    pub keys: Keys,
    /// How old a prediction may be that feedback is of.
    pub max_age: Duration,
    /// The answer to a row where there is none that is worth giving.
    pub default_output: Option<Defaults>,
    /// The share of an ensemble's vote that must agree with an answer, below which the default
    /// output is given.
    pub min_confidence: Option<f64>,
    /// How many arms of an ensemble must have answered by the deadline; `None` for one.
    pub quorum: Option<usize>,
    /// Whether an ensemble answers as soon as no other vote could change which label wins.
    pub ends_early: bool,
    /// How much time an arm must have had before it is blamed for being late: callers may be in more
    /// of a hurry than any model can be.
    pub fair: Duration,
    /// Where choices and losses are written down.
    pub ledger: Option<Arc<dyn Ledger>>,
    /// The metrics of the arms that answer, in the same order.
    pub metrics: Handles,
}

/// How one arm stands, for those who look on.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The arm's name.
    pub arm: ByteString,
    /// The probability with which it is chosen while all arms are up, or its share of the vote.
    pub weight: f64,
    /// The probability with which it is chosen now, or its share of the vote.
    pub probability: f64,
    /// How many losses were told of it.
    pub observations: f64,
    /// Their mean; `None` before the first.
    pub loss: Option<f64>,
}

impl Learner {
    /// Puts a learner together.
    pub fn new(parts: Parts) -> Self {
        let sequence = match parts.config.seed {
            Some(seed) => Sequence::new(seed),
            None => Sequence::anywhere(),
        };
        Self(Arc::new(Inner {
            digest: Token::digest(&parts.model),
            digests: (parts.arms.iter())
                .map(|arm| Token::digest(&arm.name))
                .collect(),
            model: parts.model,
            config: parts.config,
            arms: parts.arms.into(),
            memory: parts.memory,
            keys: parts.keys,
            max_age: parts.max_age,
            default_output: parts.default_output,
            min_confidence: parts.min_confidence,
            quorum: parts.quorum,
            ends_early: parts.ends_early,
            fair: parts.fair,
            ledger: parts.ledger,
            metrics: parts.metrics,
            sequence,
            nonces: Sequence::anywhere(),
        }))
    }

    /// Returns the settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Returns the arms that answer.
    pub fn arms(&self) -> &[Arm] {
        &self.0.arms
    }

    /// Returns what was learned.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Returns how the arms stand for a caller of this context, while these are up.
    pub fn standings(&self, context: Option<&str>, up: Available) -> Vec<Standing> {
        let inner = &*self.0;
        let all = Available::first(inner.arms.len());
        let state = inner.memory.state(context);
        let weights = inner.memory.selector().probabilities(&state, all);
        let shares = match self.config().asks_all() {
            true => weights.clone(),
            false => inner.memory.selector().probabilities(&state, up),
        };
        let arms = inner.arms.iter().zip(&state.arms);
        let numbers = shares.iter().zip(&weights);
        arms.zip(numbers)
            .map(|((arm, learned), (probability, weight))| Standing {
                arm: arm.name.clone(),
                weight: *weight,
                probability: *probability,
                observations: learned.observations,
                loss: (learned.observations > 0.).then(|| learned.loss / learned.observations),
            })
            .collect()
    }

    /// Brings the gauges up to date.
    pub fn show(&self, up: Available) {
        for (standing, handles) in self.standings(None, up).iter().zip(&self.0.metrics.arms) {
            handles.probability.set(standing.probability);
            handles.loss.set(standing.loss.unwrap_or(f64::NAN));
        }
    }

    /// Returns the model's name, as callers know it.
    pub fn model(&self) -> &ByteString {
        &self.0.model
    }

    /// Returns what prediction ids call the model.
    pub fn digest(&self) -> u32 {
        self.0.digest
    }

    /// Tells whether a prediction id is of this model, as far as it says.
    pub fn is_of(&self, token: &Token) -> bool {
        token.model == self.0.digest
    }

    /// Tells whether two are handles of the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns with which probability each arm is chosen, of those that may be.
    pub(super) fn shares(&self, context: Option<&str>, available: Available) -> Shares {
        self.0.memory.shares(context, available)
    }

    /// Returns the next random number.
    pub(super) fn uniform(&self) -> f64 {
        self.0.sequence.uniform()
    }

    /// Writes the default output in the place of rows of which the arms are not sure enough. Tells
    /// whether there were any.
    pub(super) fn replace_unsure(&self, response: &mut Response, confidence: &[f64]) -> bool {
        let inner = &*self.0;
        let (Some(least), Some(default)) = (inner.min_confidence, &inner.default_output) else {
            return false;
        };
        let unsure: SmallVec<[bool; 8]> = confidence.iter().map(|sure| *sure < least).collect();
        if !unsure.contains(&true) {
            return false;
        }
        if let Err(error) = default.replace(response, &unsure) {
            warn!(model = &*inner.model, %error, "the default output is none of this model's");
            return false;
        }
        inner.metrics.defaults(DefaultReason::LowConfidence).inc();
        true
    }

    /// Returns how many arms must answer, of so many that are asked.
    pub(super) fn quorum(&self, asked: usize) -> usize {
        self.0.quorum.unwrap_or(1).clamp(1, asked.max(1))
    }

    /// Takes note of what an arm of an ensemble predicted, for when it does not answer.
    pub(super) fn remember(&self, arm: usize, answer: &Response) {
        let config = self.config();
        if config.missing != Missing::Mean {
            return;
        }
        let output = label::find(answer, config.label.as_deref());
        if let Ok(Column::Floats { columns: 1, values }) = output.and_then(label::read) {
            self.0.memory.means().predicted(arm, &values);
        }
    }

    /// Returns what an arm is expected to have predicted that has not answered.
    pub(super) fn expected(&self, arm: usize) -> Option<f64> {
        match self.config().missing {
            Missing::LeaveOut => None,
            Missing::Mean => self.0.memory.means().of(arm),
        }
    }

    /// Tells whether there is an answer for where there is none.
    pub fn has_default(&self) -> bool {
        self.0.default_output.is_some()
    }

    /// Returns what is wrong with the default output, by what the model's server says of its outputs.
    pub fn default_faults(&self, signature: &Signature) -> Vec<NoDefault> {
        let default = self.0.default_output.as_ref();
        default.map_or_else(Vec::new, |default| default.faults(signature))
    }

    /// Tells whether an ensemble answers before all arms have, where the others do not matter.
    pub(super) fn ends_early(&self) -> bool {
        self.0.ends_early
    }

    /// Tells whether an arm that had so much time is to blame for not having answered. What the
    /// deadline's margin took is not missed.
    pub(super) fn had_time(&self, waited: Duration) -> bool {
        // The margin takes half of it at most, and some more is gone before an arm is asked.
        waited * 5 >= self.0.fair * 2
    }

    /// Makes the default answer to a request, if there is one that the model could give.
    pub(super) fn default_for(
        &self,
        request: &Request,
        signature: Option<Signature>,
        reason: DefaultReason,
    ) -> Option<Response> {
        let inner = &*self.0;
        let default = inner.default_output.as_ref()?;
        let rows = request.rows().unwrap_or(1);
        let like = signature.as_ref().map_or(Like::Values, Like::Signature);
        match default.response(request, rows, like) {
            Ok(response) => {
                inner.metrics.defaults(reason).inc();
                Some(response)
            }
            Err(error) => {
                warn!(model = &*inner.model, %error, "the default output is none of this model's");
                None
            }
        }
    }

    pub(super) fn metrics(&self) -> &Handles {
        &self.0.metrics
    }

    /// Takes note of a call that failed by the arm's fault.
    pub(super) fn failed(&self, asked: &Asked, shares: &Shares, arm: usize) {
        let inner = &*self.0;
        inner.metrics.arms[arm].failed.inc();
        let Some(loss) = inner.config.failure else {
            return;
        };
        // A single choice was written down, or arms that fail would look better afterwards than they
        // were; a part of an ensemble is no choice.
        let is_choice = !inner.config.asks_all();
        let nonce = is_choice.then(|| inner.nonces.next());
        if let Some(nonce) = nonce {
            self.write_down(asked, shares, nonce, Some(arm));
        }
        // Of the others nothing is known: what they lost is not told together with it, or all of an
        // ensemble's arms would fall alike.
        let evidence = Evidence::Chosen {
            arm,
            probability: if is_choice { shares[arm] } else { 1. },
            loss,
        };
        // There is no id: a failure is told once, by nobody else. Nobody waits to hear whether there
        // was room.
        let _ = self.learn(asked.context.as_deref(), evidence, None, nonce);
    }

    /// Writes down which arms answered a request, and returns the id of the prediction.
    ///
    /// Each arm goes with the probability with which it was chosen, and what it predicted; first the
    /// one whose answer it is.
    pub(super) fn chose(
        &self,
        request: &Asked,
        shares: &Shares,
        answered: &[(usize, Option<Predictions>)],
    ) -> ByteString {
        let inner = &*self.0;
        let nonce = inner.nonces.next();
        // What a model without rows answers has one, whatever the first dimension of its inputs.
        let told = answered.iter().find_map(|(_, told)| told.as_ref());
        let told = told.and_then(|told| u32::try_from(told.len()).ok());
        let rows = told.unwrap_or(request.rows);
        let arms = answered.iter().map(|(arm, predictions)| {
            let mut chosen = Chosen::new(inner.digests[*arm], shares[*arm]);
            for prediction in predictions.iter().flatten() {
                prediction.pack(&mut chosen.predictions);
            }
            chosen
        });
        let token = Token {
            model: inner.digest,
            context: request.context.clone(),
            ensemble: inner.config.asks_all(),
            arms: arms.collect(),
            rows,
            at: SystemTime::now(),
            nonce,
            cut: false,
        };
        let chosen = answered.first().filter(|_| !token.ensemble);
        self.write_down(request, shares, nonce, chosen.map(|(arm, _)| *arm));
        token.seal(&inner.keys).into()
    }

    /// Returns what an answer predicts, if it can be read.
    pub(super) fn predictions(&self, answer: &Response) -> Option<Predictions> {
        let config = self.config();
        label::of(answer, config.label.as_deref(), config.loss).ok()
    }

    fn write_down(&self, asked: &Asked, shares: &Shares, nonce: u64, chosen: Option<usize>) {
        let inner = &*self.0;
        if let Some(ledger) = &inner.ledger {
            ledger.chose(&ledger::Choice {
                model: &inner.model,
                nonce,
                context: asked.context.as_deref(),
                arms: &inner.arms,
                shares,
                chosen,
                rows: asked.rows,
            });
        }
    }

    pub(super) fn learn(
        &self,
        context: Option<&str>,
        evidence: Evidence<'_>,
        id: Option<Id>,
        nonce: Option<u64>,
    ) -> Result<Applied, Rejected> {
        let inner = &*self.0;
        if inner.config.freeze {
            return Err(Rejected::Frozen);
        }
        match inner.memory.learn(context, evidence, id) {
            Ok(Learnt::Applied) => {}
            Ok(Learnt::Duplicate) => return Ok(Applied::Duplicate),
            Err(_) => return Err(Rejected::Full),
        }
        if let Some(ledger) = &inner.ledger {
            ledger.learned(&ledger::Lesson {
                model: &inner.model,
                nonce,
                row: id.map(|id| id.row).filter(|row| *row != ALL_ROWS),
                context,
                arms: &inner.arms,
                evidence,
            });
        }
        Ok(Applied::Learned {
            arms: match evidence {
                Evidence::Chosen { .. } => 1,
                Evidence::Known(losses) => losses.iter().flatten().count(),
            },
        })
    }
}

/// What is known of a request when an arm was chosen for it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) context: Option<ByteString>,
    pub(super) rows: u32,
}

impl Asked {
    pub(super) fn of(request: &Request) -> Self {
        let rows = request.rows().ok().and_then(|rows| rows.try_into().ok());
        Self {
            context: request.head.context.clone(),
            rows: rows.unwrap_or(1),
        }
    }
}

impl Config {
    /// Tells whether all arms are asked.
    pub fn asks_all(&self) -> bool {
        self.ensemble || matches!(self.policy, super::Policy::Exp4 { .. })
    }
}
