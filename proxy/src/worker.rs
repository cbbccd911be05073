//! The threads that carry requests: one current-thread runtime for each core.
//!
//! A connection stays on the worker that it was handed to, and a worker calls upstream on
//! connections of its own, so a request that meets no batch never changes threads.

use std::{cell::Cell, num::NonZero};

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Returns how many threads call upstream: the control thread and the workers.
pub fn count() -> usize {
    workers() + 1
}

/// Returns how many workers there are: the cores that this process may use.
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Returns this thread's index below [`count`]; 0 is every thread that is no worker.
pub fn index() -> usize {
    INDEX.get()
}

/// Makes the current thread the worker of an index, which counts from 1.
pub fn enter(index: usize) {
    INDEX.set(index);
}
