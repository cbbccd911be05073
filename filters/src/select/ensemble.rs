//! One answer of several arms'.

use smallvec::SmallVec;

use super::{
    Loss,
    element::{self, Numbers},
    label::{self, Column, Key, NoLabel, Prediction, Predictions},
    loss,
};
use crate::inference::{
    BINARY_DATA_SIZE, Cells, Form, Payload, Response, Tensor, join_cell, without_size,
};

/// What an arm of an ensemble that did not answer is expected to have said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// What it counts.
    pub weight: f64,
    /// The mean of its predictions.
    pub mean: f64,
}

/// What an arm of an ensemble answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Which arm, in the order of the configuration.
    pub arm: usize,
    /// What it counts; nothing where that is no positive number.
    pub weight: f64,
    /// Its answer.
    pub response: &'a Response,
}

/// One answer of several arms'.
#[derive(Debug)]
pub struct Combined {
    /// The answer that is given.
    pub response: Response,
    /// The heaviest arm that agrees with its first row, of which is all that is not judged in it.
    pub arm: usize,
    /// For each row the share of the weight of all who were asked that agrees with it.
    pub confidence: SmallVec<[f64; 1]>,
    /// For each row how many arms agree with it.
    pub agree: SmallVec<[usize; 1]>,
    /// What each arm said, in the order of the answers; `None` where it has no label, or other rows
    /// than most.
    pub predictions: Vec<Option<Predictions>>,
}

/// Why answers cannot be put together: none has a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlike(Option<NoLabel>);

/// Puts the answers of several arms together; `asked` is the weight of all that were asked, whether
/// or not they answered, and `output` names what is judged.
///
/// ```text
/// labels, scores of different models:   each row by vote    --> the answer of an arm that agrees
/// numbers, scores of the same classes:  the weighted mean   --> in the answer of such an arm
/// ```
///
/// **Vote**: of labels that weigh the same, the one wins whose heaviest arm is heavier, or comes
/// first. The heaviest arm that agrees in all rows answers as it is. Where there is none, each row
/// is that of the heaviest arm that agrees in it; where the arms' outputs are not alike enough for
/// that, the arm answers whole with whose labels the most weight agrees, summed over the rows.
///
/// **Mean**: in the type of the heaviest arm's output; who says NaN is left out of it. All other
/// outputs are from arms that agree with the class of the greatest mean score, chosen as in a vote,
/// or from the heaviest arm where they are numbers or no arm agrees.
///
/// **Confidence**: arms without an answer, without a label and with other rows than most agree with
/// nothing. Numbers agree in part: by 1 minus what would be [lost](loss::of) by one while the other
/// is true, or minus their distance as a share of the larger one where the loss has no scale; an arm
/// counts as one that agrees from a half on.
///
/// **Missing**: what arms are expected to say that did not answer counts in the mean of single numbers, and
/// nowhere else: they agree with nothing.
///
/// Where no weight is more than zero all arms weigh the same.
pub fn combine(
    answers: &[Answer<'_>],
    missing: &[Expected],
    asked: f64,
    output: Option<&str>,
    loss: Loss,
) -> Result<Combined, Unlike> {
    let (voices, mut predictions) = heard(answers, output, loss)?;
    let choir = Choir::new(voices, answers.len(), missing, asked);
    let mean = choir.mean();
    let said = choir.said(mean.as_deref());
    let keys = choir.keys(&predictions);
    let (winners, response) = choir.choose(&keys, said.as_deref());
    let mut confidence = SmallVec::with_capacity(choir.rows);
    let mut agree = SmallVec::with_capacity(choir.rows);
    for row in 0..choir.rows {
        let (mut weight, mut count) = (0., 0);
        let key = match &said {
            Some(said) => said.get(row).and_then(Prediction::key),
            None => keys.at(*winners.get(row).unwrap_or(&0), row),
        };
        for (at, voice) in choir.voices.iter().enumerate() {
            let share = match said.as_ref().and_then(|said| said.get(row)) {
                Some(Prediction::Number(mean)) => match voice.number(row) {
                    Some(number) => loss::agreement(loss, number, *mean),
                    None => 0.,
                },
                _ if key.is_some() && keys.at(at, row) == key => 1.,
                _ => 0.,
            };
            weight += share * voice.weight;
            count += usize::from(share >= 0.5);
        }
        confidence.push((weight / choir.asked).clamp(0., 1.));
        agree.push(count);
    }
    let mut response = response;
    if let (Some(mean), Some(first)) = (mean, choir.voices.first())
        && (choir.voices.len() > 1 || choir.missing_weight > 0.)
        && let Ok(index) = label::index(&response, output)
        && let Some(tensor) = response.outputs.get_mut(index)
    {
        write(tensor, first.tensor, &mean);
    }
    let first = winners.first().and_then(|at| choir.voices.get(*at));
    let arm = first.or(choir.voices.first());
    let arm = arm.map_or(0, |voice| voice.arm);
    // What an arm said that does not count is not shown.
    for (index, predictions) in predictions.iter_mut().enumerate() {
        if !choir.voices.iter().any(|voice| voice.index == index) {
            *predictions = None;
        }
    }
    Ok(Combined {
        response,
        arm,
        confidence,
        agree,
        predictions,
    })
}

/// An arm whose answer counts.
#[derive(Debug)]
struct Voice<'a> {
    /// Its place among the answers.
    index: usize,
    arm: usize,
    weight: f64,
    response: &'a Response,
    tensor: &'a Tensor,
    column: Column,
}

/// All arms whose answers count, the heaviest first, and of those that weigh the same the first.
#[derive(Debug)]
struct Choir<'a> {
    voices: Voices<'a>,
    rows: usize,
    /// The weight of all that were asked.
    asked: f64,
    /// Of single numbers: the weighted sum of what is expected of those who did not answer, and their
    /// weight.
    missing: f64,
    missing_weight: f64,
}

type Voices<'a> = SmallVec<[Voice<'a>; 4]>;

/// What each voice says of each row.
#[derive(Debug)]
struct Keys {
    rows: usize,
    keys: SmallVec<[Option<Key>; 8]>,
}

/// Reads all answers; those are voices that have a label.
fn heard<'a>(
    answers: &[Answer<'a>],
    output: Option<&str>,
    loss: Loss,
) -> Result<(Voices<'a>, Vec<Option<Predictions>>), Unlike> {
    let mut voices = Voices::new();
    let mut refused = None;
    let mut predictions = Vec::with_capacity(answers.len());
    for (index, answer) in answers.iter().enumerate() {
        let tensor = label::find(answer.response, output);
        match tensor.and_then(|tensor| Ok((tensor, label::read(tensor)?))) {
            Ok((tensor, column)) => {
                predictions.push(Some(column.predictions(loss)));
                voices.push(Voice {
                    index,
                    arm: answer.arm,
                    weight: match answer.weight {
                        weight if weight.is_finite() && weight > 0. => weight,
                        _ => 0.,
                    },
                    response: answer.response,
                    tensor,
                    column,
                });
            }
            Err(reason) => {
                predictions.push(None);
                refused = refused.or(Some(reason));
            }
        }
    }
    match voices.is_empty() {
        true => Err(Unlike(refused)),
        false => Ok((voices, predictions)),
    }
}

impl<'a> Choir<'a> {
    /// Leaves out who has other rows than most.
    fn new(mut voices: Voices<'a>, answers: usize, missing: &[Expected], asked: f64) -> Self {
        let sum: f64 = voices.iter().map(|voice| voice.weight).sum();
        let is_even = sum <= 0.;
        if is_even {
            voices.iter_mut().for_each(|voice| voice.weight = 1.);
        }
        voices.sort_unstable_by(|a, b| {
            let heavier = b.weight.total_cmp(&a.weight);
            heavier.then((a.arm, a.index).cmp(&(b.arm, b.index)))
        });
        // In this order sums are the same however the answers came.
        let sum: f64 = voices.iter().map(|voice| voice.weight).sum();
        let asked = match asked {
            _ if is_even => (answers + missing.len()) as f64,
            asked if asked.is_finite() && asked > sum => asked,
            _ => sum,
        };
        let rows = voices
            .iter()
            .map(|voice| (voice.column.rows(), voice.weight));
        let rows = elected(rows, sum).unwrap_or(0);
        voices.retain(|voice| voice.column.rows() == rows);
        let are_numbers = voices
            .iter()
            .all(|voice| matches!(voice.column, Column::Floats { columns: 1, .. }));
        let counts = missing.iter().filter_map(|expected| {
            let weight = if is_even { 1. } else { expected.weight };
            let counts = are_numbers && weight > 0. && weight.is_finite();
            counts.then_some((weight, weight * expected.mean))
        });
        let (missing_weight, missing) =
            counts.fold((0., 0.), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        Self {
            voices,
            rows,
            asked,
            missing,
            missing_weight,
        }
    }

    /// Returns the weighted mean of all elements, where they are numbers or scores of as many
    /// classes.
    fn mean(&self) -> Option<Numbers> {
        let floats = |voice: &'_ Voice<'_>| match &voice.column {
            Column::Floats { columns, .. } => Some(*columns),
            Column::Labels(_) => None,
        };
        let columns = self.voices.first().and_then(floats)?;
        if self
            .voices
            .iter()
            .any(|voice| floats(voice) != Some(columns))
        {
            return None;
        }
        let elements = self.rows * columns;
        let mut mean = Numbers::with_capacity(elements);
        for element in 0..elements {
            let (mut sum, mut weights) = (0., 0.);
            let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
            for voice in &self.voices {
                let Column::Floats { values, .. } = &voice.column else {
                    continue;
                };
                match values.get(element) {
                    Some(value) if !value.is_nan() && voice.weight > 0. => {
                        sum += voice.weight * value;
                        weights += voice.weight;
                        least = least.min(*value);
                        most = most.max(*value);
                    }
                    _ => {}
                }
            }
            let said = match sum / weights {
                // Of two infinities, or of nothing.
                mean if mean.is_nan() => f64::NAN,
                // Rounding may lead out of what was said.
                mean => mean.clamp(least, most),
            };
            // Who says nothing of a row is not spoken for by those who did not answer.
            let all = weights + self.missing_weight;
            mean.push(match self.missing_weight > 0. && !said.is_nan() {
                true => said * (weights / all) + self.missing / all,
                false => said,
            });
        }
        Some(mean)
    }

    /// Returns what the mean says of each row.
    fn said(&self, mean: Option<&[f64]>) -> Option<Predictions> {
        let mean = mean?;
        let columns = (mean.len() / self.rows.max(1)).max(1);
        let rows = mean.chunks_exact(columns);
        Some(match columns {
            1 => mean.iter().copied().map(Prediction::number).collect(),
            _ => rows
                .map(|scores| Prediction::scores(scores, Loss::ZeroOne))
                .collect(),
        })
    }

    fn keys(&self, predictions: &[Option<Predictions>]) -> Keys {
        let mut keys = SmallVec::with_capacity(self.voices.len() * self.rows);
        for voice in &self.voices {
            let said = predictions.get(voice.index).and_then(Option::as_ref);
            keys.extend(said.into_iter().flatten().map(Prediction::key));
        }
        Keys {
            rows: self.rows,
            keys,
        }
    }

    /// Returns for each row the voice whose it is, and the answer of these.
    fn choose(&self, keys: &Keys, said: Option<&[Prediction]>) -> (SmallVec<[usize; 4]>, Response) {
        let weights = || self.voices.iter().map(|voice| voice.weight).enumerate();
        let sum: f64 = weights().map(|(_, weight)| weight).sum();
        let wanted: SmallVec<[Option<Key>; 4]> = (0..self.rows)
            .map(|row| match said {
                Some(said) => said.get(row).filter(|said| said.is_class())?.key(),
                None => {
                    let votes =
                        weights().filter_map(|(at, weight)| Some((keys.at(at, row)?, weight)));
                    elected(votes, sum)
                }
            })
            .collect();
        let agrees = |at: usize, row: usize| {
            let wanted = wanted.get(row).copied().flatten();
            wanted.is_none_or(|wanted| keys.at(at, row) == Some(wanted))
        };
        let whole = |at: usize| (SmallVec::from_elem(at, self.rows), self.response(at));
        let mut all = 0..self.voices.len();
        if let Some(at) = all.find(|at| (0..self.rows).all(|row| agrees(*at, row))) {
            return whole(at);
        }
        let of_row = |row| (0..self.voices.len()).find(|at| agrees(*at, row));
        let winners: SmallVec<[usize; 4]> =
            (0..self.rows).map(|row| of_row(row).unwrap_or(0)).collect();
        if let Some(response) = self.assembled(&winners) {
            return (winners, response);
        }
        let support = |at: usize| -> f64 {
            let rows = (0..self.rows).filter_map(|row| Some((row, keys.at(at, row)?)));
            rows.map(|(row, key)| {
                let alike = weights().filter(|(other, _)| keys.at(*other, row) == Some(key));
                alike.map(|(_, weight)| weight).sum::<f64>()
            })
            .sum()
        };
        let supports = (0..self.voices.len()).map(|at| (at, support(at)));
        whole(elected(supports, sum * self.rows as f64).unwrap_or(0))
    }

    fn response(&self, at: usize) -> Response {
        let voice = self.voices.get(at).or(self.voices.first());
        voice.map_or_else(
            || Response::from(crate::inference::ResponseParts::default()),
            |voice| voice.response.clone(),
        )
    }

    /// Puts an answer together of rows of several, or returns `None` where their outputs are not
    /// alike.
    fn assembled(&self, winners: &[usize]) -> Option<Response> {
        let frame = *winners.first()?;
        if winners.iter().all(|at| *at == frame) {
            return Some(self.response(frame));
        }
        let mut response = self.voices.get(frame)?.response.clone();
        for output in &mut response.outputs {
            // The cells of each voice, where it has won a row.
            let mut cut: SmallVec<[Option<Cells>; 8]> = SmallVec::new();
            for (at, voice) in self.voices.iter().enumerate() {
                cut.push(match winners.contains(&at) {
                    true => Some(cells(output, voice.response, self.rows)?),
                    false => None,
                });
            }
            let mut data = Payload::with_capacity(self.rows);
            for (row, at) in winners.iter().enumerate() {
                let cell = cut.get(*at)?.as_ref()?.get(row)?;
                join_cell(&mut data, output.form, cell);
            }
            if data.len() <= SMALL {
                data = data.to_bytes().into();
            }
            output.data = data;
            output.parameters = without_size(&output.parameters);
        }
        Some(response)
    }
}

impl Voice<'_> {
    /// Returns the number that it says of a row.
    fn number(&self, row: usize) -> Option<f64> {
        match &self.column {
            Column::Floats { columns: 1, values } => {
                values.get(row).copied().filter(|value| !value.is_nan())
            }
            _ => None,
        }
    }
}

impl Keys {
    fn at(&self, voice: usize, row: usize) -> Option<Key> {
        self.keys.get(voice * self.rows + row).copied().flatten()
    }
}

/// Returns the heaviest of what is voted for; of those that weigh the same within rounding, what was
/// voted for first.
fn elected<T: Copy + PartialEq>(votes: impl Iterator<Item = (T, f64)>, sum: f64) -> Option<T> {
    let mut candidates: SmallVec<[(T, f64); 8]> = SmallVec::new();
    for (vote, weight) in votes {
        match candidates.iter_mut().find(|(known, _)| *known == vote) {
            Some((_, votes)) => *votes += weight,
            None => candidates.push((vote, weight)),
        }
    }
    let heavier = candidates.into_iter().reduce(|best, candidate| {
        match candidate.1 > best.1 + ROUNDING * sum {
            true => candidate,
            false => best,
        }
    });
    heavier.map(|(vote, _)| vote)
}

/// Returns the rows of the output of another answer that can stand in this one.
fn cells(output: &Tensor, response: &Response, rows: usize) -> Option<Cells> {
    let named = |other: &&Tensor| other.name == output.name;
    let other = response.outputs.iter().find(named)?;
    let text = |tensor: &Tensor| tensor.form.is_text().then_some(tensor.form);
    let dimensions = |tensor: &Tensor| tensor.shape.with_rows(1);
    let is_alike = output.datatype == other.datatype
        && dimensions(output) == dimensions(other)
        && text(output) == text(other)
        && output.unknown == other.unknown
        && output
            .parameters
            .same(&other.parameters, &[BINARY_DATA_SIZE]);
    let cells = is_alike.then(|| other.cells()).flatten();
    cells.filter(|cells| cells.len() == rows)
}

/// Puts numbers into an output in the type and shape of another one.
fn write(tensor: &mut Tensor, like: &Tensor, numbers: &[f64]) {
    let size = like.datatype.size().unwrap_or(0);
    let mut data = Vec::with_capacity(numbers.len() * size);
    for number in numbers {
        element::put_float(like.datatype, *number, &mut data);
    }
    if tensor.form.is_text() || tensor.datatype != like.datatype {
        tensor.form = Form::Raw;
    }
    tensor.datatype = like.datatype;
    tensor.shape = like.shape.clone();
    tensor.parameters = without_size(&tensor.parameters);
    tensor.data = bytes::Bytes::from(data).into();
}

/// Sums of the same weights may differ by so much of them.
const ROUNDING: f64 = 1e-12;

/// Contents that are put together are shared piece by piece only where they are longer.
const SMALL: usize = 1 << 16;

impl std::fmt::Display for Unlike {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no arm's answer has a label")
    }
}

impl std::error::Error for Unlike {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.as_ref().map(|reason| reason as _)
    }
}
