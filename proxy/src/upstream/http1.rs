use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io;
use tracing::debug;

use super::{
    error::{Cause, Failed},
    load::Load,
};
use crate::{
    body::{Body, Gate, GateKeeper},
    io::BoxStream,
};

/// One worker's idle HTTP/1.1 connections to an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Idle(Mutex<Vec<SendRequest<Body>>>);

/// A connection that carries one call; it returns to the idle ones when the answer has ended.
#[derive(Debug)]
pub(crate) struct Borrowed {
    sender: Option<SendRequest<Body>>,
    idle: Arc<Idle>,
    /// Holds the request's body back until the server asks for it, where the client wants that.
    gate: Option<GateKeeper>,
}

impl Idle {
    /// Takes a connection that is ready for a call.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Borrowed> {
        let mut idle = self.0.lock();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(Borrowed {
                    sender: Some(sender),
                    idle: self.clone(),
                    gate: None,
                });
            }
        }
        None
    }

    /// Takes over a new connection and spawns its task on the current runtime.
    pub(crate) async fn open(self: &Arc<Self>, socket: BoxStream) -> io::Result<Borrowed> {
        let (sender, connection) = handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            let result = connection.await;
            debug!(
                error = result.err().map(tracing::field::display),
                "connection ended"
            );
        });
        Ok(Borrowed {
            sender: Some(sender),
            idle: self.clone(),
            gate: None,
        })
    }
}

impl Borrowed {
    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn call(
        mut self,
        mut request: Request<Body>,
        load: &Arc<Load>,
    ) -> Result<Response<Body>, Failed> {
        let underway = load.begin();
        if expects_continue(&request) {
            let (gate, keeper) = Gate::new();
            let open = keeper.opener();
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    open();
                }
            });
            request = request.map(|body| body.gated(gate));
            self.gate = Some(keeper);
        }
        let Some(sender) = &mut self.sender else {
            return Err(Cause::NoEndpoint.into());
        };
        match sender.try_send_request(request).await {
            Ok(answer) => {
                let closes = answer
                    .headers()
                    .get(header::CONNECTION)
                    .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
                if closes {
                    self.sender = None;
                }
                Ok(answer.map(|body| Body::http1(body).borrowed(self).underway(underway)))
            }
            Err(mut error) => {
                // A connection that the server closed while it was idle gives the request back.
                let unseen = error.take_message().map(Box::new);
                let cause = Cause::Http1(Arc::new(error.into_error()));
                self.sender = None;
                Err(Failed { cause, unseen })
            }
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(mut sender) = self.sender.take() else {
            return;
        };
        let idle = self.idle.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // Ready when the connection's task has seen the end of the answer; never, when the answer
        // was dropped half-way, and then the connection closes.
        runtime.spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = idle.0.lock();
                if idle.len() < KEPT {
                    idle.push(sender);
                }
            }
        });
    }
}

fn expects_continue(request: &Request<Body>) -> bool {
    let expect = request.headers().get(header::EXPECT);
    expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Idle connections kept for each worker and endpoint.
const KEPT: usize = 64;
