//! What a load of rows sends to a model that answers with its inputs.

use bytes::Bytes;
use outrigger::demo::load::{Calls, frame};

use super::message;

/// Rows that differ, each of which must come back to its own caller.
#[derive(Clone, Debug)]
pub struct Rows {
    bodies: Vec<Bytes>,
    answers: Vec<Bytes>,
}

impl Rows {
    /// Makes requests of one row each, for a synthetic model of this name.
    pub fn new(model: &str) -> Self {
        let rows: Vec<Vec<f32>> = (0..DIFFERENT_ROWS)
            .map(|row| (0..ROW).map(|column| (row * ROW + column) as f32).collect())
            .collect();
        Self {
            bodies: rows
                .iter()
                .map(|row| frame(&message::infer(model, "input0", row)))
                .collect(),
            answers: rows
                .iter()
                .map(|row| row.iter().flat_map(|value| value.to_le_bytes()).collect())
                .collect(),
        }
    }
}

impl Calls for Rows {
    fn body(&self, n: u64) -> Bytes {
        self.bodies[n as usize % DIFFERENT_ROWS].clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let own = &self.answers[n as usize % DIFFERENT_ROWS];
        answer.get(5..).is_some() && message::output(&answer.slice(5..), 0).as_ref() == Some(own)
    }
}

/// Floats of a row, as many as a digit has pixels.
const ROW: usize = 64;
const DIFFERENT_ROWS: usize = 251;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_row_is_accepted() {
        let rows = Rows::new("m");
        let answer = |n: usize| {
            let mut answer = b"\0\0\0\0\0\x32\x80\x02".to_vec();
            answer.extend_from_slice(&rows.answers[n]);
            Bytes::from(answer)
        };
        assert!(rows.accept(7, &answer(7)));
        assert!(rows.accept(7 + DIFFERENT_ROWS as u64, &answer(7)));
        assert!(!rows.accept(7, &answer(8)));
        assert!(!rows.accept(7, &Bytes::new()));
    }
}
