use std::borrow::Cow;

use http::{Method, Request};

/// Tells whether a request may change what its server's models are.
///
/// When in doubt it does: a flush too many costs some calls of the model, and one too few a wrong
/// answer. So what a server may read as such a path is taken for one, however it is written.
pub(in crate::stack) fn is_control<B>(request: &Request<B>) -> bool {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    let path = request.uri().path();
    GRPC.contains(&path) || path.starts_with('/') && is_rest(&decoded(path))
}

/// `/v2/repository[/{repository}]/models/{model}/{load|unload}`
fn is_rest(path: &str) -> bool {
    // Some servers are mounted below a path of their own, and most take a slash at the end.
    let mut segments = path.split('/').filter(|segment| !segment.is_empty()).rev();
    matches!(segments.next(), Some("load" | "unload"))
        && segments.any(|segment| segment == "models")
        && segments.any(|segment| segment == "repository")
}

/// Reads the escapes of a path; those that are none stay as they are.
fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return path.into();
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, others @ ..] = rest {
        let digit = |at: usize| char::from(*others.get(at)?).to_digit(16);
        let escaped = (*first == b'%').then(|| Some((digit(0)?, digit(1)?)));
        match escaped.flatten() {
            Some((high, low)) => {
                // Two digits make a byte.
                decoded.extend(u8::try_from(high * 16 + low));
                rest = others.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned().into()
}

/// Triton, MLServer and KServe have the first two (MLServer also in the service that it had before),
/// TensorFlow Serving has the last one.
const GRPC: [&str; 5] = [
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
    "/inference.model_repository.ModelRepositoryService/RepositoryModelLoad",
    "/inference.model_repository.ModelRepositoryService/RepositoryModelUnload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str) -> bool {
        is_control(&Request::post(path).body(()).unwrap())
    }

    #[test]
    fn loads_and_unloads_are_known_in_every_protocol() {
        for path in GRPC {
            assert!(post(path), "{path}");
        }
        for path in [
            "/v2/repository/models/m/load",
            "/v2/repository/models/m/unload",
            "/v2/repository/here/models/m/load",
            "/v2/repository/models/a%2Fb/load",
            "/v2/repository/models/m/load?x=1",
        ] {
            assert!(post(path), "{path}");
        }
    }

    #[test]
    fn no_way_to_write_the_path_hides_a_load() {
        for path in [
            "/v2/repository/models/m/lo%61d",
            "/v2/repositor%79/models/m/load",
            "//v2//repository/models/m/load/",
            "/below/v2/repository/models/m/unload",
            "/v2/repository/models/%zz/load",
            "/v2/repository/models/m%/load",
        ] {
            assert!(post(path), "{path}");
        }
    }

    #[test]
    fn other_calls_are_none() {
        for path in [
            "/",
            "/v2/models/m/infer",
            "/v2/models/load/infer",
            "/v2/models/m/load",
            "/v2/repository/index",
            "/v2/repository/models/load/index",
            "/load",
            "/inference.GRPCInferenceService/RepositoryIndex",
            "/inference.GRPCInferenceService/ModelInfer",
            "/tensorflow.serving.ModelService/GetModelStatus",
        ] {
            assert!(!post(path), "{path}");
        }
        let get = Request::get("/v2/repository/models/m/load").body(());
        assert!(!is_control(&get.unwrap()));
        let any = Request::builder().method("OPTIONS").uri("*").body(());
        assert!(!is_control(&any.unwrap()));
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_read_without_panic(path in "/[a-z%/0-9é]{0,40}") {
            let _ = is_rest(&decoded(&path));
        }
    }
}
