//! A decision tree.

use std::fmt;

use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::tree::decision_tree_classifier::{
    DecisionTreeClassifier, DecisionTreeClassifierParameters,
};

use super::classifier::{Row, Scores, classes, matrix};
use super::data::{CLASSES, Image, Split};

/// A tree whose score is 1 for the digit of the leaf, and 0 for the others.
pub(super) struct Tree {
    model: DecisionTreeClassifier<f64, u32, DenseMatrix<f64>, Vec<u32>>,
}

impl Tree {
    pub(super) fn train(training: Split<'_>, depth: u16) -> Self {
        // smartcore counts levels of nodes, others count levels of decisions.
        let parameters = DecisionTreeClassifierParameters::default().with_max_depth(depth + 1);
        let images = matrix(training.images, 1.0);
        let model = DecisionTreeClassifier::fit(&images, &classes(training), parameters);
        Self {
            model: model.expect("hundreds of images of all digits grow a tree"),
        }
    }
}

impl Scores for Tree {
    fn score(&self, images: &[Image]) -> Vec<Row> {
        if images.is_empty() {
            return Vec::new();
        }
        let shares = self.model.predict_proba(&matrix(images, 1.0));
        let shares = shares.expect("the tree is grown");
        let row = |at| std::array::from_fn(|digit: usize| *shares.get((at, digit)) as f32);
        (0..images.len()).map(row).collect()
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("depth", &self.model.depth())
            .finish_non_exhaustive()
    }
}

const _: () = assert!(
    CLASSES == 10,
    "a training set holds every digit, so classes are digits"
);
