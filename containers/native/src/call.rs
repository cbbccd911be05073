//! From a request to tensors that are what the model takes, and back.

use bytes::Bytes;
use tonic::Status;

use crate::inference::infer_parameter::ParameterChoice;
use crate::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::inference::model_infer_response::InferOutputTensor;
use crate::inference::{ModelInferRequest, ModelInferResponse};
use crate::signature::{Signature, TensorSpec, VERSION};
use crate::tensor::{
    Datatype, Mismatch, Tensor, check_raw, elements_of, raw_from_typed, typed_from_raw,
};

/// A request that is well formed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) inputs: Vec<Tensor>,
    /// The first dimension of all inputs, or 1 where the model has no batches.
    pub(crate) rows: usize,
    pub(crate) form: Form,
}

/// How the answer is to look.
#[derive(Debug)]
pub(crate) struct Form {
    id: String,
    raw: bool,
    outputs: Vec<String>,
}

impl Call {
    pub(crate) fn decode(request: ModelInferRequest, model: &Signature) -> Result<Self, Status> {
        let ModelInferRequest {
            id,
            inputs,
            outputs,
            raw_input_contents,
            ..
        } = request;
        let raw = !raw_input_contents.is_empty();
        if inputs.len() != model.inputs.len() {
            return Err(invalid(
                model,
                format!(
                    "expected {} inputs but got {} inputs",
                    model.inputs.len(),
                    inputs.len()
                ),
            ));
        }
        if raw && raw_input_contents.len() != inputs.len() {
            return Err(invalid(
                model,
                format!(
                    "expected {} raw input contents but got {}",
                    inputs.len(),
                    raw_input_contents.len()
                ),
            ));
        }
        let outputs = requested(outputs, model)?;
        let mut raw_contents = raw_input_contents.into_iter();
        let inputs = inputs
            .into_iter()
            .map(|input| decode_input(input, raw_contents.next(), model))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = rows_of(&inputs, model)?;
        Ok(Self {
            inputs,
            rows,
            form: Form { id, raw, outputs },
        })
    }
}

impl Form {
    pub(crate) fn encode(
        self,
        mut tensors: Vec<Tensor>,
        model: &Signature,
    ) -> Result<ModelInferResponse, Status> {
        if !self.outputs.is_empty() {
            let all = tensors;
            let chosen = |name: &String| all.iter().find(|tensor| tensor.name == *name).cloned();
            tensors = self.outputs.iter().filter_map(chosen).collect();
        }
        let mut response = ModelInferResponse {
            model_name: model.name.clone(),
            model_version: VERSION.to_owned(),
            id: self.id,
            outputs: Vec::with_capacity(tensors.len()),
            ..Default::default()
        };
        for tensor in tensors {
            let contents = if self.raw {
                None
            } else {
                Some(typed_from_raw(&tensor)?)
            };
            if self.raw {
                response.raw_output_contents.push(tensor.data);
            }
            response.outputs.push(InferOutputTensor {
                name: tensor.name,
                datatype: tensor.datatype.name().to_owned(),
                shape: tensor.shape,
                contents,
                ..Default::default()
            });
        }
        Ok(response)
    }
}

fn requested(
    outputs: Vec<InferRequestedOutputTensor>,
    model: &Signature,
) -> Result<Vec<String>, Status> {
    let mut names = Vec::with_capacity(outputs.len());
    for output in outputs {
        if !model.outputs.iter().any(|spec| spec.name == output.name) {
            return Err(invalid(
                model,
                format!("unexpected inference output '{}'", output.name),
            ));
        }
        if output.parameters.contains_key("classification") {
            return Err(invalid(
                model,
                format!(
                    "the classification of output '{}' is not supported",
                    output.name
                ),
            ));
        }
        refuse_shared_memory(output.parameters.keys(), &output.name, model)?;
        names.push(output.name);
    }
    Ok(names)
}

fn decode_input(
    input: InferInputTensor,
    raw: Option<Bytes>,
    model: &Signature,
) -> Result<Tensor, Status> {
    let InferInputTensor {
        name,
        datatype,
        shape,
        parameters,
        contents,
    } = input;
    let Some(spec) = model.inputs.iter().find(|spec| spec.name == name) else {
        return Err(invalid(
            model,
            format!("unexpected inference input '{name}'"),
        ));
    };
    refuse_shared_memory(parameters.keys(), &name, model)?;
    let Some(known) = Datatype::from_name(&datatype) else {
        return Err(invalid(
            model,
            format!("inference input '{name}' has the unknown data-type '{datatype}'"),
        ));
    };
    if let Some(expected) = spec.datatype
        && expected != known
    {
        return Err(Status::invalid_argument(format!(
            "inference input '{name}' data-type is '{datatype}', but model '{}' expects '{}'",
            model.name,
            expected.name()
        )));
    }
    let Some(elements) = elements_of(&shape).filter(|_| fits(&shape, spec, model)) else {
        return Err(Status::invalid_argument(format!(
            "unexpected shape for input '{name}' for model '{}'. Expected {}, got {}",
            model.name,
            written(&model.whole_shape(spec)),
            written(&shape)
        )));
    };
    let data = match (raw, contents) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                model,
                format!(
                    "contents field must not be specified when using raw_input_contents for '{name}'"
                ),
            ));
        }
        (Some(raw), None) => check_raw(known, elements, &raw).map(|()| raw),
        (None, Some(contents)) => raw_from_typed(known, elements, &contents),
        (None, None) if elements == 0 => Ok(Bytes::new()),
        (None, None) => Err(Mismatch::Elements {
            expected: elements,
            got: 0,
        }),
    };
    let data = data.map_err(|mismatch| {
        let about = format!("for input '{name}' for model '{}'", model.name);
        Status::invalid_argument(match mismatch {
            Mismatch::Bytes { expected, got } => {
                format!("input byte size mismatch {about}. Expected {expected}, got {got}")
            }
            Mismatch::Elements { expected, got } => {
                format!("unexpected number of elements {got} {about}. Expected {expected}")
            }
            Mismatch::Kind => format!("contents are not of data-type '{datatype}' {about}"),
        })
    })?;
    Ok(Tensor {
        name,
        datatype: known,
        shape,
        data,
    })
}

fn fits(shape: &[i64], spec: &TensorSpec, model: &Signature) -> bool {
    let row = match (model.max_batch_size, shape) {
        (Some(_), [_, row @ ..]) => row,
        (Some(_), []) => return false,
        (None, whole) => whole,
    };
    spec.dims.as_ref().is_none_or(|dims| {
        dims.len() == row.len()
            && dims
                .iter()
                .zip(row)
                .all(|(dim, got)| *dim == -1 || dim == got)
    })
}

fn rows_of(inputs: &[Tensor], model: &Signature) -> Result<usize, Status> {
    let Some(limit) = model.max_batch_size else {
        return Ok(1);
    };
    let mut batch = inputs
        .iter()
        .map(|input| input.shape.first().copied().unwrap_or(0));
    let rows = batch.next().unwrap_or(1);
    if let Some(at) = batch.position(|other| other != rows) {
        return Err(Status::invalid_argument(format!(
            "input '{}' batch size does not match other inputs for '{}'",
            inputs[at + 1].name,
            model.name
        )));
    }
    // Shapes with negative dimensions are refused before.
    match usize::try_from(rows) {
        Ok(rows) if (1..=limit).contains(&rows) => Ok(rows),
        Ok(0) => Err(invalid(
            model,
            "inference request batch-size must be > 0".to_owned(),
        )),
        _ => Err(Status::invalid_argument(format!(
            "inference request batch-size must be <= {limit} for '{}'",
            model.name
        ))),
    }
}

fn refuse_shared_memory<'a>(
    mut parameters: impl Iterator<Item = &'a String>,
    tensor: &str,
    model: &Signature,
) -> Result<(), Status> {
    match parameters.find(|name| name.starts_with("shared_memory_")) {
        Some(_) => Err(invalid(
            model,
            format!("'{tensor}' is in shared memory, which is not supported"),
        )),
        None => Ok(()),
    }
}

/// A streamed request's wish for an empty response after the last one.
pub(crate) fn wants_final_response(request: &ModelInferRequest) -> bool {
    let wish = request.parameters.get("triton_enable_empty_final_response");
    wish.and_then(|parameter| parameter.parameter_choice.as_ref())
        .is_some_and(|choice| *choice == ParameterChoice::BoolParam(true))
}

fn invalid(model: &Signature, what: String) -> Status {
    Status::invalid_argument(format!("{what} for model '{}'", model.name))
}

fn written(shape: &[i64]) -> String {
    let dimensions: Vec<_> = shape.iter().map(i64::to_string).collect();
    format!("[{}]", dimensions.join(","))
}
