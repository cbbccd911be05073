//! What a learner makes of feedback.

use std::time::SystemTime;

use smallvec::SmallVec;

use super::{
    Applied, Chosen, Evidence, Feedback, Id, Learner, Outcome, Predictions, Refused, Rejected,
    Token, Told, loss, told,
};
use crate::inference::Response;

impl Learner {
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
            Self::Refused(Refused::Malformed) => Told::Malformed,
            Self::Refused(Refused::Foreign) => Told::Foreign,
            Self::Refused(Refused::Expired) => Told::Expired,
            Self::Full => Told::Full,
            _ => Told::Unusable,
        }
    }
}

/// What stands for a row where all are meant.
pub(super) const ALL_ROWS: u32 = u32::MAX;
