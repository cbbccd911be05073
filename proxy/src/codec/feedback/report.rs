use bytestring::ByteString;
use outrigger_filters::inference::RequestParts;
use smallvec::{SmallVec, smallvec};

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

/// What is said does not go together with the rows of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsDiffer {
    /// There is no such row.
    #[error("row: the answer has {rows} rows, and no row {row}")]
    Beyond {
        /// The row that is meant.
        row: u32,
        /// How many there are.
        rows: u32,
    },
    /// The list is not as long as the answer.
    #[error("the answer has {rows} rows, and {told} are told")]
    Count {
        /// How many are told.
        told: usize,
        /// How many there are.
        rows: u32,
    },
    /// One label is told of several rows.
    #[error("the answer has {rows} rows: give a list of as many labels, or say which row")]
    Which {
        /// How many there are.
        rows: u32,
    },
}

impl Outcome {
    /// Tells whether something is said of each row by itself.
    pub fn is_rows(&self) -> bool {
        matches!(self, Self::Loss(Told::Rows(_)) | Self::Label(Told::Rows(_)))
    }
}

impl<T> Told<T> {
    /// Goes through what is said, each with its row, of an answer of so many rows.
    ///
    /// What is said of the whole of several rows is said of the first row, and of no other.
    ///
    /// # Errors
    ///
    /// Fails where it does not go together with the rows.
    pub fn by_row(
        &self,
        row: Option<u32>,
        rows: u32,
    ) -> Result<SmallVec<[(u32, &T); 1]>, RowsDiffer> {
        match (self, row) {
            (_, Some(row)) if row >= rows => Err(RowsDiffer::Beyond { row, rows }),
            (Self::Whole(told), row) => Ok(smallvec![(row.unwrap_or(0), told)]),
            (Self::Rows(told), _) if usize::try_from(rows) != Ok(told.len()) => {
                let told = told.len();
                Err(RowsDiffer::Count { told, rows })
            }
            (Self::Rows(told), _) => Ok((0..rows)
                .zip(told)
                .filter_map(|(row, told)| Some((row, told.as_ref()?)))
                .collect()),
        }
    }
}

impl Told<f64> {
    /// Returns the mean loss of the rows of which one is told, of an answer of so many rows.
    ///
    /// # Errors
    ///
    /// Fails where it does not go together with the rows.
    pub fn mean(&self, row: Option<u32>, rows: u32) -> Result<f64, RowsDiffer> {
        let told = self.by_row(row, rows)?;
        let sum: f64 = told.iter().map(|(_, loss)| **loss).sum();
        Ok(sum / told.len().max(1) as f64)
    }
}

impl Told<Truth> {
    /// Goes through the labels, each with its row, of an answer of so many rows.
    ///
    /// # Errors
    ///
    /// Fails where they do not go together with the rows: unlike a loss, one label is not true of
    /// several rows.
    pub fn labels(
        &self,
        row: Option<u32>,
        rows: u32,
    ) -> Result<SmallVec<[(u32, &Truth); 1]>, RowsDiffer> {
        match (self, row) {
            (Self::Whole(_), None) if rows != 1 => Err(RowsDiffer::Which { rows }),
            _ => self.by_row(row, rows),
        }
    }
}
