use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use outrigger_filters::{
    batch::Batchable,
    inference::{Code, Error, Status},
};

use super::{
    Description, Served,
    ask::{grpc, is_unimplemented},
    shown::Shown,
};
use crate::{
    codec::tfs_grpc::control::{ModelMetadata, Question, SIGNATURE_DEF, State, VersionStatus},
    upstream::Endpoint,
};

/// Describes a model by its signatures.
pub(super) async fn describe(
    endpoint: &Arc<Endpoint>,
    served: Served<'_>,
) -> Result<Description, Error> {
    let status = question(served)?;
    let metadata = Question {
        fields: vec![SIGNATURE_DEF.into()],
        ..status.clone()
    };
    let (metadata, status) = join(
        grpc(endpoint, METADATA, metadata.write()),
        grpc(endpoint, STATUS, status.write()),
    )
    .await;
    let metadata = match metadata {
        Ok(answer) => ModelMetadata::read(&answer)?,
        // There are servers that know how to predict and nothing else.
        Err(error) if is_unimplemented(&error) => ModelMetadata::default(),
        Err(error) => return Err(error),
    };
    let statuses = match status {
        Ok(answer) => VersionStatus::read_all(&answer)?,
        Err(_) => Vec::new(),
    };
    Ok(description(metadata, &statuses))
}

/// Looks at which versions of a model answer.
pub(super) async fn look(endpoint: &Arc<Endpoint>, served: Served<'_>) -> Result<Shown, Error> {
    match grpc(endpoint, STATUS, question(served)?.write()).await {
        Ok(answer) => Ok(Shown::available(&VersionStatus::read_all(&answer)?)),
        // There are servers that know how to predict and nothing else.
        Err(error) if is_unimplemented(&error) => Ok(Shown::ready(true)),
        Err(error) => Err(error),
    }
}

/// Joins what a server says of a model in the protocol's two calls.
pub(super) fn description(metadata: ModelMetadata, statuses: &[VersionStatus]) -> Description {
    let available = statuses
        .iter()
        .filter(|status| status.state == State::Available);
    let mut versions: Vec<i64> = available.map(|status| status.version).collect();
    if versions.is_empty() {
        versions.extend(metadata.version);
    }
    let mut description = Description {
        signatures: metadata.signatures,
        versions: versions
            .iter()
            .map(|version| version.to_string().into())
            .collect(),
        ..Description::default()
    };
    description.batchable = batchable(&description);
    description
}

/// Tells whether a model takes batches: it does where it does so by each of its signatures. Those
/// without inputs are called once, when the model is loaded.
///
/// What shares a batch has a signature in common, but whether a model takes batches is known of
/// the model as a whole: so one signature that does not say lets the configuration say it.
fn batchable(description: &Description) -> Batchable {
    let mut asked = description
        .signatures
        .iter()
        .filter(|named| !named.signature.inputs.is_empty())
        .map(|named| named.batchable())
        .peekable();
    let yes = Batchable::Yes {
        max_batch_size: None,
    };
    match asked.peek().is_some() && asked.all(|batchable| batchable == yes) {
        true => yes,
        false => Batchable::Unknown,
    }
}

/// Asks whether a version of a model is available, or the server there.
pub(super) async fn ready(endpoint: &Arc<Endpoint>, served: Option<Served<'_>>) -> bool {
    let Some(served) = served else {
        // The API has no call that speaks of the server alone; one that answers anything is up.
        return match grpc(endpoint, STATUS, Bytes::new()).await {
            Ok(_) => true,
            Err(error) => error.is::<Status>(),
        };
    };
    let Ok(question) = question(served) else {
        return false;
    };
    match grpc(endpoint, STATUS, question.write()).await {
        Ok(answer) => VersionStatus::read_all(&answer)
            .is_ok_and(|all| all.iter().any(|status| status.state == State::Available)),
        // A server without the call is taken at its word that it answers.
        Err(error) => is_unimplemented(&error),
    }
}

fn question(served: Served<'_>) -> Result<Question, Status> {
    Ok(Question {
        model: served.model.into(),
        version: version(served)?,
        label: served.label.into(),
        fields: Vec::new(),
    })
}

/// Reads the version, which is a number in this API.
pub(super) fn version(served: Served<'_>) -> Result<Option<i64>, Status> {
    match served.version {
        "" => Ok(None),
        version => version.parse().map(Some).map_err(|_| {
            let words = format!("version {version} of model {} is no number", served.model);
            Status::new(Code::InvalidArgument, words)
        }),
    }
}

const METADATA: &str = "/tensorflow.serving.PredictionService/GetModelMetadata";
const STATUS: &str = "/tensorflow.serving.ModelService/GetModelStatus";
