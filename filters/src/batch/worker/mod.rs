//! The tasks that hold the endpoint's places for calls: who is sent, what the call takes, and who
//! has which answer.

mod answers;
mod call;
mod place;

pub(super) use self::place::{launch, start};
