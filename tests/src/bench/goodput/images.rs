//! What is sent, and what must come back.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use outrigger::demo::load::{Calls, frame};

use crate::bench::{Result, message};

/// Images of digits, and the label that the model gives to each.
#[derive(Clone, Debug)]
pub(super) struct Images {
    rows: Arc<Vec<Vec<f32>>>,
    labels: Arc<Vec<i64>>,
}

/// How a server is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wire {
    /// The Open Inference Protocol over gRPC, with raw contents; the model's name.
    Grpc(String),
    /// HTTP/1.1 with bare bytes both ways.
    Raw,
    /// HTTP/1.1 with JSON both ways.
    Json,
}

/// Images as one server wants them: what is sent to it in turn, and judged.
#[derive(Clone, Debug)]
pub(super) struct Questions {
    wire: Wire,
    bodies: Vec<Bytes>,
    labels: Arc<Vec<i64>>,
}

impl Images {
    /// Reads what `digits.py` has written.
    pub(super) fn read(folder: &Path, model: &str) -> Result<Self> {
        let words = |name: String, length: usize| -> Result<Vec<Vec<u8>>> {
            let bytes = std::fs::read(folder.join(&name))?;
            if bytes.is_empty() || bytes.len() % length != 0 {
                return Err(format!("{name} is not a multiple of {length} bytes").into());
            }
            Ok(bytes.chunks_exact(length).map(<[u8]>::to_vec).collect())
        };
        let rows: Vec<Vec<f32>> = words("images".into(), PIXELS * 4)?
            .iter()
            .map(|row| row.chunks_exact(4).map(float).collect())
            .collect();
        let labels: Vec<i64> = words(format!("{model}.labels"), 8)?
            .iter()
            .filter_map(|label| integer(label))
            .collect();
        if rows.len() != labels.len() {
            return Err(format!("{} images have {} labels", rows.len(), labels.len()).into());
        }
        Ok(Self {
            rows: rows.into(),
            labels: labels.into(),
        })
    }

    /// Writes them as a server wants them.
    pub(super) fn questions(&self, wire: &Wire) -> Questions {
        let body = |row: &Vec<f32>| match wire {
            Wire::Grpc(model) => frame(&message::infer(model, "x", row)),
            Wire::Raw => row.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Wire::Json => {
                let mut text = String::from("{\"rows\":[[");
                for (index, value) in row.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{comma}{value}");
                }
                text.push_str("]]}");
                text.into()
            }
        };
        Questions {
            wire: wire.clone(),
            bodies: self.rows.iter().map(body).collect(),
            labels: Arc::clone(&self.labels),
        }
    }
}

impl Questions {
    /// What to look for in an answer: one row, and the label of the image that was sent.
    fn label(&self, answer: &Bytes) -> Option<i64> {
        match self.wire {
            Wire::Grpc(_) => {
                let label = message::output(&answer.slice_ref(answer.get(5..)?), 0)?;
                (label.len() == 8).then(|| integer(&label))?
            }
            Wire::Raw => integer(answer.get(..8)?),
            Wire::Json => {
                let text = std::str::from_utf8(answer).ok()?;
                text.trim_matches(['[', ']', '\n']).parse().ok()
            }
        }
    }
}

impl Calls for Questions {
    fn body(&self, n: u64) -> Bytes {
        self.bodies[n as usize % self.bodies.len()].clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        self.label(answer) == Some(self.labels[n as usize % self.labels.len()])
    }
}

fn float(bytes: &[u8]) -> f32 {
    bytes.try_into().map_or(f32::NAN, f32::from_le_bytes)
}

fn integer(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(bytes.try_into().ok()?))
}

const PIXELS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images {
            rows: vec![vec![0.0, 1.5], vec![16.0, 2.0]].into(),
            labels: vec![7, 3].into(),
        }
    }

    #[test]
    fn only_the_label_of_the_own_image_is_accepted_on_every_wire() {
        type Answer = fn(&[u8]) -> Bytes;
        let grpc: Answer = |label| {
            let mut answer = b"\0\0\0\0\0\x32".to_vec();
            answer.push(label.len() as u8);
            answer.extend_from_slice(label);
            Bytes::from(answer)
        };
        let raw: Answer = |label| Bytes::copy_from_slice(&[label, b"scores"].concat());
        let json: Answer = |label| Bytes::from(format!("[[{}]]", label[0]));
        let cases = [
            (Wire::Grpc("m".into()), grpc),
            (Wire::Raw, raw),
            (Wire::Json, json),
        ];
        for (wire, answer) in cases {
            let questions = images().questions(&wire);
            assert!(
                questions.accept(0, &answer(&7_i64.to_le_bytes())),
                "{wire:?}"
            );
            assert!(
                questions.accept(3, &answer(&3_i64.to_le_bytes())),
                "{wire:?}"
            );
            assert!(
                !questions.accept(0, &answer(&3_i64.to_le_bytes())),
                "{wire:?}"
            );
            assert!(!questions.accept(0, &Bytes::new()), "{wire:?}");
        }
        // Two rows are not one.
        let questions = images().questions(&Wire::Grpc("m".into()));
        assert!(!questions.accept(0, &grpc(&[7_i64.to_le_bytes(); 2].concat())));
    }

    #[test]
    fn json_holds_one_row() {
        let body = images().questions(&Wire::Json).body(1);
        assert_eq!(body, r#"{"rows":[[16,2]]}"#);
    }
}
