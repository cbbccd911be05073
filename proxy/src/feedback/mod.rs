#![doc = include_str!("README.md")]

mod answer;
mod applies;
#[cfg(test)]
mod tests;

use http::Request;

pub use self::{
    answer::answer,
    applies::{Applied, Applies, Cause, Rejected},
};
pub use crate::codec::feedback::{Item, Outcome, Standing, Standings, Subject, Told, Truth};
use crate::detect::is_grpc;

/// Tells whether a request is feedback, by its head.
pub fn is_feedback<B>(request: &Request<B>) -> bool {
    match request.uri().path() {
        PATH => true,
        REPORT => is_grpc(request.headers()),
        _ => false,
    }
}

/// Where feedback is posted.
pub const PATH: &str = "/outrigger/v1/feedback";

/// The same over gRPC.
pub const REPORT: &str = "/outrigger.v1.Feedback/Report";
