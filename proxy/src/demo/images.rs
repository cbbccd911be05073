//! The questions of a load, and what comes of the answers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use outrigger_native::{
    digits::{Classifier, Digits, Image, PIXELS},
    inference::{ModelInferRequest, ModelInferResponse, model_infer_request::InferInputTensor},
};
use prost::Message as _;

use super::load::{self, Calls};

/// The images that no model has seen, one a call, and what comes of the answers.
///
/// A right answer is what the model itself says of the image: whether that is true is the model's
/// business, and is counted apart.
#[derive(Clone, Debug)]
pub(super) struct Images {
    asked: Arc<[Asked]>,
    score: Arc<Score>,
}

/// An image as it is asked.
#[derive(Debug)]
struct Asked {
    body: Bytes,
    /// What the model says of it when nobody stands between.
    expected: u8,
    /// What it shows.
    truth: u8,
}

#[derive(Debug, Default)]
struct Score {
    answers: AtomicU64,
    truths: AtomicU64,
}

impl Images {
    /// Prepares the calls, and asks the model itself about each image.
    pub(super) fn held_out(model: &Classifier) -> Self {
        let images = Digits::load().held_out();
        let expected = model.predict(images.images);
        let asked = images.images.iter().zip(expected).zip(images.labels);
        let asked = asked.map(|((image, expected), truth)| Asked {
            body: load::frame(&question(model.name(), image).encode_to_vec()),
            expected,
            truth: *truth,
        });
        Self {
            asked: asked.collect(),
            score: Arc::default(),
        }
    }

    /// The same questions, and nothing answered yet.
    pub(super) fn again(&self) -> Self {
        Self {
            asked: self.asked.clone(),
            score: Arc::default(),
        }
    }

    /// How many images there are.
    pub(super) fn count(&self) -> usize {
        self.asked.len()
    }

    /// How many answers named the digit that the image shows.
    pub(super) fn truths(&self) -> u64 {
        self.score.truths.load(Ordering::Relaxed)
    }

    /// How many answers there were.
    pub(super) fn answers(&self) -> u64 {
        self.score.answers.load(Ordering::Relaxed)
    }

    fn asked(&self, n: u64) -> &Asked {
        &self.asked[(n % self.asked.len() as u64) as usize]
    }
}

impl Calls for Images {
    fn body(&self, n: u64) -> Bytes {
        self.asked(n).body.clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let asked = self.asked(n);
        let Some(label) = label(answer) else {
            return false;
        };
        self.score.answers.fetch_add(1, Ordering::Relaxed);
        if label == i64::from(asked.truth) {
            self.score.truths.fetch_add(1, Ordering::Relaxed);
        }
        label == i64::from(asked.expected)
    }
}

/// Asks a model about an image.
pub(super) fn question(model: &str, image: &Image) -> ModelInferRequest {
    let pixels: Vec<u8> = image.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, PIXELS as i64],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![pixels.into()],
        ..ModelInferRequest::default()
    }
}

/// The label in an answer with its prefix, if there is exactly one.
pub(super) fn label(answer: &Bytes) -> Option<i64> {
    if answer.first() != Some(&0) {
        return None;
    }
    let message = answer.get(PREFIX..)?;
    let answer = ModelInferResponse::decode(message).ok()?;
    let at = answer
        .outputs
        .iter()
        .position(|output| output.name == "label")?;
    let contents = answer.raw_output_contents.get(at)?;
    Some(i64::from_le_bytes(contents.as_ref().try_into().ok()?))
}

/// Bytes of gRPC's prefix: whether it is compressed, and the length.
const PREFIX: usize = 5;

#[cfg(test)]
mod tests {
    use outrigger_native::{digits::Kind, inference::model_infer_response::InferOutputTensor};

    use super::*;

    fn answer(labels: &[i64]) -> Bytes {
        let contents: Vec<u8> = labels
            .iter()
            .flat_map(|label| label.to_le_bytes())
            .collect();
        let output = |name: &str| InferOutputTensor {
            name: name.to_owned(),
            ..InferOutputTensor::default()
        };
        let answer = ModelInferResponse {
            outputs: vec![output("proba"), output("label")],
            raw_output_contents: vec![Bytes::new(), contents.into()],
            ..ModelInferResponse::default()
        };
        load::frame(&answer.encode_to_vec())
    }

    #[test]
    fn only_what_the_model_itself_says_is_accepted() {
        let images = Images::held_out(&Classifier::train(Kind::Bayes));
        for n in [0, 1, 796, 797, 10_000] {
            let said = i64::from(images.asked(n).expected);
            assert!(images.accept(n, &answer(&[said])));
            assert!(!images.accept(n, &answer(&[(said + 1) % 10])));
        }
        assert_eq!(images.answers(), 10);
        assert_eq!(images.again().answers(), 0);
    }

    #[test]
    fn an_answer_about_other_rows_is_no_answer() {
        let images = Images::held_out(&Classifier::train(Kind::Bayes));
        let whole = answer(&[3]);
        for broken in [
            answer(&[]),
            answer(&[3, 3]),
            Bytes::new(),
            whole.slice(..whole.len() - 1),
            whole.slice(5..),
        ] {
            assert_eq!(label(&broken), None);
            assert!(!images.accept(0, &broken));
        }
        assert_eq!(images.answers(), 0);
        assert_eq!(label(&whole), Some(3));
    }

    #[test]
    fn the_truth_is_counted_apart_from_the_models_word() {
        let model = Classifier::train(Kind::Bayes);
        let images = Images::held_out(&model);
        for n in 0..images.count() as u64 {
            assert!(images.accept(n, &answer(&[images.asked(n).expected.into()])));
        }
        let accuracy = images.truths() as f64 / images.answers() as f64;
        let own = model.accuracy(Digits::load().held_out());
        assert!((accuracy - own).abs() < 1e-9, "{accuracy}, not {own}");
    }
}
