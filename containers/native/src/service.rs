//! The methods of the protocol.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt, stream};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::call::{Call, wants_final_response};
use crate::executor::{Engine, Outcome};
use crate::inference::grpc_inference_service_server::GrpcInferenceService;
use crate::inference::infer_parameter::ParameterChoice;
use crate::inference::repository_index_response::ModelIndex;
use crate::inference::*;
use crate::signature::VERSION;
use crate::wire::{Cut, Cutting};

/// The models of a server, by name.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) engines: Arc<BTreeMap<String, Arc<Engine>>>,
}

impl Service {
    fn engine(&self, name: &str, version: &str) -> Result<&Arc<Engine>, Status> {
        let engine = self.engines.get(name).ok_or_else(|| {
            Status::not_found(format!("Request for unknown model: '{name}' is not found"))
        })?;
        match version {
            "" | VERSION => Ok(engine),
            other if !other.is_empty() && other.bytes().all(|digit| digit.is_ascii_digit()) => {
                Err(Status::not_found(format!(
                    "Request for unknown model: '{name}' version {other} is not found"
                )))
            }
            other => Err(Status::invalid_argument(format!(
                "failed to get model version from specified version string '{other}', version should be an integral value > 0"
            ))),
        }
    }

    async fn infer(
        &self,
        metadata: MetadataMap,
        extensions: &Extensions,
        request: ModelInferRequest,
    ) -> Result<ModelInferResponse, Status> {
        let engine = self.engine(&request.model_name, &request.model_version)?;
        if !engine.is_ready() {
            return Err(Status::unavailable(format!(
                "Request for unknown model: '{}' has no available versions",
                request.model_name
            )));
        }
        let call = Call::decode(request, &engine.signature).inspect_err(|_| engine.refuse())?;
        let Call { inputs, rows, form } = call;
        let cutting = match engine.infer(metadata, inputs, rows).await {
            Outcome::Answer(outputs) => return form.encode(outputs, &engine.signature),
            Outcome::Error(status) => return Err(status),
            Outcome::ResetStream => Cutting::Stream,
            Outcome::CloseConnection => Cutting::Connection,
        };
        if let Some(cut) = extensions.get::<Cut>() {
            cut.off(cutting);
        }
        Err(Status::internal("cut off"))
    }

    /// All responses of one streamed request: several where the model is decoupled.
    async fn infer_streamed(
        &self,
        metadata: MetadataMap,
        extensions: &Extensions,
        request: ModelInferRequest,
    ) -> Vec<Result<ModelInferResponse, Status>> {
        let final_response = wants_final_response(&request).then(|| ModelInferResponse {
            model_name: request.model_name.clone(),
            model_version: VERSION.to_owned(),
            id: request.id.clone(),
            parameters: [(
                "triton_final_response".to_owned(),
                InferParameter {
                    parameter_choice: Some(ParameterChoice::BoolParam(true)),
                },
            )]
            .into(),
            ..Default::default()
        });
        let engine = self.engine(&request.model_name, &request.model_version);
        let decoupled = engine.ok().and_then(|engine| engine.signature.decoupled);
        match self.infer(metadata, extensions, request).await {
            Ok(response) => {
                let answers = decoupled.unwrap_or(1);
                let last = final_response.filter(|_| decoupled.is_some());
                std::iter::repeat_n(response, answers)
                    .chain(last)
                    .map(Ok)
                    .collect()
            }
            Err(status) => vec![Err(status)],
        }
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(
        &self,
        _request: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _request: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.engines.values().all(|engine| engine.is_ready());
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: ["model_repository", "model_configuration", "statistics"]
                .map(str::to_owned)
                .into(),
        }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        // As at Triton, a model that is not there is one that is not ready.
        let ready = self
            .engine(&name, &version)
            .is_ok_and(|engine| engine.is_ready());
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let engine = self.engine(&name, &version)?;
        Ok(Response::new(engine.signature.metadata()))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let engine = self.engine(&name, &version)?;
        if !engine.signature.has_config {
            return Err(Status::unimplemented("Method not implemented!"));
        }
        let config = Some(engine.signature.config());
        Ok(Response::new(ModelConfigResponse { config }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let model_stats = if name.is_empty() {
            self.engines
                .values()
                .map(|engine| statistics(engine))
                .collect()
        } else {
            vec![statistics(self.engine(&name, &version)?)]
        };
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let only_ready = request.into_inner().ready;
        let listed = self
            .engines
            .values()
            .filter(|engine| !only_ready || engine.is_ready());
        let models = listed.map(|engine| ModelIndex {
            name: engine.signature.name.clone(),
            version: VERSION.to_owned(),
            state: if engine.is_ready() {
                "READY"
            } else {
                "UNAVAILABLE"
            }
            .to_owned(),
            reason: String::new(),
        });
        Ok(Response::new(RepositoryIndexResponse {
            models: models.collect(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        if let Ok(engine) = self.engine(&request.model_name, &request.model_version)
            && engine.signature.decoupled.is_some()
        {
            return Err(Status::unimplemented(
                "ModelInfer RPC doesn't support models with decoupled transaction policy",
            ));
        }
        self.infer(metadata, &extensions, request)
            .await
            .map(Response::new)
    }

    /// Requests of one stream are executed one after the other.
    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let out_of_band = metadata
            .get("triton_grpc_error")
            .is_some_and(|value| value == "true");
        let service = self.clone();
        let answers = requests.then(move |request| {
            let (service, metadata, extensions) =
                (service.clone(), metadata.clone(), extensions.clone());
            async move {
                match request {
                    Ok(request) => service.infer_streamed(metadata, &extensions, request).await,
                    Err(status) => vec![Err(status)],
                }
            }
        });
        let answers = answers
            .flat_map(stream::iter)
            .map(move |answer| match answer {
                Ok(response) => Ok(ModelStreamInferResponse {
                    infer_response: Some(response),
                    ..Default::default()
                }),
                Err(status) if out_of_band => Err(status),
                Err(status) => Ok(ModelStreamInferResponse {
                    error_message: status.message().to_owned(),
                    infer_response: Some(ModelInferResponse::default()),
                }),
            });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn statistics(engine: &Engine) -> ModelStatistics {
    engine.counters(|counters| {
        let executed: Duration = counters.batches.values().map(|batch| batch.time).sum();
        let batch_stats = counters
            .batches
            .iter()
            .map(|(rows, batch)| InferBatchStatistics {
                batch_size: *rows as u64,
                compute_infer: duration(batch.calls, batch.time),
                ..Default::default()
            });
        ModelStatistics {
            name: engine.signature.name.clone(),
            version: VERSION.to_owned(),
            last_inference: counters.last_execution.map_or(0, milliseconds),
            inference_count: counters.rows,
            execution_count: counters.calls,
            inference_stats: Some(InferStatistics {
                success: duration(counters.succeeded, executed),
                fail: duration(counters.failed, Duration::ZERO),
                queue: duration(counters.calls, counters.queued),
                compute_infer: duration(counters.calls, executed),
                ..Default::default()
            }),
            batch_stats: batch_stats.collect(),
        }
    })
}

fn duration(count: u64, time: Duration) -> Option<StatisticDuration> {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Some(StatisticDuration { count, ns })
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
