//! The promises of the design, one module each: what would fail if they broke.

mod untouched;
