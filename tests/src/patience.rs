//! Waiting for what happens elsewhere, on other threads and behind sockets.

use std::{future::Future, time::Duration};

/// Waits until a condition holds.
///
/// # Panics
///
/// When that takes longer than anything should.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(LOOK).await;
        }
    };
    within(what, waited).await;
}

/// Waits for a future.
///
/// # Panics
///
/// When that takes longer than anything should.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {LIMIT:?}: {what}"),
    }
}

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(1);

/// No promise is about so long a time; a busy machine needs seconds now and then.
const LIMIT: Duration = Duration::from_secs(30);
