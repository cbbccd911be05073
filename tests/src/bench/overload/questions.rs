//! What is asked, and which answers are right.

use bytes::{BufMut, Bytes, BytesMut};
use outrigger::demo::load::{Calls, frame};

use crate::bench::message;

/// Rows that differ, as urgent as wished; each must come back to its own caller.
#[derive(Clone, Debug)]
pub(super) struct Questions {
    bodies: Vec<Bytes>,
    answers: Vec<Bytes>,
}

impl Questions {
    /// Makes requests of one row for a model that answers with its input, with Triton's
    /// `priority` or without.
    pub(super) fn new(model: &str, priority: Option<u8>) -> Self {
        let rows: Vec<Vec<f32>> = (0..DIFFERENT_ROWS)
            .map(|row| (0..ROW).map(|column| (row * ROW + column) as f32).collect())
            .collect();
        let body = |row: &Vec<f32>| {
            let mut message = BytesMut::from(&message::infer(model, "input0", row)[..]);
            if let Some(priority) = priority {
                put_priority(&mut message, priority);
            }
            frame(&message)
        };
        Self {
            bodies: rows.iter().map(body).collect(),
            answers: rows
                .iter()
                .map(|row| row.iter().flat_map(|value| value.to_le_bytes()).collect())
                .collect(),
        }
    }
}

impl Calls for Questions {
    fn body(&self, n: u64) -> Bytes {
        self.bodies[n as usize % DIFFERENT_ROWS].clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let own = &self.answers[n as usize % DIFFERENT_ROWS];
        answer.get(5..).is_some() && message::output(&answer.slice(5..), 0).as_ref() == Some(own)
    }
}

/// `parameters["priority"] = { int64_param: priority }`, for priorities of one byte.
fn put_priority(message: &mut BytesMut, priority: u8) {
    const KEY: &[u8] = b"priority";
    // Key and value are fields 1 and 2 of an entry of field 4; the number is field 2 of the value.
    message.put_slice(&[0x22, 2 + KEY.len() as u8 + 4, 0x0a, KEY.len() as u8]);
    message.put_slice(KEY);
    message.put_slice(&[0x12, 2, 0x10, priority & 0x7f]);
}

/// Floats of a row.
pub(super) const ROW: usize = 64;
const DIFFERENT_ROWS: usize = 251;

#[cfg(test)]
mod tests {
    use outrigger_native::inference::infer_parameter::ParameterChoice;
    use outrigger_native::inference::{InferParameter, ModelInferRequest};
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_priority_is_read_as_it_was_meant() {
        let read = |priority| {
            let body = Questions::new("m", priority).body(3);
            ModelInferRequest::decode(body.slice(5..)).expect("it is well formed")
        };
        let urgent = read(Some(1));
        let one = InferParameter {
            parameter_choice: Some(ParameterChoice::Int64Param(1)),
        };
        assert_eq!(urgent.parameters.get("priority"), Some(&one));
        assert_eq!(urgent.inputs[0].shape, [1, ROW as i64]);
        assert!(read(None).parameters.is_empty());
    }

    #[test]
    fn only_its_own_row_is_accepted() {
        let questions = Questions::new("m", None);
        let answer = |n: usize| {
            let mut answer = b"\0\0\0\0\0\x32\x80\x02".to_vec();
            answer.extend_from_slice(&questions.answers[n]);
            Bytes::from(answer)
        };
        assert!(questions.accept(7, &answer(7)));
        assert!(!questions.accept(7, &answer(8)));
        assert!(!questions.accept(7, &Bytes::new()));
    }
}
