//! An open-loop and closed-loop load of unary gRPC calls, cheap enough to stand beside what it
//! measures.
//!
//! ```text
//!  pacer thread            generator thread (current_thread runtime)
//!  Arrivals -> sleep -> [due arrivals] -> send on K corked h2 connections
//!                                          answer -> check -> Tally (histograms, outcomes)
//! ```
//!
//! In the open loop, arrival times are drawn ahead and a latency runs from the *intended* time, so
//! a stalled server cannot make its own load lighter ("coordinated omission"), and neither can a
//! generator that comes late: its lag is part of the latency, and is reported beside it.
//! Where it has a core for itself, the generator may watch the clock in place of the pacer: then it
//! is hardly ever late.
//! In the closed loop, N callers wait for their answer before they ask again.
//!
//! A [`Caller`] asks by itself, and reads what stands beside an answer: who tells how good answers
//! were needs their ids.

mod arrivals;
mod caller;
mod calls;
mod connection;
mod generator;
mod report;
#[cfg(test)]
mod tests;

pub use arrivals::{Arrivals, Pace};
pub use caller::{Answer, Caller};
pub use calls::{Calls, Repeat, frame};
pub use connection::{Target, unary};
pub use generator::{Load, Running};
pub use report::{Outcome, Report};
