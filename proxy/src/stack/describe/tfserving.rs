//! The answers of TensorFlow Serving, and of the first version of KServe's protocol.

use bytestring::ByteString;
use outrigger_filters::inference::{Code, Status};
use serde_json::{Map, Value, json};

use super::{answer::Answer, call::Target};
use crate::{
    codec::{
        tfs_grpc::control::{
            DEFAULT_SIGNATURE, ModelMetadata, NamedSignature, PREDICT, SIGNATURE_DEF, State,
            VersionStatus,
        },
        tfs_rest,
    },
    config::Protocol,
    upstream::Description,
};

/// Says how far a model's versions are: the one that was asked for, or all that its server names.
/// Versions that are no numbers cannot be said; a model that has no others is said to be at 0.
pub(super) fn status(
    protocol: Protocol,
    target: &Target,
    described: &Description,
    ready: bool,
) -> Answer {
    let mut versions = match target.version.parse() {
        Ok(asked) => vec![asked],
        Err(_) => numbers(described),
    };
    if versions.is_empty() {
        versions.push(0);
    }
    let state = match ready {
        true => State::Available,
        false => State::Loading,
    };
    let statuses: Vec<_> = versions
        .into_iter()
        .map(|version| VersionStatus {
            version,
            state,
            error_code: Code::Ok,
            error_message: ByteString::new(),
        })
        .collect();
    if protocol.is_grpc() {
        return Answer::Message(VersionStatus::write_all(&statuses));
    }
    // KServe asks the same path, and reads these two.
    let page = tfs_rest::control::write_status(&statuses);
    let mut page: Map<String, Value> = serde_json::from_slice(&page).unwrap_or_default();
    page.insert("name".to_owned(), json!(&*target.name));
    page.insert("ready".to_owned(), json!(ready));
    Answer::page(Value::from(page).to_string())
}

/// Says what a model takes and gives, by all of its signatures. The one signature of a server that
/// knows of no others is the default one here.
pub(super) fn metadata(protocol: Protocol, target: &Target, described: &Description) -> Answer {
    let signatures = described.signatures.iter().map(|named| NamedSignature {
        name: filled(&named.name, DEFAULT_SIGNATURE),
        method: filled(&named.method, PREDICT),
        signature: named.signature.clone(),
    });
    let asked = target.version.parse().ok();
    let metadata = ModelMetadata {
        model: target.name.clone(),
        version: asked.or_else(|| numbers(described).first().copied()),
        signatures: signatures.collect(),
    };
    match protocol.is_grpc() {
        true => Answer::Message(metadata.write()),
        false => Answer::page(tfs_rest::control::write_metadata(&metadata)),
    }
}

/// Tells what is wrong with the kinds of metadata that are asked for, where they are not the one
/// kind that there is.
pub(super) fn refusal(fields: &[ByteString]) -> Option<Status> {
    let words = match fields.iter().find(|field| **field != *SIGNATURE_DEF) {
        Some(field) => format!("metadata_field {field} is not supported"),
        None if fields.is_empty() => "metadata_field names nothing".to_owned(),
        None => return None,
    };
    Some(Status::new(Code::InvalidArgument, words))
}

/// Names the models that there are.
pub(super) fn models(mut names: Vec<&str>) -> Answer {
    names.sort_unstable();
    let names: Vec<Value> = names.into_iter().map(Value::from).collect();
    Answer::page(json!({ "models": names }).to_string())
}

/// Returns the versions that are numbers, the newest first.
fn numbers(described: &Description) -> Vec<i64> {
    let versions = described.versions.iter();
    let mut numbers: Vec<i64> = versions.filter_map(|text| text.parse().ok()).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

fn filled(text: &ByteString, default: &'static str) -> ByteString {
    match text.is_empty() {
        true => ByteString::from_static(default),
        false => text.clone(),
    }
}
