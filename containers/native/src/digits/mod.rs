//! Real models on real images: five classifiers of mixed quality, trained on handwritten digits.
//!
//! | model | what | trained on |
//! | --- | --- | --- |
//! | `digits_tree` | decision tree of depth 6 | 300 images |
//! | `digits_bayes` | Gaussian naive Bayes | 200 images |
//! | `digits_logistic` | logistic regression | 150 images |
//! | `digits_shallow_tree` | decision tree of depth 4 | 300 images |
//! | `digits_svc` | support vector machine with an RBF kernel | 600 images |
//!
//! Beside these there are [`forests`], which are alike and err differently, and [`dialects`], of
//! which each understands images that are turned or mirrored in one way.
//!
//! Each takes `x`, FP32 of shape `[-1, 64]`, and answers `label`, INT64 of shape `[-1, 1]`, and
//! `proba`, FP32 of shape `[-1, 10]`. They answer a row in microseconds, so there is little that
//! batching could save; [`Classifier::with_overhead`] adds what a call costs in a container
//! written in Python.

mod bayes;
mod classifier;
mod data;
mod dialect;
mod forest;
mod logistic;
mod svc;
mod tree;

pub use classifier::{Classifier, Kind, classifiers, dialects, forests};
pub use data::{CLASSES, Digits, Image, PIXELS, Split};
pub use dialect::Dialect;
