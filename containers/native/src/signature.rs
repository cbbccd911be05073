//! What a model says of itself.

use crate::inference::model_config::SchedulingChoice;
use crate::inference::model_metadata_response::TensorMetadata;
use crate::inference::model_version_policy::{Latest, PolicyChoice};
use crate::inference::{
    ModelConfig, ModelInput, ModelInstanceGroup, ModelMetadataResponse, ModelOutput,
    ModelTransactionPolicy, ModelVersionPolicy, model_instance_group,
};
use crate::tensor::Datatype;

/// The only version there is of every model.
pub(crate) const VERSION: &str = "1";

/// A tensor that a model takes or gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// What its elements are; if left out, anything goes and the metadata says FP32.
    pub datatype: Option<Datatype>,
    /// Its dimensions without that of the batch, -1 for any number; if left out, anything goes and the metadata says `[-1]`.
    pub dims: Option<Vec<i64>>,
}

/// How the metadata tells shapes: model servers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shapes {
    /// As Triton: a leading -1 if and only if the model can be batched.
    #[default]
    Batched,
    /// Without the dimension of the batch.
    Bare,
    /// Not at all, as some MLServer models.
    Absent,
}

/// What a model says of itself, and what it takes.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    pub(crate) name: String,
    pub(crate) platform: &'static str,
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
    /// The most rows of a call; none if the model cannot be batched.
    pub(crate) max_batch_size: Option<usize>,
    pub(crate) concurrency: usize,
    /// How many answers a streamed request gets; none unless the model is decoupled.
    pub(crate) decoupled: Option<usize>,
    pub(crate) shapes: Shapes,
    /// Whether ModelConfig is answered.
    pub(crate) has_config: bool,
}

impl TensorSpec {
    /// A tensor of which only the name is fixed.
    pub fn any(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            datatype: None,
            dims: None,
        }
    }

    /// A tensor of this datatype and these dimensions, that of the batch left out.
    pub fn new(name: impl Into<String>, datatype: Datatype, dims: &[i64]) -> Self {
        Self {
            name: name.into(),
            datatype: Some(datatype),
            dims: Some(dims.to_vec()),
        }
    }

    fn declared_datatype(&self) -> Datatype {
        self.datatype.unwrap_or(Datatype::Fp32)
    }

    fn declared_dims(&self) -> Vec<i64> {
        self.dims.clone().unwrap_or_else(|| vec![-1])
    }
}

impl Signature {
    pub(crate) fn metadata(&self) -> ModelMetadataResponse {
        let tensors = |specs: &[TensorSpec]| specs.iter().map(|spec| self.tensor(spec)).collect();
        ModelMetadataResponse {
            name: self.name.clone(),
            versions: vec![VERSION.to_owned()],
            platform: self.platform.to_owned(),
            inputs: tensors(&self.inputs),
            outputs: tensors(&self.outputs),
        }
    }

    pub(crate) fn config(&self) -> ModelConfig {
        let inputs = self.inputs.iter().map(|spec| ModelInput {
            name: spec.name.clone(),
            data_type: spec.declared_datatype().in_config().into(),
            dims: spec.declared_dims(),
            ..Default::default()
        });
        let outputs = self.outputs.iter().map(|spec| ModelOutput {
            name: spec.name.clone(),
            data_type: spec.declared_datatype().in_config().into(),
            dims: spec.declared_dims(),
            ..Default::default()
        });
        let latest = PolicyChoice::Latest(Latest { num_versions: 1 });
        ModelConfig {
            name: self.name.clone(),
            platform: self.platform.to_owned(),
            backend: self.platform.to_owned(),
            version_policy: Some(ModelVersionPolicy {
                policy_choice: Some(latest),
            }),
            max_batch_size: self.max_batch_size.map_or(0, saturated),
            input: inputs.collect(),
            output: outputs.collect(),
            instance_group: vec![ModelInstanceGroup {
                name: format!("{}_0", self.name),
                count: saturated(self.concurrency),
                kind: model_instance_group::Kind::Cpu.into(),
            }],
            // A container executes what it is sent: it has no batching of its own.
            scheduling_choice: None::<SchedulingChoice>,
            model_transaction_policy: self
                .decoupled
                .map(|_| ModelTransactionPolicy { decoupled: true }),
            ..Default::default()
        }
    }

    /// The whole shape that the model takes of an input.
    pub(crate) fn whole_shape(&self, spec: &TensorSpec) -> Vec<i64> {
        let batch = self.max_batch_size.map(|_| -1);
        batch.into_iter().chain(spec.declared_dims()).collect()
    }

    fn tensor(&self, spec: &TensorSpec) -> TensorMetadata {
        TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.declared_datatype().name().to_owned(),
            shape: match self.shapes {
                Shapes::Batched => self.whole_shape(spec),
                Shapes::Bare => spec.declared_dims(),
                Shapes::Absent => Vec::new(),
            },
        }
    }
}

fn saturated(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
