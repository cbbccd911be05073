//! A support vector machine: one decision for each pair of digits.

use std::collections::HashMap;

use serde::Deserialize;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::svm::Kernels;
use smartcore::svm::svc::{SVC, SVCParameters};

use super::classifier::{Row, Scores, matrix};
use super::data::{CLASSES, Image, PIXELS, Split};

/// All decisions over one list of support vectors, so that each kernel is computed once a row.
#[derive(Debug)]
pub(super) struct Svc {
    vectors: Vec<Image>,
    /// For each support vector, its weight in each decision.
    weights: Vec<[f32; PAIRS]>,
    bias: [f32; PAIRS],
    /// For each decision, the digits for which it is when negative and when positive.
    pairs: [(usize, usize); PAIRS],
}

/// What smartcore tells of a trained decision when it is saved.
#[derive(Debug, Deserialize)]
struct Saved {
    classes: (usize, usize),
    instances: Vec<Vec<f64>>,
    w: Vec<f64>,
    b: f64,
}

impl Svc {
    pub(super) fn train(training: Split<'_>) -> Self {
        let mut machine = Self {
            vectors: Vec::new(),
            weights: Vec::new(),
            bias: [0.0; PAIRS],
            pairs: [(0, 0); PAIRS],
        };
        let mut known = HashMap::new();
        let digits = 0..CLASSES as u8;
        let pairs = digits
            .clone()
            .flat_map(|one| digits.clone().map(move |other| (one, other)));
        for (pair, (one, other)) in pairs.filter(|(one, other)| one < other).enumerate() {
            let decision = decide(training, one, other);
            machine.pairs[pair] = decision.classes;
            machine.bias[pair] = decision.b as f32;
            for (vector, weight) in decision.instances.iter().zip(decision.w) {
                let vector: Image = std::array::from_fn(|pixel| vector[pixel] as f32);
                let at = *known.entry(vector.map(f32::to_bits)).or_insert_with(|| {
                    machine.vectors.push(vector);
                    machine.weights.push([0.0; PAIRS]);
                    machine.vectors.len() - 1
                });
                machine.weights[at][pair] += weight as f32;
            }
        }
        machine
    }
}

impl Scores for Svc {
    /// Scores are shares of the votes; of two digits with as many votes, the more decided ones count.
    fn score(&self, images: &[Image]) -> Vec<Row> {
        let score = |image: &Image| {
            let mut decisions = self.bias;
            for (vector, weights) in self.vectors.iter().zip(&self.weights) {
                let kernel = (-GAMMA * distance(image, vector)).exp();
                for (decision, weight) in decisions.iter_mut().zip(weights) {
                    *decision += kernel * weight;
                }
            }
            let mut scores = [0.0; CLASSES];
            for (decision, (negative, positive)) in decisions.iter().zip(&self.pairs) {
                let lean = TIE_BREAK * decision.clamp(-1.0, 1.0);
                scores[*negative] += if *decision > 0.0 {
                    TIE_BREAK
                } else {
                    1.0 - TIE_BREAK
                } - lean;
                scores[*positive] += if *decision > 0.0 {
                    1.0 - TIE_BREAK
                } else {
                    TIE_BREAK
                } + lean;
            }
            scores.map(|votes: f32| votes / PAIRS as f32)
        };
        images.iter().map(score).collect()
    }
}

/// Trains the decision between two digits.
fn decide(training: Split<'_>, one: u8, other: u8) -> Saved {
    let of_these = |label: &u8| *label == one || *label == other;
    let labels: Vec<u32> = training
        .labels
        .iter()
        .copied()
        .filter(of_these)
        .map(u32::from)
        .collect();
    let images: Vec<Image> = training
        .images
        .iter()
        .zip(training.labels)
        .filter(|(_, label)| of_these(label))
        .map(|(image, _)| *image)
        .collect();
    let images: DenseMatrix<f64> = matrix(&images, 1.0);
    let parameters = SVCParameters::default()
        .with_c(PENALTY)
        .with_epoch(1)
        .with_kernel(Kernels::rbf().with_gamma(f64::from(GAMMA)))
        .with_seed(Some(0));
    let machine = SVC::fit(&images, &labels, &parameters).expect("there are images of both digits");
    // Saving it is the only way to its vectors; its own predictions allocate for each of them.
    serde_json::to_value(&machine)
        .and_then(serde_json::from_value)
        .expect("a trained machine has vectors, weights and a bias")
}

fn distance(one: &Image, other: &Image) -> f32 {
    let mut lanes = [0.0; LANES];
    for (one, other) in one
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(other.as_chunks::<LANES>().0)
    {
        for lane in 0..LANES {
            lanes[lane] += (one[lane] - other[lane]) * (one[lane] - other[lane]);
        }
    }
    lanes.iter().sum()
}

/// The pairs of ten digits.
const PAIRS: usize = CLASSES * (CLASSES - 1) / 2;

/// Sums that are computed side by side, so that the compiler can use wide registers.
const LANES: usize = 8;

/// The width of the kernel, for pixels from 0 to 16.
const GAMMA: f32 = 0.001;

/// How much a violated margin costs.
const PENALTY: f64 = 10.0;

/// The share of a vote that its certainty can move: nine decisions together move less than one vote.
const TIE_BREAK: f32 = 0.02;

const _: () = assert!(
    PIXELS.is_multiple_of(LANES),
    "no pixel is left out of the distance"
);
