use std::sync::Arc;

use outrigger_filters::inference::Error;

use super::{Description, Served};
use crate::upstream::Endpoint;

pub(super) async fn describe(_: &Arc<Endpoint>, _: Served<'_>) -> Result<Description, Error> {
    Ok(Description::default())
}

pub(super) async fn ready(_: &Arc<Endpoint>, _: Option<Served<'_>>) -> bool {
    true
}
