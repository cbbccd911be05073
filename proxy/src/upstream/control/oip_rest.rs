use std::sync::Arc;

use futures_util::future::join3;
use outrigger_filters::inference::{Code, Error};

use super::{
    Description, Served,
    ask::{get, has_code, is_unimplemented, segment},
    oip_grpc::description,
    shown::Shown,
};
use crate::{
    codec::{oip_grpc::control::ModelMetadata, oip_rest::control},
    upstream::Endpoint,
};

/// Describes a model, as over gRPC; the server says whether it speaks in binary tensors.
pub(super) async fn describe(
    endpoint: &Arc<Endpoint>,
    served: Served<'_>,
) -> Result<Description, Error> {
    let model = path(served);
    let config = format!("{model}/config");
    let (config, metadata, server) = join3(
        get(endpoint, &config),
        get(endpoint, &model),
        get(endpoint, "/v2"),
    )
    .await;
    let config = match config {
        // A server that does not know the path may answer it with a page of its own.
        Ok(answer) => control::read_config(&answer).ok(),
        // Of a model that is not there, the metadata says so.
        Err(error) if has_code(&error, UNKNOWN) => None,
        Err(error) => return Err(error),
    };
    let metadata = match metadata {
        Ok(answer) => control::read_metadata(&answer)?,
        // There are servers that infer and describe nothing.
        Err(error)
            if has_code(&error, UNKNOWN)
                && (config.is_some() || ready(endpoint, Some(served)).await) =>
        {
            ModelMetadata::default()
        }
        Err(error) => return Err(error),
    };
    let binary = match server {
        Ok(answer) => control::read_server(&answer).is_ok_and(|server| server.is_binary()),
        Err(error) if has_code(&error, UNKNOWN) => false,
        Err(error) => return Err(error),
    };
    Ok(Description {
        binary,
        ..description(config.as_ref(), metadata)
    })
}

/// Looks at a model, as over gRPC.
pub(super) async fn look(
    endpoint: &Arc<Endpoint>,
    served: Served<'_>,
    may_count: bool,
) -> Result<Shown, Error> {
    let model = path(served);
    if may_count {
        match get(endpoint, &format!("{model}/stats")).await {
            // A server that does not know the path may answer it with a page of its own.
            Ok(answer) => {
                if let Some(statistics) = control::read_statistics(&answer) {
                    return Ok(Shown::counted(statistics));
                }
            }
            // Of a model that is not there, the metadata says so.
            Err(error) if has_code(&error, UNKNOWN) => {}
            Err(error) => return Err(error),
        }
    }
    match get(endpoint, &model).await {
        Ok(answer) => Ok(Shown::described(control::read_metadata(&answer)?)),
        Err(error) if has_code(&error, UNKNOWN) => {
            Ok(Shown::ready(ready(endpoint, Some(served)).await))
        }
        Err(error) => Err(error),
    }
}

/// Asks whether a model is ready, or the server.
pub(super) async fn ready(endpoint: &Arc<Endpoint>, served: Option<Served<'_>>) -> bool {
    let Some(served) = served else {
        return is_up(endpoint).await;
    };
    match get(endpoint, &format!("{}/ready", path(served))).await {
        Ok(_) => true,
        Err(error) => is_unimplemented(&error) && is_up(endpoint).await,
    }
}

async fn is_up(endpoint: &Arc<Endpoint>) -> bool {
    match get(endpoint, "/v2/health/ready").await {
        Ok(_) => true,
        // A server without the call is taken at its word that it answers.
        Err(error) => has_code(&error, &[Code::NotFound, Code::Unimplemented]),
    }
}

fn path(served: Served<'_>) -> String {
    let model = segment(served.model);
    match served.version {
        "" => format!("/v2/models/{model}"),
        version => format!("/v2/models/{model}/versions/{}", segment(version)),
    }
}

/// How servers say that they have no such path.
const UNKNOWN: &[Code] = &[Code::InvalidArgument, Code::NotFound, Code::Unimplemented];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_stands_in_the_path() {
        let of = |model, version| {
            path(Served {
                model,
                version,
                label: "",
            })
        };
        assert_eq!(of("m", ""), "/v2/models/m");
        assert_eq!(of("a/b", "v 1"), "/v2/models/a%2Fb/versions/v%201");
    }
}
