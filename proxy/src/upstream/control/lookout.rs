use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytestring::ByteString;
use outrigger_filters::inference::{Code, Error, Status};
use tokio::sync::Semaphore;

use super::{Served, oip_grpc, oip_rest, shown::Shown, tfserving_grpc, tfserving_rest};
use crate::{
    config::{HttpVersion, Protocol},
    upstream::{Cause, Endpoint, error},
};

/// From where a server is looked at: a connection of its own, over which nothing else goes.
///
/// What becomes of that connection tells of the server's process. Those that carry requests would
/// not: they come and go with the load, and are let go of when they are idle.
#[derive(Debug)]
pub(crate) struct Lookout {
    endpoint: Arc<Endpoint>,
    /// One look at a time: over HTTP/1.1, two would need two connections.
    turn: Semaphore,
}

/// What came of a look.
#[derive(Debug)]
pub(super) enum Sight {
    /// The server shows this, over this one of its connections.
    Shown(u64, Box<Shown>),
    /// It is there, and does not say.
    Silent(Error),
    /// It cannot be reached, or the connection broke.
    Gone(Error),
}

impl Lookout {
    /// Makes a lookout to an endpoint's server, which is connected to at the first look.
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: Arc::new(endpoint.apart(LONGEST_BACKOFF)),
            turn: Semaphore::new(1),
        }
    }

    /// Tells whether the server keeps a connection open until it ends.
    pub(super) fn keeps(&self) -> bool {
        self.endpoint.http() == HttpVersion::Http2
    }

    /// Looks at a model, and at the versions that labels stand for.
    pub(super) async fn look(
        &self,
        served: Served<'_>,
        labels: Vec<ByteString>,
        may_count: bool,
    ) -> Sight {
        // It is never closed.
        let _turn = self.turn.acquire().await;
        match self.shown(served, labels, may_count).await {
            Ok(shown) => Sight::Shown(self.endpoint.dials(), Box::new(shown)),
            Err(error) if is_gone(&error) => Sight::Gone(error),
            Err(error) => Sight::Silent(error),
        }
    }

    async fn shown(
        &self,
        served: Served<'_>,
        labels: Vec<ByteString>,
        may_count: bool,
    ) -> Result<Shown, Error> {
        let mut shown = self.model(served, may_count).await?;
        let mut stand_for = BTreeMap::new();
        for label in labels {
            let served = Served {
                label: &label,
                ..served
            };
            let shown = self.model(served, may_count).await?;
            stand_for.insert(label, shown.versions.last().copied());
        }
        shown.labels = stand_for;
        Ok(shown)
    }

    async fn model(&self, served: Served<'_>, may_count: bool) -> Result<Shown, Error> {
        let endpoint = &self.endpoint;
        let shown = match endpoint.protocol() {
            Protocol::OipGrpc => oip_grpc::look(endpoint, served, may_count).await,
            Protocol::OipRest => oip_rest::look(endpoint, served, may_count).await,
            Protocol::TfservingGrpc => tfserving_grpc::look(endpoint, served).await,
            Protocol::TfservingRest => tfserving_rest::look(endpoint, served).await,
        };
        match shown {
            Err(error) if is_refusal(&error) => Ok(Shown::ready(false)),
            shown => shown,
        }
    }
}

/// Tells whether a server says that it does not have the model, in whatever words; servers do not
/// agree on the code. What it says when it is merely in trouble says nothing of the model.
fn is_refusal(error: &Error) -> bool {
    error
        .downcast_ref::<Status>()
        .is_some_and(|status| !TROUBLE.contains(&status.code()))
}

/// Tells whether the server's process may have ended.
fn is_gone(error: &Error) -> bool {
    let Some(error) = error.downcast_ref::<error::Error>() else {
        return false;
    };
    match error.cause() {
        Cause::Connect(_) | Cause::Backoff(..) | Cause::Http1(_) => true,
        // A server that has too much to do resets streams.
        Cause::Http2(error) => !error.is_reset(),
        Cause::NoEndpoint | Cause::Body(_) | Cause::Request(_) | Cause::Expired(_) => false,
    }
}

const TROUBLE: &[Code] = &[
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::ResourceExhausted,
    Code::Aborted,
    Code::Internal,
    Code::Unavailable,
];
/// How long a server is left alone at most that could not be reached: what is cached is flushed when
/// it is back, and shall be before many of its answers could have been had instead.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
