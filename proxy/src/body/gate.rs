use std::{
    future::Future as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::Sleep;

/// Holds a body back until the server has asked for it (`Expect: 100-continue`).
///
/// Nothing of the body is read before, so the client is not asked for it either. A server that
/// answers without asking never gets it.
///
/// ```text
///          100, or a second of silence
/// Closed -----------------------------> Open
///    '--------------------------------> Unwanted
///      a final answer came and went
/// ```
#[derive(Debug)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
    patience: Pin<Box<Sleep>>,
}

/// The side of a [`Gate`] that hears from the server; dropping it tells that the body is unwanted.
#[derive(Debug)]
pub(crate) struct GateKeeper(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Gate {
    /// Makes a closed gate and its keeper.
    pub(crate) fn new() -> (Self, GateKeeper) {
        let shared = Arc::<Shared>::default();
        let patience = Box::pin(tokio::time::sleep(PATIENCE));
        let gate = Self {
            shared: shared.clone(),
            patience,
        };
        (gate, GateKeeper(shared))
    }

    /// `Ready(true)` when the body is wanted, `Ready(false)` when it never will be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.shared.waker.register(cx.waker());
        match self.shared.state.load(Ordering::Acquire) {
            OPEN => return Poll::Ready(true),
            UNWANTED => return Poll::Ready(false),
            _ => {}
        }
        ready!(self.patience.as_mut().poll(cx));
        Poll::Ready(true)
    }
}

impl GateKeeper {
    /// Returns what opens the gate, for the server's word to call.
    pub(crate) fn opener(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = self.0.clone();
        move || shared.set(OPEN)
    }
}

impl Drop for GateKeeper {
    fn drop(&mut self) {
        self.0.set(UNWANTED);
    }
}

impl Shared {
    /// Leaves the closed state; what came first counts.
    fn set(&self, state: u8) {
        let _ = self
            .state
            .compare_exchange(CLOSED, state, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }
}

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const UNWANTED: u8 = 2;

/// How long a server may be silent that perhaps does not know the expectation: what curl waits
/// (RFC 9110, 10.1.1, says only that a client must not wait for ever).
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn outcome(gate: &mut Gate) -> bool {
        std::future::poll_fn(|cx| gate.poll(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_waits_for_the_servers_word() {
        let (mut gate, keeper) = Gate::new();
        let opener = keeper.opener();
        let started = Instant::now();
        let (wanted, ()) = tokio::join!(outcome(&mut gate), async {
            tokio::time::sleep(PATIENCE / 2).await;
            opener();
        });
        assert!(wanted);
        assert_eq!(started.elapsed(), PATIENCE / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_gets_the_body_after_a_while() {
        let (mut gate, _keeper) = Gate::new();
        let started = Instant::now();
        assert!(outcome(&mut gate).await);
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_never_asked_for_is_let_go_of() {
        let (mut gate, keeper) = Gate::new();
        drop(keeper);
        assert!(!outcome(&mut gate).await);
    }
}
