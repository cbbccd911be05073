use bytestring::ByteString;
use outrigger_filters::{inference::RequestParts, select};

use super::Truth;
use crate::config::Protocol;

/// What a caller says of answers.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each answer, or for each row of which something is said apart; at least one.
    pub items: Vec<Item>,
}

/// What a caller says of one answer.
#[derive(Clone, Debug)]
pub struct Item {
    /// Of which answer.
    pub subject: Subject,
    /// How good it was.
    pub outcome: Outcome,
    /// The one row of which that is said, where it is not all of them.
    pub row: Option<u32>,
}

/// Which answer is meant.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The one that had this prediction id.
    Prediction(ByteString),
    /// What the arms answer to this question. Its head says no more than the model and the context.
    Inputs {
        /// The question.
        request: Box<RequestParts>,
        /// In which protocol it is asked.
        protocol: Protocol,
    },
}

/// How good an answer was.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// How bad, from 0 to 1.
    Loss(Told<f64>),
    /// What would have been right.
    Label(Told<Truth>),
}

/// Something that is said of the rows of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Told<T> {
    /// Of the one row that is meant, or of all together.
    Whole(T),
    /// Of each by itself, where it is known.
    Rows(Vec<Option<T>>),
}

impl Outcome {
    /// Tells whether something is said of each row by itself.
    pub fn is_rows(&self) -> bool {
        matches!(self, Self::Loss(Told::Rows(_)) | Self::Label(Told::Rows(_)))
    }
}

impl Item {
    /// Takes it apart into the answer that is meant and what is learned of it.
    pub fn into_parts(self) -> (Subject, select::Feedback) {
        let outcome = match self.outcome {
            Outcome::Loss(told) => select::Outcome::Loss(told.into_rows()),
            Outcome::Label(told) => select::Outcome::Label(told.into_rows()),
        };
        let row = self.row;
        (self.subject, select::Feedback { outcome, row })
    }
}

impl<T> Told<T> {
    fn into_rows(self) -> Vec<Option<T>> {
        match self {
            Self::Whole(told) => vec![Some(told)],
            Self::Rows(rows) => rows,
        }
    }
}
