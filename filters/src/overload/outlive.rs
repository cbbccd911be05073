use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};

/// A call that goes on when nobody waits for its answer any more, so that the server need not be
/// told: what it brings is dropped.
///
/// A call that was not sent yet is dropped with its caller. Of those that go on there are so many
/// at most, and so many bytes in them; further ones are cancelled at the server. Those that go on are
/// cancelled, too, where they take longer than their bound: a server that loses calls would hold
/// what they hold for ever.
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
    /// Milliseconds that they may take from then on; 0 for ever.
    longest: AtomicU64,
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
            let longest = counted.abandoned.longest();
            runtime.spawn(async move {
                let _counted = counted;
                let Some(longest) = longest else {
                    call.await;
                    return;
                };
                if timeout(longest, call).await.is_err() {
                    tracing::debug!(?longest, "gave up a call that its caller has left");
                }
            });
        }
    }
}

impl Abandoned {
    /// Bounds how long a call may go on from the moment when its caller leaves.
    pub(crate) fn bound(&self, longest: Duration) {
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        self.0.longest.store(millis, Ordering::Relaxed);
    }

    fn longest(&self) -> Option<Duration> {
        let millis = self.0.longest.load(Ordering::Relaxed);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

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
