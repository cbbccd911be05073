//! The promises of the design, one module each: what would fail if they broke.

mod gather;

mod admin;
mod alone;
mod benefit;
mod bounds;
mod cache;
mod cache_equality;
mod cancelled;
mod claimed;
mod deadline;
mod endpoints;
mod explain;
mod fleet;
mod garbage;
mod isolation;
mod leaving;
mod merging;
mod neighbours;
mod one_answer;
mod probe;
mod protocols;
mod refused;
mod reload;
mod second_tries;
mod selection;
mod split;
mod stale;
mod state;
mod tls;
mod transport;
mod untouched;
mod waiting;
