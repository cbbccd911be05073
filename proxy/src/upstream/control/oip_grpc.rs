use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use outrigger_filters::inference::Error;

use super::{
    Description, Served,
    ask::{grpc, is_unimplemented},
    shown::Shown,
};
use crate::{
    codec::{
        oip_grpc::control::{
            ModelConfig, ModelMetadata, ModelRequest, Statistics, batchable, ready,
        },
        tfs_grpc::control::NamedSignature,
    },
    upstream::Endpoint,
};

/// Describes a model: its configuration says exactly whether it takes batches, its metadata where
/// there is no configuration to be had.
pub(super) async fn describe(
    endpoint: &Arc<Endpoint>,
    served: Served<'_>,
) -> Result<Description, Error> {
    let question = question(served);
    let (config, metadata) = join(
        grpc(endpoint, MODEL_CONFIG, question.clone()),
        grpc(endpoint, MODEL_METADATA, question),
    )
    .await;
    let config = match config {
        Ok(answer) => Some(ModelConfig::read(&answer)?),
        Err(error) if is_unimplemented(&error) => None,
        Err(error) => return Err(error),
    };
    let metadata = match metadata {
        Ok(answer) => ModelMetadata::read(&answer)?,
        // Whether it takes batches may be known all the same.
        Err(error)
            if is_unimplemented(&error)
                && (config.is_some() || ready_now(endpoint, Some(served)).await) =>
        {
            ModelMetadata::default()
        }
        Err(error) => return Err(error),
    };
    Ok(description(config.as_ref(), metadata))
}

/// Joins what a server says of a model in the protocol's two calls.
pub(super) fn description(config: Option<&ModelConfig>, metadata: ModelMetadata) -> Description {
    let batchable = match config {
        Some(config) => config.batchable(),
        None => batchable(metadata.signature.as_ref()),
    };
    Description {
        batchable,
        signatures: metadata
            .signature
            .into_iter()
            .map(|signature| NamedSignature {
                signature,
                ..NamedSignature::default()
            })
            .collect(),
        versions: metadata.versions,
        platform: metadata.platform,
        binary: false,
    }
}

/// Looks at a model: at what the server has counted, where it may count, or else at how it is
/// described. Triton's counts begin anew when a model is loaded anew, even if nothing else changes,
/// and those of an ensemble do so with each of its parts (seen at 2.51).
pub(super) async fn look(
    endpoint: &Arc<Endpoint>,
    served: Served<'_>,
    may_count: bool,
) -> Result<Shown, Error> {
    if may_count {
        match grpc(endpoint, MODEL_STATISTICS, question(served)).await {
            Ok(answer) => return Ok(Shown::counted(Statistics::read_all(&answer)?)),
            Err(error) if is_unimplemented(&error) => {}
            Err(error) => return Err(error),
        }
    }
    match grpc(endpoint, MODEL_METADATA, question(served)).await {
        Ok(answer) => Ok(Shown::described(ModelMetadata::read(&answer)?)),
        Err(error) if is_unimplemented(&error) => {
            Ok(Shown::ready(ready_now(endpoint, Some(served)).await))
        }
        Err(error) => Err(error),
    }
}

/// Asks whether a model is ready, or the server.
pub(super) async fn ready_now(endpoint: &Arc<Endpoint>, served: Option<Served<'_>>) -> bool {
    let answer = match served {
        Some(served) => grpc(endpoint, MODEL_READY, question(served)).await,
        None => grpc(endpoint, SERVER_READY, Bytes::new()).await,
    };
    match answer {
        Ok(answer) => ready(&answer),
        // A server without the call is taken at its word that it answers.
        Err(error) => is_unimplemented(&error),
    }
}

fn question(served: Served<'_>) -> Bytes {
    let request = ModelRequest {
        name: served.model.into(),
        version: served.version.into(),
    };
    request.write()
}

const MODEL_CONFIG: &str = "/inference.GRPCInferenceService/ModelConfig";
const MODEL_METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
const MODEL_STATISTICS: &str = "/inference.GRPCInferenceService/ModelStatistics";
const MODEL_READY: &str = "/inference.GRPCInferenceService/ModelReady";
const SERVER_READY: &str = "/inference.GRPCInferenceService/ServerReady";
