use std::task::{Context, Poll};

use bytestring::ByteString;
use futures_util::future::BoxFuture;
use outrigger_filters::inference::{Error, Infer, Request, Response};
use tower::{Layer, Service};

use crate::config;

/// Asks an arm under the name and version that it has on its server, and answers under the name
/// that the client sent.
#[derive(Clone, Debug)]
pub(super) struct RenameLayer {
    model: ByteString,
    version: Option<ByteString>,
}

/// A model under another name.
#[derive(Clone, Debug)]
pub(super) struct Rename<S> {
    inner: S,
    names: RenameLayer,
}

impl RenameLayer {
    /// Makes the layer for an arm, or none where the arm is called as the client calls it.
    pub(super) fn new(model: &config::Model, arm: &config::Arm) -> Option<Self> {
        (arm.model != model.name || arm.version.is_some()).then(|| Self {
            model: arm.model.as_str().into(),
            version: arm.version.as_ref().map(|version| version.as_str().into()),
        })
    }
}

impl<S> Layer<S> for RenameLayer {
    type Service = Rename<S>;

    fn layer(&self, inner: S) -> Rename<S> {
        Rename {
            inner,
            names: self.clone(),
        }
    }
}

impl<S> Service<Request> for Rename<S>
where
    S: Infer,
    S::Future: 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let head = &mut request.head;
        let asked = std::mem::replace(&mut head.model, self.names.model.clone());
        if let Some(version) = &self.names.version {
            head.version = version.clone();
            // The configuration's word counts, whatever the caller calls a version.
            head.label = ByteString::new();
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await.map_err(Into::into)?;
            Ok(response.with_model(asked))
        })
    }
}
