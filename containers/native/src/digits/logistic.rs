//! Logistic regression.

use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters};

use super::classifier::{Row, Scores, classes, matrix, softmax};
use super::data::{CLASSES, Image, Split};

/// A weight for each pixel and digit.
#[derive(Debug)]
pub(super) struct Logistic {
    weights: [Image; CLASSES],
    bias: Row,
}

impl Logistic {
    pub(super) fn train(training: Split<'_>) -> Self {
        let parameters = LogisticRegressionParameters {
            alpha: PENALTY,
            ..Default::default()
        };
        let images = matrix(training.images, SCALE);
        let model: LogisticRegression<f64, u32, DenseMatrix<f64>, Vec<u32>> =
            LogisticRegression::fit(&images, &classes(training), parameters)
                .expect("images of all digits have a regression");
        let weight = |digit, pixel| (*model.coefficients().get((digit, pixel)) * SCALE) as f32;
        Self {
            weights: std::array::from_fn(|digit| std::array::from_fn(|pixel| weight(digit, pixel))),
            bias: std::array::from_fn(|digit| *model.intercept().get((digit, 0)) as f32),
        }
    }
}

impl Scores for Logistic {
    fn score(&self, images: &[Image]) -> Vec<Row> {
        let product = |image: &Image| -> Row {
            std::array::from_fn(|digit| {
                let weighted = image.iter().zip(&self.weights[digit]);
                self.bias[digit] + weighted.map(|(pixel, weight)| pixel * weight).sum::<f32>()
            })
        };
        images.iter().map(|image| softmax(product(image))).collect()
    }
}

/// Brings pixels into [0, 1].
const SCALE: f64 = 1.0 / 16.0;

/// How much large weights cost.
const PENALTY: f64 = 1.0;
