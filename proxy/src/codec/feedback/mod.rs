//! Feedback: what callers say of answers, in JSON or as `outrigger.v1.Feedback/Report`, and what
//! they are told.
//!
//! Both are strict: what is not known, not of its type, there twice or out of range is refused with
//! the path of its field, so that nobody believes for weeks to have taught something.

mod draft;
mod json;
mod malformed;
mod proto;
mod reply;
mod report;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod witness;

pub use self::{
    json::decode_json,
    malformed::{Fault, Malformed},
    proto::decode_message,
    reply::{Rejection, Reply, Standing, Standings, encode_json, encode_message},
    report::{Item, Outcome, Report, Subject, Told},
};
pub use outrigger_filters::select::Truth;
