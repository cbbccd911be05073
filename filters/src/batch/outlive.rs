use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::runtime::Handle;

/// A call that goes on when nobody waits for its answer any more, so that the server need not be
/// told: what it brings is dropped.
///
/// A call that was not sent yet is dropped with its caller. Of those that go on there are so many
/// at most, and further ones are cancelled at the server.
#[derive(Debug)]
pub(super) struct Outlive<F: Future + Send + 'static> {
    call: Option<Pin<Box<F>>>,
    sent: bool,
    /// `None` where calls end with their callers.
    abandoned: Option<Abandoned>,
}

/// The calls that nobody waits for.
#[derive(Clone, Debug, Default)]
pub(super) struct Abandoned(Arc<AtomicUsize>);

/// One of them.
struct Counted(Abandoned);

impl<F: Future + Send + 'static> Outlive<F> {
    /// Wraps a call; with somewhere to count it, it outlives its caller.
    pub(super) fn new(call: F, abandoned: Option<Abandoned>) -> Self {
        Self {
            call: Some(Box::pin(call)),
            sent: false,
            abandoned,
        }
    }
}

impl<F: Future + Send + 'static> Future for Outlive<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        this.sent = true;
        let call = this.call.as_mut().expect("not polled after its answer");
        let answer = ready!(call.as_mut().poll(cx));
        this.call = None;
        Poll::Ready(answer)
    }
}

impl<F: Future + Send + 'static> Drop for Outlive<F> {
    fn drop(&mut self) {
        let (Some(call), true, Some(abandoned)) =
            (self.call.take(), self.sent, self.abandoned.take())
        else {
            return;
        };
        // Without a runtime the process ends.
        if let (Ok(runtime), Some(counted)) = (Handle::try_current(), abandoned.count()) {
            runtime.spawn(async move {
                let _counted = counted;
                call.await;
            });
        }
    }
}

impl Abandoned {
    fn count(self) -> Option<Counted> {
        let more = |calls: usize| (calls < MOST).then_some(calls + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Counted(self))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls of an endpoint that nobody waits for: more than servers have threads for, and few beside
/// the streams of a connection.
const MOST: usize = 64;
