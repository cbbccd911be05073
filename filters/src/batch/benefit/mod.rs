//! What batching brings, measured live: a small share of requests goes unbatched, in its turn and
//! in a place like any batch, so that both are seen under the same conditions.
//!
//! ```text
//!  batch  batch  batch  hold-out  batch  batch  batch ...  hold-out
//!  '------ time per row ------'   '- time -'
//!                with                 without        a pair: side by side, whatever the model does later
//! ```
//!
//! Pure: no clock and no randomness of its own.

mod allowance;
mod meter;
mod pairs;
#[cfg(test)]
mod simulation;
mod traffic;
mod view;

pub(super) use self::meter::{Benefit, Called, HoldOut};
pub use self::view::{BenefitView, Pays};
