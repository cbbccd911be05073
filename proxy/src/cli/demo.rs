use std::num::NonZeroU64;

use clap::Args;

/// Arguments of `demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// How long the load lasts.
    #[arg(long, value_name = "N", default_value = "20")]
    pub seconds: NonZeroU64,
    /// Prints only the table at the end.
    #[arg(long)]
    pub headless: bool,
}
