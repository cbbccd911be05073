//! How far predictions are from the truth.

use super::{Prediction, Truth, label};

/// How far an answer is from the truth, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// 0 for the right label, 1 for another one.
    ZeroOne,
    /// The distance of two numbers, in units of the scale, at most 1.
    Absolute {
        /// The distance that is as bad as any larger one.
        scale: f64,
    },
    /// The square of the distance of two numbers, in units of the scale, at most 1.
    Squared {
        /// The distance that is as bad as any larger one.
        scale: f64,
    },
    /// The negative logarithm of the probability that was given to the right label, in units of the
    /// scale, at most 1.
    Log {
        /// The loss, in nats, that is as bad as any larger one.
        scale: f64,
    },
}

/// Why a prediction and the truth cannot be compared: whose kinds do not go together.
#[derive(Clone, Debug, PartialEq)]
pub struct NotComparable {
    loss: Loss,
    said: &'static str,
    truth: Truth,
}

/// Returns how far a prediction is from the truth.
///
/// Kinds are told apart strictly: `"3"` is not 3, while 3.0 is, and `true` is class 1. A prediction
/// of [nothing](Prediction::Nothing) is as bad as any. Numbers are the same where they are the same
/// in single precision.
pub fn of(loss: Loss, prediction: &Prediction, truth: &Truth) -> Result<f64, NotComparable> {
    let found = match loss {
        _ if *prediction == Prediction::Nothing => Some(1.),
        Loss::ZeroOne => is_right(prediction, truth).map(|right| if right { 0. } else { 1. }),
        Loss::Absolute { scale } => {
            distance(prediction, truth).map(|distance| fraction(distance, scale))
        }
        Loss::Squared { scale } => {
            distance(prediction, truth).map(|distance| fraction(distance, scale).powi(2))
        }
        Loss::Log { scale } => nats(prediction, truth).map(|nats| fraction(nats, scale)),
    };
    found.ok_or_else(|| NotComparable {
        loss,
        said: match prediction {
            Prediction::Nothing => "nothing",
            Prediction::Class(_) => "an integer",
            Prediction::Bytes(_) => "a text",
            Prediction::Number(_) => "a number",
            Prediction::Scores { surprise: None, .. } => "a class by its score",
            Prediction::Scores { .. } => "probabilities of classes",
        },
        truth: truth.clone(),
    })
}

/// Returns a part of a scale, at most the whole; anything is more than a scale that is none.
fn fraction(distance: f64, scale: f64) -> f64 {
    match distance / scale {
        _ if distance == 0. => 0.,
        fraction if (0. ..=1.).contains(&fraction) => fraction,
        _ => 1.,
    }
}

fn is_right(prediction: &Prediction, truth: &Truth) -> Option<bool> {
    match prediction {
        Prediction::Nothing => None,
        Prediction::Class(class) => Some(class_of(truth)? == *class),
        Prediction::Scores { top, .. } => Some(column_of(truth)? == i128::from(*top)),
        Prediction::Bytes(digest) => match truth {
            Truth::String(truth) => Some(label::digest(truth.as_bytes()) == *digest),
            _ => None,
        },
        Prediction::Number(number) => {
            let truth = number_of(truth)?;
            Some(*number == truth || *number as f32 == truth as f32)
        }
    }
}

/// Returns the class that is the right one.
fn class_of(truth: &Truth) -> Option<i128> {
    match truth {
        Truth::Bool(truth) => Some((*truth).into()),
        truth => truth.as_integer(),
    }
}

/// Returns the place among scores that is the right one. A model may not know it.
fn column_of(truth: &Truth) -> Option<i128> {
    class_of(truth).filter(|class| *class >= 0)
}

fn number_of(truth: &Truth) -> Option<f64> {
    match truth {
        Truth::Bool(truth) => Some((*truth).into()),
        truth => truth.as_number(),
    }
}

fn distance(prediction: &Prediction, truth: &Truth) -> Option<f64> {
    let said = match prediction {
        Prediction::Class(class) => *class as f64,
        Prediction::Scores { top, .. } => (*top).into(),
        Prediction::Number(number) => *number,
        Prediction::Nothing | Prediction::Bytes(_) => return None,
    };
    Some((said - number_of(truth)?).abs())
}

/// A number is the probability of the class 1 of two.
fn nats(prediction: &Prediction, truth: &Truth) -> Option<f64> {
    match prediction {
        Prediction::Scores {
            surprise: Some(surprise),
            ..
        } => {
            let class = u32::try_from(column_of(truth)?);
            Some(class.map_or(f64::INFINITY, |class| surprise.nats(class)))
        }
        Prediction::Number(probability) if (0. ..=1.).contains(probability) => {
            match class_of(truth)? {
                1 => Some(-probability.ln()),
                0 => Some(-(1. - probability).ln()),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns how well two numbers agree, from 0 to 1: by how little is lost where one is said and the
/// other is true, or by their distance as a part of the larger one where the loss has no scale.
pub(super) fn agreement(loss: Loss, one: f64, other: f64) -> f64 {
    let distance = (one - other).abs();
    1. - match loss {
        _ if one == other => 0.,
        Loss::Absolute { scale } => fraction(distance, scale),
        Loss::Squared { scale } => fraction(distance, scale).powi(2),
        Loss::ZeroOne | Loss::Log { .. } => fraction(distance, one.abs().max(other.abs())),
    }
}

impl Loss {
    /// Returns the name that the configuration knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ZeroOne => "zero-one",
            Self::Absolute { .. } => "absolute",
            Self::Squared { .. } => "squared",
            Self::Log { .. } => "log",
        }
    }
}

impl std::fmt::Display for NotComparable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.truth {
            Truth::Bool(_) => "the truth value",
            Truth::Integer(_) | Truth::Number(_) => "the number",
            Truth::String(_) => "the string",
        };
        let (loss, said, truth) = (self.loss.as_str(), self.said, &self.truth);
        write!(
            f,
            "the answer was {said}, to which {kind} {truth} has no {loss} loss"
        )
    }
}

impl std::error::Error for NotComparable {}
