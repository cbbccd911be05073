//! What is shown, one module each: `play` takes the stage and its share of the time, and returns
//! the act's table.

pub(super) mod batching;
pub(super) mod selection;
