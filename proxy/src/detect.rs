//! Which requests are inference calls: known by their path, in every supported protocol.

use http::{HeaderMap, Method, Request, header};

/// What a request asks for, as far as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `ModelInfer` of the Open Inference Protocol over gRPC; the model stands in the message.
    OipGrpcInfer,
    /// Anything else: it is passed on as it is.
    Other,
}

impl Call {
    /// Looks at a request's head.
    pub fn detect<B>(request: &Request<B>) -> Self {
        if request.uri().path() == OIP_GRPC_INFER
            && request.method() == Method::POST
            && is_grpc(request.headers())
        {
            Self::OipGrpcInfer
        } else {
            Self::Other
        }
    }
}

/// Tells whether a message is gRPC's (and not gRPC-Web's, whose frames differ).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// The path of the inference call.
pub const OIP_GRPC_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unary_inference_over_grpc_is_claimed() {
        let detect = |path: &str, content_type: &str| {
            let request = Request::post(path)
                .header("content-type", content_type)
                .body(());
            Call::detect(&request.unwrap())
        };
        assert_eq!(
            detect(OIP_GRPC_INFER, "application/grpc"),
            Call::OipGrpcInfer
        );
        assert_eq!(
            detect(OIP_GRPC_INFER, "application/grpc+proto"),
            Call::OipGrpcInfer
        );
        assert_eq!(detect(OIP_GRPC_INFER, "application/grpc-web"), Call::Other);
        assert_eq!(detect(OIP_GRPC_INFER, "application/json"), Call::Other);
        let stream = "/inference.GRPCInferenceService/ModelStreamInfer";
        assert_eq!(detect(stream, "application/grpc"), Call::Other);
    }
}
