//! The promises of the design, one module each: what would fail if they broke.

mod gather;

mod admin;
mod alone;
mod bounds;
mod claimed;
mod endpoints;
mod explain;
mod garbage;
mod isolation;
mod merging;
mod neighbours;
mod one_answer;
mod probe;
mod protocols;
mod reload;
mod tls;
mod transport;
mod untouched;
