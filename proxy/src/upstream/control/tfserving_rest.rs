use std::sync::Arc;

use futures_util::future::join;
use outrigger_filters::inference::{Code, Error, Status};

use super::{
    Description, Served,
    ask::{get, has_code, is_unimplemented, segment},
    shown::Shown,
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
    let statuses = match status {
        Ok(answer) => match control::read_status(&answer) {
            Ok(statuses) => statuses,
            Err(_) => return Ok(Description::default()),
        },
        // There are servers that know how to predict and nothing else.
        Err(error)
            if has_code(&error, UNKNOWN)
                && (metadata.is_ok() || is_up(endpoint, served, &error).await) =>
        {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let metadata = match metadata {
        Ok(answer) => control::read_metadata(&answer)?,
        Err(error) if has_code(&error, UNKNOWN) => ModelMetadata::default(),
        Err(error) => return Err(error),
    };
    Ok(description(metadata, &statuses))
}

/// Looks at which versions of a model answer; of KServe, at whether the model does.
pub(super) async fn look(endpoint: &Arc<Endpoint>, served: Served<'_>) -> Result<Shown, Error> {
    let answer = get(endpoint, &path(served)?).await?;
    Ok(match control::read_status(&answer) {
        Ok(statuses) => Shown::available(&statuses),
        Err(_) => Shown::ready(control::ready(&answer)),
    })
}

/// Asks whether a version of a model is available, or the server there.
pub(super) async fn ready(endpoint: &Arc<Endpoint>, served: Option<Served<'_>>) -> bool {
    let Some(served) = served else {
        // The API has no call that speaks of the server alone; one that answers is up, unless it
        // says itself that it is not.
        return match get(endpoint, MODELS).await {
            Ok(_) => true,
            Err(error) => error.is::<Status>() && !has_code(&error, DOWN),
        };
    };
    let Ok(path) = path(served) else {
        return false;
    };
    match get(endpoint, &path).await {
        Ok(answer) => control::ready(&answer),
        Err(error) => has_code(&error, UNKNOWN) && is_up(endpoint, served, &error).await,
    }
}

/// Tells whether a server serves a model whose page it does not know: where it has no such pages at
/// all, or where it lists the model.
async fn is_up(endpoint: &Arc<Endpoint>, served: Served<'_>, error: &Error) -> bool {
    match get(endpoint, MODELS).await {
        Ok(answer) => {
            let list: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            let mut models = list["models"].as_array().into_iter().flatten();
            let any = served.version.is_empty() && served.label.is_empty();
            is_unimplemented(error) || any && models.any(|model| model == served.model)
        }
        Err(other) => is_unimplemented(error) && other.is::<Status>() && !has_code(&other, DOWN),
    }
}

fn path(served: Served<'_>) -> Result<String, Status> {
    let model = segment(served.model);
    Ok(match (version(served)?, served.label) {
        (Some(version), _) => format!("/v1/models/{model}/versions/{version}"),
        (None, "") => format!("/v1/models/{model}"),
        (None, label) => format!("/v1/models/{model}/labels/{}", segment(label)),
    })
}

const MODELS: &str = "/v1/models";
/// How servers say that they have no such path, or no such model.
const UNKNOWN: &[Code] = &[Code::NotFound, Code::Unimplemented];
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
