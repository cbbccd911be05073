//! Models that compute nothing, and behave as they are told.

use std::sync::Arc;

use crate::container::{Behaviour, Container, Manner};
use crate::curve::{Curve, Jitter};
use crate::faults::Faults;
use crate::signature::{Shapes, Signature, TensorSpec};
use crate::tensor::Tensor;

/// A model that computes nothing: its latency, its answers and its faults are given.
///
/// All but the name has a default, so that a model is written as
/// `Synthetic { curve: Curve::NOOP, ..Synthetic::new("echo") }`.
#[derive(Debug, Clone)]
pub struct Synthetic {
    /// The name that requests carry.
    pub name: String,
    /// What a call costs. Default: nothing.
    pub curve: Curve,
    /// How calls stray from the curve. Default: not at all.
    pub jitter: Jitter,
    /// How many calls are executed at the same time; the others wait in order. Default: 1.
    pub concurrency: usize,
    /// The most rows of a call; larger ones are refused. Default: 65536.
    pub max_batch_size: usize,
    /// Whether it says that it can be batched; otherwise shapes are whole and each call counts as one row. Default: yes.
    pub batchable: bool,
    /// What it takes. Default: `input0` of any datatype and shape.
    pub inputs: Vec<TensorSpec>,
    /// What it answers. Default: the inputs.
    pub output: Output,
    /// What goes wrong. Default: nothing.
    pub faults: Faults,
    /// How many answers a streamed request gets; such a model refuses unary calls. Default: it is not decoupled.
    pub decoupled: Option<usize>,
    /// Whether ModelConfig is UNIMPLEMENTED, as at MLServer. Default: no.
    pub config_unimplemented: bool,
    /// How the metadata tells shapes. Default: as Triton does.
    pub shapes: Shapes,
    /// Where the random numbers of jitter and faults begin. Default: 0.
    pub seed: u64,
}

/// What a synthetic model answers.
#[derive(Debug, Clone)]
pub enum Output {
    /// Each input under the name of an output: `output0`, `output1`, …
    Echo,
    /// This tensor of one row, as often as there are rows.
    Constant(Tensor),
}

#[derive(Debug)]
struct Echo {
    names: Vec<String>,
    inputs: Vec<String>,
}

#[derive(Debug)]
struct Constant {
    row: Tensor,
    batchable: bool,
}

impl Synthetic {
    /// A model that echoes at once.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            curve: Curve::ZERO,
            jitter: Jitter::None,
            concurrency: 1,
            max_batch_size: 65_536,
            batchable: true,
            inputs: vec![TensorSpec::any("input0")],
            output: Output::Echo,
            faults: Faults::none(),
            decoupled: None,
            config_unimplemented: false,
            shapes: Shapes::Batched,
            seed: 0,
        }
    }
}

impl From<Synthetic> for Container {
    fn from(model: Synthetic) -> Self {
        let (outputs, behaviour): (_, Arc<dyn Behaviour>) = match model.output {
            Output::Echo => {
                let names: Vec<_> = (0..model.inputs.len())
                    .map(|n| format!("output{n}"))
                    .collect();
                let renamed = names.iter().zip(&model.inputs);
                let outputs = renamed.map(|(name, input)| TensorSpec {
                    name: name.clone(),
                    ..input.clone()
                });
                let inputs = model
                    .inputs
                    .iter()
                    .map(|input| input.name.clone())
                    .collect();
                (
                    outputs.collect(),
                    Arc::new(Echo {
                        names: names.clone(),
                        inputs,
                    }),
                )
            }
            Output::Constant(row) => {
                let dims = if model.batchable {
                    row.shape.get(1..)
                } else {
                    Some(&row.shape[..])
                };
                let spec = TensorSpec::new(row.name.clone(), row.datatype, dims.unwrap_or(&[]));
                (
                    vec![spec],
                    Arc::new(Constant {
                        row,
                        batchable: model.batchable,
                    }),
                )
            }
        };
        Self {
            signature: Signature {
                name: model.name,
                platform: "outrigger_synthetic",
                inputs: model.inputs,
                outputs,
                max_batch_size: model.batchable.then_some(model.max_batch_size),
                concurrency: model.concurrency,
                decoupled: model.decoupled,
                shapes: model.shapes,
                has_config: !model.config_unimplemented,
            },
            behaviour,
            manner: Manner {
                labour: Curve::ZERO,
                curve: model.curve,
                jitter: model.jitter,
                faults: Arc::new(model.faults),
            },
            seed: model.seed,
        }
    }
}

impl Behaviour for Echo {
    fn answer(&self, inputs: &[Tensor], _rows: usize) -> Vec<Tensor> {
        let named = self.names.iter().zip(&self.inputs);
        named
            .filter_map(|(output, input)| {
                let tensor = inputs.iter().find(|tensor| tensor.name == *input)?;
                Some(Tensor {
                    name: output.clone(),
                    ..tensor.clone()
                })
            })
            .collect()
    }
}

impl Behaviour for Constant {
    fn answer(&self, _inputs: &[Tensor], rows: usize) -> Vec<Tensor> {
        if self.batchable {
            vec![self.row.with_rows(1, rows)]
        } else {
            vec![self.row.clone()]
        }
    }
}
