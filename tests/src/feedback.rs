//! Feedback as callers send it, over REST and over gRPC, and what they are told.

use std::collections::HashMap;

use http::{Request, StatusCode};
use prost::{Message, Oneof};
use serde_json::Value;

use crate::{
    patience::within,
    wire::{Reply, Wire},
};

/// Posts a report, and reads what is answered.
///
/// # Panics
///
/// When there is no answer, or it is not JSON.
pub async fn tell(wire: &Wire, report: &Value) -> (StatusCode, Value) {
    let reply = post(wire, report.to_string()).await;
    let answer = serde_json::from_slice(&reply.body);
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {reply:?}"));
    (reply.status, answer)
}

/// Posts anything where reports are taken.
///
/// # Panics
///
/// When there is no answer.
pub async fn post(wire: &Wire, body: impl Into<bytes::Bytes>) -> Reply {
    let request = Request::post(format!("http://model.test{PATH}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/json")
        .body(())
        .expect("a path");
    let body = [body.into()];
    let asked = wire.exchange(request, &body, None);
    within("an answer", asked).await.expect("an answer")
}

/// Makes the same report over gRPC: the answer, or the status and its words.
///
/// # Errors
///
/// Fails where the status is not OK.
///
/// # Panics
///
/// When there is no answer, or none that is understood.
pub async fn report(
    wire: &Wire,
    request: &ReportRequest,
) -> Result<ReportResponse, (String, String)> {
    let message = request.encode_to_vec();
    let called = wire.call(REPORT, &message);
    let reply = within("an answer", called).await.expect("an answer");
    match reply.grpc_status() {
        Some("0") => {
            let message = reply.body.get(5..).expect("a message");
            Ok(ReportResponse::decode(message).expect("a response"))
        }
        status => Err((status.unwrap_or_default().to_owned(), reply.grpc_message())),
    }
}

/// Where feedback is posted.
pub const PATH: &str = "/outrigger/v1/feedback";

/// The same over gRPC.
pub const REPORT: &str = "/outrigger.v1.Feedback/Report";

/// `outrigger.v1.ReportRequest`, written down again from the published definition.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct ReportRequest {
    #[prost(message, repeated, tag = "1")]
    pub feedback: Vec<Item>,
}

/// `outrigger.v1.Item`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Item {
    #[prost(oneof = "Subject", tags = "1, 2")]
    pub subject: Option<Subject>,
    #[prost(oneof = "Outcome", tags = "3, 4, 5, 6")]
    pub outcome: Option<Outcome>,
    #[prost(uint32, optional, tag = "7")]
    pub row: Option<u32>,
}

/// What is spoken of.
#[derive(Clone, PartialEq, Oneof)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub enum Subject {
    #[prost(string, tag = "1")]
    PredictionId(String),
    #[prost(message, tag = "2")]
    Inputs(Inputs),
}

/// What is said of it.
#[derive(Clone, PartialEq, Oneof)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub enum Outcome {
    #[prost(double, tag = "3")]
    Loss(f64),
    #[prost(message, tag = "4")]
    Losses(Losses),
    #[prost(message, tag = "5")]
    Label(Label),
    #[prost(message, tag = "6")]
    Labels(Labels),
}

/// `outrigger.v1.Inputs`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Inputs {
    #[prost(bytes = "vec", tag = "1")]
    pub request: Vec<u8>,
    #[prost(string, optional, tag = "2")]
    pub context: Option<String>,
}

/// `outrigger.v1.Losses`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Losses {
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<RowLoss>,
}

/// `outrigger.v1.Loss`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct RowLoss {
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
}

/// `outrigger.v1.Labels`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Labels {
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<Label>,
}

/// `outrigger.v1.Label`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Label {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    pub kind: Option<Kind>,
}

/// What a label is.
#[derive(Clone, PartialEq, Oneof)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub enum Kind {
    #[prost(int64, tag = "1")]
    Integer(i64),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Truth(bool),
}

/// `outrigger.v1.ReportResponse`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct ReportResponse {
    #[prost(uint32, tag = "1")]
    pub applied: u32,
    #[prost(uint32, tag = "2")]
    pub duplicates: u32,
    #[prost(message, repeated, tag = "3")]
    pub rejected: Vec<Rejection>,
    #[prost(map = "string, message", tag = "4")]
    pub models: HashMap<String, Model>,
}

/// `outrigger.v1.Rejection`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Rejection {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(string, tag = "2")]
    pub code: String,
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// `outrigger.v1.Model`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Model {
    #[prost(map = "string, message", tag = "1")]
    pub arms: HashMap<String, Arm>,
}

/// `outrigger.v1.Arm`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the definition's own")]
pub struct Arm {
    #[prost(double, tag = "1")]
    pub weight: f64,
    #[prost(double, tag = "2")]
    pub probability: f64,
    #[prost(double, tag = "3")]
    pub observations: f64,
    #[prost(double, optional, tag = "4")]
    pub loss: Option<f64>,
}

impl ReportRequest {
    /// Makes a report of one item on a prediction.
    pub fn of_prediction(id: &str, outcome: Outcome) -> Self {
        Self {
            feedback: vec![Item {
                subject: Some(Subject::PredictionId(id.to_owned())),
                outcome: Some(outcome),
                row: None,
            }],
        }
    }
}

impl From<i64> for Label {
    fn from(integer: i64) -> Self {
        Self {
            kind: Some(Kind::Integer(integer)),
        }
    }
}
