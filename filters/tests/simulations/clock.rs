use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
    time::{Instant, advance, sleep_until},
};

/// A clock on which callers and models wait to the nanosecond.
///
/// Tokio's timers are right to the millisecond, which is longer than a call of some models takes.
/// So those who wait here do so in a list of their own, and the clock is advanced from one to the
/// next. The filter's timers are Tokio's, here as elsewhere: while there is one before the next in
/// the list, the clock stops at it too.
#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    sleepers: Mutex<Sleepers>,
    /// Told when somebody has come to wait.
    came: Notify,
}

#[derive(Debug, Default)]
struct Sleepers {
    count: u64,
    /// By when they wake, and of two at once who came first.
    waiting: BTreeMap<(Instant, u64), oneshot::Sender<()>>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            start: Instant::now(),
            sleepers: Mutex::default(),
            came: Notify::new(),
        }))
    }

    pub(crate) fn start(&self) -> Instant {
        self.0.start
    }

    /// Waits until a moment, exactly.
    pub(crate) async fn sleep_until(&self, at: Instant) {
        let (wake, woken) = oneshot::channel();
        {
            let mut sleepers = self.0.sleepers.lock();
            sleepers.count += 1;
            let count = sleepers.count;
            sleepers.waiting.insert((at, count), wake);
        }
        self.0.came.notify_one();
        let _clock_is_gone = woken.await;
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        self.sleep_until(Instant::now() + duration).await;
    }

    /// Lets time pass until a moment, from one event to the next.
    pub(crate) async fn drive(&self, until: Instant) {
        loop {
            // Until every other task waits.
            yield_now().await;
            let next = self
                .0
                .sleepers
                .lock()
                .waiting
                .first_key_value()
                .map(|first| first.0.0);
            let stop = next.map_or(until, |next| next.min(until));
            let now = Instant::now();
            let (last, whole) = (self.whole_millisecond(now), self.whole_millisecond(stop));
            if last == now && whole > now {
                // No task runs, so Tokio advances the clock to its own next timer, or to this.
                tokio::select! {
                    () = sleep_until(whole) => {}
                    () = self.0.came.notified() => {}
                }
                continue;
            }
            // Tokio advances by whole milliseconds: to stop at its timers it has to start at one.
            let stop = stop.min(last + Duration::from_millis(1));
            if stop > now {
                advance(stop - now).await;
                continue;
            }
            if next.is_none_or(|next| next > until) {
                return;
            }
            self.wake(stop);
        }
    }

    /// Wakes the first of those who wait until now; others may come to wait before they do.
    fn wake(&self, now: Instant) {
        let mut sleepers = self.0.sleepers.lock();
        if let Some(first) = sleepers.waiting.first_entry()
            && first.key().0 <= now
        {
            let _gone = first.remove().send(());
        }
    }

    fn whole_millisecond(&self, at: Instant) -> Instant {
        let since = at - self.0.start;
        self.0.start + Duration::from_millis(since.as_millis() as u64)
    }
}
