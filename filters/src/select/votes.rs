use smallvec::SmallVec;

use super::{Available, Prediction, Predictions, Shares};

/// The votes of an ensemble while they come in: whether those that are missing could still change
/// for which label the most weight is.
#[derive(Debug)]
pub(super) struct Votes {
    weights: Shares,
    /// The weight of the arms that have not answered.
    missing: f64,
    /// For each row, the labels and the weight that is for them.
    rows: SmallVec<[Vec<(Prediction, f64)>; 1]>,
    /// Whether it is labels that are voted for, all with as many rows.
    counts: bool,
}

impl Votes {
    /// Begins with the arms that are asked, and their weights.
    pub(super) fn new(weights: &Shares, asked: Available) -> Self {
        Self {
            missing: asked.iter().map(|arm| weights[arm]).sum(),
            weights: weights.clone(),
            rows: SmallVec::new(),
            counts: true,
        }
    }

    /// Counts what an arm said; `None` where it said nothing that counts.
    pub(super) fn count(&mut self, arm: usize, predictions: Option<Predictions>) {
        let weight = self.weights[arm];
        self.missing -= weight;
        let Some(predictions) = predictions else {
            return;
        };
        if self.rows.is_empty() {
            self.rows.resize_with(predictions.len(), Vec::new);
        }
        // A mean changes with every number, and rows that do not match are for others to judge.
        self.counts &= self.rows.len() == predictions.len()
            && predictions
                .iter()
                .all(|said| matches!(said, Prediction::Class(_) | Prediction::Bytes(_)));
        for (row, said) in self.rows.iter_mut().zip(predictions) {
            match row.iter_mut().find(|(label, _)| *label == said) {
                Some((_, sum)) => *sum += weight,
                None => row.push((said, weight)),
            }
        }
    }

    /// Tells whether the missing arms could not change any row, whatever they said.
    pub(super) fn is_decided(&self) -> bool {
        let decided = |row: &Vec<(Prediction, f64)>| {
            let (mut first, mut second) = (0., 0.);
            for (_, sum) in row {
                if *sum > first {
                    second = first;
                    first = *sum;
                } else if *sum > second {
                    second = *sum;
                }
            }
            first > second + self.missing + ROUNDING
        };
        self.counts && !self.rows.is_empty() && self.rows.iter().all(decided)
    }
}

/// Sums of weights that differ by less are the same: ties are decided by what all arms say.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;

    fn class(class: i128) -> Option<Predictions> {
        Some(smallvec![Prediction::Class(class)])
    }

    #[test]
    fn a_vote_is_decided_when_no_other_could_win() {
        let weights: Shares = smallvec![0.4, 0.2, 0.2, 0.2];
        let mut votes = Votes::new(&weights, Available::first(4));
        assert!(!votes.is_decided());
        votes.count(0, class(3));
        assert!(!votes.is_decided(), "the three others weigh more");
        votes.count(1, class(3));
        assert!(votes.is_decided());
    }

    #[test]
    fn numbers_and_scores_are_never_decided_before_all_are_there() {
        let weights: Shares = smallvec![0.9, 0.1];
        let mut votes = Votes::new(&weights, Available::first(2));
        votes.count(0, Some(smallvec![Prediction::Number(1.)]));
        assert!(!votes.is_decided());
    }

    proptest! {
        #[test]
        fn what_is_decided_stays(
            says in prop::collection::vec(prop::option::of(0_i128..3), 1..6),
            weights in prop::collection::vec(0.01..1., 6),
        ) {
            let weights = Shares::from_slice(&weights[..says.len()]);
            let mut votes = Votes::new(&weights, Available::first(says.len()));
            let leader = |votes: &Votes| {
                let row = votes.rows.first()?;
                let leading = row.iter().max_by(|a, b| a.1.total_cmp(&b.1));
                Some(leading?.0.clone())
            };
            let mut decided = None;
            for (arm, said) in says.iter().enumerate() {
                votes.count(arm, said.and_then(class));
                if decided.is_none() && votes.is_decided() {
                    decided = leader(&votes);
                }
            }
            if let Some(decided) = decided {
                prop_assert_eq!(leader(&votes), Some(decided));
            }
        }
    }
}
