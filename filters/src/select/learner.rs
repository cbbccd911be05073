use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use smallvec::SmallVec;
use tracing::warn;

use super::{
    Applied, Arm, Available, Chosen, Config, Defaults, Evidence, Feedback, Handles, Id, Keys,
    Learnt, Ledger, Like, Memory, Outcome, Predictions, Rejected, Shares, Token, Told, label,
    ledger, loss, random::Sequence, told,
};
use crate::inference::{DefaultReason, Request, Response, Signature};

/// What is learned of a model's arms, and how: it outlives the stacks of the arms. A handle.
#[derive(Clone, Debug)]
pub struct Learner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    model: ByteString,
    config: Config,
    /// The arms that answer.
    arms: Box<[Arm]>,
    /// What prediction ids call the model, and the arms.
    digest: u32,
    digests: Box<[u32]>,
    memory: Memory,
    keys: Keys,
    max_age: Duration,
    default_output: Option<Defaults>,
    min_confidence: Option<f64>,
    quorum: Option<usize>,
    ends_early: bool,
    fair: Duration,
    ledger: Option<Arc<dyn Ledger>>,
    metrics: Handles,
    /// By which choices are made.
    sequence: Sequence,
    /// What tells predictions apart: also from those of replicas with the same seed, and from those
    /// before a restart.
    nonces: Sequence,
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

    /// Learns from feedback on a prediction of this model.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be learned from; nothing has changed then.
    pub fn report(&self, token: &Token, feedback: &Feedback) -> Result<Applied, Rejected> {
        self.learn_of(token, feedback)
            .inspect(|applied| self.count(counted_as(applied)))
            .inspect_err(|rejected| self.count(rejected.told()))
    }

    /// Returns what prediction ids call the model.
    pub fn digest(&self) -> u32 {
        self.0.digest
    }

    /// Tells whether a prediction id is of this model, as far as it says.
    pub fn is_of(&self, token: &Token) -> bool {
        token.model == self.0.digest
    }

    /// Opens an id, of this model or of another one with the same keys.
    ///
    /// # Errors
    ///
    /// Fails where it is not accepted.
    pub fn open(&self, id: &str) -> Result<Token, Rejected> {
        let inner = &*self.0;
        Ok(Token::open(
            id,
            &inner.keys,
            SystemTime::now(),
            inner.max_age,
        )?)
    }

    /// Counts feedback of this model that was refused before it came here.
    pub fn refused(&self, rejected: &Rejected) {
        self.count(rejected.told());
    }

    /// Tells whether two are handles of the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Learns from feedback on inputs, of what the arms answer to them; an arm that gave no answer
    /// is left out.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be learned from; nothing has changed then.
    pub fn judge(
        &self,
        context: Option<&str>,
        answers: &[Option<Response>],
        feedback: &Feedback,
    ) -> Result<Applied, Rejected> {
        let judged = || {
            let predicted: Vec<_> = answers
                .iter()
                .map(|answer| self.predictions(answer.as_ref()?))
                .collect();
            let rows = predicted.iter().flatten().map(|rows| rows.len()).max();
            let losses = self.losses_by_label(&predicted, rows.unwrap_or(0), feedback)?;
            self.learn(context, Evidence::Known(&losses), None, None)
        };
        judged()
            .inspect(|applied| self.count(counted_as(applied)))
            .inspect_err(|rejected: &Rejected| self.count(rejected.told()))
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

    /// Tells whether an ensemble answers before all arms have, where the others do not matter.
    pub(super) fn ends_early(&self) -> bool {
        self.0.ends_early
    }

    /// Tells whether an arm that had so much time is to blame for not having answered. What the
    /// deadline's margin took is not missed.
    pub(super) fn had_time(&self, waited: Duration) -> bool {
        waited * 4 >= self.0.fair * 3
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

    fn count(&self, told: Told) {
        self.0.metrics.feedback(told).inc();
    }

    fn learn_of(&self, token: &Token, feedback: &Feedback) -> Result<Applied, Rejected> {
        let inner = &*self.0;
        if !self.is_of(token) {
            return Err(Rejected::OtherModel);
        }
        let rows = token.rows as usize;
        // Arms that are no more have nothing to learn, but those that are left of an ensemble have.
        let place = |digest: u32| inner.digests.iter().position(|known| *known == digest);
        let known: SmallVec<[(usize, &Chosen); 8]> = (token.arms.iter())
            .filter_map(|chosen| Some((place(chosen.arm)?, chosen)))
            .collect();
        if known.is_empty() {
            return Err(Rejected::UnknownArm);
        }
        let mut predicted: Vec<Option<Predictions>> = vec![None; inner.arms.len()];
        let by_label = matches!(feedback.outcome, Outcome::Label(_));
        if by_label || token.ensemble {
            if token.cut {
                return Err(Rejected::Cut);
            }
            for (arm, chosen) in &known {
                predicted[*arm] = told::unpacked(&chosen.predictions, rows);
            }
        }
        let losses = match (&feedback.outcome, token.ensemble) {
            (Outcome::Label(_), _) => self.losses_by_label(&predicted, rows, feedback)?,
            (Outcome::Loss(told), false) => {
                let mut losses = vec![None; inner.arms.len()];
                losses[known[0].0] = Some(told::mean(told, rows, feedback.row)?);
                losses
            }
            (Outcome::Loss(told), true) => {
                let loss = told::mean(told, rows, feedback.row)?;
                // The first is the one whose answer it was, if it is still there.
                let is_first = known.first().map(|(_, chosen)| chosen.arm)
                    == token.arms.first().map(|chosen| chosen.arm);
                let winner = known.first().filter(|_| is_first && rows == 1);
                let (winner, _) = winner.ok_or(Rejected::Whose)?;
                let kind = inner.config.loss;
                let losses = told::blamed(&predicted, *winner, loss, kind);
                let losses = losses.ok_or(Rejected::Whose)?;
                if losses.iter().flatten().count() < known.len() {
                    return self.learn_each(token, &losses);
                }
                losses
            }
        };
        let id = Id {
            nonce: token.nonce,
            // Of an only row it is the same to name it or not.
            row: feedback.row.filter(|_| rows > 1).unwrap_or(ALL_ROWS),
        };
        let evidence = match (token.ensemble, &known[..]) {
            (false, [(arm, chosen), ..]) => Evidence::Chosen {
                arm: *arm,
                probability: chosen.probability.into(),
                loss: losses[*arm].ok_or(Rejected::NoLabel)?,
            },
            _ => Evidence::Known(&losses),
        };
        self.learn(
            token.context.as_deref(),
            evidence,
            Some(id),
            Some(token.nonce),
        )
    }

    /// Learns the losses of some of an ensemble's arms, of whose others nothing is known: one by one,
    /// for told together they would say nothing of the others' weights.
    fn learn_each(&self, token: &Token, losses: &[Option<f64>]) -> Result<Applied, Rejected> {
        let mut arms = 0;
        for (arm, loss) in losses.iter().enumerate() {
            let Some(loss) = *loss else {
                continue;
            };
            let evidence = Evidence::Chosen {
                arm,
                probability: 1.,
                loss,
            };
            // Each has an id of its own, which follows from that of the prediction.
            let id = Id {
                nonce: token.nonce ^ u64::from(self.0.digests[arm]),
                row: ALL_ROWS,
            };
            let context = token.context.as_deref();
            match self.learn(context, evidence, Some(id), Some(token.nonce))? {
                Applied::Duplicate => return Ok(Applied::Duplicate),
                Applied::Learned { .. } => arms += 1,
            }
        }
        Ok(Applied::Learned { arms })
    }

    /// Returns the mean loss of each arm over the rows of which the truth is told.
    fn losses_by_label(
        &self,
        predicted: &[Option<Predictions>],
        rows: usize,
        feedback: &Feedback,
    ) -> Result<Vec<Option<f64>>, Rejected> {
        let Outcome::Label(truths) = &feedback.outcome else {
            return Err(Rejected::Whose);
        };
        if predicted.iter().all(Option::is_none) {
            return Err(Rejected::NoLabel);
        }
        let loss = self.config().loss;
        let told = told::spoken_of(truths.len(), rows, feedback.row)?;
        let mut losses = Vec::with_capacity(predicted.len());
        for predictions in predicted {
            let Some(predictions) = predictions else {
                losses.push(None);
                continue;
            };
            let (mut sum, mut count) = (0., 0.);
            for (row, truth) in told.clone().zip(truths) {
                let (Some(truth), Some(prediction)) = (truth, predictions.get(row)) else {
                    continue;
                };
                sum += loss::of(loss, prediction, truth)
                    .map_err(|error| Rejected::NotComparable(error.to_string()))?;
                count += 1.;
            }
            losses.push((count > 0.).then(|| sum / count));
        }
        match losses.iter().all(Option::is_none) {
            true => Err(Rejected::Nothing),
            false => Ok(losses),
        }
    }

    fn learn(
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

fn counted_as(applied: &Applied) -> Told {
    match applied {
        Applied::Learned { .. } => Told::Applied,
        Applied::Duplicate => Told::Duplicate,
    }
}

impl Rejected {
    /// Returns under what it is counted.
    fn told(&self) -> Told {
        match self {
            Self::Refused(super::Refused::Malformed) => Told::Malformed,
            Self::Refused(super::Refused::Foreign) => Told::Foreign,
            Self::Refused(super::Refused::Expired) => Told::Expired,
            Self::Full => Told::Full,
            _ => Told::Unusable,
        }
    }
}

/// What stands for a row where all are meant.
const ALL_ROWS: u32 = u32::MAX;

impl Config {
    /// Tells whether all arms are asked.
    pub fn asks_all(&self) -> bool {
        self.ensemble || matches!(self.policy, super::Policy::Exp4 { .. })
    }
}
