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
/// at most, and so many bytes in them; further ones are cancelled at the server.
#[derive(Debug)]
pub(crate) struct Outlive<F: Future + Send + 'static> {
    call: Option<Pin<Box<F>>>,
    sent: bool,
    /// Bytes that it keeps in memory.
    held: usize,
    /// `None` where calls end with their callers.
    abandoned: Option<Abandoned>,
}

/// The calls that nobody waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

/// One of them.
struct Counted {
    abandoned: Abandoned,
    held: usize,
}

impl<F: Future + Send + 'static> Outlive<F> {
    /// Wraps a call; with somewhere to count it, it outlives its caller.
    pub(crate) fn new(call: F, held: usize, abandoned: Option<Abandoned>) -> Self {
        Self {
            call: Some(Box::pin(call)),
            sent: false,
            held,
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
        if let (Ok(runtime), Some(counted)) = (Handle::try_current(), abandoned.count(self.held)) {
            runtime.spawn(async move {
                let _counted = counted;
                call.await;
            });
        }
    }
}

impl Abandoned {
    fn count(self, held: usize) -> Option<Counted> {
        add(&self.0.calls, 1, MOST_CALLS)?;
        if add(&self.0.bytes, held, MOST_BYTES).is_none() {
            self.0.calls.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Counted {
            abandoned: self,
            held,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counts = &self.abandoned.0;
        counts.calls.fetch_sub(1, Ordering::Relaxed);
        counts.bytes.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// Adds to a count, unless it would be more than a bound.
fn add(count: &AtomicUsize, more: usize, most: usize) -> Option<()> {
    let grown = |count: usize| count.checked_add(more).filter(|sum| *sum <= most);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
        .ok()
        .map(|_| ())
}

/// Calls of an endpoint that nobody waits for: more than servers have threads for, and few beside
/// the streams of a connection.
const MOST_CALLS: usize = 64;
/// Bytes of their messages: a quarter of what may wait for a model.
const MOST_BYTES: usize = 16 << 20;
