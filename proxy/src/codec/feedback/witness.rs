//! The messages as prost's derive reads and writes them: an independent witness.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReportRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) feedback: Vec<Item>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Item {
    #[prost(oneof = "Subject", tags = "1, 2")]
    pub(super) subject: Option<Subject>,
    #[prost(oneof = "Outcome", tags = "3, 4, 5, 6")]
    pub(super) outcome: Option<Outcome>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) row: Option<u32>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Subject {
    #[prost(string, tag = "1")]
    PredictionId(String),
    #[prost(message, tag = "2")]
    Inputs(Inputs),
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Outcome {
    #[prost(double, tag = "3")]
    Loss(f64),
    #[prost(message, tag = "4")]
    Losses(Losses),
    #[prost(message, tag = "5")]
    Label(Label),
    #[prost(message, tag = "6")]
    Labels(Labels),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Inputs {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) request: Vec<u8>,
    #[prost(string, optional, tag = "2")]
    pub(super) context: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Losses {
    #[prost(message, repeated, tag = "1")]
    pub(super) rows: Vec<Loss>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Loss {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Labels {
    #[prost(message, repeated, tag = "1")]
    pub(super) rows: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Label {
    #[prost(oneof = "Truth", tags = "1, 2, 3, 4")]
    pub(super) kind: Option<Truth>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Truth {
    #[prost(int64, tag = "1")]
    Integer(i64),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReportResponse {
    #[prost(uint32, tag = "1")]
    pub(super) applied: u32,
    #[prost(uint32, tag = "2")]
    pub(super) duplicates: u32,
    #[prost(message, repeated, tag = "3")]
    pub(super) rejected: Vec<Rejection>,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) models: BTreeMap<String, Model>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Rejection {
    #[prost(uint32, tag = "1")]
    pub(super) index: u32,
    #[prost(string, tag = "2")]
    pub(super) code: String,
    #[prost(string, tag = "3")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) arms: BTreeMap<String, Arm>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Arm {
    #[prost(double, tag = "1")]
    pub(super) weight: f64,
    #[prost(double, tag = "2")]
    pub(super) probability: f64,
    #[prost(double, tag = "3")]
    pub(super) observations: f64,
    #[prost(double, optional, tag = "4")]
    pub(super) loss: Option<f64>,
}
