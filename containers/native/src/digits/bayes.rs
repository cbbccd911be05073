//! Gaussian naive Bayes.

use std::f32::consts::TAU;

use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::naive_bayes::gaussian::GaussianNB;

use super::classifier::{Row, Scores, classes, matrix, softmax};
use super::data::{CLASSES, Image, PIXELS, Split};

/// For each digit, how its pixels are spread.
#[derive(Debug)]
pub(super) struct Bayes {
    mean: [Image; CLASSES],
    /// -1 / (2 * variance)
    steepness: [Image; CLASSES],
    /// What does not depend on the image.
    constant: Row,
}

impl Bayes {
    pub(super) fn train(training: Split<'_>) -> Self {
        let images = matrix(training.images, 1.0);
        let model: GaussianNB<f64, u32, DenseMatrix<f64>, Vec<u32>> =
            GaussianNB::fit(&images, &classes(training), Default::default())
                .expect("hundreds of images of all digits have means");
        // Pixels that are white in all images of a digit have no variance at all.
        let largest = model.var().iter().flatten().copied().fold(0.0, f64::max);
        let variance =
            |digit: usize, pixel: usize| (model.var()[digit][pixel] + largest * SMOOTHING) as f32;
        Self {
            mean: table(|digit, pixel| model.theta()[digit][pixel] as f32),
            steepness: table(|digit, pixel| -0.5 / variance(digit, pixel)),
            constant: std::array::from_fn(|digit| {
                let spread = |pixel| (TAU * variance(digit, pixel)).ln();
                let prior = model.class_priors()[digit].ln() as f32;
                prior - (0..PIXELS).map(spread).sum::<f32>() / 2.0
            }),
        }
    }
}

impl Scores for Bayes {
    fn score(&self, images: &[Image]) -> Vec<Row> {
        let likelihood = |image: &Image| -> Row {
            std::array::from_fn(|digit| {
                let pixels = image
                    .iter()
                    .zip(&self.mean[digit])
                    .zip(&self.steepness[digit]);
                let exponent = pixels
                    .map(|((pixel, mean), steepness)| (pixel - mean) * (pixel - mean) * steepness);
                self.constant[digit] + exponent.sum::<f32>()
            })
        };
        images
            .iter()
            .map(|image| softmax(likelihood(image)))
            .collect()
    }
}

fn table(entry: impl Fn(usize, usize) -> f32) -> [Image; CLASSES] {
    std::array::from_fn(|digit| std::array::from_fn(|pixel| entry(digit, pixel)))
}

/// Added to every variance, as a share of the largest one.
const SMOOTHING: f64 = 1e-9;
