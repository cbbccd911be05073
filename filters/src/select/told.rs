//! What feedback says of the rows of a prediction, and what follows of it for the arms.

use std::ops::Range;

use smallvec::SmallVec;

use super::{Loss, Prediction, Predictions, Rejected};

/// Returns the rows that feedback speaks of, in its order.
pub(super) fn spoken_of(
    told: usize,
    rows: usize,
    row: Option<u32>,
) -> Result<Range<usize>, Rejected> {
    match row {
        Some(row) if told == 1 && (row as usize) < rows => Ok(row as usize..row as usize + 1),
        Some(row) => Err(Rejected::Rows {
            rows,
            told: row as usize,
        }),
        None if told == rows => Ok(0..rows),
        None => Err(Rejected::Rows { rows, told }),
    }
}

/// Returns the mean of the losses that are told; one alone may be that of all rows.
pub(super) fn mean(told: &[Option<f64>], rows: usize, row: Option<u32>) -> Result<f64, Rejected> {
    if row.is_some() || told.len() != 1 {
        spoken_of(told.len(), rows, row)?;
    }
    let known: SmallVec<[f64; 8]> = told.iter().flatten().copied().collect();
    if known.is_empty() {
        return Err(Rejected::Nothing);
    }
    match known.iter().all(|loss| (0. ..=1.).contains(loss)) {
        true => Ok(known.iter().sum::<f64>() / known.len() as f64),
        false => Err(Rejected::Loss),
    }
}

/// Returns what the loss of an ensemble's answer says of its arms: those that agreed with it lost
/// as much; where it was right, and only one label is, the others were wrong. `None` where that
/// cannot be said: several rows may have had different arms behind them.
pub(super) fn blamed(
    predicted: &[Option<Predictions>],
    weights: &[(usize, f64)],
    rows: usize,
    row: Option<u32>,
    loss: f64,
    kind: Loss,
) -> Option<Vec<Option<f64>>> {
    let row = match row {
        Some(row) => row as usize,
        None if rows == 1 => 0,
        None => return None,
    };
    let of_arm = |arm: usize| predicted.get(arm)?.as_ref()?.get(row);
    let votes: SmallVec<[(f64, &Prediction); 8]> = weights
        .iter()
        .filter_map(|(arm, weight)| Some((*weight, of_arm(*arm)?)))
        .collect();
    let weight = |of: &Prediction| -> f64 {
        let agree = votes.iter().filter(|(_, prediction)| *prediction == of);
        agree.map(|(weight, _)| weight).sum()
    };
    // Of those that weigh the same the first, as when it was answered.
    let mut winner = votes.first()?.1;
    for (_, prediction) in &votes {
        if weight(prediction) > weight(winner) {
            winner = prediction;
        }
    }
    if !winner.is_class() {
        return None;
    }
    let others = (kind == Loss::ZeroOne && loss == 0.).then_some(1.);
    let losses = (0..predicted.len()).map(|arm| {
        let prediction = of_arm(arm)?;
        match prediction == winner {
            true => Some(loss),
            false => others,
        }
    });
    Some(losses.collect())
}

/// Reads the predictions of an arm, one for each row; `None` where they are not as many.
pub(super) fn unpacked(mut packed: &[u8], rows: usize) -> Option<Predictions> {
    let mut predictions = Predictions::new();
    while !packed.is_empty() && predictions.len() < rows {
        predictions.push(Prediction::unpack(&mut packed)?);
    }
    (packed.is_empty() && !predictions.is_empty() && predictions.len() == rows)
        .then_some(predictions)
}
