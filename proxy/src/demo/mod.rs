//! What the demonstration needs and the sidecar does not: images and packages leave it out.
//!
//! Everything runs in one process and leaves nothing behind:
//!
//! ```text
//!  load (2 threads) --+------------------------------> native container (own threads)
//!                     '--> proxy (workers; control = the thread that draws) --'
//! ```
//!
//! An act shows one thing and adds its own table; see `acts`.

mod acts;
mod error;
mod figures;
mod frame;
mod images;
mod interrupt;
mod lessons;
pub mod load;
mod measured;
mod processor;
mod run;
mod screen;
mod stage;
mod table;

pub use run::run;
