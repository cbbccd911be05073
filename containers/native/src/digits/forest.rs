//! Random forests, each of which has seen a part of the images.

use std::fmt;

use smartcore::ensemble::random_forest_classifier::{
    RandomForestClassifier, RandomForestClassifierParameters,
};
use smartcore::linalg::basic::matrix::DenseMatrix;

use super::classifier::{Row, Scores, matrix};
use super::data::{CLASSES, Image, Split};
use crate::random::Random;

/// A forest whose score is 1 for the digit that most of its trees name, and 0 for the others.
pub(super) struct Forest {
    model: RandomForestClassifier<f64, u32, DenseMatrix<f64>, Vec<u32>>,
}

impl Forest {
    /// Grows a few trees on a share of the images, which the number of the forest draws.
    pub(super) fn train(training: Split<'_>, number: usize) -> Self {
        let mut random = Random::new(number as u64);
        let mut order: Vec<usize> = (0..training.images.len()).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
        order.truncate((order.len() as f64 * SHARE) as usize);
        let images: Vec<Image> = order.iter().map(|at| training.images[*at]).collect();
        let labels: Vec<u32> = order
            .iter()
            .map(|at| u32::from(training.labels[*at]))
            .collect();
        let parameters = RandomForestClassifierParameters::default()
            .with_n_trees(TREES)
            .with_seed(number as u64);
        let model = RandomForestClassifier::fit(&matrix(&images, 1.0), &labels, parameters);
        Self {
            model: model.expect("two hundred images of all digits grow a forest"),
        }
    }
}

impl Scores for Forest {
    fn score(&self, images: &[Image]) -> Vec<Row> {
        if images.is_empty() {
            return Vec::new();
        }
        let named = self.model.predict(&matrix(images, 1.0));
        let row = |digit: u32| -> Row {
            let mut scores = [0.0; CLASSES];
            if let Some(score) = scores.get_mut(digit as usize) {
                *score = 1.0;
            }
            scores
        };
        let named = named.expect("the forest is grown");
        named.into_iter().map(row).collect()
    }
}

impl fmt::Debug for Forest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forest")
            .field("trees", &TREES)
            .finish_non_exhaustive()
    }
}

/// The trees of a forest.
const TREES: u16 = 5;

/// The share of the images that each forest sees.
const SHARE: f64 = 0.2;
