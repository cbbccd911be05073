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

/// Returns what the loss of an ensemble's answer to one row says of its arms: those that agreed with
/// the one whose answer it was lost as much; where it was right, and only one label is, the others
/// were wrong. `None` where it was no label.
pub(super) fn blamed(
    predicted: &[Option<Predictions>],
    winner: usize,
    loss: f64,
    kind: Loss,
) -> Option<Vec<Option<f64>>> {
    let said = |arm: usize| predicted.get(arm)?.as_ref()?.first();
    let winner = said(winner).filter(|said| said.is_class())?.key()?;
    let others = (kind == Loss::ZeroOne && loss == 0.).then_some(1.);
    let losses = (0..predicted.len()).map(|arm| match said(arm)?.key() == Some(winner) {
        true => Some(loss),
        false => others,
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
