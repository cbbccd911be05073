use std::{sync::Arc, time::Duration};

use outrigger_filters::inference::{Error, Form, Request, Response};
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

use crate::{
    codec::json::{Strings, convert},
    config::Protocol,
    upstream::Client,
};

/// Asks one endpoint, one call after the other.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) client: Client,
    pub(super) protocol: Protocol,
    pub(super) patience: Duration,
}

/// An answer whose outputs are canonical, and how long it took.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) took: Duration,
}

/// The server answered with something that is no inference.
#[derive(Debug, thiserror::Error)]
#[error("the answer is not understood: {0}")]
pub(super) struct NotUnderstood(Arc<str>);

impl Asker {
    /// Makes a call.
    ///
    /// # Errors
    ///
    /// Fails with the server's words or the transport's, and where the answer is not understood.
    pub(super) async fn ask(&self, request: Request) -> Result<Answer, Error> {
        let began = Instant::now();
        let call = self.client.clone().oneshot(request);
        let Ok(answered) = timeout(self.patience, call).await else {
            return Err(format!("no answer within {:?} (--timeout)", self.patience).into());
        };
        let took = began.elapsed();
        Ok(Answer {
            response: canonical(answered?, self.protocol)?,
            took,
        })
    }
}

/// Reads the numbers of an answer that still are text.
fn canonical(mut response: Response, protocol: Protocol) -> Result<Response, NotUnderstood> {
    let not = |why: &str| NotUnderstood(why.into());
    if response.is_opaque() {
        return Err(not("it is no inference's"));
    }
    let strings = match protocol {
        Protocol::TfservingRest => Strings::Either,
        _ => Strings::Plain,
    };
    for output in &mut response.outputs {
        output.data = convert(output, Form::Raw, strings)
            .map_err(|error| not(&format!("output `{}`: {error}", output.name)))?;
        output.form = Form::Raw;
    }
    Ok(response)
}
