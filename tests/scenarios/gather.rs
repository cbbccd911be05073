//! Brings requests together in the proxy's queue, deterministically: a model that is held back
//! has one call, and whatever may wait waits behind it.

use bytes::Bytes;
use http::Request;
use outrigger_native::{Handle, inference::ModelInferRequest};
use outrigger_tests::{
    gateway::Gateway,
    model::{INFER, rows},
    patience::{until, within},
    wire::{Reply, Wire, framed, grpc},
};
use prost::Message as _;

/// One inference as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Inference {
    pub(crate) head: Vec<(&'static str, String)>,
    pub(crate) path: &'static str,
    pub(crate) body: Bytes,
}

impl Inference {
    pub(crate) fn of(request: &ModelInferRequest) -> Self {
        Self::raw(framed(&request.encode_to_vec()))
    }

    pub(crate) fn raw(body: Bytes) -> Self {
        Self {
            head: Vec::new(),
            path: INFER,
            body,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.head.push((name, value.to_owned()));
        self
    }

    pub(crate) fn request(&self) -> Request<()> {
        let mut request = grpc(self.path);
        for (name, value) in &self.head {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    pub(crate) async fn send(&self, wire: &Wire) -> Result<Reply, h2::Error> {
        let body = std::slice::from_ref(&self.body);
        wire.exchange(self.request(), body, None).await
    }
}

/// Sends requests for a model so that they wait together, in this order, and returns their
/// answers.
pub(crate) async fn together(
    gateway: &Gateway,
    model: &Handle,
    requests: &[Inference],
) -> Vec<Result<Reply, h2::Error>> {
    let name = model.name().to_owned();
    let wire = Wire::connect(gateway.address()).await;
    model.reset_counters();
    model.pause();
    let arrived = || {
        let counters = model.counters();
        counters.received + counters.refused + gateway.learned(&name, "queue_rows")
    };
    let plug = spawn(&wire, &Inference::of(&rows(&name, &[0.])));
    until("the first is at the model", || arrived() == 1).await;
    let mut calls = Vec::new();
    for request in requests {
        let before = arrived();
        calls.push(spawn(&wire, request));
        until("the next has arrived", || arrived() > before).await;
    }
    model.resume();
    within("the first", plug).await.unwrap().unwrap();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(within("an answer", call).await.unwrap());
    }
    replies
}

/// Returns the rows of each executed call and how many there were, without the one that held the
/// model back.
pub(crate) fn batches(model: &Handle) -> Vec<(usize, u64)> {
    let counters = model.counters();
    counters
        .batches
        .iter()
        .map(|(rows, batches)| (*rows, batches.calls - u64::from(*rows == 1)))
        .filter(|(_, calls)| *calls > 0)
        .collect()
}

fn spawn(wire: &Wire, request: &Inference) -> tokio::task::JoinHandle<Result<Reply, h2::Error>> {
    let (wire, request) = (wire.clone(), request.clone());
    tokio::spawn(async move { request.send(&wire).await })
}
