use bytestring::ByteString;
use outrigger_filters::{inference::RequestParts, select::Token};

use super::{Fault, Item, Malformed, Outcome, Subject, Told, Truth};
use crate::config::Protocol;

/// An item as far as it has been read.
#[derive(Debug, Default)]
pub(super) struct Draft<I> {
    pub(super) prediction_id: Option<ByteString>,
    pub(super) model: Option<ByteString>,
    pub(super) inputs: Option<I>,
    pub(super) context: Option<ByteString>,
    pub(super) loss: Option<Told<f64>>,
    pub(super) label: Option<Told<Truth>>,
    pub(super) row: Option<u32>,
}

/// How many items and rows a report has so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    items: usize,
    rows: usize,
}

impl<I> Draft<I> {
    /// Makes the item, if everything is there that belongs together, and nothing else; `read` makes
    /// a question of a model and inputs.
    pub(super) fn finish(
        self,
        protocol: Protocol,
        read: impl FnOnce(Option<ByteString>, I) -> Result<RequestParts, Malformed>,
    ) -> Result<Item, Malformed> {
        let fault = Malformed::new;
        let is_by_inputs = self.inputs.is_some();
        let subject = match (self.prediction_id, self.inputs) {
            (Some(_), Some(_)) => return Err(fault("inputs", Fault::Beside("prediction_id"))),
            (Some(_), None) if self.model.is_some() => {
                return Err(fault("model", Fault::Beside("prediction_id")));
            }
            (Some(_), None) if self.context.is_some() => {
                return Err(fault("context", Fault::Beside("prediction_id")));
            }
            (Some(id), None) => Subject::Prediction(id),
            (None, Some(inputs)) => {
                let mut request = Box::new(read(self.model, inputs)?);
                if request.inputs.is_empty() {
                    return Err(fault("inputs", Fault::Empty));
                }
                if self
                    .context
                    .as_ref()
                    .is_some_and(|c| c.len() > Token::CONTEXT)
                {
                    return Err(fault("context", Fault::Expected(CONTEXT)));
                }
                request.head.context = self.context;
                Subject::Inputs { request, protocol }
            }
            (None, None) if self.model.is_some() => return Err(fault("inputs", Fault::Missing)),
            (None, None) => return Err(fault("prediction_id", Fault::Missing)),
        };
        let outcome = match (self.loss, self.label) {
            (Some(_), Some(_)) => return Err(fault("label", Fault::Beside("loss"))),
            (None, None) => return Err(fault("loss", Fault::Expected("it, or label,"))),
            // Whose would it be?
            (Some(_), None) if is_by_inputs => return Err(fault("loss", Fault::Beside("inputs"))),
            (Some(Told::Rows(rows)), None) if rows.iter().all(Option::is_none) => {
                return Err(fault("loss", Fault::Empty));
            }
            (None, Some(Told::Rows(rows))) if rows.iter().all(Option::is_none) => {
                return Err(fault("label", Fault::Empty));
            }
            (Some(loss), None) => Outcome::Loss(loss),
            (None, Some(label)) => Outcome::Label(label),
        };
        if self.row.is_some() && outcome.is_rows() {
            return Err(fault("row", Fault::Beside("a list")));
        }
        Ok(Item {
            subject,
            outcome,
            row: self.row,
        })
    }
}

impl Counts {
    /// Counts an item.
    pub(super) fn item(&mut self) -> Result<(), Fault> {
        self.items += 1;
        bounded(self.items, MAX_ITEMS)
    }

    /// Counts a row of a list.
    pub(super) fn row(&mut self) -> Result<(), Fault> {
        self.rows += 1;
        bounded(self.rows, MAX_ROWS)
    }
}

fn bounded(count: usize, most: usize) -> Result<(), Fault> {
    (count <= most).then_some(()).ok_or(Fault::TooMany(most))
}

/// Reads a loss, or refuses it.
pub(super) fn loss(value: f64) -> Result<f64, Fault> {
    // Neither is NaN.
    (0. ..=1.)
        .contains(&value)
        .then_some(value)
        .ok_or(Fault::Expected(LOSS))
}

pub(super) const LOSS: &str = "a number from 0 to 1";
const CONTEXT: &str = "a text of at most 256 bytes";
const _: () = assert!(Token::CONTEXT == 256, "the words above say so");

/// Items of one report: an item takes hundreds of bytes in memory, and some dozens in the message.
const MAX_ITEMS: usize = 16_384;

/// Rows of all lists of one report: one takes dozens of bytes in memory, and two in the message.
const MAX_ROWS: usize = 1 << 20;
