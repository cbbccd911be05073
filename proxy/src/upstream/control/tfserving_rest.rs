use std::sync::Arc;

use futures_util::future::join;
use outrigger_filters::inference::{Code, Error, Status};

use super::{
    Description, Served,
    ask::{get, has_code, segment},
    tfserving_grpc::{description, version},
};
use crate::{
    codec::{tfs_grpc::control::ModelMetadata, tfs_rest::control},
    upstream::Endpoint,
};

/// Describes a model by its signatures; KServe answers the same question about a model, and
/// describes it no further.
pub(super) async fn describe(
    endpoint: &Arc<Endpoint>,
    served: Served<'_>,
) -> Result<Description, Error> {
    let model = path(served)?;
    let metadata = format!("{model}/metadata");
    let (status, metadata) = join(get(endpoint, &model), get(endpoint, &metadata)).await;
    let Ok(statuses) = control::read_status(&status?) else {
        return Ok(Description::default());
    };
    let metadata = match metadata {
        Ok(answer) => control::read_metadata(&answer)?,
        Err(error) if has_code(&error, &[Code::NotFound, Code::Unimplemented]) => {
            ModelMetadata::default()
        }
        Err(error) => return Err(error),
    };
    Ok(description(metadata, &statuses))
}

/// Asks whether a version of a model is available, or the server there.
pub(super) async fn ready(endpoint: &Arc<Endpoint>, served: Option<Served<'_>>) -> bool {
    let Some(served) = served else {
        // The API has no call that speaks of the server alone; one that answers is up, unless it
        // says itself that it is not.
        return match get(endpoint, "/v1/models").await {
            Ok(_) => true,
            Err(error) => error.is::<Status>() && !has_code(&error, DOWN),
        };
    };
    let Ok(path) = path(served) else {
        return false;
    };
    let answer = get(endpoint, &path).await;
    answer.is_ok_and(|answer| control::ready(&answer))
}

fn path(served: Served<'_>) -> Result<String, Status> {
    let model = segment(served.model);
    Ok(match (version(served)?, served.label) {
        (Some(version), _) => format!("/v1/models/{model}/versions/{version}"),
        (None, "") => format!("/v1/models/{model}"),
        (None, label) => format!("/v1/models/{model}/labels/{}", segment(label)),
    })
}

/// What a server says that cannot serve.
const DOWN: &[Code] = &[Code::Internal, Code::Unavailable, Code::DeadlineExceeded];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_or_a_label_stands_in_the_path() {
        let of = |version, label| {
            let model = "a/b";
            path(Served {
                model,
                version,
                label,
            })
            .ok()
        };
        assert_eq!(of("", "").unwrap(), "/v1/models/a%2Fb");
        assert_eq!(of("3", "").unwrap(), "/v1/models/a%2Fb/versions/3");
        assert_eq!(of("", "best").unwrap(), "/v1/models/a%2Fb/labels/best");
        assert_eq!(of("v1", ""), None);
    }
}
