//! A trained model as a container.

use std::fmt::Debug;
use std::sync::Arc;
use std::thread;

use smartcore::linalg::basic::matrix::DenseMatrix;

use super::bayes::Bayes;
use super::data::{CLASSES, Digits, Image, PIXELS, Split};
use super::dialect::Dialect;
use super::forest::Forest;
use super::logistic::Logistic;
use super::svc::Svc;
use super::tree::Tree;
use crate::container::{Behaviour, Container, Manner};
use crate::curve::{Curve, Jitter};
use crate::faults::Faults;
use crate::random::Random;
use crate::signature::{Shapes, Signature, TensorSpec};
use crate::tensor::{Datatype, Tensor};

/// The kinds of models there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A decision tree of depth 6, trained on 300 images.
    Tree,
    /// Gaussian naive Bayes, trained on 200 images.
    Bayes,
    /// Logistic regression, trained on 150 images.
    Logistic,
    /// A decision tree of depth 4, trained on 300 images.
    ShallowTree,
    /// A support vector machine with an RBF kernel, trained on 600 images.
    Svc,
}

/// A trained model of the digits.
#[derive(Debug, Clone)]
pub struct Classifier {
    name: String,
    scores: Arc<dyn Scores>,
    overhead: Curve,
    labour: Curve,
    faults: Faults,
    concurrency: usize,
    max_batch_size: usize,
    seed: u64,
}

/// A score for each digit.
pub(super) type Row = [f32; CLASSES];

/// What each kind of model computes.
pub(super) trait Scores: Debug + Send + Sync + 'static {
    /// Scores images; the digit with the highest score is the answer.
    fn score(&self, images: &[Image]) -> Vec<Row>;
}

/// Trains all five models, each on a thread of its own.
pub fn classifiers() -> Vec<Classifier> {
    thread::scope(|scope| {
        let trained = Kind::ALL.map(|kind| scope.spawn(move || Classifier::train(kind)));
        let joined = trained.map(|model| model.join().expect("training does not panic"));
        joined.into()
    })
}

/// Trains forests of five trees, `digits_forest_0` and so on, each on another fifth of the training
/// images: models that are alike and err differently.
pub fn forests(count: usize) -> Vec<Classifier> {
    let training = Digits::load().training();
    let forest = |number| {
        let scores = Arc::new(Forest::train(training, number));
        Classifier::new(format!("digits_forest_{number}"), scores)
    };
    (0..count).map(forest).collect()
}

/// Trains a logistic regression for each [dialect](Dialect), `digits_dialect_0` to
/// `digits_dialect_7`, and `digits_general`, which has seen as many images, of all dialects.
pub fn dialects() -> Vec<Classifier> {
    let of_one = |dialect: Dialect| {
        let name = format!("digits_dialect_{}", dialect.number());
        Classifier::new(name, Arc::new(regression(|_| dialect)))
    };
    thread::scope(|scope| {
        let general = scope.spawn(|| Classifier::new("digits_general", Arc::new(regression(any))));
        let mut models: Vec<_> = Dialect::ALL.map(of_one).into();
        models.push(general.join().expect("training does not panic"));
        models
    })
}

/// Trains a logistic regression on images, each in a dialect that goes by its number.
fn regression(dialect_of: impl Fn(usize) -> Dialect) -> Logistic {
    let training = Digits::load().training().first(400);
    let images = training.images.iter().enumerate();
    let images: Vec<_> = images.map(|(at, image)| dialect_of(at).of(image)).collect();
    Logistic::train(Split {
        images: &images,
        labels: training.labels,
    })
}

fn any(at: usize) -> Dialect {
    Dialect::ALL[at % Dialect::ALL.len()]
}

impl Kind {
    /// All kinds, in the order of the experiments.
    pub const ALL: [Self; 5] = [
        Self::Tree,
        Self::Bayes,
        Self::Logistic,
        Self::ShallowTree,
        Self::Svc,
    ];

    /// The name under which such a model is served.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tree => "digits_tree",
            Self::Bayes => "digits_bayes",
            Self::Logistic => "digits_logistic",
            Self::ShallowTree => "digits_shallow_tree",
            Self::Svc => "digits_svc",
        }
    }
}

impl Classifier {
    /// Trains a model.
    pub fn train(kind: Kind) -> Self {
        let training = Digits::load().training();
        let scores: Arc<dyn Scores> = match kind {
            Kind::Tree => Arc::new(Tree::train(training.first(300), 6)),
            Kind::Bayes => Arc::new(Bayes::train(training.first(200))),
            Kind::Logistic => Arc::new(Logistic::train(training.first(150))),
            Kind::ShallowTree => Arc::new(Tree::train(training.first(300), 4)),
            Kind::Svc => Arc::new(Svc::train(training.first(600))),
        };
        Self::new(kind.name(), scores)
    }

    fn new(name: impl Into<String>, scores: Arc<dyn Scores>) -> Self {
        Self {
            name: name.into(),
            scores,
            overhead: Curve::ZERO,
            labour: Curve::ZERO,
            faults: Faults::none(),
            concurrency: 1,
            max_batch_size: 4096,
            seed: 0,
        }
    }

    /// Serves it under another name.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// Adds a cost to what the model computes. It is waited out, not computed.
    pub fn with_overhead(self, overhead: Curve) -> Self {
        Self { overhead, ..self }
    }

    /// Adds processor time to what the model computes: it is used up, not waited out.
    pub fn with_labour(self, labour: Curve) -> Self {
        Self { labour, ..self }
    }

    /// Begins with these faults.
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Executes so many calls at the same time.
    pub fn with_concurrency(self, concurrency: usize) -> Self {
        Self {
            concurrency,
            ..self
        }
    }

    /// Refuses calls with more rows.
    pub fn with_max_batch_size(self, max_batch_size: usize) -> Self {
        Self {
            max_batch_size,
            ..self
        }
    }

    /// Begins the random numbers of its faults somewhere else.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The name under which it is served.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says which digits the images show.
    pub fn predict(&self, images: &[Image]) -> Vec<u8> {
        self.scores.score(images).iter().map(label).collect()
    }

    /// The share of the images that it takes for what they are.
    pub fn accuracy(&self, of: Split<'_>) -> f64 {
        let predictions = self.predict(of.images);
        let right = predictions
            .iter()
            .zip(of.labels)
            .filter(|(said, is)| said == is)
            .count();
        right as f64 / of.labels.len().max(1) as f64
    }
}

impl From<Classifier> for Container {
    fn from(model: Classifier) -> Self {
        Self {
            signature: Signature {
                name: model.name.clone(),
                platform: "outrigger_digits",
                inputs: vec![TensorSpec::new("x", Datatype::Fp32, &[PIXELS as i64])],
                outputs: vec![
                    TensorSpec::new("label", Datatype::Int64, &[1]),
                    TensorSpec::new("proba", Datatype::Fp32, &[CLASSES as i64]),
                ],
                max_batch_size: Some(model.max_batch_size),
                concurrency: model.concurrency,
                decoupled: None,
                shapes: Shapes::Batched,
                has_config: true,
            },
            manner: Manner {
                labour: model.labour,
                curve: model.overhead,
                jitter: Jitter::None,
                faults: Arc::new(model.faults.clone()),
            },
            seed: model.seed,
            behaviour: Arc::new(model),
        }
    }
}

impl Behaviour for Classifier {
    fn answer(&self, inputs: &[Tensor], _rows: usize) -> Vec<Tensor> {
        let pixels = inputs.first().map_or_else(Vec::new, Tensor::as_fp32);
        outputs(&self.scores.score(pixels.as_chunks().0))
    }

    fn guess(&self, _inputs: &[Tensor], rows: usize, random: &mut Random) -> Vec<Tensor> {
        let mut guess = || {
            let mut scores = [0.0; CLASSES];
            scores[random.below(CLASSES as u64) as usize] = 1.0;
            scores
        };
        outputs(&(0..rows).map(|_| guess()).collect::<Vec<_>>())
    }

    fn computes(&self) -> bool {
        true
    }
}

fn outputs(scores: &[Row]) -> Vec<Tensor> {
    let rows = scores.len() as i64;
    let labels: Vec<i64> = scores.iter().map(|scores| label(scores).into()).collect();
    vec![
        Tensor::int64("label", &[rows, 1], &labels),
        Tensor::fp32("proba", &[rows, CLASSES as i64], scores.as_flattened()),
    ]
}

/// The digit with the highest score; the smaller one of two.
pub(super) fn label(scores: &Row) -> u8 {
    let mut best = 0;
    for (digit, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = digit;
        }
    }
    best as u8
}

/// Turns logarithms of weights into shares.
pub(super) fn softmax(logarithms: Row) -> Row {
    let largest = logarithms.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = logarithms.map(|logarithm| (logarithm - largest).exp());
    let sum: f32 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

/// The images as smartcore takes them, each pixel times `scale`.
pub(super) fn matrix(images: &[Image], scale: f64) -> DenseMatrix<f64> {
    let pixels = images
        .as_flattened()
        .iter()
        .map(|pixel| f64::from(*pixel) * scale)
        .collect();
    DenseMatrix::new(images.len(), PIXELS, pixels, false).expect("every image has all its pixels")
}

/// The labels as smartcore takes them.
pub(super) fn classes(of: Split<'_>) -> Vec<u32> {
    of.labels.iter().map(|label| u32::from(*label)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    /// All models, trained once for all tests.
    fn trained() -> &'static [Classifier] {
        static TRAINED: OnceLock<Vec<Classifier>> = OnceLock::new();
        TRAINED.get_or_init(classifiers)
    }

    #[test]
    fn each_model_is_as_good_as_its_kind_allows() {
        let held_out = Digits::load().held_out();
        // The errors of a reference in another library, and how far samples of this size stray.
        let expected = [
            (0.259, 0.06),
            (0.213, 0.07),
            (0.079, 0.05),
            (0.446, 0.1),
            (0.017, 0.015),
        ];
        for (classifier, (error, tolerance)) in trained().iter().zip(expected) {
            let measured = 1.0 - classifier.accuracy(held_out);
            let name = classifier.name();
            assert!(
                (measured - error).abs() < tolerance,
                "{name}: {measured:.3}, not {error}"
            );
        }
    }

    #[test]
    fn more_forests_know_more() {
        let held_out = Digits::load().held_out();
        let forests = forests(16);
        let said: Vec<_> = forests
            .iter()
            .map(|forest| forest.predict(held_out.images))
            .collect();
        let error_of = |count: usize| {
            let wrong = held_out.labels.iter().enumerate().filter(|(at, label)| {
                let mut votes = [0.0; CLASSES];
                for said in &said[..count] {
                    votes[usize::from(said[*at])] += 1.0;
                }
                super::label(&votes) != **label
            });
            wrong.count() as f64 / held_out.labels.len() as f64
        };
        let (one, five, all) = (error_of(1), error_of(5), error_of(16));
        assert!((0.2..0.35).contains(&one), "{one:.3}");
        assert!(
            five < one - 0.05 && all < five,
            "{one:.3} {five:.3} {all:.3}"
        );
    }

    #[test]
    fn a_dialect_is_understood_by_its_own_model_only() {
        let held_out = Digits::load().held_out();
        let of_first = Classifier::new("first", Arc::new(regression(|_| Dialect::ALL[0])));
        let of_all = Classifier::new("all", Arc::new(regression(any)));
        let errors = |model: &Classifier| {
            Dialect::ALL.map(|dialect| {
                let images: Vec<_> = held_out.images.iter().map(|i| dialect.of(i)).collect();
                1.0 - model.accuracy(Split {
                    images: &images,
                    labels: held_out.labels,
                })
            })
        };
        let first = errors(&of_first);
        assert!((0.03..0.1).contains(&first[0]), "{first:?}");
        assert!(first[1..].iter().all(|error| *error > 0.3), "{first:?}");
        let general = errors(&of_all).iter().sum::<f64>() / 8.0;
        assert!((0.3..0.5).contains(&general), "{general:.3}");
    }

    #[test]
    fn scores_are_shares() {
        for classifier in trained() {
            let scores = classifier
                .scores
                .score(&Digits::load().held_out().images[..50]);
            for row in scores {
                let sum: f32 = row.iter().sum();
                assert!((sum - 1.0).abs() < 1e-4, "{}: {row:?}", classifier.name());
                assert!(row.iter().all(|share| (0.0..=1.0).contains(share)));
            }
        }
    }
}
